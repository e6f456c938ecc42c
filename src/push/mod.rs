//! What users are notified of, and how they hear of it.

mod audience;
mod badge;
mod compiled;
mod context;
mod counts;
mod delivery;
mod event;
mod look;
mod notifications;
mod pattern;
mod polls;
pub(crate) mod pushers;
pub(crate) mod rules;
mod tally;
#[cfg(test)]
mod tests;

use compiled::Outcome;
pub(crate) use counts::Unread;
pub(crate) use delivery::{Delivery, Progress};
pub(crate) use pushers::{Pusher, PusherError, Pushers, queue_device_removal};
pub(crate) use rules::{PushRuleError, PushRules};
pub(crate) use tally::{Count, Tally};
