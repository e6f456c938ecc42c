//! The small numbers that stand for events, state keys, users and event types
//! inside one room.

use std::{collections::HashMap, fmt, sync::Arc};

macro_rules! number {
    ($(#[$doc:meta])* $vis:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(pub(crate) u32);

        impl $name {
            /// The number as an index into a table.
            $vis fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

number! {
    /// The number of an event in its [`Room`](crate::Room), in order of insertion.
    ///
    /// An event is inserted after its auth events, so that auth edges always lead to smaller
    /// numbers: descending order visits every event before what it cites.
    pub EventIx
}

number! {
    /// The number of a state key, a pair of event type and `state_key`, in its
    /// [`Room`](crate::Room).
    pub KeyIx
}

number! {
    /// The number of a user in a room.
    pub(crate) UserIx
}

number! {
    /// The number of an event type in a room.
    pub(crate) TypeIx
}

impl EventIx {
    /// The number of the event at `index`. Tables refuse to grow beyond `u32::MAX - 1`.
    pub(crate) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(NONE))
    }

    /// The event with this number. The number is only good for the room that gave it out.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number itself, for storage.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl KeyIx {
    /// The number of the key at `index`. Tables refuse to grow beyond `u32::MAX - 1`.
    pub(crate) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(NONE))
    }

    /// The state key with this number. The number is only good for the room that gave it out.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number itself, for storage.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Stands for "no such entry" in packed tables.
pub(crate) const NONE: u32 = u32::MAX;

/// `number`, unless it is the mark for none.
pub(crate) fn some(number: u32) -> Option<u32> {
    (number != NONE).then_some(number)
}

/// Strings and their numbers. The hash is keyed: peers choose the strings.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    by_name: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Names {
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn intern(&mut self, name: &str) -> u32 {
        if let Some(number) = self.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(NONE);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, number);
        number
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Forgets all names but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        for name in self.names.drain(len.min(self.names.len())..) {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_until_it_is_truncated_away() {
        let mut names = Names::default();
        assert_eq!((names.intern("a"), names.intern("b"), names.intern("a")), (0, 1, 0));
        names.truncate(1);
        assert_eq!((names.get("a"), names.get("b"), names.len()), (Some(0), None, 1));
        assert_eq!(names.intern("c"), 1);
        assert_eq!(names.name(1), "c");
    }
}
