//! What users are notified of, and how they hear of it.

mod address;
mod audience;
mod badge;
#[cfg(feature = "bench")]
pub mod bench;
mod compiled;
mod context;
mod counts;
mod delivery;
mod event;
mod look;
pub(crate) mod mails;
pub(crate) mod new_pusher;
mod notifications;
mod pattern;
mod polls;
mod pushers;
pub(crate) mod rules;
mod tally;
#[cfg(test)]
mod tests;
mod webpush;

pub(crate) use address::queue_address_removal;
use compiled::Outcome;
pub(crate) use counts::{Unread, Whose};
pub(crate) use delivery::{Delivery, Progress};
pub(crate) use pushers::{Pusher, PusherError, Pushers, queue_device_removal};
pub(crate) use rules::{PushRuleError, PushRules};
pub(crate) use tally::{Count, Tally};
pub(crate) use webpush::Vapid;
