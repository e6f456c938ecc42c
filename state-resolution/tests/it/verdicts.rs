//! The same verdicts as ruma-state-res on events with odd content, from version 6 on.
//!
//! Left out is what the two read differently: `null` for a property that must not be there, which
//! the spec does not except and ruma-state-res does; an authorising user on memberships other than
//! `join`, which the spec has signed too; and numbers beyond 2^53 in strings.

use ruma_state_res::{
    Event as _, check_state_dependent_auth_rules, check_state_independent_auth_rules,
};
use serde_json::{Value, json};
use state_resolution::{AbsentJoinRule, RoomVersionRules};

use crate::support::{Chances, Random, Sim, USERS, new_id, new_pdu, oracle};

fn odd_level(random: &mut Random) -> Value {
    let levels = [
        json!(0),
        json!(50),
        json!(100),
        json!(-5),
        json!("50"),
        json!(" +7 "),
        json!("x"),
        json!(1.5),
        json!(null),
        json!([]),
        json!({}),
        json!(true),
        json!((1_i64 << 53) - 1),
        json!(1_i64 << 53),
        json!(""),
        json!("-"),
        json!("0x10"),
    ];
    // Mostly sane, or one oddity would hide the next.
    if random.percent(60) { json!(random.below(101)) } else { random.pick(&levels).clone() }
}

fn odd_levels(random: &mut Random) -> Value {
    let mut content = json!({});
    for name in
        ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
    {
        if random.percent(15) {
            content[name] = odd_level(random);
        }
    }
    for (name, keys) in [
        ("events", &["m.room.topic", "", "m.room.member"][..]),
        ("notifications", &["room", "x"]),
        ("users", &["@alice:a", "@bob:b", "@new:x:1", "bob", "@x", "@:x", "@é:x.y"]),
    ] {
        if random.percent(5) {
            content[name] = odd_level(random);
        } else if random.percent(70) {
            content[name] = json!({});
            for _ in 0..random.below(3) {
                // The first keys are the good ones.
                let many = if random.percent(80) { 2 } else { keys.len() };
                content[name][keys[random.below(many)]] = odd_level(random);
            }
        }
    }
    content
}

fn odd_member(random: &mut Random) -> Value {
    let memberships =
        [json!("join"), json!("leave"), json!("invite"), json!("ban"), json!("knock")];
    let odd = [json!("dance"), json!(1), json!(null), json!([])];
    let membership =
        if random.percent(85) { random.pick(&memberships) } else { random.pick(&odd) }.clone();
    let mut content = json!({"membership": membership});
    if membership == "join" && random.percent(40) {
        let users = [json!("@alice:a"), json!("@bob:b"), json!("@x:x"), json!("x"), json!(1)];
        content["join_authorised_via_users_server"] = random.pick(&users).clone();
    }
    if random.percent(20) && membership != "join" {
        let invites = [
            json!({}),
            json!({"signed": {}}),
            json!({"signed": 1}),
            json!({"signed": {"mxid": "@bob:b", "token": "token", "signatures": {}}}),
            json!({"signed": {"mxid": "@bob:b", "token": 1}}),
            json!({"signed": {"token": "token"}}),
        ];
        content["third_party_invite"] = random.pick(&invites).clone();
    }
    if random.percent(5) { json!({}) } else { content }
}

#[test]
fn odd_content_gets_the_same_verdict() {
    let (mut allowed, mut refused) = (0, 0);
    for seed in 0..400 {
        let mut rules = RoomVersionRules::ALL[5 + seed % 7];
        rules.auth.absent_join_rule = AbsentJoinRule::Closed;
        let mut sim = Sim::new(rules, seed as u64, Chances::WILD);
        sim.grow(30);
        let version = rules.version;
        let ruma = oracle::rules(version).authorization;
        let pdus = oracle::by_id(&sim.pdus);
        let state = sim.after.last().unwrap().clone();
        let mut random = Random::new(seed as u64 + 1_000_000);
        for _ in 0..40 {
            let sender = USERS[random.below(4)];
            let (event_type, key, content) = match random.below(10) {
                0..4 => ("m.room.power_levels", Some(""), odd_levels(&mut random)),
                4..9 => {
                    let target = *random.pick(&[sender, sender, USERS[1], USERS[5], "@x", "x"]);
                    ("m.room.member", Some(target), odd_member(&mut random))
                }
                _ => ("m.room.topic", [None, Some(""), Some("@x:y")][random.below(3)], json!({})),
            };
            let id = new_id(&mut random);
            let mut pdu = new_pdu(&sim.room, id, event_type, key, sender, 1, content);
            let auth = sim.room.auth_events_for(&pdu.input(), &state);
            pdu.auth = auth.iter().map(|ix| sim.pdus[ix.index()].event_id.clone()).collect();
            pdu.prev = vec![sim.pdus.last().unwrap().event_id.clone()];
            let ix = pdu.insert(&mut sim.room);
            let independent = sim.room.check_state_independent(ix);
            let ours = independent.and_then(|()| sim.room.check(ix, &state));
            sim.room.retract(ix).unwrap();
            let theirs = check_state_independent_auth_rules(&ruma, &pdu, |id| pdus.get(id))
                .and_then(|()| {
                    check_state_dependent_auth_rules(&ruma, &pdu, |event_type, key| {
                        let key = sim.room.key(&event_type.to_string(), key)?;
                        let event = state.get(key).or_else(|| {
                            sim.room.create_event().filter(|ix| sim.room.key_of(*ix) == Some(key))
                        })?;
                        pdus.get(&sim.pdus[event.index()].event_id)
                    })
                });
            let told = format!("{version} {event_type} {key:?} by {sender}: {}", pdu.content());
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{told}\n{ours:?}\n{theirs:?}");
            if ours.is_ok() { allowed += 1 } else { refused += 1 }
        }
    }
    assert!(allowed > 500 && refused > 500, "{allowed} allowed, {refused} refused");
}
