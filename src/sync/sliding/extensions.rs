//! What is sent besides rooms.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Form, Request, Sliding, SlidingError, Wanted,
    connection::{SentRoom, State},
    request,
    response::{AccountData, ByRoom, E2ee, Extensions, ThreadSubscriptions, ToDevice},
};
use crate::{
    e2ee::{Counts, DELIVERED_AT_ONCE},
    rooms::record::{Membership, UserRoom},
    storage::{RoomChanges, Snapshot, intern::RoomNumber},
    sync::{
        SyncError, SyncFilter,
        account_data::account_data,
        e2ee::DeviceLists,
        ephemeral::{receipt_event, typing_event},
    },
    users::{Ignored, session::Session},
};

/// What an answer covers.
pub(super) struct Window<'a> {
    pub(super) at: &'a Snapshot,
    pub(super) session: &'a Session,
    /// None on a new connection.
    pub(super) since: Option<u64>,
    pub(super) until: u64,
    /// All rooms of the user.
    pub(super) rooms: &'a [(RoomNumber, UserRoom)],
    /// The rooms that the client has got, or gets now.
    pub(super) known: &'a HashMap<RoomNumber, Arc<SentRoom>>,
    /// What it had before.
    pub(super) before: &'a State,
    /// Those it gets for the first time.
    pub(super) initial: &'a BTreeSet<RoomNumber>,
    /// What it wants now.
    pub(super) wanted: &'a BTreeMap<RoomNumber, Wanted<'a>>,
    pub(super) form: Form,
    /// Nothing else changed.
    pub(super) only: Option<&'a RoomChanges>,
    /// What it was told of the keys it has left.
    pub(super) told: &'a Counts,
}

impl Sliding {
    /// Removes the messages that the device says it has.
    pub(super) async fn note_delivered(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<(), SlidingError> {
        let asked = &request.body.extensions.to_device;
        if let (true, Some(since)) = (asked.is_on(), asked.position()?) {
            if since > self.sync.db.visible_position() {
                return Err(SyncError::FromTheFuture.into());
            }
            if self.sync.views.may_have_had_messages(session, since) {
                let to_device = &self.sync.e2ee.to_device;
                to_device.delivered(session.user, &session.device_id, since).await?;
            }
        }
        Ok(())
    }

    /// The extensions, and the rooms in which the client is told who types.
    pub(super) async fn extensions(
        &self,
        window: &Window<'_>,
        asked: &request::Extensions,
    ) -> Result<(Extensions, BTreeSet<RoomNumber>), SlidingError> {
        let mut extensions = Extensions::default();
        if asked.to_device.is_on() {
            extensions.to_device = Some(self.to_device(window, &asked.to_device).await?);
        }
        if asked.e2ee.is_on() {
            extensions.e2ee = Some(self.e2ee(window).await?);
        }
        if asked.account_data.is_on() {
            extensions.account_data = Some(self.account_data(window, &asked.account_data).await?);
        }
        if asked.receipts.is_on() {
            extensions.receipts = Some(self.receipts(window, &asked.receipts).await?);
        }
        let mut typing = BTreeSet::new();
        if asked.typing.is_on() {
            let (by_room, told) = self.typing(window, &asked.typing).await?;
            extensions.typing = Some(by_room);
            typing = told;
        }
        extensions.thread_subscriptions =
            self.thread_subscriptions(window, asked.thread_subscriptions.limit()).await?;
        if asked.profiles.rooms.is_on() {
            extensions.profiles = self.profiles(window, &asked.profiles).await?;
        }
        Ok((extensions, typing))
    }

    /// The extensions when there is nothing to tell.
    pub(super) async fn no_extensions(
        &self,
        session: &Session,
        asked: &request::Extensions,
    ) -> Result<Extensions, SlidingError> {
        let e2ee = if asked.e2ee.is_on() {
            Some(self.keys_left(session, DeviceLists::default(), None).await?)
        } else {
            None
        };
        let next_batch = asked.to_device.since.clone().filter(|_| asked.to_device.is_on());
        Ok(Extensions {
            to_device: next_batch.map(|next_batch| ToDevice { next_batch, events: Vec::new() }),
            e2ee,
            account_data: asked.account_data.is_on().then(AccountData::default),
            receipts: asked.receipts.is_on().then(ByRoom::default),
            typing: asked.typing.is_on().then(ByRoom::default),
            thread_subscriptions: None,
            profiles: None,
        })
    }

    async fn thread_subscriptions(
        &self,
        window: &Window<'_>,
        limit: usize,
    ) -> Result<Option<ThreadSubscriptions>, SlidingError> {
        if limit == 0 || window.only.is_some() {
            return Ok(None);
        }
        let (user, since) = (window.session.user, window.since.unwrap_or(0));
        let rooms = &self.sync.rooms;
        let changes =
            rooms.subscription_changes(window.at, user, since, window.until, limit).await?;
        let prev_batch = changes.earlier.map(|position| position.to_string());
        Ok((!changes.is_empty()).then_some(ThreadSubscriptions { changes, prev_batch }))
    }

    async fn to_device(
        &self,
        window: &Window<'_>,
        asked: &request::ToDevice,
    ) -> Result<ToDevice, SlidingError> {
        let since = asked.position()?.unwrap_or(0);
        if window.only.is_some() {
            // It has all there are.
            let next_batch = window.until.to_string();
            return Ok(ToDevice { next_batch, events: Vec::new() });
        }
        let limit = asked
            .limit
            .and_then(|limit| usize::try_from(limit).ok())
            .map_or(DELIVERED_AT_ONCE, |limit| limit.clamp(1, DELIVERED_AT_ONCE));
        let (user, device) = (window.session.user, &window.session.device_id);
        let to_device = &self.sync.e2ee.to_device;
        // The device has what it was given with its token.
        let span = (since, window.until);
        let inbox = to_device.exchange(window.at, user, device, span, limit).await?;
        if !inbox.events.is_empty() {
            self.sync.views.give_messages(window.session, inbox.upto);
        }
        Ok(ToDevice { next_batch: inbox.upto.to_string(), events: inbox.events })
    }

    async fn e2ee(&self, window: &Window<'_>) -> Result<E2ee, SlidingError> {
        let lists = match window.since {
            Some(since) if window.only.is_none() => {
                let span = (since, window.until);
                self.sync.device_lists(window.at, window.session, span, window.rooms).await?
            }
            _ => DeviceLists::default(),
        };
        self.keys_left(window.session, lists, Some(window.told)).await
    }

    /// Tells what keys the device has left.
    async fn keys_left(
        &self,
        session: &Session,
        lists: DeviceLists,
        told: Option<&Counts>,
    ) -> Result<E2ee, SlidingError> {
        let keys = &self.sync.e2ee.keys;
        let counts = keys.counts(session.user, &session.device_id).await?;
        keys.tell(session.user, &session.device_id, &counts);
        Ok(E2ee {
            lists,
            one_time: counts.one_time.clone(),
            unused_fallback: counts.unused_fallback.clone(),
            fewer_keys: told.is_some_and(|told| counts.are_fewer_than(told)),
        })
    }

    async fn account_data(
        &self,
        window: &Window<'_>,
        asked: &request::RoomSwitch,
    ) -> Result<AccountData, SlidingError> {
        let user = window.session.user;
        let (global, mut changed) = if window.only.is_some() {
            (Vec::new(), BTreeMap::new())
        } else {
            let all = SyncFilter::default();
            account_data(window.at, user, window.since, window.until, &all).await?
        };
        let mut data = AccountData { global, rooms: BTreeMap::new() };
        for number in self.rooms_of(window, asked).await? {
            let events = if window.initial.contains(&number) {
                self.room_account_data(window.at, user, number).await?
            } else {
                changed.remove(&number).unwrap_or_default()
            };
            if !events.is_empty() {
                data.rooms.insert(self.sync.rooms.room_id(number).await?, events);
            }
        }
        Ok(data)
    }

    async fn receipts(
        &self,
        window: &Window<'_>,
        asked: &request::RoomSwitch,
    ) -> Result<ByRoom, SlidingError> {
        let mut by_room = ByRoom::default();
        let user = window.session.user;
        let mut ignored = None;
        for number in self.rooms_of(window, asked).await? {
            let is_initial = window.initial.contains(&number);
            let since = window.since.filter(|_| !is_initial).unwrap_or(0);
            let receipts =
                self.sync.receipts.changed(window.at, number, user, since, window.until).await?;
            if receipts.is_empty() {
                continue;
            }
            let ignored = if let Some(ignored) = &ignored {
                ignored
            } else {
                &*ignored.insert(Ignored::load(window.at, user).await?)
            };
            if let Some(event) = receipt_event(&self.sync.db, receipts, ignored).await? {
                by_room.rooms.insert(self.sync.rooms.room_id(number).await?, event);
            }
        }
        Ok(by_room)
    }

    async fn typing(
        &self,
        window: &Window<'_>,
        asked: &request::RoomSwitch,
    ) -> Result<(ByRoom, BTreeSet<RoomNumber>), SlidingError> {
        let mut by_room = ByRoom::default();
        let typing = &self.sync.typing;
        let mut ignored = None;
        let rooms = self.rooms_of(window, asked).await?;
        for number in &rooms {
            let users = match window.since {
                // Whoever has not heard of it lately is told who types now.
                Some(since) if window.before.typing.contains(number) => {
                    typing.changed_since(*number, since)
                }
                _ => Some(typing.now(*number)).filter(|users| !users.is_empty()),
            };
            if let Some(users) = users {
                let ignored = if let Some(ignored) = &ignored {
                    ignored
                } else {
                    let user = window.session.user;
                    &*ignored.insert(Ignored::load(window.at, user).await?)
                };
                let event = typing_event(&self.sync.db, &users, ignored).await?;
                by_room.rooms.insert(self.sync.rooms.room_id(*number).await?, event);
            }
        }
        Ok((by_room, rooms.into_iter().collect()))
    }

    /// The joined rooms for which something is wanted: all that the client has got, unless it names
    /// lists or rooms. In the merged form those that it wants now.
    pub(super) async fn rooms_of(
        &self,
        window: &Window<'_>,
        asked: &request::RoomSwitch,
    ) -> Result<Vec<RoomNumber>, SlidingError> {
        let mut found = Vec::new();
        for (number, _) in window.rooms {
            let Some(sent) = window.known.get(number) else { continue };
            if sent.membership != Membership::Join {
                continue;
            }
            if asked.is_restricted() || window.form == Form::Merged {
                let Some(wanted) = window.wanted.get(number) else { continue };
                let id = self.sync.rooms.room_id(*number).await?;
                if !asked.wants(id.as_str(), wanted.subscribed, &wanted.lists) {
                    continue;
                }
            }
            found.push(*number);
        }
        Ok(found)
    }
}
