//! Who is typing: kept in memory only, with a stream position for sync.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::storage::{
    Concern, Db, StorageError,
    intern::{RoomNumber, UserNumber},
};

/// The longest time somebody counts as typing without saying so again.
const LONGEST: Duration = Duration::from_mins(2);

/// Who is typing in which room.
#[derive(Clone)]
pub(crate) struct Typing {
    db: Db,
    rooms: Arc<Mutex<HashMap<RoomNumber, RoomTyping>>>,
    /// Positions before this one belong to a process that is gone, with what it knew.
    started_at: u64,
}

#[derive(Default)]
struct RoomTyping {
    /// Until when each user counts as typing.
    users: BTreeMap<UserNumber, Instant>,
    /// When this changed last.
    position: u64,
    /// Whether a task waits for the next of them to run out.
    watched: bool,
    /// Whom to wake: the room's local members when somebody last typed.
    members: Arc<[UserNumber]>,
}

impl Typing {
    /// Nobody types yet.
    pub(crate) fn new(db: Db) -> Self {
        let started_at = db.visible_position();
        Self { db, rooms: Arc::default(), started_at }
    }

    /// `user` types in `room` for at most `timeout` (120 s at most), or has stopped. Wakes
    /// `members`.
    pub(crate) async fn set(
        &self,
        room: RoomNumber,
        user: UserNumber,
        timeout: Option<Duration>,
        members: Arc<[UserNumber]>,
    ) -> Result<(), StorageError> {
        let until = timeout.map(|timeout| Instant::now() + timeout.min(LONGEST));
        let known =
            self.rooms.lock().get(&room).is_some_and(|typing| typing.users.contains_key(&user));
        if known == until.is_some() {
            // Nothing that anybody sees changes; a longer time is only noted.
            if let (Some(typing), Some(until)) = (self.rooms.lock().get_mut(&room), until) {
                typing.users.insert(user, until);
            }
            return Ok(());
        }
        self.change(room, &members, |typing| {
            match until {
                Some(until) => typing.users.insert(user, until),
                None => typing.users.remove(&user),
            };
            typing.members = Arc::clone(&members);
        })
        .await?;
        self.watch(room);
        Ok(())
    }

    /// Who types in `room`, if that changed after `since`.
    ///
    /// A token from before the last start gets an answer too: what that process said is over.
    pub(crate) fn changed_since(&self, room: RoomNumber, since: u64) -> Option<Vec<UserNumber>> {
        let rooms = self.rooms.lock();
        match rooms.get(&room) {
            Some(typing) if typing.position > since => Some(typing.users.keys().copied().collect()),
            None if since < self.started_at => Some(Vec::new()),
            _ => None,
        }
    }

    /// The rooms in which that changed after `since` and not after `until`.
    pub(crate) fn changed_rooms(&self, since: u64, until: u64) -> Vec<RoomNumber> {
        let rooms = self.rooms.lock();
        let changed = |typing: &RoomTyping| typing.position > since && typing.position <= until;
        let mut changed: Vec<(u64, RoomNumber)> = rooms
            .iter()
            .filter(|(_, typing)| changed(typing))
            .map(|(room, typing)| (typing.position, *room))
            .collect();
        changed.sort_unstable();
        changed.into_iter().map(|(_, room)| room).collect()
    }

    /// Who types in `room`.
    pub(crate) fn now(&self, room: RoomNumber) -> Vec<UserNumber> {
        let rooms = self.rooms.lock();
        rooms.get(&room).map(|typing| typing.users.keys().copied().collect()).unwrap_or_default()
    }

    async fn change(
        &self,
        room: RoomNumber,
        members: &[UserNumber],
        change: impl FnOnce(&mut RoomTyping),
    ) -> Result<(), StorageError> {
        let position = self.db.position().await?;
        {
            let mut rooms = self.rooms.lock();
            let typing = rooms.entry(room).or_default();
            change(typing);
            typing.position = position.value();
        }
        let concern = |user: &UserNumber| Concern { user: *user, room: Some(room) };
        position.committed(members.iter().map(concern).collect());
        Ok(())
    }

    /// Waits, in a task of its own, for those in `room` to run out, until nobody types there.
    fn watch(&self, room: RoomNumber) {
        {
            let mut rooms = self.rooms.lock();
            let Some(typing) = rooms.get_mut(&room) else { return };
            if typing.watched || typing.users.is_empty() {
                return;
            }
            typing.watched = true;
        }
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(next) = this.next_to_run_out(room) {
                tokio::time::sleep_until(next).await;
                let now = Instant::now();
                let members = {
                    let rooms = this.rooms.lock();
                    let Some(typing) = rooms.get(&room) else { return };
                    if typing.users.values().all(|until| *until > now) {
                        continue;
                    }
                    Arc::clone(&typing.members)
                };
                let expired = this
                    .change(room, &members, |typing| typing.users.retain(|_, until| *until > now))
                    .await;
                if let Err(error) = expired {
                    tracing::warn!(%error, "typing could not be ended");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
    }

    fn next_to_run_out(&self, room: RoomNumber) -> Option<Instant> {
        let mut rooms = self.rooms.lock();
        let typing = rooms.get_mut(&room)?;
        let next = typing.users.values().min().copied();
        typing.watched = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomNumber = RoomNumber(1);
    const ALICE: UserNumber = UserNumber(1);

    fn members() -> Arc<[UserNumber]> {
        vec![ALICE, UserNumber(2)].into()
    }

    #[tokio::test(start_paused = true)]
    async fn typing_ends_by_itself_and_wakes_the_members() {
        let db = Db::in_memory().await;
        let typing = Typing::new(db.clone());
        let waiter = db.wait_for(UserNumber(2));
        typing.set(ROOM, ALICE, Some(Duration::from_secs(5)), members()).await.unwrap();
        waiter.woken().await;
        let since = db.visible_position();
        assert_eq!(typing.now(ROOM), vec![ALICE]);
        assert_eq!(typing.changed_since(ROOM, since), None);
        waiter.woken().await;
        assert_eq!(typing.changed_since(ROOM, since), Some(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn saying_it_again_prolongs_without_waking_anybody() {
        let db = Db::in_memory().await;
        let typing = Typing::new(db.clone());
        typing.set(ROOM, ALICE, Some(Duration::from_secs(5)), members()).await.unwrap();
        let since = db.visible_position();
        tokio::time::sleep(Duration::from_secs(4)).await;
        typing.set(ROOM, ALICE, Some(Duration::from_secs(5)), members()).await.unwrap();
        assert_eq!(typing.changed_since(ROOM, since), None);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(typing.now(ROOM), vec![ALICE]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(typing.now(ROOM), Vec::<UserNumber>::new());
    }

    #[tokio::test]
    async fn stopping_is_seen_at_once() {
        let db = Db::in_memory().await;
        let typing = Typing::new(db.clone());
        typing.set(ROOM, ALICE, Some(Duration::from_secs(5)), members()).await.unwrap();
        let since = db.visible_position();
        typing.set(ROOM, ALICE, None, members()).await.unwrap();
        assert_eq!(typing.changed_since(ROOM, since), Some(Vec::new()));
    }
}
