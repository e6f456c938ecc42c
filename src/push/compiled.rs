//! A user's push rules, ready to be asked about many events.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::{collections::HashMap, ops::RangeBounds as _};

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, PushCondition, RoomMemberCountIs, Ruleset, ScalarJsonValue,
    },
};
use serde_json::Value;

use super::{context::RoomContext, event::PushEvent, pattern::Pattern};

/// What a rule that fits does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Notify.
    pub(crate) notify: bool,
    /// As something that is meant for the user.
    pub(crate) highlight: bool,
    /// All that it does, as clients see it.
    pub(crate) actions: Vec<Action>,
}

impl Outcome {
    fn of(actions: &[Action]) -> Self {
        Self {
            notify: actions.iter().any(Action::should_notify),
            highlight: actions.iter().any(Action::is_highlight),
            actions: actions.to_vec(),
        }
    }
}

/// The rules that are switched on.
#[derive(Debug, Default)]
pub(crate) struct CompiledRules {
    first: Vec<Rule>,
    rooms: HashMap<String, Outcome>,
    senders: HashMap<String, Outcome>,
    last: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    conditions: Vec<Condition>,
    outcome: Outcome,
}

/// A condition, its paths and patterns taken apart.
#[derive(Debug)]
enum Condition {
    Match {
        path: Vec<String>,
        pattern: Pattern,
    },
    Body(Pattern),
    Is {
        path: Vec<String>,
        value: Value,
    },
    Contains {
        path: Vec<String>,
        value: Value,
    },
    DisplayName,
    MemberCount(RoomMemberCountIs),
    SenderPermission(String),
    /// A kind that is not known here: never fits.
    Never,
}

/// For whom an event is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient<'a> {
    /// The user.
    pub(crate) user_id: &'a UserId,
    /// Their name in the room, needed only if [`CompiledRules::needs_display_name`].
    pub(crate) display_name: Option<&'a str>,
}

impl CompiledRules {
    /// Takes rules apart.
    pub(crate) fn new(rules: &Ruleset) -> Self {
        let conditional = |rules: &mut dyn Iterator<Item = &ConditionalPushRule>| {
            rules
                .filter(|rule| rule.enabled)
                .map(|rule| Rule {
                    conditions: rule.conditions.iter().map(Condition::new).collect(),
                    outcome: Outcome::of(&rule.actions),
                })
                .collect::<Vec<Rule>>()
        };
        let mut first = conditional(&mut rules.override_.iter());
        first.extend(rules.content.iter().filter(|rule| rule.enabled).map(|rule| Rule {
            conditions: vec![Condition::Body(Pattern::new(&rule.pattern))],
            outcome: Outcome::of(&rule.actions),
        }));
        Self {
            first,
            rooms: (rules.room.iter().filter(|rule| rule.enabled))
                .map(|rule| (rule.rule_id.to_string(), Outcome::of(&rule.actions)))
                .collect(),
            senders: (rules.sender.iter().filter(|rule| rule.enabled))
                .map(|rule| (rule.rule_id.to_string(), Outcome::of(&rule.actions)))
                .collect(),
            last: conditional(&mut rules.underride.iter()),
        }
    }

    /// Whether some rule asks for the user's name in the room.
    pub(crate) fn needs_display_name(&self) -> bool {
        let mut rules = self.first.iter().chain(&self.last);
        rules.any(|rule| {
            rule.conditions.iter().any(|condition| matches!(condition, Condition::DisplayName))
        })
    }

    /// What the first rule that fits does; nothing for one's own events.
    pub(crate) fn evaluate(
        &self,
        event: &PushEvent,
        room: &RoomContext,
        recipient: Recipient<'_>,
    ) -> Option<&Outcome> {
        if event.sender == recipient.user_id {
            return None;
        }
        let fits = |rule: &&Rule| {
            rule.conditions.iter().all(|condition| condition.fits(event, room, recipient))
        };
        let first = self.first.iter().find(fits).map(|rule| &rule.outcome);
        first
            .or_else(|| self.rooms.get(event.room_id.as_str()))
            .or_else(|| self.senders.get(event.sender.as_str()))
            .or_else(|| self.last.iter().find(fits).map(|rule| &rule.outcome))
    }
}

impl Condition {
    #[expect(deprecated, reason = "users may have rules from before mentions were intentional")]
    fn new(condition: &PushCondition) -> Self {
        match condition {
            PushCondition::EventMatch(data) if data.key == "content.body" => {
                Self::Body(Pattern::new(&data.pattern))
            }
            PushCondition::EventMatch(data) => {
                Self::Match { path: path(&data.key), pattern: Pattern::new(&data.pattern) }
            }
            PushCondition::EventPropertyIs(data) => {
                Self::Is { path: path(&data.key), value: scalar(&data.value) }
            }
            PushCondition::EventPropertyContains(data) => {
                Self::Contains { path: path(&data.key), value: scalar(&data.value) }
            }
            PushCondition::ContainsDisplayName => Self::DisplayName,
            PushCondition::RoomMemberCount(data) => Self::MemberCount(data.is),
            PushCondition::SenderNotificationPermission(data) => {
                Self::SenderPermission(data.key.to_string())
            }
            _ => Self::Never,
        }
    }

    fn fits(&self, event: &PushEvent, room: &RoomContext, recipient: Recipient<'_>) -> bool {
        let in_body = |pattern: &Pattern| {
            event.body.as_deref().is_some_and(|body| pattern.matches_words(body))
        };
        match self {
            Self::Match { path, pattern } => {
                event.text(path).is_some_and(|text| pattern.matches(&text.to_lowercase()))
            }
            Self::Body(pattern) => in_body(pattern),
            Self::Is { path, value } => match event.value(path) {
                Some(found) => found == value,
                None => event.text(path).is_some_and(|text| value.as_str() == Some(text)),
            },
            Self::Contains { path, value } => {
                let items = event.value(path).and_then(Value::as_array);
                items.is_some_and(|items| items.contains(value))
            }
            Self::DisplayName => recipient
                .display_name
                .filter(|name| !name.is_empty())
                .is_some_and(|name| in_body(&Pattern::literal(name))),
            Self::MemberCount(is) => is.contains(&room.members),
            Self::SenderPermission(key) => room.may_notify(&event.sender, key),
            Self::Never => false,
        }
    }
}

fn scalar(value: &ScalarJsonValue) -> Value {
    match value {
        ScalarJsonValue::Null => Value::Null,
        ScalarJsonValue::Bool(value) => Value::from(*value),
        ScalarJsonValue::Integer(value) => Value::from(i64::from(*value)),
        ScalarJsonValue::String(value) => Value::from(value.as_str()),
    }
}

/// The keys of a path; a dot or a backslash within a key has a backslash before it.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths>
fn path(text: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let key = match char {
            '.' => {
                keys.push(String::new());
                continue;
            }
            '\\' => chars.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\'),
            char => char,
        };
        keys.last_mut().expect("there is always one").push(key);
    }
    keys
}
