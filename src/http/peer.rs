//! Who is asking.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderMap, HeaderValue};

use crate::config::TrustedProxy;

const FORWARDED_FOR: &str = "x-forwarded-for";
pub(super) const REQUEST_ID: &str = "x-request-id";

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp(IpAddr),
    Unix,
}

impl Peer {
    fn is_trusted(self, trusted: &[TrustedProxy]) -> bool {
        match self {
            Self::Tcp(address) => trusted.iter().any(|proxy| proxy.contains(address)),
            Self::Unix => trusted.contains(&TrustedProxy::Unix),
        }
    }
}

/// Where a request comes from, for limits and logs; an extension of every request.
///
/// That is the peer, or the last address in `X-Forwarded-For` that no trusted proxy has. Absent on
/// Unix sockets, unless the proxy there is trusted and says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl ClientAddress {
    /// Each proxy appends the address it was called from. So the list is read backwards, as long as
    /// the one who wrote the entry is trusted: what stands further to the front, anybody may have
    /// made up.
    pub(super) fn of(peer: Peer, headers: &HeaderMap, trusted: &[TrustedProxy]) -> Option<Self> {
        let mut client = match peer {
            Peer::Tcp(address) => Some(address.to_canonical()),
            Peer::Unix => None,
        };
        if !peer.is_trusted(trusted) {
            return client.map(Self);
        }
        let lines: Vec<&str> =
            headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
        for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = parse_address(entry.trim()) else { break };
            client = Some(address);
            if !Peer::Tcp(address).is_trusted(trusted) {
                break;
            }
        }
        client.map(Self)
    }
}

/// Some proxies append the port.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
}

/// Names a request in logs and in the answer's `X-Request-Id`; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    pub(super) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes request IDs: the run of the server, then the request's number in it.
pub(super) struct RequestIds {
    run: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        // The standard library's hasher is seeded by the system, which is all that is needed to
        // tell two runs apart.
        let run = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
        Self { run, next: AtomicU64::new(1) }
    }

    /// That of a trusted proxy, if it sent a sane one, so that its logs and ours can be joined.
    pub(super) fn of(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        trusted: &[TrustedProxy],
    ) -> RequestId {
        let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        if let Some(id) = sent.filter(|id| is_sane(id) && peer.is_trusted(trusted)) {
            return RequestId(id.into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{:08x}-{number:x}", self.run).into())
    }
}

fn is_sane(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let peer = if peer == "unix" { Peer::Unix } else { Peer::Tcp(peer.parse().unwrap()) };
        let trusted: Vec<TrustedProxy> =
            trusted.iter().map(|entry| entry.parse().unwrap()).collect();
        let headers = forwarded
            .iter()
            .map(|line| (FORWARDED_FOR.parse().unwrap(), HeaderValue::from_str(line).unwrap()))
            .collect();
        match ClientAddress::of(peer, &headers, &trusted) {
            Some(client) => client.0.to_string(),
            None => "nobody".to_owned(),
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("10.0.0.1", &["1.2.3.4"], &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["1.2.3.4"], &["10.0.0.2"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["1.2.3.4"], &["10.0.0.0/8"]), "1.2.3.4");
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["1.2.3.4"], &["10.0.0.1"]), "1.2.3.4");
        assert_eq!(client("unix", &["1.2.3.4"], &["10.0.0.1"]), "nobody");
        assert_eq!(client("unix", &["1.2.3.4"], &["unix"]), "1.2.3.4");
    }

    #[test]
    fn what_a_client_made_up_is_not_believed() {
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.2.3.4"], &["10.0.0.1"]), "1.2.3.4");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "1.2.3.4"], &["10.0.0.1"]), "1.2.3.4");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.9"], &["10.0.0.0/8"]), "1.2.3.4");
        assert_eq!(client("10.0.0.1", &["1.2.3.4, nonsense"], &["10.0.0.1"]), "10.0.0.1");
    }

    #[test]
    fn addresses_may_have_ports() {
        for entry in ["::1", "[::1]", "[::1]:80"] {
            assert_eq!(client("10.0.0.1", &[entry], &["10.0.0.1"]), "::1");
        }
        assert_eq!(client("10.0.0.1", &["1.2.3.4:5678"], &["10.0.0.1"]), "1.2.3.4");
    }

    #[test]
    fn a_request_id_is_taken_from_a_trusted_proxy_only() {
        let ids = RequestIds::new();
        let headers = HeaderMap::from_iter([(
            REQUEST_ID.parse().unwrap(),
            HeaderValue::from_static("proxy-1"),
        )]);
        assert_ne!(ids.of(Peer::Unix, &headers, &[]).to_string(), "proxy-1");
        assert_eq!(ids.of(Peer::Unix, &headers, &[TrustedProxy::Unix]).to_string(), "proxy-1");
        let bad =
            HeaderMap::from_iter([(REQUEST_ID.parse().unwrap(), HeaderValue::from_static("a b"))]);
        assert_ne!(ids.of(Peer::Unix, &bad, &[TrustedProxy::Unix]).to_string(), "a b");
    }
}
