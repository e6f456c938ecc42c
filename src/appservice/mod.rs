//! Application services: bridges and bots that speak for many users and are told of what concerns
//! them.
//!
//! [`registry`] knows who they are, and is all that the rest of the server asks on its hot paths.
//! Whatever concerns one of them is a row of its queue, written in the batch of the change itself;
//! [`delivery`] makes transactions of the rows and sends them.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/>

pub(crate) mod delivery;
mod namespace;
pub(crate) mod networks;
mod protocols;
pub(crate) mod query;
pub(crate) mod queue;
pub(crate) mod registration;
pub(crate) mod registry;
mod transport;

pub(crate) use query::AppserviceError;
pub(crate) use registry::{Appservices, Audience, Service};
