//! Rules for polls: who begins or ends one has something to say, who votes has not.
//!
//! Proposed by MSC3930; clients know them by these names.

use ruma::{
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        PushCondition, RoomMemberCountConditionData, RoomMemberCountIs, Ruleset, SoundTweakValue,
        Tweak,
    },
    uint,
};

/// Adds them to the rules of the server.
pub(super) fn add(rules: &mut Ruleset) {
    let response = rule("poll_response", "response", None, Vec::new());
    rules.override_.insert(response);
    for what in ["start", "end"] {
        let two = Some(RoomMemberCountIs::from(uint!(2)));
        let ring = vec![Action::Notify, Action::SetTweak(Tweak::Sound(SoundTweakValue::Default))];
        let name = format!("poll_{what}_one_to_one");
        rules.underride.insert(rule(&name, what, two, ring));
        let name = format!("poll_{what}");
        rules.underride.insert(rule(&name, what, None, vec![Action::Notify]));
    }
}

fn rule(
    name: &str,
    what: &str,
    members: Option<RoomMemberCountIs>,
    actions: Vec<Action>,
) -> ConditionalPushRule {
    let event_type = format!("org.matrix.msc3381.poll.{what}");
    let of_type = EventMatchConditionData::new("type".to_owned(), event_type);
    let mut conditions = Vec::new();
    conditions.extend(
        members.map(|is| PushCondition::RoomMemberCount(RoomMemberCountConditionData::new(is))),
    );
    conditions.push(PushCondition::EventMatch(of_type));
    ConditionalPushRuleInit {
        actions,
        default: true,
        enabled: true,
        rule_id: format!(".org.matrix.msc3930.rule.{name}"),
        conditions,
    }
    .into()
}
