//! What other servers tell of rooms that are not here: spaces, and what is in them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use federation::Limits;
use futures::{FutureExt as _, future::BoxFuture};
use moka::sync::Cache;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, api::federation::space::get_hierarchy,
};
use tokio::time::Instant;

use super::Exchange;
use crate::rooms::{Child, Elsewhere, Overview, Told};

/// What one answer may take.
const ANSWER: Limits = Limits { timeout: Duration::from_secs(8), max_bytes: 2 << 20 };
/// How many children of one answer are looked at.
const MAX_CHILDREN: usize = 1_000;
/// How many questions one request makes; what is remembered costs none.
const MAX_QUESTIONS: usize = 25;
/// How long all questions of one request take together.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer counts.
const KEPT: Duration = Duration::from_mins(5);
/// About the memory that remembered answers take, in bytes.
const KEPT_BYTES: u64 = 8 << 20;
/// About the memory that a room takes besides its events, in bytes.
const ROOM_BYTES: usize = 500;

/// Answers, by room and by whether only what is suggested was asked for.
pub(super) type KnownSpaces = Cache<(OwnedRoomId, bool), Arc<Told>>;

/// An empty memory of answers.
pub(super) fn known_spaces() -> KnownSpaces {
    Cache::builder()
        .weigher(|_, told: &Arc<Told>| weight(told))
        .max_capacity(KEPT_BYTES)
        .time_to_live(KEPT)
        .build()
}

fn weight(told: &Told) -> u32 {
    let events: usize = told.children.iter().map(|child| ROOM_BYTES + child.bytes()).sum();
    let rooms = 1 + told.known.len() + told.hidden.len();
    u32::try_from(events + rooms * ROOM_BYTES).unwrap_or(u32::MAX)
}

/// Asks other servers, so long and so often as one request of a client may.
pub(crate) struct Asking<'a> {
    exchange: &'a Exchange,
    questions: AtomicUsize,
    until: Instant,
}

impl Exchange {
    /// Other servers, to ask for rooms that are not here in the course of one request.
    pub(crate) fn elsewhere(&self) -> Asking<'_> {
        let until = Instant::now() + PATIENCE;
        Asking { exchange: self, questions: AtomicUsize::new(0), until }
    }
}

impl Asking<'_> {
    async fn ask(&self, server: &ServerName, room: &RoomId, suggested_only: bool) -> Option<Told> {
        if self.questions.fetch_add(1, Ordering::Relaxed) >= MAX_QUESTIONS {
            return None;
        }
        let mut request = get_hierarchy::v1::Request::new(room.to_owned());
        request.suggested_only = suggested_only;
        let answer = self.exchange.federation.ask(server, request, ANSWER);
        let answer = match tokio::time::timeout_at(self.until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(%server, %room, %error, "a room was not told of");
                return None;
            }
            Err(_) => return None,
        };
        let children: Vec<Child> = answer
            .room
            .children_state
            .into_iter()
            .take(MAX_CHILDREN)
            .filter_map(|event| Child::parse(event.into_json()))
            .collect();
        // Only of those that the space names.
        let named: HashSet<OwnedRoomId> = children.iter().map(|child| child.room.clone()).collect();
        let known: HashMap<OwnedRoomId, Arc<Overview>> = answer
            .children
            .into_iter()
            .filter(|room| named.contains(&room.room_id))
            .map(|room| (room.room_id.clone(), Arc::new(Overview::told(room))))
            .collect();
        let hidden = answer.inaccessible_children.into_iter();
        let hidden = hidden.filter(|room| named.contains(room)).collect();
        let overview = Arc::new(Overview::told(answer.room.summary));
        (overview.room_id == *room).then_some(Told { overview, children, known, hidden })
    }
}

impl Elsewhere for Asking<'_> {
    fn room<'a>(
        &'a self,
        room: &'a RoomId,
        via: &'a [OwnedServerName],
        suggested_only: bool,
    ) -> BoxFuture<'a, Option<Arc<Told>>> {
        async move {
            let known = &self.exchange.shared.spaces;
            let key = (room.to_owned(), suggested_only);
            if let Some(told) = known.get(&key) {
                return Some(told);
            }
            let us = self.exchange.rooms.server_name();
            for server in via.iter().filter(|server| *server != us) {
                if let Some(told) = self.ask(server, room, suggested_only).await {
                    let told = Arc::new(told);
                    known.insert(key, Arc::clone(&told));
                    return Some(told);
                }
            }
            None
        }
        .boxed()
    }
}
