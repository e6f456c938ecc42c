//! What is stored of a relation.

use crate::{
    rooms::record::EventNumber,
    storage::{
        Value,
        intern::UserNumber,
        key::{AsKey, Key},
        value::take_part,
    },
};

/// The kinds of relations that are kept apart: those that servers do something with.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum RelationKind {
    /// `m.replace`
    Replace,
    /// `m.reference`
    Reference,
    /// `m.thread`
    Thread,
    /// `m.annotation`
    Annotation,
    /// Any other.
    Other,
}

impl RelationKind {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Replace, Self::Reference, Self::Thread, Self::Annotation, Self::Other];

    /// The kind of this `rel_type`.
    pub(super) fn named(rel_type: &str) -> Self {
        match rel_type {
            "m.replace" => Self::Replace,
            "m.reference" => Self::Reference,
            "m.thread" => Self::Thread,
            "m.annotation" => Self::Annotation,
            _ => Self::Other,
        }
    }

    /// Whether the parent is shown with what relates to it this way.
    pub(super) fn is_bundled(self) -> bool {
        matches!(self, Self::Replace | Self::Reference | Self::Thread)
    }
}

impl AsKey<Self> for RelationKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
}

impl Key for RelationKind {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let byte = u8::decode(input)?;
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// An event that relates to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Relation {
    /// The event: the child.
    pub(crate) event: EventNumber,
    /// Who sent it.
    pub(crate) sender: UserNumber,
    /// Its `type`.
    pub(crate) event_type: String,
    /// Its `rel_type`.
    pub(crate) rel_type: String,
}

impl Value for Relation {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        self.event.encode(out);
        self.sender.encode(out);
        // An event has at most 64 KiB.
        let len = u32::try_from(self.event_type.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(self.event_type.as_bytes());
        out.extend_from_slice(self.rel_type.as_bytes());
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let event = EventNumber::decode(&mut bytes)?;
        let sender = UserNumber::decode(&mut bytes)?;
        let event_type = std::str::from_utf8(take_part(&mut bytes)?).ok()?.to_owned();
        let rel_type = std::str::from_utf8(bytes).ok()?.to_owned();
        Some(Self { event, sender, event_type, rel_type })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_round_trip(event: u64, sender: u64, event_type: String, rel_type: String) {
            let row = Relation {
                event: EventNumber(event),
                sender: UserNumber(sender),
                event_type,
                rel_type,
            };
            let mut bytes = Vec::new();
            row.to_bytes(&mut bytes);
            prop_assert_eq!(Relation::from_bytes(&bytes), Some(row));
        }

        #[test]
        fn rubbish_is_no_row(rubbish: Vec<u8>) {
            let _ = Relation::from_bytes(&rubbish);
        }
    }

    #[test]
    fn kinds_round_trip() {
        for kind in RelationKind::ALL {
            let mut bytes = Vec::new();
            AsKey::<RelationKind>::encode(&kind, &mut bytes);
            assert_eq!(RelationKind::decode(&mut bytes.as_slice()), Some(kind));
        }
    }
}
