//! Requests that the server itself makes: to other servers, for previews, to push gateways.
//!
//! Whoever can make the server call an address of their choice must not reach what is behind its
//! firewall, so private addresses are refused unless `outgoing.allow_private_addresses` is set:
//! written out, found by name, and after redirects.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use reqwest::{
    Certificate, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use crate::config;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may be silent before it is complete.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes HTTP clients that are bounded and keep to the configuration.
#[derive(Clone)]
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
}

struct Shared {
    roots: Vec<Certificate>,
    /// There is no system store of roots, or it is empty.
    only_own_roots: bool,
    allow_private: bool,
    resolver: TokioResolver,
}

/// Why no requests can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutgoingError {
    /// A file of `outgoing.ca_certificates` can't be read.
    #[error("outgoing.ca_certificates: cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of `outgoing.ca_certificates` holds no certificates.
    #[error("outgoing.ca_certificates: {} holds no certificates", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// A file of `outgoing.ca_certificates` holds something else.
    #[error("outgoing.ca_certificates: {} is no PEM file of certificates", path.display())]
    BadCertificate {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: reqwest::Error,
    },
    /// No name servers can be asked.
    #[error("cannot resolve names")]
    Resolver(#[source] hickory_resolver::net::NetError),
    /// No client can be made.
    #[error("cannot make requests")]
    Client(#[source] reqwest::Error),
}

/// The address must not be called.
#[derive(Debug, thiserror::Error)]
#[error("{host} is at a private address")]
pub(crate) struct Refused {
    host: String,
}

impl Outgoing {
    /// Reads the roots and the system's list of name servers.
    ///
    /// # Errors
    /// [`OutgoingError`].
    pub(crate) fn new(config: &config::Outgoing) -> Result<Self, OutgoingError> {
        // Whoever comes first decides; all want the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = Vec::new();
        for path in &config.ca_certificates {
            let pem = std::fs::read(path)
                .map_err(|source| OutgoingError::Read { path: path.clone(), source })?;
            let found = Certificate::from_pem_bundle(&pem)
                .map_err(|source| OutgoingError::BadCertificate { path: path.clone(), source })?;
            if found.is_empty() {
                return Err(OutgoingError::NoCertificate { path: path.clone() });
            }
            roots.extend(found);
        }
        let mut resolver = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers are configured: names are looked up in the hosts file only");
            TokioResolver::builder_with_config(
                ResolverConfig::default(),
                TokioRuntimeProvider::default(),
            )
        });
        resolver.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = resolver.build().map_err(OutgoingError::Resolver)?;
        let shared = |only_own_roots| Shared {
            roots: roots.clone(),
            only_own_roots,
            allow_private: config.allow_private_addresses,
            resolver: resolver.clone(),
        };
        let outgoing = Self { shared: Arc::new(shared(false)) };
        let Err(error) = outgoing.client().build() else { return Ok(outgoing) };
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the system trusts no certificates: only those of outgoing.ca_certificates are"
        );
        let outgoing = Self { shared: Arc::new(shared(true)) };
        outgoing.client().build().map_err(OutgoingError::Client)?;
        Ok(outgoing)
    }

    /// A client that trusts the right roots, refuses private addresses also behind names and
    /// redirects, and gives up on what does not move. The first URL is for [`Self::check`].
    pub(crate) fn client(&self) -> ClientBuilder {
        let guard = self.clone();
        let follow = redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("too many redirects");
            }
            match guard.check(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        });
        self.client_for_configured().redirect(follow).dns_resolver(Guarded(self.clone()))
    }

    /// A client for what the configuration names, which may well be behind the same firewall:
    /// trusts the right roots and goes to any address.
    pub(crate) fn client_for_configured(&self) -> ClientBuilder {
        let client = reqwest::Client::builder()
            .no_proxy()
            .referer(false)
            .user_agent(concat!("myelin/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        let roots = self.shared.roots.iter().cloned();
        if self.shared.only_own_roots {
            client.tls_certs_only(roots)
        } else {
            client.tls_certs_merge(roots)
        }
    }

    /// The name servers.
    pub(crate) fn resolver(&self) -> TokioResolver {
        self.shared.resolver.clone()
    }

    /// Whether private addresses may be called.
    pub(crate) fn allows_private(&self) -> bool {
        self.shared.allow_private
    }

    /// Whether this address may be called.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        self.shared.allow_private || is_public(address)
    }

    /// Whether this URL may be called. One with a name is looked at again when the name's addresses
    /// are known.
    ///
    /// # Errors
    /// [`Refused`] if it has an address in place of a name, and that is a private one.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) if !self.permits(address) => Err(Refused { host: host.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// Finds addresses, and leaves out those that must not be called.
struct Guarded(Outgoing);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let outgoing = self.0.clone();
        Box::pin(async move {
            let found = outgoing.shared.resolver.lookup_ip(name.as_str()).await?;
            let permitted: Vec<SocketAddr> = found
                .iter()
                .filter(|address| outgoing.permits(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if permitted.is_empty() {
                return Err(Refused { host: name.as_str().to_owned() }.into());
            }
            let addresses: Addrs = Box::new(permitted.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether everybody on the Internet means the same machine by this address.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    // The special-purpose registry of RFC 6890 and its successors.
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // Addresses of IPv4 in one form or another: mapped, compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xFFFF | 0, high, low] | [0x64, 0xFF9B, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        [0x2002, high, low, ..] => embedded(high, low),
        // Of the rest only global unicast, less documentation and tunnels.
        [0x2001, second, ..] => second >= 0x200 && second != 0xDB8,
        [first, ..] => (0x2000..0x4000).contains(&first) && first != 0x3FFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(allow_private_addresses: bool) -> Outgoing {
        let config = config::Outgoing { allow_private_addresses, ..config::Outgoing::default() };
        Outgoing::new(&config).unwrap()
    }

    #[test]
    fn private_addresses_in_all_their_forms_are_told_apart() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "100::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_url_with_a_private_address_is_refused_unless_allowed() {
        for url in
            ["https://127.0.0.1/", "https://[::1]:8448/x", "http://0x7f.1/", "http://2130706433/"]
        {
            let url = Url::parse(url).unwrap();
            assert!(outgoing(false).check(&url).is_err(), "{url}");
            assert!(outgoing(true).check(&url).is_ok(), "{url}");
        }
        assert!(outgoing(false).check(&Url::parse("https://matrix.example/").unwrap()).is_ok());
    }

    /// A server that answers `/` with a redirect to `/there` at this URL, and the rest with `ok`.
    async fn redirecting(to: &'static str) -> SocketAddr {
        use axum::{Router, http::header, response::IntoResponse as _, routing::get};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = to.replace("PORT", &address.port().to_string());
        let redirect = move || {
            let headers = [(header::LOCATION, target.clone())];
            std::future::ready((http::StatusCode::FOUND, headers).into_response())
        };
        let routes = Router::new().route("/", get(redirect)).fallback(|| std::future::ready("ok"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    #[tokio::test]
    async fn names_of_private_addresses_are_refused_unless_allowed() {
        let port = redirecting("/").await.port();
        let url = format!("http://localhost:{port}/there");
        let refused = outgoing(false).client().build().unwrap().get(&url).send().await;
        assert!(refused.unwrap_err().is_connect());
        let answer = outgoing(true).client().build().unwrap().get(&url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn a_redirect_to_a_private_address_is_refused() {
        let address = redirecting("http://127.0.0.1:PORT/there").await;
        // The first address is reached in spite of the rule, to see what becomes of the second.
        let refusing = outgoing(false);
        let client = refusing.client().resolve("public.example", address).build().unwrap();
        let url = format!("http://public.example:{}/", address.port());
        let refused = client.get(&url).send().await.unwrap_err();
        assert!(refused.is_redirect(), "{refused:?}");
        let client = outgoing(true).client().resolve("public.example", address).build().unwrap();
        assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn redirects_in_a_circle_end() {
        let address = redirecting("/").await;
        let client = outgoing(true).client().build().unwrap();
        let error = client.get(format!("http://{address}/")).send().await.unwrap_err();
        assert!(error.is_redirect());
    }
}
