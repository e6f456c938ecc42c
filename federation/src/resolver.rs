//! Server names to hosts.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

use std::net::IpAddr;

use moka::{future::Cache, ops::compute::Op};
use ruma::{OwnedServerName, ServerName};

use crate::{
    Now,
    delegation::{self, WellKnown, parse_delegation},
    dns::{Dns, DnsError, Srv},
};

/// The port of a server that does not say.
const DEFAULT_PORT: u16 = 8448;
/// Of how many hosts the delegation is remembered.
const MAX_CACHED: u64 = 20_000;
/// How many SRV targets are tried.
const MAX_TARGETS: usize = 8;

/// Where and how to connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// The name that the certificate must have: a host name, or an address (without brackets).
    pub certificate: String,
    /// The `Host` header.
    pub host_header: String,
    /// How to find the addresses.
    pub via: Via,
}

/// How the addresses of a [`Route`] are found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// This one.
    Address(IpAddr, u16),
    /// Those of the name in the certificate.
    Name(u16),
    /// Those of these hosts, in this order.
    Services(Vec<(String, u16)>),
}

/// Why a server name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers do not answer.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The SRV record says that there is no server.
    #[error("{0} has an SRV record that says there is no server")]
    NoService(String),
}

/// Resolves server names, and remembers delegations.
pub struct Resolver<D, W> {
    dns: D,
    well_known: W,
    now: Now,
    random: Box<dyn Fn() -> u64 + Send + Sync>,
    delegations: Cache<String, Delegation>,
}

/// What is known of a host's `.well-known` file.
#[derive(Clone, Debug)]
struct Delegation {
    to: Option<OwnedServerName>,
    /// When to ask again.
    stale_at_ms: u64,
    /// Until when `to` holds if asking again fails.
    ends_at_ms: u64,
    failures: u32,
}

impl<D: Dns, W: WellKnown> Resolver<D, W> {
    /// A resolver that knows nothing yet. `random` spreads the load over services of one priority.
    pub fn new(
        dns: D,
        well_known: W,
        now: Now,
        random: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let delegations = Cache::new(MAX_CACHED);
        Self { dns, well_known, now, random: Box::new(random), delegations }
    }

    /// The name servers.
    pub fn dns(&self) -> &D {
        &self.dns
    }

    /// Where `server` is.
    ///
    /// # Errors
    /// [`ResolveError`]. That a name has no addresses is found out later, when connecting.
    pub async fn resolve(&self, server: &ServerName) -> Result<Route, ResolveError> {
        // 1. and 2.
        if let Some(route) = explicit(server) {
            return Ok(route);
        }
        // 3.
        match self.delegation(server.host()).await {
            Some(delegated) => match explicit(&delegated) {
                Some(route) => Ok(route),
                None => self.by_service(delegated.host()).await,
            },
            None => self.by_service(server.host()).await,
        }
    }

    /// 3.3 to 3.5, and 4 to 6: SRV records, then the host itself.
    async fn by_service(&self, host: &str) -> Result<Route, ResolveError> {
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let found = self.dns.services(&format!("{service}.{host}")).await?;
            if found.is_empty() {
                continue;
            }
            let targets = in_order(found, &*self.random);
            if targets.is_empty() {
                return Err(ResolveError::NoService(host.to_owned()));
            }
            return Ok(Route {
                certificate: host.to_owned(),
                host_header: host.to_owned(),
                via: Via::Services(targets),
            });
        }
        Ok(Route {
            certificate: host.to_owned(),
            host_header: host.to_owned(),
            via: Via::Name(DEFAULT_PORT),
        })
    }

    async fn delegation(&self, host: &str) -> Option<OwnedServerName> {
        let key = host.to_ascii_lowercase();
        let now = (self.now)();
        if let Some(known) = self.delegations.get(&key).await
            && now < known.stale_at_ms
        {
            return known.to;
        }
        // All who ask meanwhile wait for one fetch.
        let entry = self.delegations.entry(key).and_compute_with(async |old| {
            let old = old.map(moka::Entry::into_value);
            match old {
                Some(old) if now < old.stale_at_ms => Op::Nop,
                old => Op::Put(self.fetch(host, now, old).await),
            }
        });
        entry.await.into_entry().and_then(|entry| entry.into_value().to)
    }

    async fn fetch(&self, host: &str, now: u64, old: Option<Delegation>) -> Delegation {
        let answer = self.well_known.fetch(host).await;
        if let Some((to, lifetime_ms)) = answer.as_ref().and_then(parse_delegation) {
            return Delegation {
                to: Some(to),
                stale_at_ms: now.saturating_add(lifetime_ms),
                ends_at_ms: now.saturating_add(delegation::MAX_MS),
                failures: 0,
            };
        }
        let failures = old.as_ref().map_or(0, |old| old.failures.saturating_add(1));
        // A file that can't be reached for a while still says what it said; one that is gone does
        // not.
        let gone = answer.is_some_and(|answer| !answer.status.is_server_error());
        let kept = old.filter(|old| !gone && now < old.ends_at_ms);
        Delegation {
            ends_at_ms: kept.as_ref().map_or(now, |old| old.ends_at_ms),
            to: kept.and_then(|old| old.to),
            stale_at_ms: now.saturating_add(delegation::failure_ms(failures)),
            failures,
        }
    }
}

/// The route of a name that needs no further look: an address, or a host with a port.
fn explicit(server: &ServerName) -> Option<Route> {
    let host = server.host();
    let host_header = server.as_str().to_owned();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        let port = server.port().unwrap_or(DEFAULT_PORT);
        let via = Via::Address(address, port);
        return Some(Route { certificate: bare.to_owned(), host_header, via });
    }
    let port = server.port()?;
    Some(Route { certificate: host.to_owned(), host_header, via: Via::Name(port) })
}

/// By priority, and at random by weight within one. Empty if there is said to be no service.
fn in_order(mut services: Vec<Srv>, random: &dyn Fn() -> u64) -> Vec<(String, u16)> {
    services.retain(|service| !service.target.is_empty());
    services.truncate(4 * MAX_TARGETS);
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(priority) = services.first().map(|service| service.priority) {
        let same = services.iter().take_while(|service| service.priority == priority);
        // One is added to each, so that those of weight zero are drawn too, if rarely.
        let total: u64 = same.clone().map(|service| u64::from(service.weight) + 1).sum();
        let mut drawn = random() % total.max(1);
        let mut index = 0;
        for (at, service) in same.enumerate() {
            index = at;
            let share = u64::from(service.weight) + 1;
            if drawn < share {
                break;
            }
            drawn -= share;
        }
        let service = services.remove(index);
        ordered.push((service.target, service.port));
    }
    ordered.truncate(MAX_TARGETS);
    ordered
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{
            Arc,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
    };

    use futures::future::BoxFuture;
    use http::StatusCode;
    use parking_lot::Mutex;

    use super::*;
    use crate::delegation::WellKnownAnswer;

    #[derive(Clone, Default)]
    struct Net {
        services: Arc<Mutex<HashMap<String, Vec<Srv>>>>,
        files: Arc<Mutex<HashMap<String, WellKnownAnswer>>>,
        fetches: Arc<AtomicUsize>,
        now: Arc<AtomicU64>,
    }

    impl Net {
        fn with_service(self, name: &str, target: &str, port: u16) -> Self {
            let service = Srv { priority: 1, weight: 1, port, target: target.to_owned() };
            self.services.lock().entry(name.to_owned()).or_default().push(service);
            self
        }

        fn with_file(self, host: &str, status: u16, body: &str) -> Self {
            let answer = WellKnownAnswer {
                status: StatusCode::from_u16(status).unwrap(),
                cache_control: Some("max-age=3600".to_owned()),
                body: body.as_bytes().to_vec(),
            };
            self.files.lock().insert(host.to_owned(), answer);
            self
        }

        fn resolver(&self) -> Resolver<Self, Self> {
            let now = Arc::clone(&self.now);
            let now: Now = Arc::new(move || now.load(Ordering::Relaxed));
            Resolver::new(self.clone(), self.clone(), now, || 0)
        }

        async fn route(&self, server: &str) -> Route {
            self.resolver().resolve(<&ServerName>::try_from(server).unwrap()).await.unwrap()
        }
    }

    impl Dns for Net {
        fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Srv>, DnsError>> {
            Box::pin(async move { Ok(self.services.lock().get(name).cloned().unwrap_or_default()) })
        }
    }

    impl WellKnown for Net {
        fn fetch<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<WellKnownAnswer>> {
            Box::pin(async move {
                self.fetches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                self.files.lock().get(host).cloned()
            })
        }
    }

    fn route(certificate: &str, host_header: &str, via: Via) -> Route {
        Route { certificate: certificate.to_owned(), host_header: host_header.to_owned(), via }
    }

    fn services(target: &str, port: u16) -> Via {
        Via::Services(vec![(target.to_owned(), port)])
    }

    #[tokio::test]
    async fn step_1_an_address_is_used_as_it_is() {
        let net = Net::default();
        let four = "1.2.3.4".parse().unwrap();
        let six = "::1".parse().unwrap();
        let expected = route("1.2.3.4", "1.2.3.4", Via::Address(four, 8448));
        assert_eq!(net.route("1.2.3.4").await, expected);
        let expected = route("1.2.3.4", "1.2.3.4:80", Via::Address(four, 80));
        assert_eq!(net.route("1.2.3.4:80").await, expected);
        let expected = route("::1", "[::1]:9", Via::Address(six, 9));
        assert_eq!(net.route("[::1]:9").await, expected);
        assert_eq!(net.fetches.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn step_2_a_port_means_no_delegation() {
        let net = Net::default().with_file("a.example", 200, r#"{"m.server":"b.example"}"#);
        let expected = route("a.example", "a.example:443", Via::Name(443));
        assert_eq!(net.route("a.example:443").await, expected);
        assert_eq!(net.fetches.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn step_3_the_delegated_name_is_resolved_in_its_place() {
        let to = |server: &str| {
            let file = format!(r#"{{"m.server":"{server}"}}"#);
            Net::default().with_file("a.example", 200, &file)
        };
        let four = "1.2.3.4".parse().unwrap();
        let expected = route("1.2.3.4", "1.2.3.4", Via::Address(four, 8448));
        assert_eq!(to("1.2.3.4").route("a.example").await, expected);
        let expected = route("b.example", "b.example:99", Via::Name(99));
        assert_eq!(to("b.example:99").route("a.example").await, expected);
        let expected = route("b.example", "b.example", Via::Name(8448));
        assert_eq!(to("b.example").route("a.example").await, expected);
        let net = to("b.example").with_service("_matrix-fed._tcp.b.example", "c.example", 7);
        let expected = route("b.example", "b.example", services("c.example", 7));
        assert_eq!(net.route("a.example").await, expected);
    }

    #[tokio::test]
    async fn steps_4_to_6_without_a_delegation_services_of_the_name_then_the_name() {
        let old = Net::default().with_service("_matrix._tcp.a.example", "old.example", 2);
        let expected = route("a.example", "a.example", services("old.example", 2));
        assert_eq!(old.route("a.example").await, expected);
        let both = old.with_service("_matrix-fed._tcp.a.example", "new.example", 1);
        let expected = route("a.example", "a.example", services("new.example", 1));
        assert_eq!(both.route("a.example").await, expected);
        let bad = Net::default().with_file("a.example", 200, "<html>");
        let expected = route("a.example", "a.example", Via::Name(8448));
        assert_eq!(bad.route("a.example").await, expected);
    }

    #[tokio::test]
    async fn a_service_that_is_said_not_to_be_is_an_error() {
        let net = Net::default().with_service("_matrix-fed._tcp.a.example", "", 0);
        let resolver = net.resolver();
        let found = resolver.resolve(<&ServerName>::try_from("a.example").unwrap()).await;
        assert!(matches!(found, Err(ResolveError::NoService(_))));
    }

    #[tokio::test]
    async fn many_who_ask_at_once_make_one_fetch_and_its_answer_is_kept() {
        let net = Net::default().with_file("a.example", 200, r#"{"m.server":"b.example:1"}"#);
        let resolver = net.resolver();
        let name = <&ServerName>::try_from("a.example").unwrap();
        let all = futures::future::join_all((0..20).map(|_| resolver.resolve(name))).await;
        assert!(all.into_iter().all(|found| found.unwrap().certificate == "b.example"));
        assert_eq!(net.fetches.load(Ordering::Relaxed), 1);
        // Stale after its hour, and not reachable: what it said holds on.
        net.files.lock().clear();
        net.now.store(3_600_001, Ordering::Relaxed);
        assert_eq!(resolver.resolve(name).await.unwrap().certificate, "b.example");
        assert_eq!(resolver.resolve(name).await.unwrap().certificate, "b.example");
        assert_eq!(net.fetches.load(Ordering::Relaxed), 2, "failures are kept too");
        net.now.store(49 * 3_600_000, Ordering::Relaxed);
        assert_eq!(resolver.resolve(name).await.unwrap().certificate, "a.example");
    }

    #[test]
    fn services_come_by_priority_and_then_by_weight() {
        let service = |priority, weight, target: &str| Srv {
            priority,
            weight,
            port: 1,
            target: target.to_owned(),
        };
        let all = vec![service(20, 5, "c"), service(10, 0, "a"), service(10, 9, "b")];
        let names = |random: u64| -> Vec<String> {
            in_order(all.clone(), &move || random).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(0), ["a", "b", "c"]);
        assert_eq!(names(3), ["b", "a", "c"]);
    }
}
