//! Names to addresses and services.

use std::net::IpAddr;

use futures::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};

/// Looks names up.
pub trait Dns: Send + Sync + 'static {
    /// The addresses of `name`; empty if it has none.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>>;
    /// The SRV records of `name`, in any order; empty if it has none.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Srv>, DnsError>>;
}

/// The name server did not answer, or not in a way that tells anything.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the name servers: {0}")]
pub struct DnsError(pub String);

/// One SRV record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Srv {
    /// Smaller is tried first.
    pub priority: u16,
    /// The share among those of the same priority.
    pub weight: u16,
    /// Where the service is.
    pub port: u16,
    /// On which host; without the final dot, empty for "there is no such service".
    pub target: String,
}

/// The name servers of the system's configuration, with their answers cached.
#[derive(Clone)]
pub struct SystemDns(TokioResolver);

impl SystemDns {
    /// Asks with `resolver`.
    pub fn new(resolver: TokioResolver) -> Self {
        Self(resolver)
    }
}

impl Dns for SystemDns {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            match self.0.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_no_records_found() => Ok(Vec::new()),
                Err(error) => Err(DnsError(error.to_string())),
            }
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Srv>, DnsError>> {
        Box::pin(async move {
            // The final dot keeps the search list of the system out.
            let found = match self.0.lookup(format!("{name}."), RecordType::SRV).await {
                Ok(found) => found,
                Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
                Err(error) => return Err(DnsError(error.to_string())),
            };
            let services = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(Srv {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_utf8().trim_end_matches('.').to_owned(),
                }),
                _ => None,
            });
            Ok(services.collect())
        })
    }
}
