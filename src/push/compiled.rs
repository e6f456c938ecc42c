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
    overrides: Vec<Rule>,
    words: Words,
    threads: Vec<Rule>,
    rooms: HashMap<String, Outcome>,
    senders: HashMap<String, Outcome>,
    underrides: Vec<Rule>,
}

/// The content rules. Most look for one word, and a user may have hundreds: those that an event
/// has are looked up, not each looked for.
#[derive(Debug, Default)]
struct Words {
    rules: Vec<(Pattern, Outcome)>,
    /// The first rule for a word.
    by_word: HashMap<String, usize>,
    /// The rules that look for something else than one word.
    others: Vec<usize>,
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
    /// The event is in a thread to which the user is subscribed, or is not.
    Subscribed(bool),
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
    /// Whether they are subscribed to the event's thread, needed only if
    /// [`CompiledRules::need_subscriptions`].
    pub(crate) subscribed: bool,
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
        let content = rules.content.iter().filter(|rule| rule.enabled);
        Self {
            overrides: conditional(&mut rules.override_.iter()),
            words: Words::new(
                content.map(|rule| (Pattern::new(&rule.pattern), Outcome::of(&rule.actions))),
            ),
            threads: conditional(&mut rules.postcontent.iter()),
            rooms: (rules.room.iter().filter(|rule| rule.enabled))
                .map(|rule| (rule.rule_id.to_string(), Outcome::of(&rule.actions)))
                .collect(),
            senders: (rules.sender.iter().filter(|rule| rule.enabled))
                .map(|rule| (rule.rule_id.to_string(), Outcome::of(&rule.actions)))
                .collect(),
            underrides: conditional(&mut rules.underride.iter()),
        }
    }

    /// Whether some rule asks for the user's name in the room.
    pub(crate) fn needs_display_name(&self) -> bool {
        self.ask(|condition| matches!(condition, Condition::DisplayName))
    }

    /// Whether some rule asks which threads the user is subscribed to.
    pub(crate) fn need_subscriptions(&self) -> bool {
        self.ask(|condition| matches!(condition, Condition::Subscribed(_)))
    }

    fn ask(&self, wanted: impl Fn(&Condition) -> bool) -> bool {
        let mut rules = self.overrides.iter().chain(&self.threads).chain(&self.underrides);
        rules.any(|rule| rule.conditions.iter().any(&wanted))
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
        let overriding = self.overrides.iter().find(fits).map(|rule| &rule.outcome);
        overriding
            .or_else(|| self.words.first_in(event))
            .or_else(|| self.threads.iter().find(fits).map(|rule| &rule.outcome))
            .or_else(|| self.rooms.get(event.room_id.as_str()))
            .or_else(|| self.senders.get(event.sender.as_str()))
            .or_else(|| self.underrides.iter().find(fits).map(|rule| &rule.outcome))
    }
}

impl Words {
    fn new(rules: impl Iterator<Item = (Pattern, Outcome)>) -> Self {
        let mut words = Self { rules: rules.collect(), ..Self::default() };
        for (index, (pattern, _)) in words.rules.iter().enumerate() {
            match pattern.as_word() {
                Some(word) => {
                    words.by_word.entry(word.to_owned()).or_insert(index);
                }
                None => words.others.push(index),
            }
        }
        words
    }

    /// What the first rule does that fits.
    fn first_in(&self, event: &PushEvent) -> Option<&Outcome> {
        let body = event.body.as_deref()?;
        let by_word = event.words.iter().filter_map(|word| self.by_word.get(word)).min();
        let mut earlier =
            self.others.iter().take_while(|index| by_word.is_none_or(|by_word| *index < by_word));
        let other = earlier.find(|index| {
            self.rules.get(**index).is_some_and(|(pattern, _)| pattern.matches_words(body))
        });
        self.rules.get(*other.or(by_word)?).map(|(_, outcome)| outcome)
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
            PushCondition::ThreadSubscription(data) => Self::Subscribed(data.subscribed),
            _ => Self::Never,
        }
    }

    fn fits(&self, event: &PushEvent, room: &RoomContext, recipient: Recipient<'_>) -> bool {
        let in_body = |pattern: &Pattern| {
            event.body.as_deref().is_some_and(|body| pattern.matches_words(body))
        };
        match self {
            Self::Match { path, pattern } => {
                event.text(path).is_some_and(|text| pattern.matches_any_case(text))
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
            Self::Subscribed(wanted) => event.thread.is_some() && recipient.subscribed == *wanted,
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
