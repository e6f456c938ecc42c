//! Adding events of this server's users: built, checked, signed.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, UserId,
    room_version_rules::EventIdFormatVersion, signatures::reference_hash,
};
use serde_json::value::RawValue;
use state_resolution::EventIx;

use super::{
    auth::{Message, forbidden},
    auth_record::{AuthRecord, relevant_content},
    create::object,
    error::RoomError,
    event::{self, Draft, Place, Reference},
    ingest::{Known, Verdict},
    record::{EventNumber, EventRecord},
    room::{Extremity, Room, StateEvent},
    state::State,
    writer::{Added, CORRUPT, RoomWriter, Sender, Shown},
};
use crate::storage::schema::AUTH_EVENTS;

/// The most `prev_events` of an event.
const MAX_PREV_EVENTS: usize = 20;
/// The deepest an event can claim to be.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
const MAX_DEPTH: u64 = (1 << 53) - 1;

impl RoomWriter {
    /// Adds an event after the last one: builds, checks, signs it.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the authorization rule that it fails.
    pub(super) async fn append(
        &mut self,
        sender: Sender<'_>,
        draft: Draft,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        let now = self.rooms.clock().now_ms();
        self.append_at(sender, draft, now).await
    }

    /// The same, with the time that the event claims.
    ///
    /// # Errors
    /// [`RoomError::Unapproved`] besides, if the room's policy server is to be asked first.
    #[expect(clippy::too_many_lines, reason = "one event's way, step by step")]
    pub(super) async fn append_at(
        &mut self,
        sender: Sender<'_>,
        draft: Draft,
        origin_server_ts: u64,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        if let Some(approved) = self.approved(sender, &draft) {
            return self.append_approved(&approved).await;
        }
        let room = Arc::clone(&self.room);
        let content = RawValue::from_string(event::json(&draft.content))
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let state_key = draft.state_key.as_deref();
        if state_key.is_none() && room.is_held_up() {
            return Err(RoomError::NotWhole { room: room.id.clone() });
        }
        let is_create = draft.event_type == "m.room.create";
        if self.graph.next.0 == 1 {
            self.write_root().await?;
        }
        let parents = newest(&self.graph.extremities);
        let before = self.state_after(&parents).await?;
        let relevant = relevant_content(&draft.event_type, content.get());
        let chosen_id =
            event::chosen_id(&room.rules, &self.rooms.shared.random, self.rooms.server_name());
        let (auth, visibility) = {
            let table = self.table.read();
            let auth = table.auth_events_for(
                &draft.event_type,
                state_key,
                sender.id,
                &relevant,
                &before.map,
            );
            if state_key.is_none() {
                let message = Message {
                    event_id: chosen_id.as_ref().map_or("", |id| id.as_str()),
                    room_id: &room.id,
                    event_type: &draft.event_type,
                    sender: sender.id,
                    redacts: draft.redacts.as_ref().map(|id| id.as_str()),
                };
                table.check_message(message, &before.map).map_err(|why| forbidden(&why))?;
            }
            let auth: Vec<(EventIx, OwnedEventId)> = auth
                .into_iter()
                .map(|at| Ok((at, table.room().event_id(at).try_into().map_err(|_| CORRUPT)?)))
                .collect::<Result<_, RoomError>>()?;
            (auth, table.history_visibility(&before.map))
        };
        let prev_events: Vec<OwnedEventId> =
            parents.iter().map(|parent| parent.event_id.clone()).collect();
        let auth_ids = auth.iter().map(|(_, id)| id.clone()).collect();
        let (prev_events, auth_events) =
            (self.references(prev_events).await?, self.references(auth_ids).await?);
        let deepest = parents.iter().map(|parent| parent.depth).max().unwrap_or(0);
        let depth = (deepest + 1).min(MAX_DEPTH);
        let named_after_it = is_create && room.rules.authorization.room_create_event_id_as_room_id;
        let place = Place {
            event_id: chosen_id.as_deref(),
            room_id: (!named_after_it).then_some(&*room.id),
            sender: sender.id,
            origin_server_ts,
            depth,
            prev_events: &prev_events,
            auth_events: &auth_events,
        };
        let built = event::build(&draft, &content, place, self.rooms.key(), &room.rules)?;
        self.require_approval(sender, &draft, &built.json).await?;
        let number = self.graph.next;
        let mut record = EventRecord {
            event_id: built.event_id,
            sender: sender.number,
            sender_id: sender.id.to_owned(),
            redacts: redacted_by(&draft, &room),
            event_type: draft.event_type,
            state_key: draft.state_key,
            depth,
            origin_server_ts,
            position: 0,
            backfill_key: None,
            visibility,
            rejected: false,
            soft_failed: false,
            outlier: false,
            redacted_by: None,
            replaces: None,
            transaction: None,
            delay_id: None,
            content_at: built.content_at,
            json: built.json,
        };
        let mut after = before.clone();
        if let Some(state_key) = record.state_key.clone() {
            let auth_record = AuthRecord {
                number,
                event_id: record.event_id.clone(),
                event_type: record.event_type.clone(),
                state_key: Some(state_key),
                sender: sender.id.to_string(),
                origin_server_ts,
                depth,
                auth: auth.iter().map(|(at, _)| at.get()).collect(),
                rejected: false,
                follows_create: matches!(&parents[..], [parent] if self.is_create(parent.number)),
                has_parents: !parents.is_empty(),
                content: relevant,
            };
            let at = self.admit_state(&auth_record, &before)?;
            AUTH_EVENTS.put(&mut self.batch, &(room.number, at.get()), &auth_record);
            record.replaces = self.replaced(at, &before);
            after = self.state_with(at, &before).await?;
            let event = Arc::new(StateEvent::stored(&record)?);
            self.graph.events.insert(number, event);
        }
        self.dirty = true;
        self.graph.next = EventNumber(number.0 + 1);
        self.note_states(number, &before, &after);
        let event_id = record.event_id.clone();
        let had_others = self.has_others();
        let tip = Extremity { number, event_id: event_id.clone(), depth, after };
        let removed: Vec<EventNumber> = parents.iter().map(|parent| parent.number).collect();
        let known = Known {
            number,
            verdict: Verdict::Accepted,
            after: Some(tip.after.clone()),
            prev_events: None,
        };
        self.ledger.note_recent(event_id.clone(), known);
        let (current, members) = self.extend(Some(tip), &removed).await?;
        let outbox = had_others || self.has_others() || members.iter().any(|one| !one.is_local);
        let shown = Shown::Live;
        let missing = Vec::new();
        self.added.push(Added { number, record, shown, missing, current, members, outbox });
        Ok((number, event_id))
    }

    /// Adds a state event to the table if the rules let it be sent in `before`.
    fn admit_state(&mut self, record: &AuthRecord, before: &State) -> Result<EventIx, RoomError> {
        let mut table = self.table.write();
        // There is no place for a second create event.
        let at =
            table.insert(record).map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let verdict =
            table.room().check_state_independent(at).and_then(|()| table.check(at, &before.map));
        if let Err(why) = verdict {
            table.retract(at);
            return Err(forbidden(&why));
        }
        drop(table);
        // From here on it must be written.
        self.dirty = true;
        Ok(at)
    }

    /// A member event of `user` about `target` that is neither hashed nor signed, if the rules
    /// allow it. Nothing is added.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the authorization rule that it fails.
    pub(super) async fn template(
        &mut self,
        user: &UserId,
        target: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let room = Arc::clone(&self.room);
        let parents = newest(&self.graph.extremities);
        let before = self.state_after(&parents).await?;
        let relevant = relevant_content("m.room.member", &event::json(&content));
        let depth =
            (parents.iter().map(|parent| parent.depth).max().unwrap_or(0) + 1).min(MAX_DEPTH);
        let now = self.rooms.clock().now_ms();
        let auth: Vec<OwnedEventId> = {
            let mut table = self.table.write();
            let key = target.as_str();
            let auth =
                table.auth_events_for("m.room.member", Some(key), user, &relevant, &before.map);
            let follows_create = matches!(&parents[..], [parent] if table
                .room()
                .create_event()
                .is_some_and(|create| table.number(create) == parent.number));
            let draft = AuthRecord {
                number: EventNumber(0),
                event_id: EventId::parse("$draft").map_err(|_| CORRUPT)?,
                event_type: "m.room.member".to_owned(),
                state_key: Some(key.to_owned()),
                sender: user.to_string(),
                origin_server_ts: now,
                depth,
                auth: auth.iter().map(|at| at.get()).collect(),
                rejected: false,
                follows_create,
                has_parents: true,
                content: relevant,
            };
            let at = table.insert(&draft).map_err(|_| CORRUPT)?;
            let verdict = table
                .room()
                .check_state_independent(at)
                .and_then(|()| table.check(at, &before.map));
            table.retract(at);
            verdict.map_err(|why| forbidden(&why))?;
            auth.into_iter()
                .map(|at| table.room().event_id(at).try_into().map_err(|_| CORRUPT))
                .collect::<Result<_, RoomError>>()?
        };
        let parents = parents.into_iter().map(|parent| parent.event_id).collect();
        let prev_events = event::references_json(&self.references(parents).await?);
        let auth_events = event::references_json(&self.references(auth).await?);
        let integer = |number: u64| {
            let number = i64::try_from(number).ok().and_then(|number| number.try_into().ok());
            number.map(CanonicalJsonValue::Integer).ok_or(CORRUPT)
        };
        Ok(object([
            ("type", "m.room.member".into()),
            ("room_id", room.id.as_str().into()),
            ("sender", user.as_str().into()),
            ("state_key", target.as_str().into()),
            ("content", content.into()),
            ("origin_server_ts", integer(now)?),
            ("depth", integer(depth)?),
            ("prev_events", prev_events),
            ("auth_events", auth_events),
        ]))
    }

    /// What a new event writes of those that it refers to.
    pub(super) async fn references(
        &self,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<Reference>, RoomError> {
        if self.room.rules.event_id_format != EventIdFormatVersion::V1 {
            return Ok(ids.into_iter().map(Reference::from).collect());
        }
        let mut references = Vec::with_capacity(ids.len());
        for id in ids {
            let queued = self.added.iter().find(|added| added.record.event_id == id);
            let json = match queued {
                Some(added) => added.record.json.clone(),
                None => self.rooms.stored(&self.room, &id).await?.1.json,
            };
            let object = serde_json::from_str(&json).map_err(|_| CORRUPT)?;
            let hash = reference_hash(&object, &self.room.rules).map_err(|_| CORRUPT)?;
            references.push(Reference { id, hash: Some(hash) });
        }
        Ok(references)
    }
}

/// The newest extremities, as many as an event may refer to.
fn newest(extremities: &[Extremity]) -> Vec<Extremity> {
    let mut newest_first = extremities.to_vec();
    newest_first.sort_by_key(|tip| std::cmp::Reverse(tip.number));
    newest_first.truncate(MAX_PREV_EVENTS);
    newest_first
}

/// The event that a redaction redacts, from where the room version keeps it.
fn redacted_by(draft: &Draft, room: &Room) -> Option<OwnedEventId> {
    if draft.event_type != "m.room.redaction" {
        return None;
    }
    if room.rules.redaction.content_field_redacts {
        let redacts = draft.content.get("redacts")?.as_str()?;
        EventId::parse(redacts).ok()
    } else {
        draft.redacts.clone()
    }
}
