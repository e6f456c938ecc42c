//! Authorisation rules and state resolution of Matrix rooms, versions 1 to 12.

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

pub use auth::{NoSignatures, Rejection, Rule, Signatures, StateView, Verdict};
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
