//! The content of `m.room.power_levels`, decoded once per event.

use serde_json::{Map, Value};

use crate::{
    auth::Rule,
    grammar::is_user_id,
    ids::{TypeIx, UserIx},
    rules::RoomVersionRules,
    tables::Tables,
};

/// The largest integer of canonical JSON.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
pub(crate) const MAX_CANONICAL: i64 = (1 << 53) - 1;

/// The levels with a name of their own in the content.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedLevel {
    /// What users have who are not listed.
    UsersDefault,
    /// What message events need that are not listed.
    EventsDefault,
    /// What state events need that are not listed.
    StateDefault,
    /// What banning needs.
    Ban,
    /// What redacting others' events needs.
    Redact,
    /// What kicking needs.
    Kick,
    /// What inviting needs.
    Invite,
}

impl NamedLevel {
    pub(crate) const ALL: [Self; 7] = [
        Self::UsersDefault,
        Self::EventsDefault,
        Self::StateDefault,
        Self::Ban,
        Self::Redact,
        Self::Kick,
        Self::Invite,
    ];

    /// The name in the content.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UsersDefault => "users_default",
            Self::EventsDefault => "events_default",
            Self::StateDefault => "state_default",
            Self::Ban => "ban",
            Self::Redact => "redact",
            Self::Kick => "kick",
            Self::Invite => "invite",
        }
    }

    /// "The invite level defaults to 0 if unspecified. The kick level, ban level and redact level
    /// each default to 50 if unspecified." The defaults of a room whose power levels lack
    /// `state_default` are those of a room without any.
    pub const fn default_value(self) -> i64 {
        match self {
            Self::UsersDefault | Self::EventsDefault | Self::Invite => 0,
            Self::StateDefault | Self::Ban | Self::Redact | Self::Kick => 50,
        }
    }
}

/// The levels a power levels event sets. The lists are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PowerLevels {
    named: [Option<i64>; 7],
    pub(crate) users: Box<[(UserIx, i64)]>,
    pub(crate) events: Box<[(TypeIx, i64)]>,
    /// Keys of notifications share the numbers of event types: both are just names.
    pub(crate) notifications: Box<[(TypeIx, i64)]>,
    /// The rule that the content breaks whatever the state, if any.
    pub(crate) broken: Option<Rule>,
}

impl PowerLevels {
    pub(crate) fn decode(
        content: &Map<String, Value>,
        rules: &RoomVersionRules,
        tables: &mut Tables,
    ) -> Self {
        let mut levels = Self::default();
        if let Err(rule) = levels.fill(content, rules, tables) {
            levels.broken = Some(rule);
        }
        levels
    }

    fn fill(
        &mut self,
        content: &Map<String, Value>,
        rules: &RoomVersionRules,
        tables: &mut Tables,
    ) -> Result<(), Rule> {
        // "If any of the properties `users_default`, `events_default`, `state_default`, `ban`,
        // `redact`, `kick`, or `invite` in `content` are present and not an integer, reject."
        // A rule since version 10. Before, a value that is no number in any accepted notation
        // has no meaning to compare by, and is refused as well.
        for (name, slot) in NamedLevel::ALL.into_iter().zip(&mut self.named) {
            if let Some(value) = content.get(name.name()) {
                *slot = Some(level(value, rules).ok_or(Rule::PowerLevelsInteger(name))?);
            }
        }
        // "If either of the properties `events` or `notifications` in `content` are present and
        // not an object with values that are integers, reject."
        self.events = map(content.get("events"), rules, |name| Some(tables.intern_type(name)))
            .ok_or(Rule::PowerLevelsMap)?;
        // Notifications mean nothing to the rules before version 6.
        if rules.auth.limit_notifications {
            let keys = content.get("notifications");
            self.notifications = map(keys, rules, |name| Some(tables.intern_type(name)))
                .ok_or(Rule::PowerLevelsMap)?;
        }
        // "If the `users` property in `content` is not an object with keys that are valid user
        // IDs with values that are integers, reject."
        self.users =
            map(content.get("users"), rules, |id| is_user_id(id).then(|| tables.intern_user(id)))
                .ok_or(Rule::PowerLevelsUsers)?;
        Ok(())
    }

    /// The level called `name`, if the event sets it.
    pub(crate) fn named(&self, name: NamedLevel) -> Option<i64> {
        self.named[name as usize]
    }

    pub(crate) fn named_or_default(&self, name: NamedLevel) -> i64 {
        self.named(name).unwrap_or(name.default_value())
    }

    /// The level of a user; `None` stands for one the room has never heard of.
    pub(crate) fn user(&self, user: Option<UserIx>) -> i64 {
        user.and_then(|user| find(&self.users, user))
            .unwrap_or_else(|| self.named_or_default(NamedLevel::UsersDefault))
    }

    /// The level needed to send events of a type; `None` stands for a type never heard of.
    pub(crate) fn required(&self, event_type: Option<TypeIx>, is_state: bool) -> i64 {
        event_type.and_then(|event_type| find(&self.events, event_type)).unwrap_or_else(|| {
            self.named_or_default(if is_state {
                NamedLevel::StateDefault
            } else {
                NamedLevel::EventsDefault
            })
        })
    }
}

pub(crate) fn find<K: Ord + Copy>(entries: &[(K, i64)], key: K) -> Option<i64> {
    let at = entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    entries.get(at).map(|(_, level)| *level)
}

/// The entries of two sorted lists that differ, with their old and new values.
pub(crate) fn changes<'a, K: Ord + Copy>(
    old: &'a [(K, i64)],
    new: &'a [(K, i64)],
) -> impl Iterator<Item = (K, Option<i64>, Option<i64>)> + 'a {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let ordering = match (old.peek(), new.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return None,
            };
            match ordering {
                std::cmp::Ordering::Less => return old.next().map(|(k, v)| (*k, Some(*v), None)),
                std::cmp::Ordering::Greater => {
                    return new.next().map(|(k, v)| (*k, None, Some(*v)));
                }
                std::cmp::Ordering::Equal => {
                    let ((key, before), (_, after)) = (old.next()?, new.next()?);
                    if before != after {
                        return Some((*key, Some(*before), Some(*after)));
                    }
                }
            }
        }
    })
}

/// A map of levels, sorted by the numbers of its keys. An absent map is empty; `None` if the
/// value is no map of levels or a key is refused.
fn map<K: Ord + Copy>(
    value: Option<&Value>,
    rules: &RoomVersionRules,
    mut key: impl FnMut(&str) -> Option<K>,
) -> Option<Box<[(K, i64)]>> {
    let Some(value) = value else { return Some(Box::default()) };
    let mut entries = value
        .as_object()?
        .iter()
        .map(|(name, value)| Some((key(name)?, level(value, rules)?)))
        .collect::<Option<Vec<_>>>()?;
    entries.sort_unstable_by_key(|(key, _)| *key);
    Some(entries.into())
}

/// A level in the notation of the room version.
///
/// Old versions also take floats, cut at the point, and strings of digits. Their values beyond
/// 64 bits are taken for the nearest of 64 bits: all of these are larger than any real level.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v1/#deprecated-event-content-schemas>
fn level(value: &Value, rules: &RoomVersionRules) -> Option<i64> {
    match value {
        Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                let in_range = (-MAX_CANONICAL..=MAX_CANONICAL).contains(&integer);
                return (in_range || !rules.strict_canonical_json).then_some(integer);
            }
            if rules.strict_canonical_json {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "cutting off is the rule")]
            number.as_f64().map(|float| float as i64)
        }
        Value::String(text) if !rules.auth.integer_power_levels => {
            let text = text.trim();
            let (negative, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            };
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let size = digits.bytes().fold(0_i64, |size, digit| {
                size.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
            });
            Some(if negative { -size } else { size })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notations_by_version() {
        let (v1, v6, v9, v10) = (
            RoomVersionRules::V1,
            RoomVersionRules::V6,
            RoomVersionRules::V9,
            RoomVersionRules::V10,
        );
        let all = [&v1, &v6, &v9, &v10];
        let table = [
            (json!(50), [Some(50); 4]),
            (json!(-1), [Some(-1); 4]),
            (json!("50"), [Some(50), Some(50), Some(50), None]),
            (json!(" +00100 "), [Some(100), Some(100), Some(100), None]),
            (json!("-7"), [Some(-7), Some(-7), Some(-7), None]),
            (json!(50.57), [Some(50), None, None, None]),
            (json!(5.114_698E4), [Some(51_146), None, None, None]),
            (json!(1e300), [Some(i64::MAX), None, None, None]),
            (json!(u64::MAX), [Some(i64::MAX), None, None, None]),
            (json!(MAX_CANONICAL), [Some(MAX_CANONICAL); 4]),
            (json!(MAX_CANONICAL + 1), [Some(MAX_CANONICAL + 1), None, None, None]),
            (json!("99999999999999999999"), [Some(i64::MAX), Some(i64::MAX), Some(i64::MAX), None]),
            (json!(""), [None; 4]),
            (json!("+"), [None; 4]),
            (json!("- 5"), [None; 4]),
            (json!("1_000"), [None; 4]),
            (json!("5.0"), [None; 4]),
            (json!("٣"), [None; 4]),
            (json!(true), [None; 4]),
            (json!(null), [None; 4]),
            (json!([50]), [None; 4]),
            (json!({}), [None; 4]),
        ];
        for (value, expected) in table {
            for (rules, expected) in all.iter().zip(expected) {
                assert_eq!(level(&value, rules), expected, "{value} in version {}", rules.version);
            }
        }
    }

    #[test]
    fn changes_are_additions_removals_and_new_values() {
        let old = [(1, 10), (2, 20), (4, 40)];
        let new = [(2, 25), (3, 30), (4, 40)];
        let found: Vec<_> = changes(&old, &new).collect();
        assert_eq!(found, [(1, Some(10), None), (2, Some(20), Some(25)), (3, None, Some(30))]);
        assert_eq!(changes(&old, &old).count(), 0);
    }
}
