//! What must be the same everywhere once all is well again.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    rooms::{ingest::Verdict, record::EventNumber},
    storage::{
        intern::RoomNumber,
        schema::{EVENTS, TIMELINE},
    },
};

impl World {
    /// The current state as a client sees it: event IDs by type and key.
    async fn state(&self, at: usize) -> BTreeMap<(String, String), String> {
        let (status, state) = self.server(at).get(&self.path("state"), Some(self.user(at))).await;
        assert_eq!(status, StatusCode::OK, "seed {}: {}: {state}", self.seed, self.name(at));
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        let state = state.as_array().unwrap().iter();
        state
            .map(|event| {
                let key = (text(event, "type"), text(event, "state_key"));
                (key, text(event, "event_id"))
            })
            .collect()
    }

    async fn number(&self, at: usize) -> RoomNumber {
        let room: ruma::OwnedRoomId = self.room.as_str().try_into().unwrap();
        self.server(at).server.rooms().room(&room).await.unwrap().number
    }

    /// The events that have a place in the graph, each with its verdict.
    async fn events(&self, at: usize) -> BTreeMap<String, Verdict> {
        let (number, db) = (self.number(at).await, &self.server(at).db);
        let rows = EVENTS.scan(db, &Range::prefix(&(number,)), usize::MAX).await.unwrap();
        let events = rows.into_iter().map(|(_, record)| record);
        let placed = events.filter(|record| record.verdict() != Verdict::Outlier);
        placed.map(|record| (record.event_id.to_string(), record.verdict())).collect()
    }

    /// Reads back to the beginning, so that what is missing is fetched.
    async fn read_back(&self, at: usize) {
        let mut from = String::new();
        for _ in 0..200 {
            let path = self.path(&format!("messages?dir=b&limit=100&from={from}"));
            let (status, page) = self.server(at).get(&path, Some(self.user(at))).await;
            assert_eq!(status, StatusCode::OK, "seed {}: {page}", self.seed);
            let Some(end) = page["end"].as_str() else { return };
            if end == from {
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
            end.clone_into(&mut from);
        }
        panic!("seed {}: the history of {} has no beginning", self.seed, self.name(at));
    }

    /// In which states of a server a state event is, to find out where it got lost.
    async fn told_of(&self, at: usize, wanted: &str) -> String {
        let (number, server) = (self.number(at).await, self.server(at));
        let rooms = server.server.rooms();
        let room = rooms.numbered(number).await.unwrap();
        let range = Range::prefix(&(number,));
        let rows = EVENTS.scan(&server.db, &range, usize::MAX).await.unwrap();
        let mut told = format!("\n{}:", self.name(at));
        for (_, record) in rows {
            let (event, kind) = (&record.event_id, record.event_type.as_str());
            let has = match rooms.state_ids_before(&room, event).await {
                Ok(before) => before.state.iter().any(|event| event == wanted).to_string(),
                Err(_) => "?".to_owned(),
            };
            let parents: serde_json::Value = serde_json::from_str(&record.json).unwrap();
            let parents = &parents["prev_events"];
            let line = [event.as_str(), kind, has.as_str()].join(" ");
            told.push_str(&["\n  ", &line, " after ", &parents.to_string()].concat());
        }
        told
    }

    pub(super) async fn check(&self) {
        let seed = self.seed;
        let mut placed = Vec::new();
        for at in 0..SERVERS {
            if at < STAYING {
                self.read_back(at).await;
            }
            placed.push(self.events(at).await);
            self.check_timeline(at).await;
        }
        let verdicts = |event: &str| -> Vec<Option<Verdict>> {
            placed.iter().map(|events| events.get(event).copied()).collect()
        };
        let first = self.state(0).await;
        for at in 1..SERVERS {
            let state = self.state(at).await;
            for (key, event) in first.iter().chain(&state) {
                let (wanted, is) = (first.get(key), state.get(key));
                let name = self.name(at);
                if is != wanted {
                    let told = self.told_of(at, event).await + &self.told_of(0, event).await;
                    let verdicts = verdicts(event);
                    panic!(
                        "seed {seed}: {key:?} on {name}: {is:?}, {wanted:?}: {verdicts:?}{told}"
                    );
                }
            }
        }
        let all: BTreeSet<&str> = placed.iter().flatten().map(|(event, _)| &**event).collect();
        for event in all {
            let verdicts = verdicts(event);
            let is = |verdict: Verdict| verdicts.contains(&Some(verdict));
            // A rejection is the same wherever there is a verdict.
            let differ =
                is(Verdict::Rejected) && (is(Verdict::Accepted) || is(Verdict::SoftFailed));
            assert!(!differ, "seed {seed}: {event}: {verdicts:?}");
            // What only a server accepted that the others had thrown out went nowhere.
            let mut staying = verdicts.iter().take(STAYING);
            let must_be_known = staying.clone().any(|is| *is == Some(Verdict::Accepted));
            let lacks = staying.any(Option::is_none);
            assert!(!must_be_known || !lacks, "seed {seed}: {event}: {verdicts:?}");
        }
        for (_, event) in self.acknowledged.iter().filter(|(at, _)| *at < STAYING) {
            let here = verdicts(event);
            let is_there = |verdict: &Option<Verdict>| {
                verdict.is_some_and(|verdict| verdict != Verdict::Rejected)
            };
            assert!(here.iter().take(STAYING).all(is_there), "seed {seed}: {event}: {here:?}");
        }
    }

    /// No event is shown twice, and what is stored follows from the events.
    pub(super) async fn check_timeline(&self, at: usize) {
        let (number, server) = (self.number(at).await, self.server(at));
        let rows = TIMELINE.scan(&server.db, &Range::prefix(&(number,)), usize::MAX).await.unwrap();
        let shown: Vec<EventNumber> = rows.into_iter().map(|(_, event)| event).collect();
        let once: BTreeSet<EventNumber> = shown.iter().copied().collect();
        let (seed, name) = (self.seed, self.name(at));
        assert_eq!(once.len(), shown.len(), "seed {seed}: {name} shows an event twice");
        let rooms = server.server.rooms();
        let room = rooms.numbered(number).await.unwrap();
        let found = rooms.check_room(&room).await.unwrap();
        assert!(found.problems.is_empty(), "seed {seed}: {name}: {:?}", found.problems);
    }
}
