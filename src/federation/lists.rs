//! Asking for events by the thousand: they are checked as they come, so that the memory for an answer
//! is that of what is taken of it.

use std::time::Duration;

use bytes::Bytes;
use federation::{Item, Limits, Lists, TransportError};
use futures::{StreamExt as _, stream::FuturesOrdered};
use ruma::{
    OwnedServerName, ServerName,
    api::{
        OutgoingRequest, federation::authentication::ServerSignatures, path_builder::SinglePath,
    },
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    Federation, PeerError,
    verify::{BadPdu, MAX_BYTES},
};
use crate::rooms::pdu::{Pdu, PduError};

/// What the state of a room may take: how long it may be until it begins, and from then until each next
/// piece of it.
const STATE: Limits = Limits { timeout: Duration::from_mins(5), max_bytes: 256 << 20 };
/// How long it may take in all.
const LONGEST: Duration = Duration::from_mins(15);
/// How many events an answer may have.
const MAX_EVENTS: usize = 1_000_000;
/// The largest member that is no list, in bytes: the names of all servers in a room.
const MAX_MEMBER_BYTES: usize = 8 << 20;
/// How much is read at a time, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// How many events are checked together.
const TOGETHER: usize = 512;
/// Fewer if they have so many bytes.
const TOGETHER_BYTES: usize = 1 << 20;
/// How many such batches are being checked before more is read.
const BATCHES_AT_ONCE: usize = 4;

/// An event of an answer, and what came of checking it.
pub(crate) struct Checked {
    /// In which of the lists.
    pub(crate) list: usize,
    /// As it came; none if it was too large.
    pub(crate) json: Option<Box<RawValue>>,
    /// What it is.
    pub(crate) event: Result<Pdu, BadPdu>,
}

impl Federation {
    /// Asks `server` for lists of events of a room, as large as they may be. Each event is checked and
    /// handed to `take`, those of a list in their order. The `members` of the answer by their index, as
    /// far as they are there.
    ///
    /// # Errors
    /// [`PeerError`] if the answer does not come, breaks off, is too large, or is not what it should be;
    /// what `take` says.
    pub(crate) async fn ask_for_events<R, E: From<PeerError>>(
        &self,
        server: &ServerName,
        request: R,
        (lists, members): (&'static [&'static str], &'static [&'static str]),
        rules: &RoomVersionRules,
        take: impl FnMut(Checked) -> Result<(), E>,
    ) -> Result<Vec<Option<Box<RawValue>>>, E>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let request = self.signed(server, request)?;
        let failed = |source| PeerError::Failed { server: server.to_owned(), source };
        let reading = async {
            let answer = self.open(server, request, STATE).await?;
            if answer.status().is_redirection() {
                return Err(failed("the answer is a redirect".into()).into());
            }
            let reader = Lists::new((lists, MAX_BYTES), (members, MAX_MEMBER_BYTES));
            let mut reading = Reading {
                federation: self,
                server: server.to_owned(),
                rules,
                reader,
                members: members.iter().map(|_| None).collect(),
                batch: Vec::new(),
                bytes: 0,
                events: 0,
            };
            reading.all(answer.into_body(), take).await?;
            Ok(reading.members)
        };
        let outcome = tokio::time::timeout(LONGEST, reading).await;
        outcome.unwrap_or_else(|_| Err(failed(TransportError::Timeout.into()).into()))
    }
}

/// An answer that is being read.
struct Reading<'a> {
    federation: &'a Federation,
    server: OwnedServerName,
    rules: &'a RoomVersionRules,
    reader: Lists,
    members: Vec<Option<Box<RawValue>>>,
    /// Events that are not being checked yet, with their lists.
    batch: Vec<(usize, Box<RawValue>)>,
    /// What these have.
    bytes: usize,
    /// How many came.
    events: usize,
}

impl Reading<'_> {
    async fn all<E: From<PeerError>>(
        &mut self,
        mut body: federation::BodyStream,
        mut take: impl FnMut(Checked) -> Result<(), E>,
    ) -> Result<(), E> {
        let (federation, rules, server) = (self.federation, self.rules, self.server.clone());
        let mut running = FuturesOrdered::new();
        // What came and is not read yet; none after the end.
        let mut piece = Some(Bytes::new());
        loop {
            tokio::select! {
                biased;
                Some(batch) = running.next(), if !running.is_empty() => {
                    for checked in batch {
                        take(checked)?;
                    }
                }
                next = next_piece(&mut body, &mut piece), if piece.is_some() && running.len() < BATCHES_AT_ONCE => {
                    let found = if let Some(bytes) = next.map_err(|error| self.failed(error))? {
                        self.read(&bytes)?
                    } else {
                        self.reader.end().map_err(|error| self.failed(error))?;
                        Vec::new()
                    };
                    for checked in found {
                        take(checked)?;
                    }
                    let is_over = piece.is_none();
                    let is_full = self.batch.len() >= TOGETHER || self.bytes >= TOGETHER_BYTES;
                    if is_full || (is_over && !self.batch.is_empty()) {
                        self.bytes = 0;
                        let batch = std::mem::take(&mut self.batch);
                        running.push_back(check(federation, batch, rules, &server));
                    }
                }
                else => return Ok(()),
            }
        }
    }

    /// Reads on. Events that need no checking.
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Checked>, PeerError> {
        let mut items = Vec::new();
        self.reader.read(bytes, &mut items).map_err(|error| self.failed(error))?;
        let mut refused = Vec::new();
        for item in items {
            match item {
                Item::Element(list, json) => {
                    self.events += 1;
                    self.bytes += json.get().len();
                    self.batch.push((list, json));
                }
                Item::TooLarge(list) => {
                    self.events += 1;
                    let event = Err(PduError::TooLarge.into());
                    refused.push(Checked { list, json: None, event });
                }
                Item::Member(member, json) => {
                    if let Some(place) = self.members.get_mut(member) {
                        *place = Some(json);
                    }
                }
            }
        }
        if self.events > MAX_EVENTS {
            return Err(self.failed(TransportError::TooLarge));
        }
        Ok(refused)
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PeerError {
        PeerError::Failed { server: self.server.clone(), source: source.into() }
    }
}

/// What is to be read next. After the last, `piece` is none.
async fn next_piece(
    body: &mut federation::BodyStream,
    piece: &mut Option<Bytes>,
) -> Result<Option<Bytes>, TransportError> {
    loop {
        let Some(left) = piece else { return Ok(None) };
        if !left.is_empty() {
            return Ok(Some(left.split_to(left.len().min(PIECE_BYTES))));
        }
        *piece = body.next().await.transpose()?;
    }
}

async fn check(
    federation: &Federation,
    batch: Vec<(usize, Box<RawValue>)>,
    rules: &RoomVersionRules,
    server: &ServerName,
) -> Vec<Checked> {
    let texts: Vec<&str> = batch.iter().map(|(_, json)| json.get()).collect();
    let events = federation.verify_each(&texts, rules, Some(server)).await;
    let checked = batch.into_iter().zip(events);
    checked.map(|((list, json), event)| Checked { list, json: Some(json), event }).collect()
}
