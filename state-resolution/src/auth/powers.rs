//! What somebody may do in a state, for questions that no event asks yet.

use crate::{
    auth::{Power, StateView, View, power, view::required_level},
    power_levels::NamedLevel,
    room::Room,
};

impl Room {
    /// The level that `user` acts with. 0 in a state whose create event or power levels say
    /// nothing intelligible: nobody can do anything there.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    pub fn power_of(&self, user: &str, state: &impl StateView) -> Power {
        let Ok(view) = View::new(self, state) else { return Power::Level(0) };
        let Ok(levels) = view.power_levels() else { return Power::Level(0) };
        match self.tables.user(user) {
            Some(user) => power(view.create, levels.map(|(_, levels)| levels), user),
            None => Power::Level(levels.map_or(0, |(_, levels)| levels.user(None))),
        }
    }

    /// The level called `name` in `state`, its default if the state does not set it.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    pub fn level(&self, name: NamedLevel, state: &impl StateView) -> i64 {
        let levels =
            View::new(self, state).ok().and_then(|view| view.power_levels().ok().flatten());
        levels.map_or(name.default_value(), |(_, levels)| levels.named_or_default(name))
    }

    /// The level that sending an event of this type takes in `state`.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    pub fn level_to_send(&self, event_type: &str, is_state: bool, state: &impl StateView) -> i64 {
        let levels =
            View::new(self, state).ok().and_then(|view| view.power_levels().ok().flatten());
        required_level(levels, self.tables.type_of(event_type), is_state)
    }

    /// Who created the room, in no particular order: where there are privileged creators all of
    /// them, elsewhere the one who made it.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    pub fn creators(&self, state: &impl StateView) -> Vec<&str> {
        let Ok(view) = View::new(self, state) else { return Vec::new() };
        let privileged = view.create.creators.iter().copied();
        let one = view.create.creator.filter(|_| view.create.creators.is_empty());
        privileged.chain(one).map(|user| self.tables.user_id(user)).collect()
    }

    /// Everybody to whom the power levels of `state` give a level of their own.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    pub fn users_with_levels(&self, state: &impl StateView) -> Vec<&str> {
        let levels =
            View::new(self, state).ok().and_then(|view| view.power_levels().ok().flatten());
        let users = levels.map(|(_, levels)| &levels.users[..]).unwrap_or_default();
        users.iter().map(|(user, _)| self.tables.user_id(*user)).collect()
    }
}
