//! Finding the key with which something was signed: in memory, in the database, from the server
//! itself, from notaries.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use futures::future::BoxFuture;
use moka::{future::Cache, ops::compute::Op};
use ruma::{OwnedServerName, ServerName};

use crate::{
    Now,
    keys::{Purpose, ServerKeys},
};

/// Of how many servers keys are kept in memory.
const MAX_CACHED: u64 = 10_000;
/// The first pause after a failure; it doubles with each one.
const FIRST_PAUSE_MS: u64 = 30_000;
/// The longest.
const MAX_PAUSE_MS: u64 = 3_600_000;

/// Where keys are kept.
pub trait KeyStore: Send + Sync + 'static {
    /// What `server` published last, and when it was fetched (ms since the Unix epoch).
    fn load<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<(String, u64)>>;
    /// Keeps what was fetched.
    fn store<'a>(&'a self, keys: &'a ServerKeys, fetched_at_ms: u64) -> BoxFuture<'a, ()>;
}

/// How keys are fetched. Answers are JSON of at most 64 KiB for each server.
pub trait KeyFetch: Send + Sync + 'static {
    /// Asks the server itself.
    fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>>;
    /// Asks a notary for the keys of `server`, valid until this time or later. What the notary
    /// answers is signed by it, which the implementation need not check: the answer came over TLS
    /// from the notary, and each is signed by `server` too.
    fn notary<'a>(
        &'a self,
        notary: &'a ServerName,
        server: &'a ServerName,
        valid_until_ms: u64,
    ) -> BoxFuture<'a, Vec<String>>;
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// Neither the server nor any notary gives a key that counts.
    #[error("the key {key} of {server} can't be found, or does not count here")]
    NotFound {
        /// Whose.
        server: OwnedServerName,
        /// Which.
        key: String,
    },
}

impl KeyRingError {
    /// Whose key it is.
    pub fn server(&self) -> &ServerName {
        match self {
            Self::NotFound { server, .. } => server,
        }
    }
}

/// Keys of other servers.
pub struct KeyRing<S, F> {
    store: S,
    fetch: F,
    now: Now,
    notaries: Vec<OwnedServerName>,
    known: Cache<OwnedServerName, Known>,
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
struct Known {
    keys: Option<Arc<ServerKeys>>,
    fetched_at_ms: u64,
    failures: u32,
    /// Nothing is fetched before.
    retry_at_ms: u64,
}

impl Known {
    fn key(&self, id: &str, purpose: Purpose, now_ms: u64) -> Option<VerifyingKey> {
        self.keys.as_ref()?.key(id, purpose, now_ms, self.fetched_at_ms)
    }
}

impl<S: KeyStore, F: KeyFetch> KeyRing<S, F> {
    /// A key ring that asks `notaries` for keys of servers that do not answer.
    pub fn new(store: S, fetch: F, notaries: Vec<OwnedServerName>, now: Now) -> Self {
        Self { store, fetch, now, notaries, known: Cache::new(MAX_CACHED) }
    }

    /// The key `id` of `server`, if it counts for the purpose. `helper` is a server that may know
    /// it if `server` does not answer: the one a room is joined through, say.
    ///
    /// Many who ask for the same server at the same time make one request.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub async fn key(
        &self,
        server: &ServerName,
        id: &str,
        purpose: Purpose,
        helper: Option<&ServerName>,
    ) -> Result<VerifyingKey, KeyRingError> {
        let now = (self.now)();
        if let Some(known) = self.known.get(server).await
            && let Some(key) = known.key(id, purpose, now)
        {
            return Ok(key);
        }
        let entry = self.known.entry(server.to_owned()).and_compute_with(async |old| {
            let had = old.is_some();
            let mut known = match old {
                Some(old) => old.into_value(),
                None => self.load(server).await,
            };
            if known.key(id, purpose, now).is_none() && now >= known.retry_at_ms {
                self.refresh(server, id, purpose, helper, &mut known).await;
            } else if had {
                return Op::Nop;
            }
            Op::Put(known)
        });
        let known = match entry.await {
            moka::ops::compute::CompResult::Inserted(entry)
            | moka::ops::compute::CompResult::ReplacedWith(entry)
            | moka::ops::compute::CompResult::Unchanged(entry) => entry.into_value(),
            moka::ops::compute::CompResult::Removed(_)
            | moka::ops::compute::CompResult::StillNone(_) => Known::default(),
        };
        known
            .key(id, purpose, now)
            .ok_or_else(|| KeyRingError::NotFound { server: server.to_owned(), key: id.to_owned() })
    }

    /// What `server` published, valid until `valid_until_ms` if it can be had: for those who ask
    /// this server as a notary. Old answers are better than none.
    pub async fn published(
        &self,
        server: &ServerName,
        valid_until_ms: u64,
    ) -> Option<Arc<ServerKeys>> {
        let now = (self.now)();
        let wanted = |known: &Known| {
            let keys = known.keys.as_ref();
            keys.is_some_and(|keys| {
                keys.valid_until_ms() >= valid_until_ms && keys.is_fresh(now, known.fetched_at_ms)
            })
        };
        let entry = self.known.entry(server.to_owned()).and_compute_with(async |old| {
            let mut known = match old {
                Some(old) => old.into_value(),
                None => self.load(server).await,
            };
            if !wanted(&known) && now >= known.retry_at_ms {
                let fetched = self.fetch.direct(server).await;
                let keys = fetched.and_then(|json| ServerKeys::parse(server, &json).ok());
                self.note(&mut known, keys).await;
            }
            Op::Put(known)
        });
        match entry.await {
            moka::ops::compute::CompResult::Inserted(entry)
            | moka::ops::compute::CompResult::ReplacedWith(entry) => entry.into_value().keys,
            _ => None,
        }
    }

    /// Asks again at once when something is next needed of `server`: it is there.
    pub async fn contacted(&self, server: &ServerName) {
        if let Some(mut known) = self.known.get(server).await
            && known.retry_at_ms > 0
        {
            known.retry_at_ms = 0;
            self.known.insert(server.to_owned(), known).await;
        }
    }

    async fn load(&self, server: &ServerName) -> Known {
        let stored = self.store.load(server).await;
        let keys = stored.and_then(|(json, fetched_at_ms)| {
            Some((Arc::new(ServerKeys::parse(server, &json).ok()?), fetched_at_ms))
        });
        match keys {
            Some((keys, fetched_at_ms)) => {
                Known { keys: Some(keys), fetched_at_ms, ..Known::default() }
            }
            None => Known::default(),
        }
    }

    async fn refresh(
        &self,
        server: &ServerName,
        id: &str,
        purpose: Purpose,
        helper: Option<&ServerName>,
        known: &mut Known,
    ) {
        let now = (self.now)();
        let counts = |keys: &ServerKeys| keys.key(id, purpose, now, now).is_some();
        let direct = self.fetch.direct(server).await;
        let direct = direct.and_then(|json| match ServerKeys::parse(server, &json) {
            Ok(keys) => Some(keys),
            Err(error) => {
                tracing::debug!(%server, %error, "keys not believed");
                None
            }
        });
        let mut best = direct;
        if !best.as_ref().is_some_and(counts) {
            let valid_until_ms = match purpose {
                Purpose::Request => now,
                Purpose::Event { origin_server_ts } => origin_server_ts,
                Purpose::AnyEvent => 0,
            };
            let notaries = helper.into_iter().chain(self.notaries.iter().map(AsRef::as_ref));
            'notaries: for notary in notaries.filter(|notary| *notary != server) {
                for json in self.fetch.notary(notary, server, valid_until_ms).await {
                    let Ok(keys) = ServerKeys::parse(server, &json) else { continue };
                    if counts(&keys) {
                        best = Some(keys);
                        break 'notaries;
                    }
                    best = best.or(Some(keys));
                }
            }
        }
        self.note(known, best).await;
        // It answered, but not with this key: asking again would not help for a while.
        if known.key(id, purpose, now).is_none() {
            known.failures = known.failures.saturating_add(1);
            known.retry_at_ms = now.saturating_add(pause_ms(known.failures));
        }
    }

    /// Keeps what was fetched, or remembers that nothing came.
    async fn note(&self, known: &mut Known, keys: Option<ServerKeys>) {
        let now = (self.now)();
        let Some(keys) = keys else {
            known.failures = known.failures.saturating_add(1);
            known.retry_at_ms = now.saturating_add(pause_ms(known.failures));
            return;
        };
        self.store.store(&keys, now).await;
        *known =
            Known { keys: Some(Arc::new(keys)), fetched_at_ms: now, failures: 0, retry_at_ms: 0 };
    }
}

fn pause_ms(failures: u32) -> u64 {
    (FIRST_PAUSE_MS << failures.saturating_sub(1).min(16)).min(MAX_PAUSE_MS)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    };

    use parking_lot::Mutex;
    use ruma::server_name;

    use super::*;
    use crate::keys::tests::published;

    #[derive(Clone, Default)]
    struct World {
        stored: Arc<Mutex<HashMap<String, (String, u64)>>>,
        direct: Arc<Mutex<HashMap<String, String>>>,
        notary: Arc<Mutex<HashMap<String, String>>>,
        requests: Arc<AtomicUsize>,
        now: Arc<AtomicU64>,
    }

    impl KeyStore for World {
        fn load<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<(String, u64)>> {
            Box::pin(async move { self.stored.lock().get(server.as_str()).cloned() })
        }

        fn store<'a>(&'a self, keys: &'a ServerKeys, fetched_at_ms: u64) -> BoxFuture<'a, ()> {
            let row = (keys.json().to_owned(), fetched_at_ms);
            self.stored.lock().insert(keys.server().to_string(), row);
            Box::pin(async {})
        }
    }

    impl KeyFetch for World {
        fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>> {
            Box::pin(async move {
                self.requests.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                self.direct.lock().get(server.as_str()).cloned()
            })
        }

        fn notary<'a>(
            &'a self,
            _: &'a ServerName,
            server: &'a ServerName,
            _: u64,
        ) -> BoxFuture<'a, Vec<String>> {
            Box::pin(async move {
                self.notary.lock().get(server.as_str()).cloned().into_iter().collect()
            })
        }
    }

    impl World {
        fn ring(&self) -> KeyRing<Self, Self> {
            let now = Arc::clone(&self.now);
            let now: Now = Arc::new(move || now.load(Ordering::Relaxed));
            let notaries = vec![server_name!("notary.example").to_owned()];
            KeyRing::new(self.clone(), self.clone(), notaries, now)
        }

        fn publish(&self, valid_until_ms: u64) {
            let json = published("a.example", 1, valid_until_ms);
            self.direct.lock().insert("a.example".to_owned(), json);
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_make_one_request_and_the_answer_outlives_a_restart() {
        let world = World::default();
        world.publish(1_000);
        let ring = world.ring();
        let a = server_name!("a.example");
        let ask = || ring.key(a, "ed25519:1", Purpose::Request, None);
        let all = futures::future::join_all((0..10).map(|_| ask())).await;
        assert!(all.into_iter().all(|key| key.is_ok()));
        assert_eq!(world.requests(), 1);
        let again = world.ring().key(a, "ed25519:1", Purpose::Request, None).await;
        assert!(again.is_ok());
        assert_eq!(world.requests(), 1, "it was in the database");
    }

    #[tokio::test]
    async fn keys_that_do_not_count_any_more_are_fetched_again() {
        let world = World::default();
        world.publish(1_000);
        let ring = world.ring();
        let a = server_name!("a.example");
        ring.key(a, "ed25519:1", Purpose::Request, None).await.unwrap();
        world.publish(5_000);
        world.now.store(2_000, Ordering::Relaxed);
        ring.key(a, "ed25519:1", Purpose::Request, None).await.unwrap();
        assert_eq!(world.requests(), 2);
    }

    #[tokio::test]
    async fn a_server_without_the_key_is_left_alone_for_longer_each_time() {
        let world = World::default();
        let ring = world.ring();
        let a = server_name!("a.example");
        let ask = || ring.key(a, "ed25519:1", Purpose::AnyEvent, None);
        ask().await.unwrap_err();
        ask().await.unwrap_err();
        assert_eq!(world.requests(), 1);
        world.publish(1_000);
        ask().await.unwrap_err();
        ring.contacted(a).await;
        ask().await.unwrap();
        assert_eq!(world.requests(), 2, "it contacted us, so it is there");
        ring.key(a, "ed25519:9", Purpose::AnyEvent, None).await.unwrap_err();
        ring.key(a, "ed25519:9", Purpose::AnyEvent, None).await.unwrap_err();
        assert_eq!(world.requests(), 3);
        assert_eq!(pause_ms(1), FIRST_PAUSE_MS);
        assert_eq!(pause_ms(40), MAX_PAUSE_MS);
    }

    #[tokio::test]
    async fn a_notary_knows_the_keys_of_a_server_that_is_gone() {
        let world = World::default();
        let json = published("a.example", 1, 1_000);
        world.notary.lock().insert("a.example".to_owned(), json);
        let purpose = Purpose::Event { origin_server_ts: 900 };
        world.now.store(50_000, Ordering::Relaxed);
        let a = server_name!("a.example");
        assert!(world.ring().key(a, "ed25519:1", purpose, None).await.is_ok());
        let now = world.ring().key(a, "ed25519:1", Purpose::Request, None).await;
        assert!(now.is_err(), "that key signs no more requests");
    }

    #[tokio::test]
    async fn as_a_notary_an_old_answer_is_better_than_none() {
        let world = World::default();
        world.publish(1_000);
        let ring = world.ring();
        let a = server_name!("a.example");
        assert!(ring.published(a, 0).await.is_some());
        world.direct.lock().clear();
        world.now.store(9_000, Ordering::Relaxed);
        assert_eq!(ring.published(a, 9_000).await.unwrap().valid_until_ms(), 1_000);
    }
}
