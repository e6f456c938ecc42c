//! How much a user has not read, over all rooms: the number on an app's icon.

use std::{collections::BTreeMap, sync::Arc};

use moka::sync::Cache;
use ruma::UserId;
use tokio::sync::Mutex;

use super::{Unread, Whose};
use crate::{
    rooms::{RoomError, record::Membership},
    storage::{
        Db, Snapshot,
        intern::{RoomNumber, UserNumber},
        schema::USER_ROOMS,
    },
};

/// Of how many users the sums are kept in memory.
const MAX_USERS: u64 = 10_000;

/// Sums of unread counts. What did not change since the last time is not counted again.
#[derive(Clone)]
pub(super) struct Badges {
    db: Db,
    unread: Unread,
    known: Cache<UserNumber, Arc<Mutex<Known>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of all rules: with other rules all is counted again.
    generation: u64,
    /// By room: up to which stream position it was counted, and what it came to.
    rooms: BTreeMap<RoomNumber, (u64, u64)>,
}

impl Badges {
    pub(super) fn new(db: Db, unread: Unread) -> Self {
        Self { db, unread, known: Cache::new(MAX_USERS) }
    }

    /// The user read something in a room, or changed whom they ignore.
    pub(super) async fn forget(&self, user: UserNumber, room: RoomNumber) {
        if let Some(known) = self.known.get(&user) {
            known.lock().await.rooms.remove(&room);
        }
    }

    /// How many of them are in one room; none if the user is not joined to it.
    pub(super) async fn in_room(
        &self,
        user: UserNumber,
        user_id: &UserId,
        number: RoomNumber,
    ) -> Result<Option<u64>, RoomError> {
        let until = self.db.visible_position();
        let at = self.db.snapshot();
        let row = USER_ROOMS.get(&at, &(user, number)).await?;
        let Some(row) = row.filter(|row| row.membership == Membership::Join) else {
            return Ok(None);
        };
        let whose = Whose { user, user_id, member: row.position, settled: None, receipts: None };
        Ok(Some(self.count(&at, number, whose, until).await?))
    }

    async fn count(
        &self,
        at: &Snapshot,
        number: RoomNumber,
        whose: Whose<'_>,
        until: u64,
    ) -> Result<u64, RoomError> {
        let room = self.unread.rooms.numbered(number).await?;
        Ok(self.unread.count(at, &room, whose, until).await?.total().notifications)
    }

    /// How many events notify the user that they have not read, and how many invitations wait.
    pub(super) async fn of(&self, user: UserNumber, user_id: &UserId) -> Result<u64, RoomError> {
        let known = self.known.get_with(user, Arc::default);
        let mut known = known.lock().await;
        let generation = self.unread.rules.generation();
        if known.generation != generation {
            *known = Known { generation, ..Known::default() };
        }
        let until = self.db.visible_position();
        let at = self.db.snapshot();
        let rooms = &self.unread.rooms;
        let mut sum = 0;
        for (number, row) in rooms.user_rooms(&at, user).await? {
            match row.membership {
                Membership::Join => {
                    let last = rooms.last_position(number).await?;
                    if let Some((counted, count)) = known.rooms.get(&number)
                        && *counted >= last
                    {
                        sum += count;
                        continue;
                    }
                    let member = row.position;
                    let whose = Whose { user, user_id, member, settled: None, receipts: None };
                    let count = self.count(&at, number, whose, until).await?;
                    known.rooms.insert(number, (until, count));
                    sum += count;
                }
                Membership::Invite => {
                    let wanted = self.unread.invitation(&at, user, number, &row).await?.is_some();
                    sum += u64::from(wanted);
                }
                Membership::Leave | Membership::Ban | Membership::Knock => {
                    known.rooms.remove(&number);
                }
            }
        }
        Ok(sum)
    }
}
