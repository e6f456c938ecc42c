//! Where a page of results ends and the next begins.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::{
    rooms::{error::RoomError, timeline_key::TimelineKey},
    storage::intern::{RoomNumber, UserNumber},
};

/// In which order results come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Those that fit best first.
    Rank,
    /// The latest first.
    Recent,
}

/// A part of the results.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Group {
    /// Those in one room.
    Room(RoomNumber),
    /// Those that one user sent.
    Sender(UserNumber),
}

/// A result's place in the order of results.
///
/// As text: `s1_ORDER_RANK_KEY_ROOM_UPTO_SEEN_GROUP`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(super) order: Order,
    pub(super) rank: f64,
    pub(super) key: TimelineKey,
    pub(super) room: RoomNumber,
    /// The last timeline key that the search looks at: what arrives later moves no page.
    pub(super) upto: TimelineKey,
    /// How many results came up to here.
    pub(super) seen: usize,
    /// Only these results.
    pub(super) group: Option<Group>,
}

impl Place {
    /// This place in one part of the results.
    pub(crate) fn within(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Which of two comes first.
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = match self.order {
            Order::Rank => other.rank.total_cmp(&self.rank),
            Order::Recent => Ordering::Equal,
        };
        by_rank.then_with(|| (other.key, other.room).cmp(&(self.key, self.room)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::Rank => 'r',
            Order::Recent => 't',
        };
        let Self { rank, key, room, upto, seen, group, .. } = self;
        write!(out, "s1_{order}_{:x}_{key}_{}_{upto}_{seen}", rank.to_bits(), room.0)?;
        match group {
            None => write!(out, "_"),
            Some(Group::Room(room)) => write!(out, "_r{}", room.0),
            Some(Group::Sender(user)) => write!(out, "_s{}", user.0),
        }
    }
}

impl FromStr for Place {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        parse(text)
            .ok_or_else(|| RoomError::InvalidParam { why: "this is no token of a search".into() })
    }
}

fn parse(text: &str) -> Option<Place> {
    let mut parts = text.strip_prefix("s1_")?.split('_');
    let order = match parts.next()? {
        "r" => Order::Rank,
        "t" => Order::Recent,
        _ => return None,
    };
    let rank = f64::from_bits(u64::from_str_radix(parts.next()?, 16).ok()?);
    let key = parts.next()?.parse().ok()?;
    let room = RoomNumber(parts.next()?.parse().ok()?);
    let upto = parts.next()?.parse().ok()?;
    let seen = parts.next()?.parse().ok()?;
    let group = match parts.next()? {
        "" => None,
        group => Some(match group.split_at_checked(1)? {
            ("r", number) => Group::Room(RoomNumber(number.parse().ok()?)),
            ("s", number) => Group::Sender(UserNumber(number.parse().ok()?)),
            _ => return None,
        }),
    };
    let place = Place { order, rank, key, room, upto, seen, group };
    parts.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(
            rank in 0.0_f64..1e9,
            key: (i64, u64),
            room: u64,
            upto: (i64, u64),
            seen: usize,
            recent: bool,
            group in prop::option::of((any::<bool>(), any::<u64>())),
        ) {
            let place = Place {
                order: if recent { Order::Recent } else { Order::Rank },
                rank,
                key: TimelineKey::of(key.0, key.1),
                room: RoomNumber(room),
                upto: TimelineKey::of(upto.0, upto.1),
                seen,
                group: group.map(|(is_room, number)| if is_room {
                    Group::Room(RoomNumber(number))
                } else {
                    Group::Sender(UserNumber(number))
                }),
            };
            prop_assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        }

        #[test]
        fn rubbish_is_no_token(rubbish: String) {
            prop_assert!(rubbish.starts_with("s1_") || rubbish.parse::<Place>().is_err());
        }
    }

    #[test]
    fn a_token_has_all_its_parts_and_no_more() {
        for text in
            ["s1_", "s1_t_0_1_1_1", "s1_t_0_1_1_1_0_x1", "s1_t_0_1_1_1_0__", "s1_q_0_1_1_1_0_"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
