//! How Matrix homeservers find, trust and reach each other: server names to addresses, request
//! signatures, signing keys, the transport, and when to send to whom.
//!
//! What decides is pure; the network is behind [`Dns`], [`WellKnown`] and [`Transport`], the
//! database behind [`KeyStore`], and the time is a parameter.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/>

mod delegation;
mod dns;
mod key_ring;
mod keys;
mod lists;
mod queue;
mod resolver;
mod transport;
mod x_matrix;

pub use delegation::{WellKnown, WellKnownAnswer, parse_delegation};
pub use dns::{Dns, DnsError, Srv, SystemDns};
pub use key_ring::{KeyFetch, KeyRing, KeyRingError, KeyStore};
pub use keys::{BadKeys, Purpose, ServerKeys};
pub use lists::{BadLists, Item, Lists};
pub use queue::{Backoff, Destination, MAX_EDUS, MAX_PDUS, Next};
pub use resolver::{ResolveError, Resolver, Route, Via};
pub use transport::{AddressFilter, BodyStream, HttpTransport, Limits, Transport, TransportError};
pub use x_matrix::{BadRequestSignature, XMatrix, request_object};

/// Where the time comes from: milliseconds since the Unix epoch.
pub type Now = std::sync::Arc<dyn Fn() -> u64 + Send + Sync>;
