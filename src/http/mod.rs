//! HTTP: from a listening socket to a request that the router can answer, and back.
//!
//! [`Listeners`] accept connections over TCP, TLS and Unix sockets and speak HTTP/1.1 and HTTP/2.
//! [`App`] is what every request passes through, whatever it is for: who is asking, how large and
//! how slow it may be, CORS, compression, logs and metrics. What an endpoint means is not known
//! here.

mod answer;
mod app;
mod body;
mod connection;
mod endpoint;
mod limits;
mod listener;
mod peer;
mod stall;
mod tls;
mod well_known;

pub(crate) use self::{
    app::App,
    body::BodyError,
    connection::Hold,
    limits::Limits,
    listener::{CertificateReloader, Listeners},
    peer::ClientAddress,
    tls::{TlsError, load as load_tls},
};

#[cfg(test)]
mod tests;
