//! Telling clients what happened: nothing missed, nothing twice.

pub(crate) mod token;
