//! What users are notified of.

pub(crate) mod rules;

pub(crate) use rules::{PushRuleError, PushRules};
