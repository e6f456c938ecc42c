//! Attacks and accidents that happened, or that the algorithms were changed to prevent.
//!
//! Where nothing else is said, the independent resolver agrees: `Story::resolve` compares.

use serde_json::json;
use state_resolution::Rule;

use crate::support::{ALICE, BOB, CAROL, Story};

const NEW: [&str; 3] = ["6", "11", "12"];

/// Bob is banned, and has his server send events from before the ban.
#[test]
fn a_ban_is_not_evaded_by_an_older_fork() {
    for version in NEW {
        let (mut story, base) = Story::new(version);
        let (mut here, mut evasion) = (base.clone(), base);
        story.member("$ban", BOB, ALICE, "ban", &mut here);
        // Later by the clock, and with the power Bob had.
        story.topic("$evasion", BOB, &mut evasion);
        story.member("$profile", BOB, BOB, "join", &mut evasion);
        story.levels("$friend", BOB, &[(BOB, 50), (CAROL, 50)], &mut evasion);
        let resolved = story.resolve([&here, &evasion]);
        assert_eq!(story.at(&resolved, "m.room.member", BOB), Some("$ban"), "{version}");
        assert_eq!(story.at(&resolved, "m.room.topic", ""), None);
        assert_eq!(story.at(&resolved, "m.room.power_levels", ""), Some("$levels"));
    }
}

/// Bob leaves in one fork and so is not there to be banned in it; the ban stands all the same.
#[test]
fn a_ban_is_not_evaded_by_leaving_and_joining_again() {
    for version in NEW {
        let (mut story, base) = Story::new(version);
        let (mut here, mut evasion) = (base.clone(), base);
        story.member("$ban", BOB, ALICE, "ban", &mut here);
        story.member("$leave", BOB, BOB, "leave", &mut evasion);
        story.member("$again", BOB, BOB, "join", &mut evasion);
        let resolved = story.resolve([&here, &evasion]);
        assert_eq!(story.at(&resolved, "m.room.member", BOB), Some("$ban"), "{version}");
    }
}

/// Two moderators take each other's power away at the same time: the more powerful one wins,
/// even with the later clock.
#[test]
fn of_two_who_demote_each_other_the_more_powerful_wins() {
    for version in NEW {
        let (mut story, base) = Story::new(version);
        let (mut hers, mut his) = (base.clone(), base);
        story.levels("$his", BOB, &[(BOB, 50), (CAROL, 50)], &mut his);
        story.levels("$hers", ALICE, &[(BOB, 0)], &mut hers);
        let resolved = story.resolve([&hers, &his]);
        assert_eq!(story.at(&resolved, "m.room.power_levels", ""), Some("$hers"), "{version}");
    }
}

/// Equals fight: the earlier one acts first.
#[test]
fn of_two_equals_the_earlier_wins() {
    for version in NEW {
        let (mut story, mut base) = Story::new(version);
        story.member("$carol", CAROL, CAROL, "join", &mut base);
        story.levels("$equal", ALICE, &[(BOB, 60), (CAROL, 60)], &mut base);
        let (mut bobs, mut carols) = (base.clone(), base);
        story.join_rule("$closed", "invite", &mut carols);
        story.now += 100;
        // Bob steps down by himself, Carol too, each in their own fork.
        story.levels("$bob-down", BOB, &[(BOB, 10), (CAROL, 60)], &mut bobs);
        story.levels("$carol-down", CAROL, &[(BOB, 60), (CAROL, 10)], &mut carols);
        let resolved = story.resolve([&bobs, &carols]);
        // Bob came first, and Carol, who did not see it, would raise him again with the power
        // that she has: 60. That is allowed.
        assert_eq!(
            story.at(&resolved, "m.room.power_levels", ""),
            Some("$carol-down"),
            "{version}"
        );
        assert_eq!(story.at(&resolved, "m.room.join_rules", ""), Some("$closed"));
    }
}

/// Topics on different power levels: the newer mainline wins, whatever the clocks say.
#[test]
fn an_event_on_newer_power_levels_beats_a_later_clock() {
    for version in NEW {
        let (mut story, base) = Story::new(version);
        let (mut old, mut new) = (base.clone(), base);
        story.levels("$newer", ALICE, &[(BOB, 50), (CAROL, 1)], &mut new);
        story.topic("$new", BOB, &mut new);
        story.now += 1_000;
        story.topic("$old", BOB, &mut old);
        let resolved = story.resolve([&old, &new]);
        assert_eq!(story.at(&resolved, "m.room.topic", ""), Some("$new"), "{version}");
    }
}

/// Topics on the same power levels: the later clock wins, and at the same time the larger ID.
#[test]
fn mainline_ties_are_broken_by_time_then_by_id() {
    for version in NEW {
        for (same_time, expected) in [(false, "$a-later"), (true, "$z")] {
            let (mut story, base) = Story::new(version);
            let (mut here, mut there) = (base.clone(), base);
            let last = if same_time { "$a" } else { "$a-later" };
            story.topic("$z", BOB, &mut here);
            if same_time {
                story.now -= 1;
            }
            story.topic(last, BOB, &mut there);
            let resolved = story.resolve([&here, &there]);
            assert_eq!(story.at(&resolved, "m.room.topic", ""), Some(expected), "{version}");
        }
    }
}

/// The first problem that version 12 solves: events were replayed on top of newer state that they
/// had never seen. Bob joined while the room was public; a server that lacks his join makes it a
/// conflict; by the join rules of today he may not come in, and is thrown out.
#[test]
fn a_member_is_not_lost_because_the_join_rules_changed_later_since_version_12() {
    for (version, expected) in [("6", None), ("11", None), ("12", Some("$bob"))] {
        let (mut story, mut whole) = Story::new(version);
        // Somebody else's join keeps the old join rules in every chain, and out of the difference.
        story.member("$carol", CAROL, CAROL, "join", &mut whole);
        story.join_rule("$invite", "invite", &mut whole);
        let mut lacking = whole.clone();
        lacking.remove(story.key("m.room.member", BOB));
        let resolved = story.resolve([&whole, &lacking]);
        assert_eq!(story.at(&resolved, "m.room.member", BOB), expected, "{version}");
    }
}

/// The second problem that version 12 solves, a reset by old power levels: Bob owes the power for
/// his change to an event that every state's chain has, so that it was neither in conflict nor in
/// the difference, and was not replayed. His change failed, and the oldest levels came back.
#[test]
fn old_power_levels_do_not_reset_the_room_since_version_12() {
    for (version, expected) in [("6", "$first"), ("11", "$first"), ("12", "$third")] {
        let (mut story, mut state) = Story::new(version);
        story.levels("$first", ALICE, &[], &mut state);
        let reset = state.clone();
        story.levels("$second", ALICE, &[(BOB, 50)], &mut state);
        // Something unconflicted that cites the second.
        let carol = story.member("$carol", CAROL, CAROL, "join", &mut state);
        story.levels("$third", BOB, &[(BOB, 50), (CAROL, 20)], &mut state);
        let mut reset = reset;
        reset.insert(story.key("m.room.member", CAROL), carol);
        let resolved = story.resolve([&state, &reset]);
        assert_eq!(story.at(&resolved, "m.room.power_levels", ""), Some(expected), "{version}");
    }
}

/// A rejected event gives no power to those who cite it.
#[test]
fn a_rejected_auth_event_authorises_nothing() {
    for version in NEW {
        for rejected in [false, true] {
            let (mut story, base) = Story::new(version);
            let mut evil = base.clone();
            story.member("$carol", CAROL, CAROL, "join", &mut evil);
            let grant = story.levels("$grant", ALICE, &[(CAROL, 50)], &mut evil);
            story.topic("$topic", CAROL, &mut evil);
            story.room.set_rejected(grant, rejected);
            story.pdus[grant.index()].rejected = rejected;
            // The levels are the same in both states, or there is none to fall back on.
            let resolved = story.resolve([&base, &evil]);
            let expected = (!rejected).then_some("$topic");
            assert_eq!(story.at(&resolved, "m.room.topic", ""), expected, "{version}");
        }
    }
}

/// "Events that have been rejected due to failing auth based on the state at the event (rather
/// than based on their auth chain) are handled as usual by the algorithm". Synapse does not let
/// them back in; the spec, and ruma-state-res, do.
#[test]
fn an_event_rejected_at_its_state_may_be_accepted_by_resolution() {
    for version in NEW {
        let (mut story, base) = Story::new(version);
        let mut lied_to = base.clone();
        let topic = story.topic("$topic", BOB, &mut lied_to);
        story.room.set_rejected(topic, true);
        story.pdus[topic.index()].rejected = true;
        let resolved = story.resolve([&base, &lied_to]);
        assert_eq!(story.at(&resolved, "m.room.topic", ""), Some("$topic"), "{version}");
    }
}

/// Alice's power in version 12 is nothing that power levels could take.
#[test]
fn a_creator_keeps_the_room_since_version_12() {
    let (mut story, base) = Story::new("12");
    let (mut hers, mut his) = (base.clone(), base);
    story.levels("$his", BOB, &[(BOB, 50), (CAROL, 50)], &mut his);
    let content = json!({"users": {BOB: 50, ALICE: 0}});
    let mut state = his.clone();
    let demotion = story.send("$demotion", ("m.room.power_levels", ""), BOB, content, &mut state);
    let rule = story.room.check_auth_events(demotion).unwrap_err().rule;
    assert_eq!(rule, Rule::PowerLevelsCreator);
    story.member("$ban", BOB, ALICE, "ban", &mut hers);
    let resolved = story.resolve([&hers, &his]);
    assert_eq!(story.at(&resolved, "m.room.member", BOB), Some("$ban"));
    assert_eq!(story.at(&resolved, "m.room.power_levels", ""), Some("$levels"));
}

/// What made version 2 necessary: depth is the sender's claim, and a deep fork wins.
#[test]
fn version_1_lets_the_deeper_fork_win() {
    let (mut story, base) = Story::new("1");
    let (mut here, mut evasion) = (base.clone(), base);
    story.member("$ban:a", BOB, ALICE, "ban", &mut here);
    story.topic("$topic:a", ALICE, &mut here);
    story.now += 1_000_000;
    story.topic("$evasion:b", BOB, &mut evasion);
    let resolved = story.resolve([&here, &evasion]);
    // The ban is in conflict with Bob's join; the deeper of the two is allowed after the other.
    assert_eq!(story.at(&resolved, "m.room.member", BOB), Some("$ban:a"));
    assert_eq!(story.at(&resolved, "m.room.topic", ""), Some("$topic:a"));
    // Bob changes his profile, deep down: the ban is allowed after his join, but not his join
    // after the ban.
    story.member("$profile:b", BOB, BOB, "join", &mut evasion);
    let resolved = story.resolve([&here, &evasion]);
    assert_eq!(story.at(&resolved, "m.room.member", BOB), Some("$ban:a"));
    // A topic of Alice's loses to a deeper one of a moderator who is not banned.
    let (mut story, base) = Story::new("1");
    let (mut here, mut deep) = (base.clone(), base);
    story.topic("$topic:a", ALICE, &mut here);
    story.now += 1_000_000;
    story.topic("$deep:b", BOB, &mut deep);
    let resolved = story.resolve([&here, &deep]);
    assert_eq!(story.at(&resolved, "m.room.topic", ""), Some("$deep:b"));
}

/// In version 1 a key that only some states have is not in conflict.
#[test]
fn version_1_takes_what_only_some_states_have() {
    for (version, expected) in [("1", Some("$topic:b")), ("2", None)] {
        let (mut story, base) = Story::new(version);
        let (mut here, mut there) = (base.clone(), base);
        story.member("$ban:a", BOB, ALICE, "ban", &mut here);
        story.topic("$topic:b", BOB, &mut there);
        let resolved = story.resolve([&here, &there]);
        assert_eq!(story.at(&resolved, "m.room.topic", ""), expected, "{version}");
    }
}

/// The explanation names what stood in the way.
#[test]
fn an_explanation_says_which_event_stood_in_the_way() {
    let (mut story, base) = Story::new("11");
    let (mut here, mut evasion) = (base.clone(), base);
    story.member("$ban", BOB, ALICE, "ban", &mut here);
    story.topic("$evasion", BOB, &mut evasion);
    let mut scratch = state_resolution::Scratch::new();
    let explanation = story.room.explain(&[&here, &evasion], &mut scratch).unwrap();
    let text = explanation.describe(&story.room);
    let expected = [
        "m.room.member \"@bob:b\": $ban was accepted last",
        "  $bob (in states [1]): accepted",
        "  $ban (in states [0]): accepted",
        "m.room.topic \"\": no candidate is allowed",
        "  $evasion (in states [1]): not allowed, members send events (see $ban)",
    ];
    for line in expected {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
    let topic = explanation.decision(story.key("m.room.topic", "")).unwrap();
    assert_eq!(topic.outcome, state_resolution::Outcome::Dropped);
}
