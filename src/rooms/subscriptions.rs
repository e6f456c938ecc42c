//! Threads that users follow: MSC4306. What changed of that is told by syncs and in pages: MSC4308.
//!
//! A thread has one row for each user who ever followed it, and another by the stream position of
//! its last change. Who unsubscribed keeps the row: it says up to where in the timeline nothing
//! subscribes their client again.
//!
//! Proposals: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4308>

use std::collections::{BTreeMap, HashSet};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use super::{
    RoomError, Rooms, record::EventRecord, relations::RelatesTo, timeline_key::TimelineKey,
};
use crate::{
    storage::{
        Batch, Db, Json, Range, Read, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{THREAD_SUBSCRIPTION_CHANGES, THREAD_SUBSCRIPTIONS},
    },
    users::session::Session,
};

/// How often a change is tried again when another device was faster.
const ATTEMPTS: usize = 16;

/// Why a subscription was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscriptionError {
    /// The event that is to have caused the subscription is in no thread, or in another one.
    #[error("the event is not in that thread")]
    NotInThread,
    /// The user unsubscribed after that event.
    #[error("the user has unsubscribed since that event")]
    Unsubscribed,
    /// The user's devices change it all at once.
    #[error("the subscription is being changed by others")]
    Busy,
    /// The thread is none that the user may see, or can't be read.
    #[error(transparent)]
    Room(#[from] RoomError),
}

impl From<StorageError> for SubscriptionError {
    fn from(error: StorageError) -> Self {
        Self::Room(error.into())
    }
}

/// What a user is to a thread.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ThreadSubscription {
    /// The stream position of the last change.
    position: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Unsubscribed,
    /// The user's client subscribed by itself.
    Automatic,
    Manual,
}

impl State {
    /// Whether it is the client's doing; none if the user is not subscribed.
    fn automatic(self) -> Option<bool> {
        match self {
            Self::Unsubscribed => None,
            Self::Automatic => Some(true),
            Self::Manual => Some(false),
        }
    }
}

/// The threads of a room that a user is subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// Their roots.
    pub(crate) threads: HashSet<OwnedEventId>,
    /// The stream position of the last change, or 0.
    pub(crate) position: u64,
}

/// What changed of a user's subscriptions, as it is written to the wire.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SubscriptionChanges {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    subscribed: ByThread<Subscribed>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unsubscribed: ByThread<Unsubscribed>,
    /// Up to this stream position there are others, which did not find room.
    #[serde(skip)]
    pub(crate) earlier: Option<u64>,
}

type ByThread<T> = BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, T>>;

#[derive(Debug, Serialize)]
struct Subscribed {
    automatic: bool,
    bump_stamp: u64,
}

#[derive(Debug, Serialize)]
struct Unsubscribed {
    bump_stamp: u64,
}

impl SubscriptionChanges {
    /// Whether nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscribed.is_empty() && self.unsubscribed.is_empty()
    }
}

impl Rooms {
    /// Whether the user is subscribed to a thread, and if so, whether their client did it by itself.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if the user may not see the thread's root.
    pub(crate) async fn thread_subscription(
        &self,
        session: &Session,
        room_id: &RoomId,
        thread: &EventId,
    ) -> Result<Option<bool>, RoomError> {
        let (room, _, _) = self.seen_event(self.db(), session, room_id, thread).await?;
        let row = THREAD_SUBSCRIPTIONS.get(self.db(), &(session.user, room.number, thread)).await?;
        Ok(row.and_then(|Json(row)| row.state.automatic()))
    }

    /// Subscribes the user to a thread; because of the event `cause` in it, if that is given, unless
    /// they unsubscribed after that. Who subscribed by themselves stays so.
    ///
    /// # Errors
    /// [`SubscriptionError::NotInThread`], [`SubscriptionError::Unsubscribed`];
    /// [`RoomError::UnknownEvent`] if the user may not see the thread's root or the cause.
    pub(crate) async fn subscribe_to_thread(
        &self,
        session: &Session,
        room_id: &RoomId,
        thread: &EventId,
        cause: Option<&EventId>,
    ) -> Result<(), SubscriptionError> {
        let (room, _, _) = self.seen_event(self.db(), session, room_id, thread).await?;
        let cause = match cause {
            Some(cause) => {
                let (_, _, event) = self.seen_event(self.db(), session, room_id, cause).await?;
                if !is_in_thread(&event, thread) {
                    return Err(SubscriptionError::NotInThread);
                }
                Some(event.timeline_key())
            }
            None => None,
        };
        self.change_subscription(session.user, room.number, thread, |old| subscribed(old, cause))
            .await
    }

    /// Unsubscribes the user from a thread.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if the user may not see the thread's root.
    pub(crate) async fn unsubscribe_from_thread(
        &self,
        session: &Session,
        room_id: &RoomId,
        thread: &EventId,
    ) -> Result<(), SubscriptionError> {
        let (room, _, _) = self.seen_event(self.db(), session, room_id, thread).await?;
        let unsubscribed = |old: Option<&ThreadSubscription>| {
            let is_subscribed = old.is_some_and(|old| old.state != State::Unsubscribed);
            Ok(is_subscribed.then_some(State::Unsubscribed))
        };
        self.change_subscription(session.user, room.number, thread, unsubscribed).await
    }

    /// Reads, decides and writes; `decide` says none if nothing is to change.
    async fn change_subscription(
        &self,
        user: UserNumber,
        room: RoomNumber,
        thread: &EventId,
        decide: impl Fn(Option<&ThreadSubscription>) -> Result<Option<State>, SubscriptionError>,
    ) -> Result<(), SubscriptionError> {
        let key = (user, room, thread);
        for _ in 0..ATTEMPTS {
            let old = THREAD_SUBSCRIPTIONS.get(self.db(), &key).await?;
            let Some(state) = decide(old.as_ref().map(|Json(old)| old))? else { return Ok(()) };
            let mut batch = Batch::new();
            match old {
                Some(old) => {
                    THREAD_SUBSCRIPTION_CHANGES.delete(&mut batch, &(user, old.0.position));
                    THREAD_SUBSCRIPTIONS.require_equals(&mut batch, &key, &old);
                }
                None => THREAD_SUBSCRIPTIONS.require_absent(&mut batch, &key),
            }
            let position = self.db().position().await?;
            let new = ThreadSubscription { position: position.value(), state };
            THREAD_SUBSCRIPTION_CHANGES.put(
                &mut batch,
                &(user, new.position),
                &(room, thread.to_owned()),
            );
            THREAD_SUBSCRIPTIONS.put(&mut batch, &key, &Json(new));
            batch.hold(position);
            batch.wake([user]);
            match self.db().commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(SubscriptionError::Busy)
    }

    /// What changed of a user's subscriptions after the stream position `after` and up to `upto`:
    /// the latest `limit` of them.
    pub(crate) async fn subscription_changes(
        &self,
        at: &impl Read,
        user: UserNumber,
        after: u64,
        upto: u64,
        limit: usize,
    ) -> Result<SubscriptionChanges, StorageError> {
        let range =
            Range::prefix(&(user,)).after(&(user, after)).before(&(user, upto.saturating_add(1)));
        let mut rows =
            THREAD_SUBSCRIPTION_CHANGES.scan_back(at, &range, limit.saturating_add(1)).await?;
        let mut changes = SubscriptionChanges::default();
        if rows.len() > limit {
            changes.earlier = rows.pop().map(|((_, position), _)| position);
        }
        let keys = rows.iter().map(|(_, (room, thread))| (user, *room, thread));
        let subscriptions = THREAD_SUBSCRIPTIONS.multi_get(at, keys).await?;
        let numbers: Vec<RoomNumber> = rows.iter().map(|(_, (room, _))| *room).collect();
        let ids = self.db().rooms().names(self.db(), &numbers).await?;
        for (((_, (_, thread)), subscription), room) in rows.into_iter().zip(subscriptions).zip(ids)
        {
            let Some(Json(ThreadSubscription { position, state })) = subscription else {
                continue;
            };
            let bump_stamp = position;
            if let Some(automatic) = state.automatic() {
                let row = Subscribed { automatic, bump_stamp };
                changes.subscribed.entry(room).or_default().insert(thread, row);
            } else {
                let row = Unsubscribed { bump_stamp };
                changes.unsubscribed.entry(room).or_default().insert(thread, row);
            }
        }
        Ok(changes)
    }
}

/// The threads of a room that a user is subscribed to.
pub(crate) async fn followed(
    at: &impl Read,
    user: UserNumber,
    room: RoomNumber,
) -> Result<Followed, StorageError> {
    let mut followed = Followed::default();
    let rows = THREAD_SUBSCRIPTIONS.scan(at, &Range::prefix(&(user, room)), usize::MAX).await?;
    for ((_, _, thread), Json(row)) in rows {
        followed.position = followed.position.max(row.position);
        if row.state != State::Unsubscribed {
            followed.threads.insert(thread);
        }
    }
    Ok(followed)
}

/// Whether a user is subscribed to one thread.
pub(crate) async fn follows(
    at: &impl Read,
    user: UserNumber,
    room: RoomNumber,
    thread: &EventId,
) -> Result<bool, StorageError> {
    let row = THREAD_SUBSCRIPTIONS.get(at, &(user, room, thread)).await?;
    Ok(row.is_some_and(|Json(row)| row.state != State::Unsubscribed))
}

/// Queues the removal of a user's subscriptions: all of them, or those in one room.
///
/// # Errors
/// [`StorageError`] if the database fails.
pub(crate) async fn clear_subscriptions(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    room: Option<RoomNumber>,
) -> Result<(), StorageError> {
    let range = match room {
        Some(room) => Range::prefix(&(user, room)),
        None => Range::prefix(&(user,)),
    };
    for (key, Json(row)) in THREAD_SUBSCRIPTIONS.scan(db, &range, usize::MAX).await? {
        THREAD_SUBSCRIPTIONS.delete(batch, &key);
        THREAD_SUBSCRIPTION_CHANGES.delete(batch, &(user, row.position));
    }
    Ok(())
}

fn is_in_thread(event: &EventRecord, thread: &EventId) -> bool {
    RelatesTo::in_content(event.content())
        .is_some_and(|to| to.rel_type == "m.thread" && to.parent == thread)
}

/// What subscribing makes of a subscription, none if it stays as it is: `cause` is the place of the
/// event for which the client does it by itself.
fn subscribed(
    old: Option<&ThreadSubscription>,
    cause: Option<TimelineKey>,
) -> Result<Option<State>, SubscriptionError> {
    let new = if cause.is_some() { State::Automatic } else { State::Manual };
    match old {
        Some(old) if old.state == State::Manual || old.state == new => Ok(None),
        Some(ThreadSubscription { position, state: State::Unsubscribed })
            if cause.is_some_and(|cause| cause <= TimelineKey::live(*position)) =>
        {
            Err(SubscriptionError::Unsubscribed)
        }
        _ => Ok(Some(new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: State) -> ThreadSubscription {
        ThreadSubscription { position: 10, state }
    }

    #[test]
    fn who_subscribed_by_themselves_stays_so() {
        let event = Some(TimelineKey::live(20));
        assert_eq!(subscribed(None, event).unwrap(), Some(State::Automatic));
        assert_eq!(subscribed(None, None).unwrap(), Some(State::Manual));
        assert_eq!(subscribed(Some(&row(State::Automatic)), None).unwrap(), Some(State::Manual));
        assert_eq!(subscribed(Some(&row(State::Automatic)), event).unwrap(), None);
        assert_eq!(subscribed(Some(&row(State::Manual)), event).unwrap(), None);
        assert_eq!(subscribed(Some(&row(State::Manual)), None).unwrap(), None);
    }

    /// MSC4306: "servers must ensure that an automatic subscription cannot keep getting retriggered
    /// by clients"
    #[test]
    fn nothing_from_before_the_user_unsubscribed_subscribes_them_again() {
        let gone = row(State::Unsubscribed);
        for before in [TimelineKey::live(9), TimelineKey::live(10), TimelineKey::at(-5)] {
            let refused = subscribed(Some(&gone), Some(before));
            assert!(matches!(refused, Err(SubscriptionError::Unsubscribed)));
        }
        let after = subscribed(Some(&gone), Some(TimelineKey::live(11)));
        assert_eq!(after.unwrap(), Some(State::Automatic));
        assert_eq!(subscribed(Some(&gone), None).unwrap(), Some(State::Manual));
    }
}
