//! Requests to push gateways.
//!
//! Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use moka::sync::Cache;
use reqwest::{Client, Response, Url, redirect};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::outgoing::{Outgoing, OutgoingError};

/// How long a gateway may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many requests go to one gateway at a time.
const AT_ONE_GATEWAY: usize = 32;
/// How many go to all of them.
const AT_ALL: usize = 512;
/// How many of these may be those that failed the last time: gateways that do not answer must not
/// take the turns of those that do.
const FAILING: usize = 128;
/// How many gateways are told apart.
const MAX_GATEWAYS: u64 = 10_000;
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 65_536;

/// Calls push gateways.
#[derive(Clone)]
pub(super) struct Gateways {
    client: Client,
    outgoing: Outgoing,
    turns: Arc<Turns>,
}

struct Turns {
    all: Semaphore,
    failing: Semaphore,
    each: Cache<String, Arc<Semaphore>>,
}

/// What became of a request.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// The gateway took it.
    Taken,
    /// The gateway says that the pushkey is none, or none any more.
    Rejected,
    /// It may work later.
    Failed(String),
    /// The gateway does not want this; it may want others.
    Refused(String),
}

impl Gateways {
    pub(super) fn new(outgoing: &Outgoing) -> Result<Self, OutgoingError> {
        let client = outgoing
            .client()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(OutgoingError::Client)?;
        let turns = Turns {
            all: Semaphore::new(AT_ALL),
            failing: Semaphore::new(FAILING),
            each: Cache::builder()
                .max_capacity(MAX_GATEWAYS)
                .time_to_idle(Duration::from_hours(1))
                .build(),
        };
        Ok(Self { client, outgoing: outgoing.clone(), turns: Arc::new(turns) })
    }

    /// Tells a gateway something for one device.
    pub(super) async fn notify(
        &self,
        url: &str,
        pushkey: &str,
        body: &impl Serialize,
        was_failing: bool,
    ) -> Answer {
        let Ok(url) = Url::parse(url) else { return Answer::Failed("it has no address".into()) };
        if let Err(refused) = self.outgoing.check(&url) {
            return Answer::Failed(refused.to_string());
        }
        let gateway = url.origin().ascii_serialization();
        let own = self.turns.each.get_with(gateway, || Arc::new(Semaphore::new(AT_ONE_GATEWAY)));
        let Some((_one, _two, _three)) = self.turns.take(&own, was_failing).await else {
            return Answer::Failed("the server stops".into());
        };
        let answer = match self.client.post(url).json(body).send().await {
            Ok(answer) => answer,
            Err(error) => return Answer::Failed(with_cause(&error)),
        };
        match answer.status() {
            status if status.is_success() => rejected(answer, pushkey).await,
            status @ (StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY) => Answer::Refused(status.to_string()),
            status => Answer::Failed(status.to_string()),
        }
    }
}

type Permits<'a> = (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>, SemaphorePermit<'a>);

impl Turns {
    /// A turn at this gateway; first its own, so that those who wait for it keep no other from
    /// going.
    async fn take<'a>(&'a self, own: &'a Semaphore, was_failing: bool) -> Option<Permits<'a>> {
        let own = own.acquire().await.ok()?;
        let failing = if was_failing { Some(self.failing.acquire().await.ok()?) } else { None };
        Some((own, failing, self.all.acquire().await.ok()?))
    }
}

/// Whether the gateway knows the pushkey.
async fn rejected(mut answer: Response, pushkey: &str) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        rejected: Vec<String>,
    }
    let mut bytes = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= MAX_ANSWER_BYTES => {
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => return Answer::Taken,
            Ok(None) => break,
            Err(error) => return Answer::Failed(with_cause(&error)),
        }
    }
    // A gateway that says so has taken it, whatever else it says.
    let body: Option<Body> = serde_json::from_slice(&bytes).ok();
    match body {
        Some(body) if body.rejected.iter().any(|rejected| rejected == pushkey) => Answer::Rejected,
        _ => Answer::Taken,
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
