//! Every table of the database: its name, the type of its keys and that of its values.
//!
//! A number in a key is big-endian, so a range over the first parts of a key reads in the order of
//! the rest.

use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    intern::{RoomNumber, UserNumber},
    table::Table,
};

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $id:ident $name:literal: $key:ty => $value:ty;)*) => {
        /// Which table; also its place in the list of all of them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub(crate) enum TableId {
            $($(#[$doc])* $id,)*
        }

        impl TableId {
            /// Every table there is.
            pub(crate) const ALL: &[Self] = &[$(Self::$id,)*];

            /// The table's name on disk.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }
        }

        $(
            $(#[$doc])*
            pub(crate) const $table: Table<$key, $value> = Table::new(TableId::$id);
        )*
    };
}

tables! {
    /// Schema version, server name, ceilings of counters.
    META = Meta "meta": String => Vec<u8>;

    /// The number that stands for a user.
    USER_NUMBERS = UserNumbers "user_numbers": OwnedUserId => UserNumber;
    /// The user a number stands for.
    USER_IDS = UserIds "user_ids": UserNumber => OwnedUserId;
    /// The number that stands for a room.
    ROOM_NUMBERS = RoomNumbers "room_numbers": OwnedRoomId => RoomNumber;
    /// The room a number stands for.
    ROOM_IDS = RoomIds "room_ids": RoomNumber => OwnedRoomId;
}
