//! What links lead to, told to clients so that they need not go there themselves.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>

mod fetch;
pub(crate) mod rows;
mod store;

use std::{error::Error as _, sync::Arc, time::Duration};

use moka::sync::Cache;
use reqwest::redirect::Policy;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::{
    clock::Clock,
    config::{self, Config},
    content::{Content, ContentError, Locks},
    outgoing::{Outgoing, OutgoingError, Refused},
    storage::{Db, StorageError, intern::UserNumber},
    users::limits::{LimitExceeded, Limits},
};

/// The longest address that is looked at.
const MAX_URL_BYTES: usize = 2048;
/// Pages fetched at once; more wait.
const AT_ONCE: usize = 8;
/// A page, its description and its picture together.
const WITHIN: Duration = Duration::from_secs(30);
/// A page that could not be had is not asked for again so soon.
const FAILED_FOR: Duration = Duration::from_mins(1);

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreviewError {
    /// The server makes none.
    #[error("this server makes no previews")]
    Off,
    /// Not the address of a web page.
    #[error("not the address of a web page")]
    Address,
    /// The operator does not want it, or it leads into a private network.
    #[error("previews of this address are not allowed")]
    NotAllowed,
    /// The page can't be had.
    #[error("the page cannot be had")]
    Unreachable(#[source] Option<reqwest::Error>),
    /// Too many previews.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// Its picture can't be kept.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<reqwest::Error> for PreviewError {
    fn from(error: reqwest::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            // The name has only private addresses.
            if cause.is::<Refused>() {
                return Self::NotAllowed;
            }
            source = cause.source();
        }
        Self::Unreachable(Some(error))
    }
}

/// Makes previews. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Previews {
    shared: Arc<Shared>,
}

struct Shared {
    settings: config::Previews,
    db: Db,
    clock: Clock,
    content: Content,
    outgoing: Outgoing,
    client: reqwest::Client,
    headers: http::HeaderMap,
    limits: Limits,
    fetching: Locks<[u8; 32]>,
    places: Semaphore,
    failed: Cache<[u8; 32], ()>,
}

impl Previews {
    /// As configured.
    ///
    /// # Errors
    /// [`OutgoingError`] if no requests can be made.
    pub(crate) fn new(
        config: &Config,
        db: Db,
        clock: Clock,
        content: Content,
        outgoing: Outgoing,
    ) -> Result<Self, OutgoingError> {
        let settings = config.previews.clone();
        // Redirects are followed one by one, since each must be on the operator's lists.
        let client = outgoing.client().redirect(Policy::none()).build();
        Ok(Self {
            shared: Arc::new(Shared {
                headers: fetch::headers(&settings, &config.server_name),
                limits: Limits::new(&config.rate_limits, clock.clone()),
                fetching: Locks::default(),
                places: Semaphore::new(AT_ONCE),
                failed: Cache::builder().max_capacity(10_000).time_to_live(FAILED_FOR).build(),
                settings,
                db,
                clock,
                content,
                client: client.map_err(OutgoingError::Client)?,
                outgoing,
            }),
        })
    }

    /// What is known about a page, as JSON. `limited`: the user whose limit it counts against.
    ///
    /// # Errors
    /// [`PreviewError`] if there is nothing to be had.
    pub(crate) async fn preview(
        &self,
        limited: Option<UserNumber>,
        address: &str,
    ) -> Result<String, PreviewError> {
        let shared = &*self.shared;
        if !shared.settings.enabled {
            return Err(PreviewError::Off);
        }
        let url = parse(address).ok_or(PreviewError::Address)?;
        if !is_allowed(&shared.settings, &url) {
            return Err(PreviewError::NotAllowed);
        }
        if let Some(user) = limited {
            shared.limits.preview_for(user)?;
        }
        let key: [u8; 32] = Sha256::digest(url.as_str()).into();
        if let Some(known) = self.known(&key).await? {
            return Ok(known);
        }
        let _fetching = shared.fetching.lock(&key).await;
        if let Some(known) = self.known(&key).await? {
            return Ok(known);
        }
        if shared.failed.contains_key(&key) {
            return Err(PreviewError::Unreachable(None));
        }
        let made = tokio::time::timeout(WITHIN, async {
            let _place = shared.places.acquire().await;
            self.fetch(&url).await
        })
        .await;
        match made.unwrap_or(Err(PreviewError::Unreachable(None))) {
            Ok(made) => {
                self.remember(&key, &made).await?;
                Ok(made.body)
            }
            Err(error) => {
                if matches!(error, PreviewError::Unreachable(_)) {
                    shared.failed.insert(key, ());
                }
                Err(error)
            }
        }
    }
}

/// The address of a page, without what only a browser makes of it.
fn parse(address: &str) -> Option<Url> {
    if address.len() > MAX_URL_BYTES {
        return None;
    }
    let mut url = Url::parse(address).ok()?;
    let fine = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none();
    url.set_fragment(None);
    fine.then_some(url)
}

/// Whether the operator's lists allow an address: on the first, unless that is empty, and not on
/// the second.
fn is_allowed(settings: &config::Previews, url: &Url) -> bool {
    let on = |list: &[String]| list.iter().any(|pattern| matches_host(pattern, url));
    (settings.allow.is_empty() || on(&settings.allow)) && !on(&settings.deny)
}

/// `example.org` means that host, `*.example.org` those below it.
fn matches_host(pattern: &str, url: &Url) -> bool {
    let host = match url.host() {
        Some(Host::Domain(host)) => host.trim_end_matches('.').to_ascii_lowercase(),
        Some(host) => host.to_string(),
        None => return false,
    };
    match pattern.strip_prefix("*.") {
        Some(above) => {
            host.strip_suffix(above).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
        }
        None => host == pattern,
    }
}

#[cfg(test)]
mod tests;
