//! The names of one room and their numbers.

use std::{collections::HashMap, sync::Arc};

use crate::ids::{KeyIx, NONE, Names, TypeIx, UserIx, some};

pub(crate) const TYPE_CREATE: TypeIx = TypeIx(0);
pub(crate) const TYPE_POWER_LEVELS: TypeIx = TypeIx(1);
pub(crate) const TYPE_JOIN_RULES: TypeIx = TypeIx(2);
pub(crate) const TYPE_MEMBER: TypeIx = TypeIx(3);
pub(crate) const TYPE_THIRD_PARTY_INVITE: TypeIx = TypeIx(4);

pub(crate) const KEY_CREATE: KeyIx = KeyIx(0);
pub(crate) const KEY_POWER_LEVELS: KeyIx = KeyIx(1);
pub(crate) const KEY_JOIN_RULES: KeyIx = KeyIx(2);

/// A state key and, for a membership, whose.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) event_type: TypeIx,
    /// The `state_key`.
    pub(crate) name: Arc<str>,
    pub(crate) user: u32,
}

/// How long the tables were, to go back to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TablesMark {
    types: usize,
    users: usize,
    keys: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Tables {
    types: Names,
    users: Names,
    /// By user, the key of their membership, or `NONE`.
    member_keys: Vec<u32>,
    keys: Vec<Key>,
    /// By event type, the numbers of its state keys.
    by_type: Vec<HashMap<Arc<str>, u32>>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        let mut tables = Self {
            types: Names::default(),
            users: Names::default(),
            member_keys: Vec::new(),
            keys: Vec::new(),
            by_type: Vec::new(),
        };
        for (event_type, expected) in [
            ("m.room.create", TYPE_CREATE),
            ("m.room.power_levels", TYPE_POWER_LEVELS),
            ("m.room.join_rules", TYPE_JOIN_RULES),
            ("m.room.member", TYPE_MEMBER),
            ("m.room.third_party_invite", TYPE_THIRD_PARTY_INVITE),
        ] {
            let number = tables.intern_type(event_type);
            debug_assert_eq!(number, expected);
        }
        for (event_type, expected) in [
            (TYPE_CREATE, KEY_CREATE),
            (TYPE_POWER_LEVELS, KEY_POWER_LEVELS),
            (TYPE_JOIN_RULES, KEY_JOIN_RULES),
        ] {
            let number = tables.intern_key(event_type, "");
            debug_assert_eq!(number, expected);
        }
        tables
    }

    pub(crate) fn intern_type(&mut self, name: &str) -> TypeIx {
        let number = self.types.intern(name);
        if number as usize == self.by_type.len() {
            self.by_type.push(HashMap::new());
        }
        TypeIx(number)
    }

    pub(crate) fn type_of(&self, name: &str) -> Option<TypeIx> {
        self.types.get(name).map(TypeIx)
    }

    pub(crate) fn type_name(&self, event_type: TypeIx) -> &str {
        self.types.name(event_type.0)
    }

    pub(crate) fn intern_user(&mut self, id: &str) -> UserIx {
        let number = self.users.intern(id);
        if number as usize == self.member_keys.len() {
            let key = self.by_type[TYPE_MEMBER.index()].get(id).copied();
            self.member_keys.push(key.unwrap_or(NONE));
        }
        UserIx(number)
    }

    pub(crate) fn user(&self, id: &str) -> Option<UserIx> {
        self.users.get(id).map(UserIx)
    }

    pub(crate) fn user_id(&self, user: UserIx) -> &str {
        self.users.name(user.0)
    }

    /// The key of the membership of `user`, if there ever was one.
    pub(crate) fn member_key(&self, user: UserIx) -> Option<KeyIx> {
        some(self.member_keys[user.index()]).map(KeyIx)
    }

    pub(crate) fn intern_key(&mut self, event_type: TypeIx, state_key: &str) -> KeyIx {
        if let Some(number) = self.by_type[event_type.index()].get(state_key) {
            return KeyIx(*number);
        }
        let key = KeyIx::from_index(self.keys.len());
        let name: Arc<str> = state_key.into();
        self.by_type[event_type.index()].insert(Arc::clone(&name), key.0);
        let user = if event_type == TYPE_MEMBER {
            let user = self.intern_user(state_key);
            self.member_keys[user.index()] = key.0;
            user.0
        } else {
            NONE
        };
        self.keys.push(Key { event_type, name, user });
        key
    }

    pub(crate) fn key_of(&self, event_type: &str, state_key: &str) -> Option<KeyIx> {
        let event_type = self.type_of(event_type)?;
        self.key_in(event_type, state_key)
    }

    pub(crate) fn key_in(&self, event_type: TypeIx, state_key: &str) -> Option<KeyIx> {
        self.by_type[event_type.index()].get(state_key).copied().map(KeyIx)
    }

    pub(crate) fn key(&self, key: KeyIx) -> &Key {
        &self.keys[key.index()]
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn mark(&self) -> TablesMark {
        TablesMark { types: self.types.len(), users: self.users.len(), keys: self.keys.len() }
    }

    /// Forgets everything that was named since `mark`.
    pub(crate) fn truncate(&mut self, mark: TablesMark) {
        for key in self.keys.drain(mark.keys.min(self.keys.len())..) {
            self.by_type[key.event_type.index()].remove(&key.name);
            if let Some(user) = some(key.user) {
                self.member_keys[user as usize] = NONE;
            }
        }
        self.users.truncate(mark.users);
        self.member_keys.truncate(mark.users);
        self.types.truncate(mark.types);
        self.by_type.truncate(mark.types);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_finds_their_membership_whichever_was_named_first() {
        let mut tables = Tables::new();
        let alice = tables.intern_user("@alice:a");
        assert_eq!(tables.member_key(alice), None);
        let key = tables.intern_key(TYPE_MEMBER, "@alice:a");
        assert_eq!(tables.member_key(alice), Some(key));

        let key = tables.intern_key(TYPE_MEMBER, "@bob:b");
        let bob = tables.user("@bob:b").unwrap();
        assert_eq!((tables.member_key(bob), tables.key(key).user), (Some(key), bob.0));
    }

    #[test]
    fn truncation_leaves_no_trace() {
        let mut tables = Tables::new();
        let alice = tables.intern_user("@alice:a");
        let mark = tables.mark();
        tables.intern_key(TYPE_MEMBER, "@alice:a");
        let custom = tables.intern_type("org.example.type");
        tables.intern_key(custom, "x");
        tables.intern_user("@new:a");
        tables.truncate(mark);
        assert_eq!(tables.member_key(alice), None);
        assert_eq!(tables.key_of("m.room.member", "@alice:a"), None);
        assert_eq!(tables.key_of("org.example.type", "x"), None);
        assert_eq!(tables.user("@new:a"), None);
        assert_eq!(tables.intern_key(TYPE_MEMBER, "@bob:b"), KeyIx(3));
    }
}
