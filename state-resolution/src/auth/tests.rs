//! Every rule with an event that it lets through and one that it rejects, in the first room
//! version that has it and the last that has not.

use serde_json::{Value, json};

use crate::{
    NamedLevel::{Ban, Invite},
    Room, RoomVersionRules,
    Rule::{self, *},
    testing::{CREATOR, Draft, Sim, TestSignatures, note},
};

const ALICE: &str = "@alice:a";
const BOB: &str = "@bob:b";
const CAROL: &str = "@carol:c";

const ALL: std::ops::RangeInclusive<usize> = 1..=12;

fn member(target: &'static str, sender: &'static str, membership: &str) -> Draft<'static> {
    ("m.room.member", Some(target), sender, json!({"membership": membership}))
}

fn levels(sender: &'static str, content: Value) -> Draft<'static> {
    ("m.room.power_levels", Some(""), sender, content)
}

/// A room where the creator has 100, Alice 50 and everybody else 0, all of them members.
fn ranked(version: usize) -> Sim {
    ranked_with(version, json!({}))
}

fn ranked_with(version: usize, mut content: Value) -> Sim {
    content["users"] = json!({ALICE: 50});
    if version < 12 {
        content["users"][CREATOR] = 100.into();
    }
    let mut sim = Sim::with_levels(version, content);
    for user in [ALICE, BOB, CAROL] {
        sim.member(user, "join");
    }
    sim
}

mod create {
    use super::*;

    fn verdict(
        rules: RoomVersionRules,
        change: impl Fn(&mut crate::EventInput<'_>),
    ) -> Option<Rule> {
        verdict_with(rules, &json!({"creator": CREATOR}), change)
    }

    fn verdict_with(
        rules: RoomVersionRules,
        content: &Value,
        change: impl Fn(&mut crate::EventInput<'_>),
    ) -> Option<Rule> {
        let hashed = rules.auth.room_id_is_create_hash;
        let mut input = crate::EventInput {
            event_id: "$create",
            room_id: (!hashed).then_some("!room:a"),
            event_type: "m.room.create",
            state_key: Some(""),
            sender: CREATOR,
            origin_server_ts: 1,
            depth: 1,
            prev_events: vec![],
            auth_events: vec![],
            redacts: None,
            content: content.as_object().unwrap(),
            rejected: false,
        };
        change(&mut input);
        let room_id = if hashed { "!create" } else { "!room:a" };
        let mut room = Room::new(rules, room_id, TestSignatures);
        let ix = room.insert(&input).unwrap();
        assert_eq!(room.check(ix, &|_| None), Ok(()));
        let rule = room.check_state_independent(ix).err().map(|rejection| rejection.rule);
        note(&rules, rule);
        rule
    }

    #[test]
    fn has_no_parents() {
        for rules in RoomVersionRules::ALL {
            assert_eq!(verdict(rules, |_| ()), None);
            let with_parent = verdict(rules, |input| input.prev_events = vec!["$x"]);
            assert_eq!(with_parent, Some(CreateHasParents));
        }
    }

    #[test]
    fn is_sent_from_the_server_in_the_room_id_up_to_version_11() {
        for rules in RoomVersionRules::ALL {
            let foreign = verdict(rules, |input| input.sender = BOB);
            let expected = (!rules.auth.room_id_is_create_hash).then_some(CreateRoomIdDomain);
            assert_eq!(foreign, expected, "version {}", rules.version);
        }
    }

    #[test]
    fn has_no_room_id_from_version_12_on() {
        let v12 = verdict(RoomVersionRules::V12, |input| input.room_id = Some("!create"));
        assert_eq!(v12, Some(CreateHasRoomId));
        assert_eq!(verdict(RoomVersionRules::V11, |_| ()), None);
    }

    #[test]
    fn names_a_recognised_version() {
        for rules in RoomVersionRules::ALL {
            for (version, accepted) in
                [(json!("1"), true), (json!("12"), true), (json!("x"), false), (json!(1), false)]
            {
                let content = json!({"creator": CREATOR, "room_version": version});
                let verdict = verdict_with(rules, &content, |_| ());
                assert_eq!(verdict, (!accepted).then_some(CreateUnknownVersion));
            }
        }
    }

    #[test]
    fn names_the_creator_up_to_version_10() {
        for (number, rules) in (1..).zip(RoomVersionRules::ALL) {
            let verdict = verdict_with(rules, &json!({}), |_| ());
            assert_eq!(verdict, (number <= 10).then_some(CreateWithoutCreator));
        }
    }

    #[test]
    fn lists_additional_creators_from_version_12_on() {
        for (list, valid) in [
            (json!([]), true),
            (json!([BOB]), true),
            (json!([BOB, "bob"]), false),
            (json!([1]), false),
            (json!(BOB), false),
            (json!(null), false),
        ] {
            let content = json!({"creator": CREATOR, "additional_creators": list});
            let v12 = verdict_with(RoomVersionRules::V12, &content, |_| ());
            assert_eq!(v12, (!valid).then_some(CreateAdditionalCreators), "{list}");
            assert_eq!(verdict_with(RoomVersionRules::V11, &content, |_| ()), None);
        }
    }
}

mod auth_events {
    use super::*;

    #[test]
    fn each_state_key_is_cited_once() {
        for version in ALL {
            let mut sim = ranked(version);
            let first = sim.state[&sim.room.key("m.room.member", ALICE).unwrap()];
            let second = sim.member(ALICE, "join");
            let mut auth = vec![first];
            if version < 12 {
                auth.push(sim.room.create_event().unwrap());
            }
            let topic: Draft<'_> = ("m.room.topic", Some(""), ALICE, json!({}));
            assert_eq!(sim.verdict_citing(topic.clone(), Some(&auth)), None);
            auth.push(second);
            assert_eq!(sim.verdict_citing(topic, Some(&auth)), Some(AuthEventDuplicate));
        }
    }

    #[test]
    fn only_what_the_selection_names_is_cited() {
        for version in ALL {
            let mut sim = ranked(version);
            let create = sim.room.create_event().unwrap();
            let alice = sim.state[&sim.room.key("m.room.member", ALICE).unwrap()];
            let bob = sim.state[&sim.room.key("m.room.member", BOB).unwrap()];
            let mut auth = if version < 12 { vec![create, alice] } else { vec![alice] };
            let topic: Draft<'_> = ("m.room.topic", Some(""), ALICE, json!({}));
            assert_eq!(sim.verdict_citing(topic.clone(), Some(&auth)), None);
            auth.push(bob);
            assert_eq!(sim.verdict_citing(topic, Some(&auth)), Some(AuthEventUnexpected));
            // Bob is the target of a kick, though.
            assert_eq!(sim.verdict_citing(member(BOB, CREATOR, "leave"), None), None);
        }
    }

    #[test]
    fn the_create_event_is_cited_up_to_version_11() {
        for version in ALL {
            let mut sim = ranked(version);
            let create = sim.room.create_event().unwrap();
            let alice = sim.state[&sim.room.key("m.room.member", ALICE).unwrap()];
            let topic: Draft<'_> = ("m.room.topic", Some(""), ALICE, json!({}));
            let without = sim.verdict_citing(topic.clone(), Some(&[alice]));
            assert_eq!(without, (version < 12).then_some(AuthEventsLackCreate));
            let with = sim.verdict_citing(topic, Some(&[alice, create]));
            assert_eq!(with, (version == 12).then_some(AuthEventUnexpected));
        }
    }

    #[test]
    fn no_rejected_event_is_cited() {
        for version in ALL {
            let mut sim = ranked(version);
            let create = sim.room.create_event().unwrap();
            let alice = sim.state[&sim.room.key("m.room.member", ALICE).unwrap()];
            let auth = if version < 12 { vec![create, alice] } else { vec![alice] };
            sim.room.set_rejected(alice, true);
            let topic: Draft<'_> = ("m.room.topic", Some(""), ALICE, json!({}));
            assert_eq!(sim.verdict_citing(topic.clone(), Some(&auth)), Some(AuthEventRejected));
            // And the selection does not offer it.
            let selected = sim.insert(topic, None).unwrap();
            assert!(!sim.room.auth_events(selected).contains(&alice));
        }
    }

    #[test]
    fn the_create_event_was_accepted_from_version_12_on() {
        let mut sim = ranked(12);
        let create = sim.room.create_event().unwrap();
        sim.room.set_rejected(create, true);
        assert_eq!(sim.verdict(member(ALICE, ALICE, "leave")), Some(CreateNotAccepted));
        let mut sim = ranked(11);
        let create = sim.room.create_event().unwrap();
        sim.room.set_rejected(create, true);
        assert_eq!(sim.verdict(member(ALICE, ALICE, "leave")), Some(AuthEventsLackCreate));
    }

    #[test]
    fn the_selection_for_each_kind_of_event() {
        for version in ALL {
            let mut sim = ranked(version);
            sim.member("@host:h", "join");
            sim.join_rule("public");
            let invite = ("m.room.third_party_invite", Some("token"), CREATOR, json!({}));
            sim.add(invite);
            let third_party = json!({"membership": "invite", "third_party_invite":
                {"signed": {"mxid": BOB, "token": "token"}}});
            let restricted =
                json!({"membership": "join", "join_authorised_via_users_server": "@host:h"});
            let join_rules = ("m.room.join_rules", "");
            let (alice, bob) = (("m.room.member", ALICE), ("m.room.member", BOB));
            let host = (version >= 8).then_some(("m.room.member", "@host:h"));
            let table = [
                (("m.room.topic", Some(""), ALICE, json!({})), vec![alice]),
                (member(ALICE, ALICE, "join"), vec![alice, join_rules]),
                (member(ALICE, ALICE, "leave"), vec![alice]),
                (member(ALICE, ALICE, "knock"), vec![alice, join_rules]),
                (member(BOB, ALICE, "ban"), vec![alice, bob]),
                (member(BOB, ALICE, "invite"), vec![alice, bob, join_rules]),
                (
                    ("m.room.member", Some(BOB), ALICE, third_party),
                    vec![alice, bob, join_rules, ("m.room.third_party_invite", "token")],
                ),
                (
                    ("m.room.member", Some(BOB), BOB, restricted),
                    [bob, join_rules].into_iter().chain(host).collect(),
                ),
            ];
            for (draft, expected) in table {
                let ix = sim.insert(draft.clone(), None).unwrap();
                let selected: Vec<_> = sim
                    .room
                    .auth_events(ix)
                    .iter()
                    .map(|auth| sim.room.key_name(sim.room.key_of(*auth).unwrap()))
                    .collect();
                let create = (version < 12).then_some(("m.room.create", ""));
                let levels = Some(("m.room.power_levels", ""));
                let expected: Vec<_> = create.into_iter().chain(levels).chain(expected).collect();
                assert_eq!(selected, expected, "{draft:?} in version {version}");
                // What is selected is what the rules expect.
                assert_eq!(sim.room.check_state_independent(ix), Ok(()), "{draft:?}");
                sim.room.retract(ix).unwrap();
            }
        }
    }

    #[test]
    fn the_create_event_of_the_state_is_needed() {
        for version in ALL {
            let mut sim = ranked(version);
            let key = sim.room.key("m.room.create", "").unwrap();
            let create = sim.state.remove(&key).unwrap();
            let alice = sim.state[&sim.room.key("m.room.member", ALICE).unwrap()];
            let auth = if version < 12 { vec![create, alice] } else { vec![alice] };
            let verdict = sim.verdict_citing(member(ALICE, ALICE, "leave"), Some(&auth));
            // From version 12 on the room ID says which event it is.
            assert_eq!(verdict, (version < 12).then_some(StateLacksCreate));
        }
    }
}

mod any_event {
    use super::*;

    #[test]
    fn unfederated_rooms_are_for_one_server() {
        for version in ALL {
            for (federate, rejected) in
                [(json!(false), true), (json!(true), false), (json!("no"), false)]
            {
                let mut sim = Sim::created_with(version, json!({"m.federate": federate}));
                sim.member(CREATOR, "join");
                sim.join_rule("public");
                assert_eq!(sim.verdict(member(ALICE, ALICE, "join")), None);
                let verdict = sim.verdict(member(BOB, BOB, "join"));
                assert_eq!(verdict, rejected.then_some(NotFederated));
            }
        }
    }

    #[test]
    fn aliases_are_special_up_to_version_5() {
        for version in ALL {
            let mut sim = ranked(version);
            let mut aliases = |key: Option<&'static str>, sender: &'static str| {
                sim.verdict(("m.room.aliases", key, sender, json!({})))
            };
            // Bob is no moderator, and "@dave:b" not even a member.
            let special = version <= 5;
            assert_eq!(aliases(Some("b"), BOB), (!special).then_some(RequiredLevel));
            assert_eq!(aliases(Some("b"), "@dave:b"), (!special).then_some(SenderNotJoined));
            assert_eq!(
                aliases(Some("a"), BOB),
                Some(if special { AliasesDomain } else { RequiredLevel })
            );
            assert_eq!(aliases(None, ALICE), special.then_some(AliasesStateKey));
            assert_eq!(aliases(Some("elsewhere"), ALICE), special.then_some(AliasesDomain));
        }
    }

    #[test]
    fn senders_are_members() {
        for version in ALL {
            let mut sim = ranked(version);
            let message = |sender| ("m.room.message", None, sender, json!({}));
            assert_eq!(sim.verdict(message(BOB)), None);
            assert_eq!(sim.verdict(message("@dave:d")), Some(SenderNotJoined));
            for membership in ["invite", "leave", "ban", "knock"] {
                sim.member(BOB, membership);
                assert_eq!(sim.verdict(message(BOB)), Some(SenderNotJoined));
            }
        }
    }

    #[test]
    fn the_type_takes_its_level() {
        for version in ALL {
            let content =
                json!({"events": {"m.room.topic": 0, "org.message": 50}, "state_default": 60});
            let mut sim = ranked_with(version, content);
            for (draft, expected) in [
                (("m.room.topic", Some(""), BOB, json!({})), None),
                (("m.room.name", Some(""), ALICE, json!({})), Some(RequiredLevel)),
                (("m.room.name", Some(""), CREATOR, json!({})), None),
                (("m.room.message", None, BOB, json!({})), None),
                (("org.message", None, BOB, json!({})), Some(RequiredLevel)),
                (("org.message", None, ALICE, json!({})), None),
            ] {
                assert_eq!(sim.verdict(draft.clone()), expected, "{draft:?}");
            }
        }
    }

    #[test]
    fn without_power_levels_the_creator_has_100_and_state_needs_50() {
        for version in ALL {
            let mut sim = Sim::new(version);
            sim.member(ALICE, "join");
            assert_eq!(sim.verdict(("m.room.topic", Some(""), CREATOR, json!({}))), None);
            let topic = sim.verdict(("m.room.topic", Some(""), ALICE, json!({})));
            assert_eq!(topic, Some(RequiredLevel));
            assert_eq!(sim.verdict(("m.room.message", None, ALICE, json!({}))), None);
        }
    }

    #[test]
    fn the_creator_is_the_sender_from_version_11_on() {
        for version in [10, 11] {
            let mut sim = Sim::created_with(version, json!({"creator": BOB}));
            sim.member(CREATOR, "join");
            sim.member(BOB, "join");
            let mut topic = |sender| sim.verdict(("m.room.topic", Some(""), sender, json!({})));
            assert_eq!(topic(CREATOR), (version == 10).then_some(RequiredLevel));
            assert_eq!(topic(BOB), (version == 11).then_some(RequiredLevel));
        }
    }

    #[test]
    fn state_of_a_user_is_set_by_that_user() {
        for version in ALL {
            let mut sim = ranked(version);
            for (key, expected) in [
                (ALICE, None),
                (BOB, Some(ForeignStateKey)),
                ("@", Some(ForeignStateKey)),
                ("x@", None),
            ] {
                assert_eq!(sim.verdict(("org.type", Some(key), ALICE, json!({}))), expected);
            }
        }
    }

    #[test]
    fn announcing_third_party_invites_takes_the_invite_level() {
        for version in ALL {
            let mut sim = ranked_with(version, json!({"invite": 50, "state_default": 100}));
            let invite = |sender| ("m.room.third_party_invite", Some("t"), sender, json!({}));
            // The level of the event type does not matter.
            assert_eq!(sim.verdict(invite(ALICE)), None);
            assert_eq!(sim.verdict(invite(BOB)), Some(ThirdPartyInviteLevel));
        }
    }

    #[test]
    fn redactions_are_special_up_to_version_2() {
        for version in ALL {
            let mut sim = ranked(version);
            let redaction =
                |sender, id: &str| ("m.room.redaction", None, sender, json!({"test.redacts": id}));
            let special = version <= 2;
            assert_eq!(sim.verdict(redaction(ALICE, "$x:z")), None);
            assert_eq!(sim.verdict(redaction(BOB, "$x:b")), None);
            assert_eq!(sim.verdict(redaction(BOB, "$x:z")), special.then_some(Redaction));
            assert_eq!(sim.verdict(redaction(BOB, "nonsense")), special.then_some(Redaction));
        }
    }

    #[test]
    fn a_message_is_checked_without_being_inserted() {
        let sim = ranked(11);
        let state = |key| sim.state.get(&key).copied();
        let content = serde_json::Map::new();
        let mut input = crate::EventInput {
            event_id: "$m",
            room_id: Some("!room:a"),
            event_type: "never.heard.of",
            state_key: None,
            sender: BOB,
            origin_server_ts: 1,
            depth: 1,
            prev_events: vec![],
            auth_events: vec![],
            redacts: None,
            content: &content,
            rejected: false,
        };
        assert_eq!(sim.room.check_message(&input, &state), Ok(()));
        input.sender = "@never:heard.of";
        let rule = sim.room.check_message(&input, &state).unwrap_err().rule;
        assert_eq!(rule, SenderNotJoined);
    }
}

mod membership {
    use super::*;

    #[test]
    fn has_a_target_and_a_membership() {
        for version in ALL {
            let mut sim = ranked(version);
            for (key, content, expected) in [
                (None, json!({"membership": "join"}), MemberIncomplete),
                (Some(ALICE), json!({}), MemberIncomplete),
                (Some(ALICE), json!({"membership": 1}), MemberIncomplete),
                (Some(ALICE), json!({"membership": "dance"}), MembershipUnknown),
            ] {
                assert_eq!(sim.verdict(("m.room.member", key, ALICE, content)), Some(expected));
            }
            assert_eq!(sim.verdict(member("alice", CREATOR, "invite")), Some(MemberTarget));
        }
    }

    #[test]
    fn the_creator_joins_first() {
        for version in ALL {
            let mut sim = Sim::created(version);
            assert_eq!(sim.verdict(member(CREATOR, CREATOR, "join")), None);
            assert_eq!(sim.verdict(member(ALICE, ALICE, "join")), Some(JoinNotInvited));
            // Not so once something else happened, or if the event is elsewhere in the graph.
            let topic = sim.add(("m.room.topic", Some(""), CREATOR, json!({})));
            assert_eq!(sim.verdict(member(CREATOR, CREATOR, "join")), Some(JoinNotInvited));
            let create = sim.room.create_event().unwrap();
            sim.after(&[create, topic]);
            assert_eq!(sim.verdict(member(CREATOR, CREATOR, "join")), Some(JoinNotInvited));
        }
    }

    #[test]
    fn additional_creators_do_not_join_by_themselves() {
        let mut sim = Sim::created_with(12, json!({"additional_creators": [BOB]}));
        assert_eq!(sim.verdict(member(BOB, BOB, "join")), Some(JoinNotInvited));
    }

    #[test]
    fn join_rules() {
        // By version: who may join with an invitation, and who without.
        for version in ALL {
            for (rule, since_invited, since_anybody) in [
                ("public", 1, 1),
                ("invite", 1, 99),
                ("knock", 7, 99),
                ("restricted", 8, 99),
                ("knock_restricted", 10, 99),
                ("private", 99, 99),
            ] {
                let mut sim = ranked(version);
                sim.join_rule(rule);
                sim.member(BOB, "invite");
                let invited = sim.verdict(member(BOB, BOB, "join"));
                assert_eq!(invited.is_none(), version >= since_invited, "{rule} in {version}");
                sim.member(BOB, "join");
                let joined = sim.verdict(member(BOB, BOB, "join"));
                assert_eq!(joined.is_none(), version >= since_invited, "{rule} in {version}");
                for membership in ["leave", "knock"] {
                    sim.member(BOB, membership);
                    let anybody = sim.verdict(member(BOB, BOB, "join"));
                    assert_eq!(anybody.is_none(), version >= since_anybody, "{rule} in {version}");
                }
                sim.member(BOB, "ban");
                assert_eq!(sim.verdict(member(BOB, BOB, "join")), Some(JoinBanned));
                assert_eq!(sim.verdict(member("@eve:e", CREATOR, "join")), Some(JoinForOther));
            }
        }
    }

    #[test]
    fn a_room_without_join_rules_takes_an_invitation() {
        let mut sim = ranked(11);
        sim.member(BOB, "invite");
        assert_eq!(sim.verdict(member(BOB, BOB, "join")), None);
        assert_eq!(sim.verdict(member("@eve:e", "@eve:e", "join")), Some(JoinNotInvited));
    }

    #[test]
    fn restricted_joins_are_authorised_by_who_may_invite() {
        let join = |authoriser: Value| {
            let content =
                json!({"membership": "join", "join_authorised_via_users_server": authoriser});
            ("m.room.member", Some("@eve:e"), "@eve:e", content)
        };
        for (version, rule) in [
            (7, "restricted"),
            (8, "restricted"),
            (9, "knock_restricted"),
            (10, "knock_restricted"),
        ] {
            let mut sim = ranked_with(version, json!({"invite": 50}));
            sim.join_rule(rule);
            let known = version == 8 || version == 10;
            let mut expect = |draft, expected| {
                let expected = if known { expected } else { Some(JoinRuleClosed) };
                assert_eq!(sim.verdict(draft), expected, "{rule} in {version}");
            };
            expect(join(json!(ALICE)), None);
            expect(join(json!(BOB)), Some(JoinAuthoriser));
            expect(join(json!("@nobody:n")), Some(JoinAuthoriser));
            expect(member("@eve:e", "@eve:e", "join"), Some(JoinAuthoriser));
        }
    }

    #[test]
    fn the_authorisers_server_signs_from_version_8_on() {
        for version in ALL {
            let mut sim = ranked(version);
            sim.join_rule("public");
            for user in [json!("@liar:x"), json!("nobody"), json!(1), json!(null)] {
                let content =
                    json!({"membership": "join", "join_authorised_via_users_server": user});
                let verdict = sim.verdict(("m.room.member", Some("@eve:e"), "@eve:e", content));
                assert_eq!(verdict, (version >= 8).then_some(MemberAuthoriserSignature), "{user}");
            }
        }
    }

    #[test]
    fn invites() {
        for version in ALL {
            let mut sim = ranked_with(version, json!({"invite": 50}));
            assert_eq!(sim.verdict(member("@eve:e", ALICE, "invite")), None);
            assert_eq!(sim.verdict(member("@eve:e", BOB, "invite")), Some(InviteLevel));
            assert_eq!(sim.verdict(member("@eve:e", "@x:x", "invite")), Some(InviteSender));
            assert_eq!(sim.verdict(member(BOB, ALICE, "invite")), Some(InviteTarget));
            sim.member(BOB, "ban");
            assert_eq!(sim.verdict(member(BOB, ALICE, "invite")), Some(InviteTarget));
            for membership in ["leave", "invite", "knock"] {
                sim.member(BOB, membership);
                assert_eq!(sim.verdict(member(BOB, ALICE, "invite")), None);
            }
        }
    }

    #[test]
    fn third_party_invites() {
        let good = json!({"mxid": "@eve:e", "token": "t", "signatures": {}});
        let invite = |third_party: Value| {
            let content = json!({"membership": "invite", "third_party_invite": third_party});
            ("m.room.member", Some("@eve:e"), ALICE, content)
        };
        for version in ALL {
            let mut sim = ranked_with(version, json!({"invite": 100}));
            assert_eq!(sim.verdict(invite(json!({"signed": good}))), Some(ThirdPartyUnknown));
            let announce = |sender: &'static str, content| {
                ("m.room.third_party_invite", Some("t"), sender, content)
            };
            for (keys, signed) in [
                (json!({"public_key": "good"}), true),
                (json!({"public_key": "bad"}), false),
                (json!({"public_key": "bad", "public_keys": [{"public_key": "good"}]}), true),
                (json!({"public_keys": [1, {}, {"public_key": 1}]}), false),
                (json!({}), false),
            ] {
                sim.add(announce(ALICE, keys));
                // Alice could not invite by herself.
                let verdict = sim.verdict(invite(json!({"signed": good})));
                assert_eq!(verdict, (!signed).then_some(ThirdPartySignature));
            }
            sim.add(announce(ALICE, json!({"public_key": "good"})));
            for (third_party, expected) in [
                (json!({}), ThirdPartyUnsigned),
                (json!(null), ThirdPartyUnsigned),
                (json!({"signed": []}), ThirdPartyUnsigned),
                (json!({"signed": {"mxid": "@eve:e"}}), ThirdPartyIncomplete),
                (json!({"signed": {"token": "t"}}), ThirdPartyIncomplete),
                (json!({"signed": {"mxid": BOB, "token": "t"}}), ThirdPartyMxid),
                (json!({"signed": {"mxid": "@eve:e", "token": "u"}}), ThirdPartyUnknown),
                (json!({"signed": {"mxid": "@eve:e", "token": "t"}}), ThirdPartySignature),
            ] {
                assert_eq!(
                    sim.verdict(invite(third_party.clone())),
                    Some(expected),
                    "{third_party}"
                );
            }
            sim.add(announce(CREATOR, json!({"public_key": "good"})));
            assert_eq!(sim.verdict(invite(json!({"signed": good}))), Some(ThirdPartySender));
            sim.add(announce(ALICE, json!({"public_key": "good"})));
            sim.member("@eve:e", "ban");
            assert_eq!(sim.verdict(invite(json!({"signed": good}))), Some(ThirdPartyBanned));
        }
    }

    #[test]
    fn leaving() {
        for version in ALL {
            let mut sim = ranked(version);
            for (membership, allowed) in [
                ("join", true),
                ("invite", true),
                ("knock", version >= 7),
                ("leave", false),
                ("ban", false),
            ] {
                sim.member(BOB, membership);
                let verdict = sim.verdict(member(BOB, BOB, "leave"));
                assert_eq!(verdict, (!allowed).then_some(LeaveNotThere), "{membership}");
            }
            assert_eq!(sim.verdict(member("@x:x", "@x:x", "leave")), Some(LeaveNotThere));
        }
    }

    #[test]
    fn kicking_and_unbanning() {
        for version in ALL {
            let mut sim = ranked_with(version, json!({"kick": 40, "ban": 60}));
            assert_eq!(sim.verdict(member(BOB, ALICE, "leave")), None);
            assert_eq!(sim.verdict(member(BOB, "@x:x", "leave")), Some(KickSender));
            assert_eq!(sim.verdict(member(CAROL, BOB, "leave")), Some(KickLevel));
            assert_eq!(sim.verdict(member(CREATOR, ALICE, "leave")), Some(KickLevel));
            sim.member(BOB, "ban");
            assert_eq!(sim.verdict(member(BOB, ALICE, "leave")), Some(UnbanLevel));
            assert_eq!(sim.verdict(member(BOB, CREATOR, "leave")), None);
            // Equals do not kick each other.
            let mut sim = ranked_with(version, json!({"users_default": 50}));
            assert_eq!(sim.verdict(member(BOB, ALICE, "leave")), Some(KickLevel));
        }
    }

    #[test]
    fn banning() {
        for version in ALL {
            let mut sim = ranked_with(version, json!({"ban": 50}));
            assert_eq!(sim.verdict(member(BOB, ALICE, "ban")), None);
            assert_eq!(sim.verdict(member("@x:x", ALICE, "ban")), None);
            assert_eq!(sim.verdict(member(CAROL, BOB, "ban")), Some(BanLevel));
            assert_eq!(sim.verdict(member(CREATOR, ALICE, "ban")), Some(BanLevel));
            assert_eq!(sim.verdict(member(ALICE, ALICE, "ban")), Some(BanLevel));
            assert_eq!(sim.verdict(member(BOB, "@x:x", "ban")), Some(BanSender));
        }
    }

    #[test]
    fn knocking() {
        for version in ALL {
            for (rule, since) in
                [("knock", 7), ("knock_restricted", 10), ("public", 99), ("invite", 99)]
            {
                let mut sim = ranked(version);
                sim.join_rule(rule);
                let verdict = sim.verdict(member("@x:x", "@x:x", "knock"));
                let expected = if version < 7 { Some(MembershipUnknown) } else { Some(KnockRule) };
                assert_eq!(verdict, if version >= since { None } else { expected }, "{rule}");
                if version < since {
                    continue;
                }
                assert_eq!(sim.verdict(member("@x:x", ALICE, "knock")), Some(KnockForOther));
                for (membership, allowed) in [
                    ("join", false),
                    ("invite", false),
                    ("ban", false),
                    ("leave", true),
                    ("knock", true),
                ] {
                    sim.member(BOB, membership);
                    let verdict = sim.verdict(member(BOB, BOB, "knock"));
                    assert_eq!(verdict, (!allowed).then_some(KnockMember), "{membership}");
                }
            }
        }
    }
}

mod power_levels {
    use super::*;

    #[test]
    fn values_are_integers() {
        for version in ALL {
            let mut sim = Sim::new(version);
            let mut verdict = |content: Value| sim.verdict(levels(CREATOR, content));
            assert_eq!(verdict(json!({"ban": 50, "users": {BOB: 1}, "events": {"x": 1}})), None);
            let strings = version <= 9;
            assert_eq!(
                verdict(json!({"ban": "50"})),
                (!strings).then_some(PowerLevelsInteger(Ban))
            );
            assert_eq!(
                verdict(json!({"users": {BOB: "1"}})),
                (!strings).then_some(PowerLevelsUsers)
            );
            assert_eq!(
                verdict(json!({"events": {"x": "1"}})),
                (!strings).then_some(PowerLevelsMap)
            );
            let floats = version <= 5;
            assert_eq!(verdict(json!({"ban": 50.5})), (!floats).then_some(PowerLevelsInteger(Ban)));
            assert_eq!(verdict(json!({"invite": null})), Some(PowerLevelsInteger(Invite)));
            assert_eq!(verdict(json!({"users": []})), Some(PowerLevelsUsers));
            assert_eq!(verdict(json!({"users": {"bob": 1}})), Some(PowerLevelsUsers));
            assert_eq!(verdict(json!({"events": 1})), Some(PowerLevelsMap));
            let notifications = verdict(json!({"notifications": {"room": {}}}));
            assert_eq!(notifications, (version >= 6).then_some(PowerLevelsMap));
        }
    }

    #[test]
    fn creators_have_no_level_from_version_12_on() {
        for version in [11, 12] {
            let mut sim = Sim::created_with(version, json!({"additional_creators": [BOB]}));
            sim.member(CREATOR, "join");
            for creator in [CREATOR, BOB] {
                let verdict = sim.verdict(levels(CREATOR, json!({"users": {creator: 100}})));
                assert_eq!(verdict, (version == 12).then_some(PowerLevelsCreator));
            }
            assert_eq!(sim.verdict(levels(CREATOR, json!({"users": {ALICE: 100}}))), None);
        }
    }

    #[test]
    fn creators_stand_above_every_level_from_version_12_on() {
        for version in [11, 12] {
            let mut sim = Sim::created_with(version, json!({"additional_creators": [BOB]}));
            sim.member(CREATOR, "join");
            let high = i64::pow(2, 53) - 1;
            sim.add(levels(
                CREATOR,
                json!({"users": {ALICE: high}, "state_default": high, "ban": high}),
            ));
            for user in [ALICE, BOB] {
                sim.member(user, "join");
            }
            let topic = |sender| ("m.room.topic", Some(""), sender, json!({}));
            let expected = (version == 11).then_some(RequiredLevel);
            assert_eq!(sim.verdict(topic(CREATOR)), expected);
            assert_eq!(sim.verdict(topic(BOB)), expected);
            assert_eq!(sim.verdict(topic(ALICE)), None);
            let ban = sim.verdict(member(ALICE, BOB, "ban"));
            assert_eq!(ban, (version == 11).then_some(BanLevel));
            // Creators cannot be banned, not even by each other.
            let ban = sim.verdict(member(BOB, ALICE, "ban"));
            assert_eq!(ban, (version == 12).then_some(BanLevel));
            if version == 12 {
                assert_eq!(sim.verdict(member(BOB, CREATOR, "ban")), Some(BanLevel));
            }
        }
    }

    #[test]
    fn the_first_levels_are_free() {
        for version in ALL {
            let mut sim = Sim::new(version);
            let content = json!({"ban": 1000, "users": {ALICE: 1000}, "events": {"x": 1000}});
            assert_eq!(sim.verdict(levels(CREATOR, content)), None);
        }
    }

    #[test]
    fn named_levels_change_within_the_senders_power() {
        for version in ALL {
            let base = json!({"ban": 50, "kick": 60, "events": {"m.room.power_levels": 50}});
            let mut sim = ranked_with(version, base.clone());
            let users = sim_users(version);
            for (name, value, allowed) in [
                ("ban", Some(20), true),
                ("ban", Some(51), false),
                ("ban", None, true),
                ("kick", Some(50), false),
                ("kick", None, false),
                ("invite", Some(50), true),
                ("invite", Some(51), false),
                ("users_default", Some(60), false),
                ("events_default", Some(10), true),
                // Its default is within Alice's reach.
                ("state_default", Some(40), true),
                ("redact", Some(99), false),
            ] {
                let mut content = base.clone();
                content["users"] = users.clone();
                match value {
                    Some(value) => content[name] = value.into(),
                    None => drop(content.as_object_mut().unwrap().remove(name)),
                }
                let verdict = sim.verdict(levels(ALICE, content));
                let named =
                    matches!(verdict, Some(PowerLevelsNamed(level)) if level.name() == name);
                assert_eq!((verdict.is_none(), named), (allowed, !allowed), "{name} {value:?}");
            }
        }
    }

    fn sim_users(version: usize) -> Value {
        if version < 12 { json!({ALICE: 50, CREATOR: 100}) } else { json!({ALICE: 50}) }
    }

    #[test]
    fn a_level_beyond_reach_stays_even_if_it_takes_the_default() {
        // Without `redact` the level is 50; Alice, who has 40, may not write it down.
        for version in ALL {
            let mut sim = Sim::with_levels(
                version,
                json!({"users": {ALICE: 40}, "events": {"m.room.power_levels": 0}}),
            );
            sim.member(ALICE, "join");
            let content =
                json!({"users": {ALICE: 40}, "events": {"m.room.power_levels": 0}, "redact": 10});
            let verdict = sim.verdict(levels(ALICE, content));
            assert_eq!(verdict, Some(PowerLevelsNamed(crate::NamedLevel::Redact)));
        }
    }

    #[test]
    fn maps_change_within_the_senders_power() {
        for version in ALL {
            for (map, rule, since) in
                [("events", PowerLevelsEvent, 1), ("notifications", PowerLevelsNotification, 6)]
            {
                let mut base = json!({"events": {"m.room.power_levels": 50}});
                base[map]["low"] = 10.into();
                base[map]["high"] = 60.into();
                let mut sim = ranked_with(version, base.clone());
                for (entry, value, allowed) in [
                    ("low", Some(50), true),
                    ("low", Some(51), false),
                    ("low", None, true),
                    ("high", Some(0), false),
                    ("high", None, false),
                    ("high", Some(60), true),
                    ("new", Some(50), true),
                    ("new", Some(60), false),
                ] {
                    let mut content = base.clone();
                    content["users"] = sim_users(version);
                    match value {
                        Some(value) => content[map][entry] = value.into(),
                        None => drop(content[map].as_object_mut().unwrap().remove(entry)),
                    }
                    let expected = (!allowed && version >= since).then_some(rule);
                    let verdict = sim.verdict(levels(ALICE, content));
                    assert_eq!(verdict, expected, "{map} {entry} {value:?} in {version}");
                }
            }
        }
    }

    #[test]
    fn users_change_below_the_senders_power() {
        for version in ALL {
            let users = json!({ALICE: 50, BOB: 50, CAROL: 10, "@top:t": 100});
            let mut base = json!({"events": {"m.room.power_levels": 50}, "users": users});
            if version < 12 {
                base["users"][CREATOR] = 100.into();
            }
            let mut sim = Sim::with_levels(version, base.clone());
            sim.member(ALICE, "join");
            for (user, value, expected) in [
                (CAROL, Some(50), None),
                (CAROL, Some(51), Some(PowerLevelsRaise)),
                (CAROL, None, None),
                (BOB, Some(0), Some(PowerLevelsUser)),
                (BOB, None, Some(PowerLevelsUser)),
                ("@top:t", Some(0), Some(PowerLevelsUser)),
                (ALICE, Some(0), None),
                (ALICE, None, None),
                (ALICE, Some(51), Some(PowerLevelsRaise)),
                ("@new:n", Some(50), None),
                ("@new:n", Some(51), Some(PowerLevelsRaise)),
            ] {
                let mut content = base.clone();
                match value {
                    Some(value) => content["users"][user] = value.into(),
                    None => drop(content["users"].as_object_mut().unwrap().remove(user)),
                }
                assert_eq!(sim.verdict(levels(ALICE, content)), expected, "{user} {value:?}");
            }
        }
    }

    #[test]
    fn malformed_levels_in_the_state_reject_everything_they_decide() {
        for version in ALL {
            let mut sim = ranked(version);
            let key = sim.room.key("m.room.power_levels", "").unwrap();
            let broken = sim.add(levels(CREATOR, json!({"users": {BOB: []}})));
            assert_eq!(sim.state[&key], broken);
            let topic = ("m.room.topic", Some(""), ALICE, json!({}));
            assert_eq!(sim.verdict(member(BOB, ALICE, "ban")), Some(StateMalformed));
            assert_eq!(sim.verdict(topic), Some(StateMalformed));
            assert_eq!(sim.verdict(member(BOB, BOB, "leave")), None);
        }
    }
}
