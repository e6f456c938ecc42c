//! A state seen through the eyes of the rules.

use crate::{
    auth::{Rejection, Rule, StateView},
    content::{Content, Create, JoinRule, Membership},
    ids::{EventIx, KeyIx, NONE, TypeIx, UserIx},
    power_levels::PowerLevels,
    room::{Event, REJECTED, Room},
    tables::{KEY_CREATE, KEY_JOIN_RULES, KEY_POWER_LEVELS},
};

/// What a user can do: creators of version 12 stand above every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// What the power levels give.
    Level(i64),
    /// A creator of a room whose version puts creators above every number.
    Creator,
}

/// The power levels in force, with the event that sets them.
pub(crate) type Levels<'a> = Option<(EventIx, &'a PowerLevels)>;

pub(crate) struct View<'a, S> {
    pub(crate) room: &'a Room,
    state: &'a S,
    pub(crate) create_event: EventIx,
    pub(crate) create: &'a Create,
}

impl<'a, S: StateView> View<'a, S> {
    pub(crate) fn new(room: &'a Room, state: &'a S) -> Result<Self, Rejection> {
        // From version 12 on the room ID says which event this is, whatever the state holds.
        let create_event = if room.rules().auth.room_id_is_create_hash {
            room.create_event()
        } else {
            state.get(KEY_CREATE)
        };
        let create_event = create_event.ok_or(Rule::StateLacksCreate)?;
        let Content::Create(create) = room.content(create_event) else {
            return Err(Rejection::by(Rule::StateLacksCreate, create_event));
        };
        Ok(Self { room, state, create_event, create })
    }

    pub(crate) fn create_sender(&self) -> &'a str {
        self.room.sender_of(self.create_event)
    }

    pub(crate) fn event(&self, key: KeyIx) -> Option<EventIx> {
        self.state.get(key)
    }

    /// The membership of a user and the event that sets it. Users without one have left.
    pub(crate) fn membership(
        &self,
        user: UserIx,
    ) -> Result<(Membership, Option<EventIx>), Rejection> {
        if user.0 == NONE {
            return Ok((Membership::Leave, None));
        }
        let event = self.room.tables.member_key(user).and_then(|key| self.state.get(key));
        match event.map(|event| self.room.get(event).membership) {
            None => Ok((Membership::Leave, None)),
            Some(Membership::Malformed) => Err(Rejection::by(Rule::StateMalformed, event)),
            Some(membership) => Ok((membership, event)),
        }
    }

    pub(crate) fn join_rule(&self) -> Result<(JoinRule, Option<EventIx>), Rejection> {
        let event = self.state.get(KEY_JOIN_RULES);
        match event.map(|event| self.room.get(event).join_rule) {
            None => Ok((JoinRule::absent(self.room.rules().auth.absent_join_rule), None)),
            Some(JoinRule::Malformed) => Err(Rejection::by(Rule::StateMalformed, event)),
            Some(rule) => Ok((rule, event)),
        }
    }

    pub(crate) fn power_levels(&self) -> Result<Levels<'a>, Rejection> {
        let Some(event) = self.state.get(KEY_POWER_LEVELS) else { return Ok(None) };
        match self.room.content(event) {
            Content::PowerLevels(levels) if levels.broken.is_none() => Ok(Some((event, levels))),
            _ => Err(Rejection::by(Rule::StateMalformed, event)),
        }
    }

    pub(crate) fn power(&self, levels: Levels<'_>, user: UserIx) -> Power {
        power(self.create, levels.map(|(_, levels)| levels), user)
    }
}

/// "A given event type has an associated *required power level*."
pub(crate) fn required(levels: Levels<'_>, event: &Event) -> i64 {
    let event_type = (event.of_type != TypeIx(NONE)).then_some(event.of_type);
    required_level(levels, event_type, event.key().is_some())
}

/// The level that events of a type take; none for a type the room never heard of.
pub(crate) fn required_level(
    levels: Levels<'_>,
    event_type: Option<TypeIx>,
    is_state: bool,
) -> i64 {
    static DEFAULTS: std::sync::LazyLock<PowerLevels> =
        std::sync::LazyLock::new(PowerLevels::default);
    levels.map_or(&*DEFAULTS, |(_, levels)| levels).required(event_type, is_state)
}

/// The level `user` acts with.
///
/// Creators of version 12 stand above all levels. Without a power levels event, the creator of
/// an older room has 100 and everybody else 0.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
pub(crate) fn power(create: &Create, levels: Option<&PowerLevels>, user: UserIx) -> Power {
    if create.creators.binary_search(&user).is_ok() {
        return Power::Creator;
    }
    let user = (user.0 != NONE).then_some(user);
    Power::Level(match levels {
        Some(levels) => levels.user(user),
        None if user.is_some() && create.creator == user => 100,
        None => 0,
    })
}

/// The state that an event's own auth events make up, without rejected ones.
pub(crate) struct AuthEvents<'a> {
    pub(crate) room: &'a Room,
    pub(crate) event: EventIx,
}

impl StateView for AuthEvents<'_> {
    fn get(&self, key: KeyIx) -> Option<EventIx> {
        CitedEvents { room: self.room, cited: self.room.auth_events(self.event) }.get(key)
    }
}

/// The state that these events make up, without rejected ones.
pub(crate) struct CitedEvents<'a> {
    pub(crate) room: &'a Room,
    pub(crate) cited: &'a [EventIx],
}

impl StateView for CitedEvents<'_> {
    fn get(&self, key: KeyIx) -> Option<EventIx> {
        let auth = self.cited.iter().copied().filter(|auth| {
            let auth = self.room.get(*auth);
            auth.key == key.0 && !auth.has(REJECTED)
        });
        // One at most, unless the event breaks the rule against duplicates; then the smallest ID,
        // so that the order of the list does not matter.
        auth.min_by_key(|auth| self.room.id(*auth))
    }
}
