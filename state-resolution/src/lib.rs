//! Authorisation rules and state resolution of Matrix rooms, versions 1 to 12.
//!
//! A pure crate: no async, no storage, no clock, no cryptography. Events are inserted into a
//! [`Room`] after the events they cite, and get dense numbers in that order; what the algorithms
//! look at in their content is decoded once. After that, nothing parses JSON or hashes strings.
//!
//! - What distinguishes the room versions is data: [`RoomVersionRules`].
//! - The rules that decide who may send what: [`Room::check_state_independent`],
//!   [`Room::check_auth_events`], [`Room::check`], [`Room::check_message`]. A verdict names the
//!   [`Rule`] that failed and the event that decided it.
//! - What an event made here must cite: [`Room::auth_events_for`].
//! - States that share what they have in common: [`StateMap`].
//! - One state out of several: [`Room::resolve`], and what saves work between resolutions,
//!   [`Frontier`] and [`ConflictCache`]. [`Room::explain`] says why it came out so.
//! - States as bytes: [`snapshot`].
//!
//! Events are what peers made of them. Content of any shape is taken in, and rejected by the rule
//! that it breaks; an unknown reference or a state of another room is an error. A number
//! ([`EventIx`], [`KeyIx`]) that the room never gave out is a mistake of the caller, and panics
//! where the documentation says so.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#authorisation-rules>,
//! <https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution>

#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    reason = "the tables index each other with numbers that they gave out themselves"
)]

mod auth;
mod content;
mod grammar;
mod graph;
mod ids;
mod input;
mod power_levels;
mod resolve;
mod room;
mod rules;
mod scratch;
pub mod snapshot;
mod state_map;
mod tables;
#[cfg(test)]
mod testing;

pub use auth::{NoSignatures, Power, Rejection, Rule, Signatures, StateView, Verdict};
pub use content::Membership;
pub use ids::{EventIx, KeyIx};
pub use input::{
    EventInput, FormatError, FormatProblem, InsertError, MAX_AUTH_EVENTS, MAX_PREV_EVENTS, NotLast,
};
pub use power_levels::NamedLevel;
pub use resolve::{
    Attempt, Candidate, ConflictCache, Decision, Explanation, Frontier, Outcome, Phase,
    ResolveError, ResolveStats, Resolved,
};
pub use room::Room;
pub use rules::{
    AbsentJoinRule, Algorithm, AuthRules, EventIdFormat, RedactionRules, ResolutionRules,
    RoomVersionRules,
};
pub use scratch::Scratch;
pub use state_map::{Iter, StateMap};
