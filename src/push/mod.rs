//! What users are notified of.

mod compiled;
mod context;
mod counts;
mod event;
mod pattern;
pub(crate) mod rules;
mod tally;

pub(crate) use counts::Unread;
pub(crate) use rules::{PushRuleError, PushRules};
pub(crate) use tally::{Count, Tally};
