//! What the rules that everybody starts with, and those that users add, make of events.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#predefined-rules>

use ruma::{
    UserId,
    push::{
        Action, NewConditionalPushRule, NewPatternedPushRule, NewPushRule, NewSimplePushRule,
        RuleKind, Ruleset, Tweak,
    },
    room_id, user_id,
};
use serde_json::{Value, json};

use super::{
    compiled::{CompiledRules, Outcome, Recipient},
    context::RoomContext,
    event::PushEvent,
    pattern::words_of,
    rules::server_default,
};

fn alice() -> &'static UserId {
    user_id!("@alice:localhost")
}

/// What happens in a room of ten in which Bob may do everything and Carol little.
fn group() -> RoomContext {
    RoomContext::of(10, json!({ "users": { "@bob:localhost": 100 } }))
}

fn event_of(
    sender: &UserId,
    event_type: &str,
    state_key: Option<&str>,
    content: Value,
) -> PushEvent {
    let body = content["body"].as_str().map(str::to_lowercase);
    PushEvent {
        event_id: "$event".try_into().unwrap(),
        event_type: event_type.to_owned(),
        state_key: state_key.map(str::to_owned),
        sender: sender.to_owned(),
        room_id: room_id!("!room:localhost").to_owned(),
        words: body.as_deref().map(words_of).unwrap_or_default(),
        body,
        content,
        position: 1,
        sent_ms: 1,
        thread: None,
        redacted: false,
        redacts: false,
    }
}

fn event(event_type: &str, content: Value) -> PushEvent {
    event_of(user_id!("@bob:localhost"), event_type, None, content)
}

fn message(body: &str) -> PushEvent {
    event("m.room.message", json!({ "msgtype": "m.text", "body": body }))
}

fn outcome_in(rules: &Ruleset, room: &RoomContext, event: &PushEvent) -> Outcome {
    outcome_of_thread(rules, room, event, false)
}

/// The same for an event in a thread to which Alice is subscribed, or is not.
fn outcome_of_thread(
    rules: &Ruleset,
    room: &RoomContext,
    event: &PushEvent,
    subscribed: bool,
) -> Outcome {
    let recipient = Recipient { user_id: alice(), display_name: Some("Alice"), subscribed };
    CompiledRules::new(rules).evaluate(event, room, recipient).cloned().unwrap_or_default()
}

/// Whether Alice is notified, and whether it is meant for her.
fn heard(event: &PushEvent) -> (bool, bool) {
    let outcome = outcome_in(&server_default(alice()), &group(), event);
    (outcome.notify, outcome.highlight)
}

const SILENT: (bool, bool) = (false, false);
const NOTIFIED: (bool, bool) = (true, false);
const HIGHLIGHTED: (bool, bool) = (true, true);

#[test]
fn messages_notify_those_who_did_not_send_them() {
    assert_eq!(heard(&message("hello")), NOTIFIED);
    let own = event_of(alice(), "m.room.message", None, json!({ "body": "hello" }));
    assert_eq!(heard(&own), SILENT);
    assert_eq!(heard(&event("m.room.message", json!({ "msgtype": "m.notice" }))), SILENT);
    assert_eq!(heard(&event("m.reaction", json!({}))), SILENT);
}

/// Spec: `.m.rule.is_user_mention`
#[test]
fn only_who_is_mentioned_is_meant() {
    let mentioning = |users: Value| {
        heard(&event("m.room.message", json!({ "body": "x", "m.mentions": { "user_ids": users } })))
    };
    assert_eq!(mentioning(json!(["@carol:localhost", "@alice:localhost"])), HIGHLIGHTED);
    assert_eq!(mentioning(json!(["@carol:localhost"])), NOTIFIED);
    assert_eq!(mentioning(json!("@alice:localhost")), NOTIFIED, "no list");
    assert_eq!(mentioning(json!([["@alice:localhost"]])), NOTIFIED, "no list of users");
    assert_eq!(heard(&message("alice: hello, Alice")), NOTIFIED, "text is no mention");
}

/// Spec: `.m.rule.is_room_mention`
#[test]
fn a_whole_room_is_mentioned_by_those_with_the_power() {
    let content = json!({ "body": "x", "m.mentions": { "room": true } });
    assert_eq!(heard(&event("m.room.message", content.clone())), HIGHLIGHTED);
    let carol = user_id!("@carol:localhost");
    assert_eq!(heard(&event_of(carol, "m.room.message", None, content.clone())), NOTIFIED);
    let low = RoomContext::of(10, json!({ "notifications": { "room": 0 } }));
    let event = event_of(carol, "m.room.message", None, content);
    assert!(outcome_in(&server_default(alice()), &low, &event).highlight);
    let no = json!({ "body": "@room", "m.mentions": { "room": "true" } });
    assert_eq!(heard(&self::event("m.room.message", no)), NOTIFIED);
}

/// Spec: `.m.rule.suppress_edits`. A mention that an edit adds is not told either.
#[test]
fn edits_are_kept_quiet_but_for_those_they_mention() {
    let edit = |mentions: Value| {
        heard(&event(
            "m.room.message",
            json!({
                "body": "* better", "m.mentions": mentions,
                "m.relates_to": { "rel_type": "m.replace", "event_id": "$first" },
            }),
        ))
    };
    assert_eq!(edit(json!({})), SILENT);
    assert_eq!(edit(json!({ "user_ids": ["@alice:localhost"] })), HIGHLIGHTED);
}

#[test]
fn answers_in_threads_notify_like_others() {
    let relation = json!({ "rel_type": "m.thread", "event_id": "$root" });
    let content = json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation });
    assert_eq!(heard(&event("m.room.message", content)), NOTIFIED);
}

/// Between two it rings, in a group it shows.
#[test]
fn encrypted_events_notify_whatever_is_in_them() {
    let encrypted = event("m.room.encrypted", json!({ "ciphertext": "x" }));
    assert_eq!(heard(&encrypted), NOTIFIED);
    let rings = |room: &RoomContext| {
        let outcome = outcome_in(&server_default(alice()), room, &encrypted);
        outcome.actions.iter().any(|action| matches!(action, Action::SetTweak(Tweak::Sound(_))))
    };
    assert!(!rings(&group()));
    assert!(rings(&RoomContext::of(2, json!({}))));
}

/// A vote is nobody's news, a poll is everybody's (MSC3930).
#[test]
fn polls_notify_when_they_begin_and_not_with_every_vote() {
    assert_eq!(heard(&event("org.matrix.msc3381.poll.response", json!({}))), SILENT);
    assert_eq!(heard(&event("org.matrix.msc3381.poll.start", json!({}))), NOTIFIED);
    assert_eq!(heard(&event("org.matrix.msc3381.poll.end", json!({}))), NOTIFIED);
}

#[test]
fn the_end_of_a_room_is_meant_for_all_and_an_invitation_for_one() {
    let bob = user_id!("@bob:localhost");
    assert_eq!(heard(&event_of(bob, "m.room.tombstone", Some(""), json!({}))), HIGHLIGHTED);
    let invite = json!({ "membership": "invite" });
    assert_eq!(
        heard(&event_of(bob, "m.room.member", Some(alice().as_str()), invite.clone())),
        NOTIFIED
    );
    assert_eq!(heard(&event_of(bob, "m.room.member", Some("@dan:localhost"), invite)), SILENT);
}

fn with(rules: Vec<NewPushRule>) -> Ruleset {
    let mut all = server_default(alice());
    for rule in rules.into_iter().rev() {
        all.insert(rule, None, None).unwrap();
    }
    all
}

fn word(pattern: &str, highlight: bool) -> NewPushRule {
    let tweak = Action::SetTweak(Tweak::Highlight(highlight.into()));
    let actions = vec![Action::Notify, tweak];
    NewPushRule::Content(NewPatternedPushRule::new(pattern.to_owned(), pattern.to_owned(), actions))
}

#[test]
fn words_of_the_users_own_are_found_and_the_first_rule_counts() {
    let rules = with(vec![word("tea", true), word("time for", false), word("time", true)]);
    let highlighted = |body: &str| outcome_in(&rules, &group(), &message(body)).highlight;
    assert!(highlighted("Tea, anybody?"));
    assert!(!highlighted("teapot"));
    assert!(highlighted("it's TIME"));
    assert!(!highlighted("it's time for it"), "the phrase comes before the word");
    assert!(highlighted("time for tea"), "and another word before the phrase");
}

#[test]
fn rooms_and_senders_are_kept_quiet_and_words_are_heard_all_the_same() {
    let quiet = |rule: NewPushRule| with(vec![word("tea", true), rule]);
    let room = NewSimplePushRule::new(room_id!("!room:localhost").to_owned(), vec![]);
    let sender = NewSimplePushRule::new(user_id!("@bob:localhost").to_owned(), vec![]);
    for rules in [quiet(NewPushRule::Room(room)), quiet(NewPushRule::Sender(sender))] {
        assert!(!outcome_in(&rules, &group(), &message("hello")).notify);
        assert!(outcome_in(&rules, &group(), &message("tea")).highlight);
    }
}

#[test]
fn the_master_rule_silences_everything() {
    let mut rules = with(vec![word("tea", true)]);
    rules.set_enabled(RuleKind::Override, ".m.rule.master", true).unwrap();
    assert!(!outcome_in(&rules, &group(), &message("tea")).notify);
}

/// No rules but the one that is always there, and off.
fn no_rules() -> Ruleset {
    let mut rules = server_default(alice());
    rules.override_.retain(|rule| rule.rule_id == ".m.rule.master");
    rules.content.clear();
    rules.underride.clear();
    rules
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#conditions-1>
#[test]
fn each_kind_of_condition_fits_what_it_describes_and_nothing_else() {
    let bob = user_id!("@bob:localhost");
    let content = json!({
        "msgtype": "m.text", "body": "Tea with Alice at five", "a.b": "dotted", "n": 7,
        "flag": true, "nothing": null, "list": ["one", 2], "deep": { "er": "here" },
    });
    let event = event_of(bob, "m.room.message", None, content);
    let event_match =
        |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
    let is = |key: &str, value: Value| json!({ "kind": "event_property_is", "key": key, "value": value });
    let contains = |key: &str, value: Value| json!({ "kind": "event_property_contains", "key": key, "value": value });
    let members = |is: &str| json!({ "kind": "room_member_count", "is": is });
    let power = |key: &str| json!({ "kind": "sender_notification_permission", "key": key });
    for (condition, fits) in [
        (event_match("content.body", "tea"), true),
        (event_match("content.body", "te"), false),
        (event_match("content.body", "t?a"), true),
        (event_match("content.body", "a* five"), true),
        (event_match("type", "m.room.*"), true),
        (event_match("type", "room"), false),
        (event_match("sender", "@BOB:*"), true),
        (event_match("room_id", "!other:*"), false),
        (event_match("state_key", ""), false),
        (event_match("content.deep.er", "here"), true),
        (event_match("content.n", "7"), false),
        (is("content.n", json!(7)), true),
        (is("content.n", json!("7")), false),
        (is("content.flag", json!(true)), true),
        (is("content.nothing", json!(null)), true),
        (is("content.missing", json!(null)), false),
        (is("content.a\\.b", json!("dotted")), true),
        (is("content.a.b", json!("dotted")), false),
        (is("content.msgtype", json!("M.TEXT")), false),
        (is("type", json!("m.room.message")), true),
        (contains("content.list", json!("one")), true),
        (contains("content.list", json!(2)), true),
        (contains("content.list", json!("two")), false),
        (contains("content.body", json!("Tea")), false),
        (json!({ "kind": "contains_display_name" }), true),
        (members("10"), true),
        (members("==10"), true),
        (members("<10"), false),
        (members(">9"), true),
        (members(">=11"), false),
        (members("<=10"), true),
        (power("room"), true),
        (json!({ "kind": "org.example.unknown" }), false),
    ] {
        let known = serde_json::from_value(condition.clone()).unwrap();
        let new = NewConditionalPushRule::new("own".to_owned(), vec![known], vec![Action::Notify]);
        for kind in [NewPushRule::Override, NewPushRule::Underride] {
            let mut rules = no_rules();
            rules.insert(kind(new.clone()), None, None).unwrap();
            assert_eq!(outcome_in(&rules, &group(), &event).notify, fits, "{condition}");
        }
    }
    // The same from somebody without the power, and for somebody of another name.
    let carol = user_id!("@carol:localhost");
    let event = event_of(carol, "m.room.message", None, json!({ "body": "Malice and tea" }));
    for condition in [power("room"), json!({ "kind": "contains_display_name" })] {
        let known = serde_json::from_value(condition.clone()).unwrap();
        let new = NewConditionalPushRule::new("own".to_owned(), vec![known], vec![Action::Notify]);
        let mut rules = no_rules();
        rules.insert(NewPushRule::Override(new), None, None).unwrap();
        assert!(!outcome_in(&rules, &group(), &event).notify, "{condition}");
    }
}

/// MSC4306: `postcontent` is "ordered between `content` and `room`".
#[test]
fn threads_that_are_followed_notify_and_others_where_something_is_meant() {
    let mut rules = server_default(alice());
    rules.postcontent = Ruleset::server_default(alice()).postcontent;
    let mute = NewSimplePushRule::new(room_id!("!room:localhost").to_owned(), vec![]);
    rules.insert(NewPushRule::Room(mute), None, None).unwrap();
    let tea = NewPatternedPushRule::new("tea".to_owned(), "tea".to_owned(), vec![Action::Notify]);
    rules.insert(NewPushRule::Content(tea), None, None).unwrap();
    let heard = |event: &PushEvent, subscribed| {
        outcome_of_thread(&rules, &group(), event, subscribed).notify
    };
    let mut said = message("hello");
    assert!(!heard(&said, true), "it is in no thread, and the room is muted");
    said.thread = Some("$root".try_into().unwrap());
    assert!(heard(&said, true));
    assert!(!heard(&said, false));
    let mut about_tea = message("tea");
    about_tea.thread.clone_from(&said.thread);
    assert!(heard(&about_tea, false));
    assert!(CompiledRules::new(&rules).need_subscriptions());
    assert!(!CompiledRules::new(&server_default(alice())).need_subscriptions());
}

/// Spec: "Rules have a priority order": override, content, room, sender, underride.
#[test]
fn the_first_kind_that_fits_decides() {
    let played = |name: &str| json!(["notify", { "set_tweak": "sound", "value": name }]);
    let sound = |name: &str| -> Vec<Action> { serde_json::from_value(played(name)).unwrap() };
    let always =
        |id: &str, name: &str| NewConditionalPushRule::new(id.to_owned(), vec![], sound(name));
    let room = NewSimplePushRule::new(room_id!("!room:localhost").to_owned(), sound("room"));
    let sender = NewSimplePushRule::new(user_id!("@bob:localhost").to_owned(), sound("sender"));
    let content = NewPatternedPushRule::new("tea".to_owned(), "tea".to_owned(), sound("content"));
    let mut rules = no_rules();
    for (rule, name) in [
        (NewPushRule::Underride(always("last", "underride")), "underride"),
        (NewPushRule::Sender(sender), "sender"),
        (NewPushRule::Room(room), "room"),
        (NewPushRule::Content(content), "content"),
        (NewPushRule::Override(always("first", "override")), "override"),
    ] {
        rules.insert(rule, None, None).unwrap();
        let outcome = outcome_in(&rules, &group(), &message("tea"));
        assert_eq!(serde_json::to_value(outcome.actions).unwrap(), played(name));
    }
}
