//! The two questions about signatures that the rules ask.

use std::fmt;

use serde_json::{Map, Value};

/// Answers the rules that are about signatures; the crate itself knows no cryptography.
pub trait Signatures: fmt::Debug + Send + Sync {
    /// Whether "any signature in `signed` matches any public key" of those in `public_keys`,
    /// which are still encoded and may be nonsense, like `signed`.
    ///
    /// Asked once for a membership and the invite it refers to. A peer chooses both, so the
    /// number of verifications wants a bound.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#third-party-invites>
    fn third_party_invite(&self, signed: &Map<String, Value>, public_keys: &[Box<str>]) -> bool;

    /// Whether the event is "validly signed by the homeserver of the user ID" in its
    /// `join_authorised_via_users_server`.
    ///
    /// Asked only by [`Room::check_state_independent`](crate::Room::check_state_independent).
    /// A server that verifies this with the event's other signatures, before it inserts the
    /// event, answers `true`.
    fn authorised_join(&self, event_id: &str, user_id: &str) -> bool;
}

/// Finds no third-party invite valid, and takes authorised joins to have been verified before.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSignatures;

impl Signatures for NoSignatures {
    fn third_party_invite(&self, _signed: &Map<String, Value>, _keys: &[Box<str>]) -> bool {
        false
    }

    fn authorised_join(&self, _event_id: &str, _user_id: &str) -> bool {
        true
    }
}
