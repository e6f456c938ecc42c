//! What application services are told of rooms: decided when an event is written, in its batch.

use std::sync::Arc;

use ruma::UserId;
use serde_json::value::RawValue;

use super::{
    Rooms,
    error::RoomError,
    receipts::Concerned,
    record::{EventNumber, EventRecord, Membership},
    show::{Unsigned, raw, splice},
    writer::{Added, RoomWriter},
};
use crate::{
    appservice::{Appservices, Audience, queue::Queued, registry::Registry},
    storage::{Batch, StorageError, intern::RoomNumber, schema::EVENTS},
};

/// Who is told of each event of a change.
pub(super) struct Listeners {
    registry: Arc<Registry>,
    of_events: Vec<Audience>,
}

impl Listeners {
    /// Queues the event at this place of the change for those who are told of it.
    pub(super) fn tell(
        &self,
        batch: &mut Batch,
        place: usize,
        (room, event): (RoomNumber, EventNumber),
        position: u64,
    ) {
        if let Some(audience) = self.of_events.get(place) {
            self.registry.queue(batch, *audience, (position, 0), &Queued::event(room, event));
        }
    }
}

impl Rooms {
    /// Has application services told of what happens from now on. Set once, when the server is put
    /// together.
    pub(crate) fn tell(&self, appservices: Appservices) {
        self.shared.appservices.get_or_init(|| appservices);
    }

    pub(super) fn appservices(&self) -> Option<Arc<Registry>> {
        self.shared.appservices.get()?.registry()
    }

    /// Whom the receipts of a room concern; none if there are no application services.
    ///
    /// # Errors
    /// [`StorageError`] if the room can't be read.
    pub(crate) async fn concerned(
        &self,
        number: RoomNumber,
    ) -> Result<Option<Concerned>, StorageError> {
        let Some(registry) = self.appservices() else { return Ok(None) };
        let unreadable = |error| match error {
            RoomError::Storage(error) => error,
            _ => StorageError::Corrupt { table: EVENTS.id.name() },
        };
        let Some(room) = self.room_if_here(number).await.map_err(unreadable)? else {
            return Ok(None);
        };
        let audience = registry.of_room(self.db(), &room).await?;
        Ok(Some(Concerned { registry, audience, room_id: room.id.clone() }))
    }

    /// An event as application services see it; none if it is gone.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if what is stored is no event.
    pub(crate) async fn plain_event(
        &self,
        room: RoomNumber,
        event: EventNumber,
    ) -> Result<Option<(EventRecord, Box<RawValue>)>, RoomError> {
        let Some(record) = EVENTS.get(self.db(), &(room, event)).await? else { return Ok(None) };
        let Some(room) = self.room_if_here(room).await? else { return Ok(None) };
        let related = async |number: Option<EventNumber>| match number {
            Some(number) => EVENTS.get(self.db(), &(room.number, number)).await,
            None => Ok(None),
        };
        let replaced = related(record.replaces).await?;
        let redaction = related(record.redacted_by).await?;
        let redacts_in_content = room.rules.redaction.content_field_redacts;
        let now_ms = self.clock().now_ms();
        let redaction = redaction.map(|by| {
            splice(&by, Some(&room.id), redacts_in_content, Unsigned::plain(&by, now_ms))
        });
        let unsigned = Unsigned {
            prev_content: replaced.as_ref().map(EventRecord::content),
            redacted_because: redaction.as_deref(),
            ..Unsigned::plain(&record, now_ms)
        };
        let json = raw(splice(&record, Some(&room.id), redacts_in_content, unsigned))?;
        Ok(Some((record, json)))
    }

    /// Queues a member event of a user of this server, in a room that is not here, for whom the
    /// user concerns.
    pub(super) fn tell_of_outside(
        &self,
        batch: &mut Batch,
        (room, position): (&ruma::RoomId, u64),
        pdu: &super::pdu::Pdu,
        user: (crate::storage::intern::UserNumber, &UserId),
    ) -> Result<(), RoomError> {
        let Some(registry) = self.appservices() else { return Ok(()) };
        let audience = registry.of_user(user.0, user.1);
        if audience.is_empty() {
            return Ok(());
        }
        let content: &RawValue = serde_json::from_str(pdu.content())
            .map_err(|_| RoomError::Corrupt { what: "the content of a member event" })?;
        let event = serde_json::json!({
            "type": pdu.event_type, "room_id": room, "event_id": pdu.event_id, "sender": pdu.sender,
            "state_key": pdu.state_key, "origin_server_ts": pdu.origin_server_ts,
            "content": content, "unsigned": {},
        });
        let event = raw(event.to_string())?;
        registry.queue(batch, audience, (position, 0), &Queued::Outside(event));
        Ok(())
    }
}

impl RoomWriter {
    /// Who is told of this change: whoever the room concerned before it or does after it, and of
    /// an event also whom its sender or the member it is about concerns.
    pub(super) async fn listeners(&self) -> Result<Option<Listeners>, StorageError> {
        let Some(registry) = self.rooms.appservices() else { return Ok(None) };
        let db = self.rooms.db();
        let mut of_room = registry.of_room(db, &self.room).await?;
        let members = self.added.iter().flat_map(|added| &added.members);
        for member in members.filter(|one| one.is_local && one.new == Some(Membership::Join)) {
            let name = db.users().name(db, member.user).await?;
            of_room = of_room.and(registry.of_user(member.user, &name));
        }
        let mut of_events = Vec::with_capacity(self.added.len());
        for Added { record, .. } in &self.added {
            let mut audience = of_room.and(registry.of_user(record.sender, &record.sender_id));
            if record.event_type == "m.room.member"
                && let Some(Ok(target)) = record.state_key.as_deref().map(UserId::parse)
                && self.rooms.is_local(&target)
            {
                let number = db.users().intern(db, &*target).await?;
                audience = audience.and(registry.of_user(number, &target));
            }
            of_events.push(audience);
        }
        Ok(Some(Listeners { registry, of_events }))
    }
}
