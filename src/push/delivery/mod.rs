//! Telling users' devices of what notifies them.
//!
//! A message writes nothing for those who are to hear of it. It is looked at once for all members
//! with pushers; whom it notifies gets it into the queue of each of their pushers, in memory. On
//! disk are the stream position up to which everything was looked at, and of each pusher the one up
//! to which it has told: what is between them is found in the timelines again. A pusher's position
//! is written as soon as its gateway has taken an event, so nothing is left out, and nothing told
//! twice but an event whose answer did not arrive or was not written when the server died.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

mod catch_up;
mod digest;
mod gateway;
mod lane;
mod mail;
mod notice;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::UserId;
use tokio::sync::Notify;

pub(crate) use lane::Progress;

use self::{
    digest::{Digest, Schedule},
    gateway::Gateways,
    lane::{Item, Lane},
};
use super::{
    Pusher, Pushers, Unread, Vapid,
    badge::Badges,
    event::PushEvent,
    mails::Mails,
    pushers::{Kind, PusherKey},
};
use crate::{
    clock::{Clock, Random},
    outgoing::{Outgoing, OutgoingError},
    rooms::{Room, RoomError, Rooms, news::Found},
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{PUSH_EVALUATED, PUSH_PROGRESS, PUSHERS},
    },
};

/// How often it is written down what was looked at.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// The only key of `push_evaluated`.
const EVALUATED: u64 = 0;

/// Tells pushers of events.
#[derive(Clone)]
pub(crate) struct Delivery {
    pub(super) db: Db,
    pub(super) rooms: Rooms,
    pub(super) unread: Unread,
    pushers: Pushers,
    badges: Badges,
    gateways: Gateways,
    /// None: nobody is told by mail.
    mails: Option<Mails>,
    clock: Clock,
    random: Random,
    stopping: Stopping,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Users whose pushers are to be read again.
    stale: Mutex<BTreeSet<UserNumber>>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Up to this stream position everything was looked at.
    evaluated: u64,
    /// What of it is on disk.
    written: u64,
    users: HashSet<UserNumber>,
    lanes: BTreeMap<PusherKey, Lane>,
}

impl State {
    fn of_user(&mut self, user: UserNumber) -> impl Iterator<Item = (&PusherKey, &mut Lane)> {
        let first = (user, String::new(), String::new());
        self.lanes.range_mut(first..).take_while(move |((of, ..), _)| *of == user)
    }
}

impl Delivery {
    /// Tells the pushers in `db`.
    ///
    /// # Errors
    /// [`OutgoingError`] if no requests can be made.
    #[expect(clippy::too_many_arguments, reason = "the areas that a notification is made of")]
    pub(crate) fn new(
        db: Db,
        rooms: Rooms,
        unread: Unread,
        pushers: Pushers,
        outgoing: &Outgoing,
        vapid: Vapid,
        mails: Option<Mails>,
        clock: Clock,
        random: Random,
        stopping: Stopping,
    ) -> Result<Self, OutgoingError> {
        rooms.news().follow();
        let delivery = Self {
            badges: Badges::new(db.clone(), unread.clone()),
            gateways: Gateways::new(outgoing, vapid, clock.clone(), random.clone())?,
            db,
            rooms,
            unread,
            pushers,
            mails,
            clock,
            random,
            stopping,
            shared: Arc::default(),
        };
        let telling = delivery.clone();
        delivery.pushers.when_changed(Box::new(move |user| telling.pushers_changed(user)));
        Ok(delivery)
    }

    /// A user's pushers changed: they are read again before anything else is looked at.
    pub(crate) fn pushers_changed(&self, user: UserNumber) {
        self.shared.stale.lock().insert(user);
        self.shared.changed.notify_one();
    }

    /// A user read something in a room: there is less to be counted.
    pub(crate) async fn was_read(&self, user: UserNumber, room: RoomNumber) {
        if !self.shared.state.lock().users.contains(&user) {
            return;
        }
        self.badges.forget(user, room).await;
        let mut ready = Vec::new();
        let mut state = self.shared.state.lock();
        // A mail that is not sent yet is not taken back: it is looked at when it is its time.
        let told = |(_, lane): &(&PusherKey, &mut Lane)| lane.enabled && lane.digest.is_none();
        for (key, lane) in state.of_user(user).filter(told) {
            lane.progress.read = true;
            if !std::mem::replace(&mut lane.working, true) {
                ready.push(key.clone());
            }
        }
        drop(state);
        self.start(ready);
    }

    /// Looks at what happens, and has it told, until the server stops.
    pub(crate) async fn run(self) {
        // Subscribed before reading: what is committed in between wakes too.
        let waiter = self.db.wait_for(UserNumber::EVERYBODY);
        while let Err(error) = self.resume().await {
            complain(&error, "pushers can't be read");
            tokio::select! {
                () = self.stopping.wait() => return,
                () = tokio::time::sleep(WRITE_EVERY) => {}
            }
        }
        let mut write = tokio::time::interval(WRITE_EVERY);
        loop {
            tokio::select! {
                () = self.stopping.wait() => break,
                () = waiter.woken() => {}
                () = self.shared.changed.notified() => {}
                _ = write.tick() => self.write_progress().await,
            }
            if let Err(error) = self.look().await {
                complain(&error, "what is to be pushed can't be found");
            }
        }
        self.write_progress().await;
    }

    /// Pushers as they were before a restart.
    async fn resume(&self) -> Result<(), RoomError> {
        let until = self.db.visible_position();
        // Before it is first written down nothing is known to have been looked at.
        let evaluated = PUSH_EVALUATED.get(&self.db, &EVALUATED).await?.unwrap_or(0);
        let mut range = Range::all();
        let mut lanes = BTreeMap::new();
        loop {
            const STEP: usize = 1_000;
            let rows = PUSHERS.scan(&self.db, &range, STEP).await?;
            let Some((last, _)) = rows.last() else { break };
            range = range.after(last);
            let keys = rows.iter().map(|(key, _)| key.clone());
            let progress = PUSH_PROGRESS.multi_get(&self.db, keys).await?;
            for ((key, Json(pusher)), progress) in rows.into_iter().zip(progress) {
                let progress = progress.map_or_else(Progress::default, |Json(progress)| progress);
                let mut lane = Lane::resumed(progress, pusher.since, evaluated, until);
                lane.enabled = self.is_on(&pusher);
                lane.digest = self.digest(&pusher);
                lanes.insert(key, lane);
            }
        }
        let mut state = self.shared.state.lock();
        state.users = lanes.keys().map(|(user, ..)| *user).collect();
        state.lanes = lanes;
        (state.evaluated, state.written) = (until, evaluated);
        let mut ready = Vec::new();
        for (key, lane) in &mut state.lanes {
            lane.working = lane.enabled && !lane.is_idle();
            if lane.working {
                ready.push(key.clone());
            }
        }
        drop(state);
        self.start(ready);
        Ok(())
    }

    /// Looks at everything that happened since the last time.
    async fn look(&self) -> Result<(), RoomError> {
        // In this order: whatever is visible was noted before, and whoever set a pusher before an
        // event was sent is told of it.
        let until = self.db.visible_position();
        let found = self.rooms.news().take(until);
        let users = std::mem::take(&mut *self.shared.stale.lock());
        let items = async {
            for user in &users {
                self.read_pushers(*user).await?;
            }
            self.evaluate(&found, until).await
        };
        let items = match items.await {
            Ok(items) => items,
            Err(error) => {
                self.shared.stale.lock().extend(users);
                self.rooms.news().put_back(found);
                return Err(error);
            }
        };
        let mut state = self.shared.state.lock();
        let mut ready = Vec::new();
        for (user, item) in items {
            for (key, lane) in state.of_user(user).filter(|(_, lane)| lane.enabled) {
                lane.add(item);
                if lane.digest.is_some() {
                    // It may be due sooner than what it waits for.
                    lane.hurry.notify_one();
                }
                if !lane.is_idle() && !std::mem::replace(&mut lane.working, true) {
                    ready.push(key.clone());
                }
            }
        }
        state.evaluated = state.evaluated.max(until);
        drop(state);
        self.start(ready);
        Ok(())
    }

    /// A user's pushers as they are now.
    async fn read_pushers(&self, user: UserNumber) -> Result<(), StorageError> {
        let pushers = self.pushers.of_user(user).await?;
        let mut state = self.shared.state.lock();
        let evaluated = state.evaluated;
        let mut old: BTreeMap<PusherKey, Lane> = BTreeMap::new();
        let keys: Vec<PusherKey> = state.of_user(user).map(|(key, _)| key.clone()).collect();
        for key in keys {
            old.extend(state.lanes.remove_entry(&key));
        }
        if pushers.is_empty() {
            state.users.remove(&user);
        } else {
            state.users.insert(user);
        }
        for (key, pusher) in pushers {
            let by_mail = pusher.kind == Kind::Email;
            let mut lane = old
                .remove(&key)
                .filter(|lane| lane.digest.is_some() == by_mail)
                .unwrap_or_else(|| Lane::new(self.digest(&pusher)));
            let is_on = self.is_on(&pusher);
            if lane.enabled != is_on {
                lane.skip_to(evaluated);
            }
            (lane.enabled, lane.since) = (is_on, pusher.since);
            // Whoever set it again may have set it right.
            lane.retry_now();
            lane.hurry.notify_one();
            if pusher.is_to_be_activated() && lane.asked != pusher.activation {
                lane.asked.clone_from(&pusher.activation);
                tokio::spawn(self.clone().ask_to_activate(key.clone(), pusher));
            }
            state.lanes.insert(key, lane);
        }
        Ok(())
    }

    fn is_on(&self, pusher: &Pusher) -> bool {
        pusher.is_on() && (pusher.kind != Kind::Email || self.mails.is_some())
    }

    /// Where what a pusher sends mail about waits.
    fn digest(&self, pusher: &Pusher) -> Option<Digest> {
        let settings = self.mails.as_ref().map(|mails| Schedule::new(&mails.settings));
        (pusher.kind == Kind::Email).then(|| Digest::new(settings.unwrap_or_default()))
    }

    /// Who is to be told of what happened, in the order in which it did.
    async fn evaluate(
        &self,
        found: &Found,
        until: u64,
    ) -> Result<Vec<(UserNumber, Item)>, RoomError> {
        let mut items = Vec::new();
        let (after, nobody) = {
            let state = self.shared.state.lock();
            (state.evaluated, state.users.is_empty())
        };
        if nobody {
            return Ok(items);
        }
        let (at, now) = (self.db.snapshot(), self.clock.now_ms());
        for room in found.rooms.keys() {
            let room = self.rooms.numbered(*room).await?;
            let members = self.with_pushers(&room.local_members());
            let (mut from, upto) = (after, until);
            loop {
                let events = self.unread.look_on(&at, &room, from, upto).await?;
                let Some((last, _)) = events.last() else { break };
                from = *last;
                for (_, event) in &events {
                    let sent_ms = event.sent_ms.min(now);
                    let item = Item { position: event.position, room: room.number, sent_ms };
                    let users = self.concerned(&room, event, &members).await?;
                    let users = self.unread.notified_among(&at, &room, event, &users).await?;
                    items.extend(users.into_iter().map(|user| (user, item)));
                }
            }
        }
        for ((user, room), position) in &found.outside {
            if !self.with_pushers(&[*user]).is_empty() {
                let item = Item { position: *position, room: *room, sent_ms: now };
                items.push((*user, item));
            }
        }
        items.sort_by_key(|(_, item)| item.position);
        Ok(items)
    }

    /// Those of `users` who have pushers.
    fn with_pushers(&self, users: &[UserNumber]) -> Vec<UserNumber> {
        let state = self.shared.state.lock();
        users.iter().filter(|user| state.users.contains(user)).copied().collect()
    }

    /// The members of a room, without the sender, and whoever the event invites.
    async fn concerned(
        &self,
        room: &Room,
        event: &PushEvent,
        members: &[UserNumber],
    ) -> Result<Vec<UserNumber>, RoomError> {
        let mut users = members.to_vec();
        if event.event_type == "m.room.member"
            && let Some(target) = &event.state_key
            && let Ok(target) = UserId::parse(target.as_str())
            && target.server_name() == self.rooms.server_name()
            && let Some(target) = self.db.users().find(&self.db, &*target).await?
            && !room.local_members().contains(&target)
        {
            users.extend(self.with_pushers(&[target]));
        }
        Ok(users)
    }

    /// Writes down what was looked at and, before that, what of it is still to be told.
    async fn write_progress(&self) {
        let queued = {
            let mut state = self.shared.state.lock();
            let mut batch = Batch::unsynced();
            if state.written != state.evaluated {
                state.written = state.evaluated;
                PUSH_EVALUATED.put(&mut batch, &EVALUATED, &state.evaluated);
            }
            for (key, lane) in &mut state.lanes {
                if let Some(progress) = lane.take_changes() {
                    PUSH_PROGRESS.put(&mut batch, key, &Json(progress));
                }
            }
            if batch.is_empty() {
                return;
            }
            // Under the lock, so that what a pusher writes of itself comes before or after.
            self.db.enqueue(batch)
        };
        if let Err(error) = queued.await {
            tracing::error!(%error, "what was pushed can't be written down");
        }
    }

    fn start(&self, keys: Vec<PusherKey>) {
        for key in keys {
            let delivery = self.clone();
            tokio::spawn(async move { delivery.work(key).await });
        }
    }
}

fn complain(error: &RoomError, what: &'static str) {
    let error = error as &dyn std::error::Error;
    tracing::error!(error, "{what}");
}
