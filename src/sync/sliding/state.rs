//! Which state of a room a client requires.

use std::collections::BTreeSet;

use super::{SlidingError, room::Reader};
use crate::rooms::{Room, record::SharedEvent};

/// Types and state keys: `*` stands for all, `$ME` for the user, `$LAZY` for members who matter.
pub(super) type Required = BTreeSet<(String, String)>;

const ANY: &str = "*";
const ME: &str = "$ME";
const LAZY: &str = "$LAZY";
const MEMBER: &str = "m.room.member";

/// Whether members are sent when they matter.
pub(super) fn is_lazy(required: &Required) -> bool {
    required.contains(&(MEMBER.to_owned(), LAZY.to_owned()))
}

/// Whether members are required who are neither loaded lazily nor the user.
pub(super) fn wants_all_members(required: &Required) -> bool {
    requires(required, MEMBER, ANY, ME)
}

/// Whether a state event is required, lazily loaded members aside.
///
/// What is required of a type by its name goes before what is required of all.
pub(super) fn requires(required: &Required, event_type: &str, state_key: &str, me: &str) -> bool {
    let matches = |key: &str| key == ANY || key == state_key || (key == ME && state_key == me);
    let of = |wanted: &str| {
        let first = (wanted.to_owned(), String::new());
        let wanted = wanted.to_owned();
        required.range(first..).take_while(move |(of, _)| *of == wanted)
    };
    if of(event_type).next().is_some() {
        of(event_type).any(|(_, key)| matches(key))
    } else {
        of(ANY).any(|(_, key)| matches(key))
    }
}

impl Reader<'_> {
    /// All state that is required, as it is now; of lazily loaded members none.
    pub(super) async fn required_state(
        &self,
        room: &Room,
        required: &Required,
    ) -> Result<Vec<SharedEvent>, SlidingError> {
        let rooms = &self.sync.rooms;
        let me = self.session.user_id.as_str();
        if required.iter().any(|(of, key)| of == ANY || key == ANY) {
            let state = rooms.state_at(self.at, room, self.until).await?;
            return Ok(state
                .into_iter()
                .map(|(_, event)| event)
                .filter(|event| {
                    let key = event.state_key.as_deref().unwrap_or_default();
                    requires(required, &event.event_type, key, me)
                })
                .collect());
        }
        let mut found = Vec::new();
        for (event_type, key) in required {
            let key = match key.as_str() {
                LAZY => continue,
                ME => me,
                key => key,
            };
            let event = rooms.state_event_at(self.at, room, event_type, key, self.until).await?;
            found.extend(event);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(pairs: &[(&str, &str)]) -> Required {
        pairs.iter().map(|(of, key)| ((*of).to_owned(), (*key).to_owned())).collect()
    }

    #[test]
    fn keys_match_by_name_by_star_and_by_being_the_user() {
        let wanted = required(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.call", "*")]);
        let requires = |of, key| requires(&wanted, of, key, "@me:x");
        assert!(requires("m.room.name", ""));
        assert!(!requires("m.room.name", "other"));
        assert!(requires("m.room.member", "@me:x"));
        assert!(!requires("m.room.member", "@you:x"));
        assert!(requires("m.call", "anything"));
        assert!(!requires("m.room.topic", ""));
    }

    #[test]
    fn a_type_by_its_name_goes_before_all_types() {
        let wanted = required(&[("*", "*"), ("m.room.member", "$LAZY")]);
        assert!(requires(&wanted, "m.room.topic", "", "@me:x"));
        assert!(!requires(&wanted, "m.room.member", "@you:x", "@me:x"));
        assert!(is_lazy(&wanted));
    }
}
