//! One pusher at work: one thing after the other.

use std::{sync::Arc, time::Duration};

use ruma::OwnedUserId;
use serde_json::json;

use super::{
    Delivery, complain,
    digest::Oldest,
    gateway::{Answer, WebPusher},
    lane::{Item, Lane, Step},
    notice::Notify,
};
use crate::{
    push::pushers::{Kind, Pusher, PusherKey},
    rooms::RoomError,
    storage::{Batch, Json, StorageError, intern::RoomNumber, schema::PUSH_PROGRESS},
};

/// How long it waits when the database fails.
const PAUSE: Duration = Duration::from_secs(5);

/// What a pusher was told.
#[derive(Clone, Copy)]
pub(super) enum Told<'a> {
    /// Of an event, with how much was unread.
    Event(Item, u64),
    /// How much is unread.
    Counts(u64),
    /// Of what was unread in these rooms, up to a stream position.
    Mail {
        /// The rooms.
        rooms: &'a [(RoomNumber, Oldest)],
        /// The position.
        upto: u64,
    },
}

impl Delivery {
    /// Does what there is to do for a pusher.
    pub(super) async fn work(self, key: PusherKey) {
        loop {
            let step = self.next_step(&key);
            let done = match step {
                None | Some(Step::Rest) => return,
                Some(Step::Wait(at)) => {
                    if !self.pause(&key, at).await {
                        return;
                    }
                    continue;
                }
                Some(step) if self.stopping.is_stopping() => {
                    tracing::debug!(?step, "left for after the restart");
                    return;
                }
                Some(step) => self.step(&key, step).await,
            };
            if let Err(error) = done {
                complain(&error, "a pusher can't be served");
                tokio::select! {
                    () = self.stopping.wait() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    /// What comes next; nothing if the pusher is gone. Whoever is told to rest leaves it to others.
    fn next_step(&self, key: &PusherKey) -> Option<Step> {
        let now = self.clock.now_ms();
        let mut state = self.shared.state.lock();
        let evaluated = state.evaluated;
        let lane = state.lanes.get_mut(key)?;
        let step = if lane.enabled { lane.next(now, evaluated) } else { Step::Rest };
        lane.working = step != Step::Rest;
        Some(step)
    }

    /// Waits until this time, or until somebody hurries; false if the server stops.
    async fn pause(&self, key: &PusherKey, until_ms: u64) -> bool {
        let pause = Duration::from_millis(until_ms.saturating_sub(self.clock.now_ms()).max(1));
        let hurry = {
            let state = self.shared.state.lock();
            state.lanes.get(key).map(|lane| Arc::clone(&lane.hurry))
        };
        let Some(hurry) = hurry else { return true };
        tokio::select! {
            () = self.stopping.wait() => false,
            () = tokio::time::sleep(pause) => true,
            () = hurry.notified() => true,
        }
    }

    async fn step(&self, key: &PusherKey, step: Step) -> Result<(), RoomError> {
        let Some(pusher) = self.pushers.get(key).await? else {
            self.shared.state.lock().lanes.remove(key);
            return Ok(());
        };
        let user_id = self.db.users().name(&self.db, key.0).await?;
        match step {
            Step::Find(after, upto) => {
                let (items, reached) = self.find(key.0, &user_id, after, upto).await?;
                if let Some(lane) = self.shared.state.lock().lanes.get_mut(key) {
                    lane.found(items, reached, upto);
                }
                Ok(())
            }
            Step::Tell(item) => self.tell(key, &pusher, &user_id, item).await,
            Step::Mail => self.mail(key, &pusher, &user_id).await,
            Step::Badge => self.tell_badge(key, &pusher, &user_id).await,
            Step::Rest | Step::Wait(_) => Ok(()),
        }
    }

    async fn tell(
        &self,
        key: &PusherKey,
        pusher: &Pusher,
        user_id: &OwnedUserId,
        item: Item,
    ) -> Result<(), RoomError> {
        let Some(notice) = self.notice(key.0, user_id, item).await? else {
            if let Some(lane) = self.shared.state.lock().lanes.get_mut(key) {
                lane.passed(item);
            }
            return Ok(());
        };
        let unread = self.badges.of(key.0, user_id).await?;
        let body = Notify::event(key, pusher, user_id, &notice, unread);
        let answer = self.ask(key, pusher, body).await;
        self.note(key, answer, Told::Event(item, unread)).await
    }

    async fn tell_badge(
        &self,
        key: &PusherKey,
        pusher: &Pusher,
        user_id: &OwnedUserId,
    ) -> Result<(), RoomError> {
        let known = {
            let mut state = self.shared.state.lock();
            let Some(lane) = state.lanes.get_mut(key) else { return Ok(()) };
            // What is read from here on is told anew.
            lane.progress.read = false;
            lane.progress.badge.unwrap_or(0)
        };
        let unread = self.badges.of(key.0, user_id).await?;
        let wanted = !pusher.events_only();
        if unread == known || !wanted {
            return Ok(());
        }
        let body = Notify::counts(key, pusher, unread);
        let answer = self.ask(key, pusher, body).await;
        if !matches!(answer, Answer::Taken | Answer::Rejected)
            && let Some(lane) = self.shared.state.lock().lanes.get_mut(key)
        {
            // A gateway that never wants this is left alone.
            lane.progress.read = !matches!(answer, Answer::Refused(_));
        }
        self.note(key, answer, Told::Counts(unread)).await
    }

    async fn ask(&self, key: &PusherKey, pusher: &Pusher, body: Notify<'_>) -> Answer {
        let was_failing = {
            let state = self.shared.state.lock();
            state.lanes.get(key).is_some_and(Lane::is_failing)
        };
        match (pusher.kind, pusher.url()) {
            (Kind::Http, Some(url)) => self.gateways.notify(url, &key.2, &body, was_failing).await,
            (Kind::Webpush, Some(url)) => {
                let urgent = body.is_urgent();
                let to = WebPusher { url, receiver: pusher.receiver(&key.2) };
                self.gateways.push(&to, &body.payload(), urgent, was_failing).await
            }
            _ => Answer::Failed("it has no address".to_owned()),
        }
    }

    /// Sends a device what it is to activate its pusher with, again while the push service does not
    /// take it and there is time.
    pub(super) async fn ask_to_activate(self, key: PusherKey, pusher: Pusher) {
        let Some(activation) = &pusher.activation else { return };
        let (Some(url), receiver) = (pusher.url(), pusher.receiver(&key.2)) else { return };
        let message = json!({ "app_id": key.1, "ack_token": activation.token }).to_string();
        let to = WebPusher { url, receiver };
        let mut pause = Duration::from_secs(1);
        while self.clock.now_ms() < activation.expires_ms {
            match self.gateways.push(&to, message.as_bytes(), true, false).await {
                Answer::Taken | Answer::Refused(_) => return,
                Answer::Rejected => {
                    if let Err(error) = self.pushers.remove(&key).await {
                        complain(&error.into(), "a pusher can't be removed");
                    }
                    return;
                }
                Answer::Failed(why) => tracing::debug!(why, "a push service took nothing"),
            }
            tokio::select! {
                () = self.stopping.wait() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause *= 2;
        }
    }

    fn spread(&self) -> u64 {
        u64::from_be_bytes(self.random.bytes())
    }

    /// Notes what became of a request, and writes it down.
    pub(super) async fn note(
        &self,
        key: &PusherKey,
        answer: Answer,
        told: Told<'_>,
    ) -> Result<(), RoomError> {
        if answer == Answer::Rejected {
            tracing::info!(app_id = key.1, "a push gateway knows a pushkey no more");
            return Ok(self.pushers.remove(key).await?);
        }
        let now = self.clock.now_ms();
        let queued = {
            let mut state = self.shared.state.lock();
            let evaluated = state.evaluated;
            let Some(lane) = state.lanes.get_mut(key) else { return Ok(()) };
            match answer {
                Answer::Taken | Answer::Rejected => {
                    let unread = match told {
                        Told::Event(item, unread) => {
                            lane.passed(item);
                            Some(unread)
                        }
                        Told::Counts(unread) => Some(unread),
                        Told::Mail { rooms, upto } => {
                            lane.mailed(rooms, upto, now);
                            None
                        }
                    };
                    lane.succeeded(unread);
                }
                Answer::Failed(why) => {
                    tracing::debug!(app_id = key.1, why, "a push gateway took nothing");
                    lane.failed(now, self.spread(), evaluated, false);
                }
                Answer::Refused(why) => {
                    tracing::debug!(app_id = key.1, why, "a push gateway refused");
                    let alone = matches!(told, Told::Counts(_));
                    lane.failed(now, self.spread(), evaluated, !alone);
                }
            }
            let Some(progress) = lane.take_changes() else { return Ok(()) };
            let mut batch = Batch::unsynced();
            PUSH_PROGRESS.put(&mut batch, key, &Json(progress));
            // Under the lock: see `write_progress`.
            self.db.enqueue(batch)
        };
        let written: Result<(), StorageError> = queued.await;
        Ok(written?)
    }
}
