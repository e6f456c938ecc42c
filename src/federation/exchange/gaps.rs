//! Filling gaps: what an event refers to and what is not here is fetched from who sent it, or from
//! another server in the room.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{sync::Arc, time::Duration};

use federation::Limits;
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_missing_events, get_room_state, get_room_state_ids},
    },
    uint,
};
use serde_json::value::RawValue;

use super::{Exchange, backfill::behind};
use crate::{
    federation::{PeerError, lists::Checked},
    rooms::{
        Room, RoomError,
        ingest::{Ingested, Verdict},
        pdu::Pdu,
    },
};

/// What an answer with events may take.
pub(super) const EVENTS: Limits = Limits { timeout: Duration::from_mins(1), max_bytes: 16 << 20 };
/// What an answer with the IDs of a room's whole state may take.
const STATE_IDS: Limits = Limits { timeout: Duration::from_mins(5), max_bytes: 64 << 20 };
/// How many servers are asked, the one that sent the event first.
const MAX_SERVERS: usize = 3;
/// How many missing events are fetched one by one; if there are more, all of the state is.
pub(super) const MAX_SINGLE: usize = 100;

/// What of a room's state may be fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    /// As many events as one server may have kept of a room in a month.
    Bounded,
    /// All of it, as it would have come with a join.
    Whole,
}

impl Exchange {
    /// Takes a checked event into its room, and before it what it refers to.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if what it refers to is not to be had.
    pub(super) async fn take_in(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        origin: &ServerName,
    ) -> Result<(), RoomError> {
        let approved = self.approved(room, pdu).await?;
        let pdu = &*approved;
        let mut servers: Vec<OwnedServerName> = vec![origin.to_owned()];
        let others = self.rooms.other_servers(room);
        let new_server = self.new_server(room, pdu);
        servers.extend(others.into_iter().filter(|server| server != origin));
        servers.truncate(MAX_SERVERS);
        for server in &servers {
            if self.take_in_from(room, pdu, server).await? {
                self.came_in(room, pdu, new_server).await;
                return Ok(());
            }
        }
        let why = "what it refers to is not to be had".to_owned();
        Err(RoomError::BadEvent { why })
    }

    /// Whether it worked with what `server` has.
    async fn take_in_from(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        let Some((auth_events, prev_events)) = self.ingest(room, pdu).await? else {
            return Ok(true);
        };
        if !auth_events.is_empty() {
            self.fetch_auth(room, pdu.event_id(), server).await?;
        }
        if !prev_events.is_empty() {
            for earlier in self.fetch_missing(room, pdu, server).await? {
                let earlier = self.approved(room, &earlier).await?;
                // One that can't be taken in does not stand in the way of the others.
                if let Some((auth_events, prev_events)) = self.ingest(room, &earlier).await? {
                    if !auth_events.is_empty() {
                        self.fetch_auth(room, earlier.event_id(), server).await?;
                    }
                    if prev_events.is_empty() {
                        self.ingest(room, &earlier).await?;
                    } else {
                        self.bridge(room, &earlier, server).await?;
                    }
                }
            }
        }
        match self.ingest(room, pdu).await? {
            None => Ok(true),
            Some((_, prev_events)) if prev_events.is_empty() => Ok(false),
            Some(_) => self.bridge(room, pdu, server).await,
        }
    }

    /// What is missing: auth events and parents. None if it was taken in, whatever the verdict.
    async fn ingest(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
    ) -> Result<Option<(Vec<OwnedEventId>, Vec<OwnedEventId>)>, RoomError> {
        let ingested = self.rooms.ingest(room, pdu).await?;
        if let Ingested::New { verdict: Verdict::Rejected | Verdict::SoftFailed, why } = &ingested {
            let event = pdu.event_id();
            tracing::debug!(room = %room.id, %event, ?why, "an event was not accepted");
        }
        Ok(match ingested {
            Ingested::Missing { auth_events, prev_events } => Some((auth_events, prev_events)),
            Ingested::New { .. } | Ingested::Known(_) => None,
        })
    }

    /// Fetches the auth chain of an event.
    async fn fetch_auth(
        &self,
        room: &Arc<Room>,
        event: &EventId,
        server: &ServerName,
    ) -> Result<(), RoomError> {
        let request = get_event_authorization::v1::Request::new(room.id.clone(), event.to_owned());
        match self.federation.ask(server, request, EVENTS).await {
            Ok(answer) => {
                self.keep_outliers(room, &answer.auth_chain, server).await?;
            }
            Err(error) => tracing::debug!(%server, %error, "no auth chain"),
        }
        Ok(())
    }

    /// Fetches what lies between what is here and an event, oldest first.
    async fn fetch_missing(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        server: &ServerName,
    ) -> Result<Vec<Pdu>, RoomError> {
        let mut earliest = self.rooms.forward_extremities(room).await?;
        earliest.truncate(20);
        let latest = vec![pdu.event_id().to_owned()];
        let mut request = get_missing_events::v1::Request::new(room.id.clone(), earliest, latest);
        request.limit = uint!(50);
        let answer = match self.federation.ask(server, request, EVENTS).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%server, %error, "no missing events");
                return Ok(Vec::new());
            }
        };
        let events = answer.events.get(..answer.events.len().min(50)).unwrap_or_default();
        let pdus = self.verified(room, events, server).await;
        // What lies behind what is here is history: taken for news it would become an end of the
        // graph, with a state from long ago.
        let edge = self.rooms.backward_extremities(room).await?;
        let history = behind(&pdus, &edge);
        let mut pdus: Vec<Pdu> =
            pdus.into_iter().filter(|pdu| !history.contains(pdu.event_id())).collect();
        pdus.retain(|earlier| earlier.event_id() != pdu.event_id());
        pdus.sort_by_key(Pdu::depth);
        Ok(pdus)
    }

    /// Takes an event in over a gap, with the state before it as `server` tells it.
    async fn bridge(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        let Some(state) = self.fetch_state(room, pdu.event_id(), server, Extent::Bounded).await?
        else {
            return Ok(false);
        };
        let ingested = self.rooms.ingest_after_gap(room, pdu, &state).await?;
        Ok(!matches!(ingested, Ingested::Missing { .. }))
    }

    /// The state before an event as `server` tells it: its events and what authorizes them are here
    /// then, but for those that are not what they should be. None if `server` does not tell all.
    pub(super) async fn fetch_state(
        &self,
        room: &Arc<Room>,
        event: &EventId,
        server: &ServerName,
        extent: Extent,
    ) -> Result<Option<Vec<OwnedEventId>>, RoomError> {
        let event = event.to_owned();
        let request = get_room_state_ids::v1::Request::new(event.clone(), room.id.clone());
        let limits = if extent == Extent::Whole { STATE_IDS } else { EVENTS };
        let ids = match self.federation.ask(server, request, limits).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%server, %error, "no state");
                return Ok(None);
            }
        };
        let all: Vec<OwnedEventId> =
            ids.auth_chain_ids.iter().chain(&ids.pdu_ids).cloned().collect();
        let mut unknown = self.rooms.unknown_events(room, &all).await?;
        if unknown.len() <= MAX_SINGLE {
            self.fetch_outliers(room, unknown, server).await?;
            unknown = self.rooms.unknown_events(room, &all).await?;
        }
        if !unknown.is_empty() {
            let request = get_room_state::v1::Request::new(event, room.id.clone());
            let (rules, mut pdus) = (&room.rules, Vec::new());
            let take = |checked: Checked| -> Result<(), PeerError> {
                match checked.event {
                    Ok(pdu) => pdus.push(pdu),
                    Err(error) => tracing::debug!(%error, "event not taken"),
                }
                Ok(())
            };
            let wanted: (&[_], &[_]) = (&["auth_chain", "pdus"], &[]);
            let asked = self.federation.ask_for_events(server, request, wanted, rules, take).await;
            if let Err(error) = asked {
                // A state with holes in it would be taken for the truth.
                tracing::debug!(%server, %error, "no state");
                return Ok(None);
            }
            pdus.retain(|pdu| pdu.room_id() == room.id);
            match extent {
                Extent::Bounded => self.keep_checked(room, &pdus, server).await?,
                Extent::Whole => {
                    let pdus: Vec<&Pdu> = pdus.iter().collect();
                    self.rooms.ingest_outliers(room, &pdus).await?
                }
            };
        }
        // What is still unknown came, and is not what it should be.
        let unknown = self.rooms.unknown_events(room, &ids.pdu_ids).await?;
        Ok(Some(ids.pdu_ids.into_iter().filter(|id| !unknown.contains(id)).collect()))
    }

    /// Those of these events that are signed as they must be, and of this room.
    pub(super) async fn verified(
        &self,
        room: &Room,
        events: &[Box<RawValue>],
        server: &ServerName,
    ) -> Vec<Pdu> {
        let texts: Vec<&str> = events.iter().map(|event| event.get()).collect();
        let mut pdus = self.federation.verify_all(&texts, &room.rules, Some(server)).await;
        pdus.retain(|pdu| pdu.room_id() == room.id);
        pdus
    }
}
