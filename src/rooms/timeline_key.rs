//! Where events stand in a room's timeline, and the places between them.

use std::{fmt, str::FromStr};

use ruma::api::Direction;
use serde::{Deserialize, Serialize};

use super::{error::RoomError, record::EventNumber};
use crate::storage::{
    Range, Read, StorageError,
    intern::RoomNumber,
    key::{AsKey, Key},
    schema::TIMELINE,
};

/// An event's place in its room's timeline.
///
/// Live events stand at their stream position. What was before the first of them counts down below
/// zero. Events that fill a gap in between stand just before the one behind the gap: at the number
/// before its own, and there at a place above zero.
///
/// As a key: the number, then the place unless that is zero; so it is the last part of any key, and
/// rows of events that fill no gap look as if there were no such thing.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct TimelineKey {
    number: i64,
    place: u64,
}

/// As it stands in JSON.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Stored {
    Number(i64),
    Place(i64, u64),
}

impl TimelineKey {
    /// Before everything.
    pub(crate) const MIN: Self = Self::at(i64::MIN);
    /// Of what is not in the timeline.
    pub(crate) const NOWHERE: Self = Self::at(0);
    /// After everything.
    pub(crate) const MAX: Self = Self { number: i64::MAX, place: u64::MAX };
    /// How far events that fill a gap stand from each other, so that others fit between them.
    const STRIDE: u64 = 1 << 40;

    /// The place of this number.
    pub(crate) const fn at(number: i64) -> Self {
        Self { number, place: 0 }
    }

    /// The place of a live event.
    pub(crate) fn live(position: u64) -> Self {
        Self::at(i64::try_from(position).unwrap_or(i64::MAX))
    }

    /// The greatest key below this one.
    #[must_use]
    pub(crate) const fn before(self) -> Self {
        match self.place.checked_sub(1) {
            Some(place) => Self { number: self.number, place },
            None if self.number == i64::MIN => self,
            None => Self { number: self.number - 1, place: u64::MAX },
        }
    }

    /// The smallest key above this one.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        match self.place.checked_add(1) {
            Some(place) => Self { number: self.number, place },
            None if self.number == i64::MAX => self,
            None => Self::at(self.number + 1),
        }
    }

    /// The number.
    pub(crate) const fn number(self) -> i64 {
        self.number
    }

    /// The place at the number; zero unless it fills a gap.
    pub(crate) const fn place(self) -> u64 {
        self.place
    }

    /// The key of these parts.
    pub(super) const fn of(number: i64, place: u64) -> Self {
        Self { number, place }
    }

    /// Whether the event fills a gap.
    pub(crate) const fn fills_gap(self) -> bool {
        self.place > 0
    }

    /// The stream position that things were at where this is; 0 before the first live event.
    pub(crate) fn position(self) -> u64 {
        u64::try_from(self.number).unwrap_or(0)
    }

    /// The keys, in order, of `count` events that stand between `earlier` and this key, which follow
    /// each other. None if there is no room for so many.
    pub(super) fn filling(self, earlier: Self, count: usize) -> Option<Vec<Self>> {
        // The last place at a number is nobody's: it is where a reader stands just before the next.
        let (number, past) = match self.place {
            0 => (self.number.checked_sub(1)?, u64::MAX),
            place => (self.number, place),
        };
        let first = if earlier.number == number { earlier.place } else { 0 };
        let count = u64::try_from(count).ok()?;
        let stride = (past.checked_sub(first)? / count.checked_add(1)?).min(Self::STRIDE);
        let place = |back: u64| Self { number, place: past - back * stride };
        (stride > 0).then(|| (1..=count).rev().map(place).collect())
    }
}

impl From<Stored> for TimelineKey {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Number(number) => Self::at(number),
            Stored::Place(number, place) => Self { number, place },
        }
    }
}

impl From<TimelineKey> for Stored {
    fn from(key: TimelineKey) -> Self {
        match key.place {
            0 => Self::Number(key.number),
            place => Self::Place(key.number, place),
        }
    }
}

impl AsKey<TimelineKey> for TimelineKey {
    fn encode(&self, out: &mut Vec<u8>) {
        self.number.encode(out);
        if self.place > 0 {
            self.place.encode(out);
        }
    }
}

impl Key for TimelineKey {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        let number = i64::decode(input)?;
        if input.is_empty() {
            return Some(Self::at(number));
        }
        let place = u64::decode(input).filter(|place| *place > 0)?;
        Some(Self { number, place })
    }
}

/// As text: `NUMBER` or `NUMBER.PLACE`.
impl fmt::Display for TimelineKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.number)?;
        if self.place > 0 {
            write!(out, ".{}", self.place)?;
        }
        Ok(())
    }
}

impl FromStr for TimelineKey {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        let parse = || {
            let Some((number, place)) = text.split_once('.') else {
                return Some(Self::at(text.parse().ok()?));
            };
            let place = place.parse().ok().filter(|place| *place > 0)?;
            Some(Self { number: number.parse().ok()?, place })
        };
        parse().ok_or_else(|| RoomError::InvalidParam { why: "this is no place".into() })
    }
}

/// A place between two events of a timeline: just after the event with this timeline key.
///
/// As text: `t1_KEY`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Boundary(pub(crate) TimelineKey);

impl Boundary {
    /// Before everything.
    pub(crate) const START: Self = Self(TimelineKey::MIN);
    /// After everything.
    pub(crate) const END: Self = Self(TimelineKey::MAX);

    /// Just after what had arrived at a stream position.
    pub(crate) fn at_position(position: u64) -> Self {
        Self(TimelineKey::live(position))
    }

    /// Just before the event with this key.
    pub(crate) const fn before(key: TimelineKey) -> Self {
        Self(key.before())
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "t1_{}", self.0)
    }
}

impl FromStr for Boundary {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        text.strip_prefix("t1_")
            .and_then(|key| key.parse().ok())
            .map(Self)
            .ok_or_else(|| RoomError::InvalidParam { why: "this is no token of a timeline".into() })
    }
}

/// The live events of a room after the stream position `after` and up to `upto`, by position: the
/// first or the last `limit`. If they are fewer there are no more.
pub(crate) async fn live_events(
    at: &impl Read,
    room: RoomNumber,
    (after, upto): (u64, u64),
    limit: usize,
    direction: Direction,
) -> Result<Vec<(u64, EventNumber)>, StorageError> {
    let mut found = Vec::new();
    let mut range = Range::prefix(&(room,))
        .after(&(room, TimelineKey::live(after)))
        .upto(&(room, TimelineKey::live(upto)));
    loop {
        let step = limit - found.len();
        let rows = match direction {
            Direction::Forward => TIMELINE.scan(at, &range, step).await?,
            Direction::Backward => TIMELINE.scan_back(at, &range, step).await?,
        };
        let last = rows.last().filter(|_| rows.len() == step).map(|(key, _)| *key);
        let live = rows.into_iter().filter(|((_, key), _)| !key.fills_gap());
        found.extend(live.map(|((_, key), event)| (key.position(), event)));
        let Some(last) = last.filter(|_| found.len() < limit) else { return Ok(found) };
        range = match direction {
            Direction::Forward => range.after(&last),
            Direction::Backward => range.before(&last),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(room: u64, key: TimelineKey) -> Vec<u8> {
        let mut out = Vec::new();
        AsKey::<(RoomNumber, TimelineKey)>::encode(&(RoomNumber(room), key), &mut out);
        out
    }

    fn keys() -> impl Strategy<Value = TimelineKey> {
        (prop_oneof![-3_i64..3, any::<i64>()], prop_oneof![0_u64..3, any::<u64>()])
            .prop_map(|(number, place)| TimelineKey { number, place })
    }

    proptest! {
        #[test]
        fn keys_round_trip(key in keys(), room: u64) {
            let encoded = bytes(room, key);
            let decoded = <(RoomNumber, TimelineKey)>::decode(&mut encoded.as_slice());
            prop_assert_eq!(decoded, Some((RoomNumber(room), key)));
            prop_assert_eq!(key.to_string().parse::<TimelineKey>().unwrap(), key);
            prop_assert_eq!(Boundary(key).to_string().parse::<Boundary>().unwrap(), Boundary(key));
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<TimelineKey>(&json).unwrap(), key);
        }

        #[test]
        fn byte_order_is_key_order(a in keys(), b in keys()) {
            prop_assert_eq!(bytes(1, a).cmp(&bytes(1, b)), a.cmp(&b));
            prop_assert!(a == TimelineKey::MIN || a.before() < a);
            prop_assert!(b >= a || b <= a.before());
        }

        /// In front of the event behind the gap, then of others in the gap, as they are fetched.
        #[test]
        fn what_fills_a_gap_stands_between(
            number in -5_i64..5,
            fills in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..60), 1..6),
        ) {
            let mut line = vec![TimelineKey::at(number - 3), TimelineKey::at(number)];
            for (before, count) in fills {
                let before = 1 + before.index(line.len() - 1);
                let filling = line[before].filling(line[before - 1], count).unwrap();
                prop_assert_eq!(filling.len(), count);
                line.splice(before..before, filling);
                prop_assert!(line.windows(2).all(|pair| pair[0] < pair[1]), "{line:?}");
            }
        }
    }

    /// Rows and tokens of before there were gaps to be filled are as they were.
    #[test]
    fn a_key_that_fills_no_gap_is_its_number() {
        let mut number = Vec::new();
        AsKey::<(RoomNumber, i64)>::encode(&(RoomNumber(1), -7_i64), &mut number);
        assert_eq!(bytes(1, TimelineKey::at(-7)), number);
        assert_eq!("t1_-7".parse::<Boundary>().unwrap(), Boundary(TimelineKey::at(-7)));
        assert_eq!(serde_json::from_str::<TimelineKey>("-7").unwrap(), TimelineKey::at(-7));
        for rubbish in
            ["", "t1_", "t1_7.", "t1_7.0", "t1_7.-1", "t1_7.1.1", "t1_7.18446744073709551616"]
        {
            assert!(rubbish.parse::<Boundary>().is_err(), "{rubbish}");
        }
    }

    #[test]
    fn a_gap_that_is_full_takes_no_more() {
        let at = |place| TimelineKey { number: 4, place };
        assert_eq!(at(4).filling(at(1), 2), Some(vec![at(2), at(3)]));
        assert_eq!(at(4).filling(at(1), 3), None);
        assert_eq!(at(1).filling(TimelineKey::at(4), 1), None);
    }
}
