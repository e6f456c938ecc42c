//! Requests to push gateways and push services.
//!
//! Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use moka::sync::Cache;
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    clock::{Clock, Random},
    outgoing::{Outgoing, OutgoingError},
    push::webpush::{Receiver, Vapid, encrypt},
};

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
/// For how long a push service keeps a message for a device that is off, in seconds.
const KEPT_SECONDS: u64 = 7 * 24 * 60 * 60;
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 65_536;

/// Calls push gateways.
#[derive(Clone)]
pub(super) struct Gateways {
    client: Client,
    outgoing: Outgoing,
    vapid: Vapid,
    clock: Clock,
    random: Random,
    turns: Arc<Turns>,
}

/// A device that is reached through a push service.
pub(super) struct WebPusher<'a> {
    /// Where its messages are left.
    pub(super) url: &'a str,
    /// Its keys; none if they are no keys.
    pub(super) receiver: Option<Receiver>,
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
    pub(super) fn new(
        outgoing: &Outgoing,
        vapid: Vapid,
        clock: Clock,
        random: Random,
    ) -> Result<Self, OutgoingError> {
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
        let (outgoing, turns) = (outgoing.clone(), Arc::new(turns));
        Ok(Self { client, outgoing, vapid, clock, random, turns })
    }

    /// Tells a gateway something for one device.
    pub(super) async fn notify(
        &self,
        url: &str,
        pushkey: &str,
        body: &impl Serialize,
        was_failing: bool,
    ) -> Answer {
        let request = |url| Some(self.client.post(url).json(body));
        let answer = match self.request(url, was_failing, request).await {
            Ok(answer) => answer,
            Err(failed) => return failed,
        };
        match answer.status() {
            status if status.is_success() => rejected(answer, pushkey).await,
            status => unwanted(status),
        }
    }

    /// Sends a push service what only the device can read.
    ///
    /// Spec: <https://www.rfc-editor.org/rfc/rfc8030#section-5>
    pub(super) async fn push(
        &self,
        pusher: &WebPusher<'_>,
        payload: &[u8],
        urgent: bool,
        was_failing: bool,
    ) -> Answer {
        let Some(message) = pusher
            .receiver
            .and_then(|receiver| encrypt(payload, &receiver, self.random.bytes()).ok())
        else {
            // No message will ever be readable there.
            return Answer::Rejected;
        };
        let now = self.clock.now_ms() / 1_000;
        let request = |url: Url| {
            let authorization = self.vapid.authorization(&url, now).ok()?;
            let request = self.client.post(url).body(message).header("ttl", KEPT_SECONDS);
            Some(
                request
                    .header("authorization", authorization)
                    .header("content-encoding", "aes128gcm")
                    .header("content-type", "application/octet-stream")
                    .header("urgency", if urgent { "high" } else { "normal" }),
            )
        };
        match self.request(pusher.url, was_failing, request).await {
            Ok(answer) => match answer.status() {
                status if status.is_success() => Answer::Taken,
                // MSC4174: "the homeserver deletes the registration if it receives a 404, 410 or
                // 403 from the push server on push."
                StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
                    Answer::Rejected
                }
                status => unwanted(status),
            },
            Err(failed) => failed,
        }
    }

    /// Waits for a turn and makes a request.
    async fn request(
        &self,
        url: &str,
        was_failing: bool,
        request: impl FnOnce(Url) -> Option<RequestBuilder>,
    ) -> Result<Response, Answer> {
        let failed = |why: &str| Answer::Failed(why.to_owned());
        let url = Url::parse(url).map_err(|_| failed("it has no address"))?;
        self.outgoing.check(&url).map_err(|refused| Answer::Failed(refused.to_string()))?;
        let gateway = url.origin().ascii_serialization();
        let own = self.turns.each.get_with(gateway, || Arc::new(Semaphore::new(AT_ONE_GATEWAY)));
        let turn = self.turns.take(&own, was_failing).await;
        let _turn = turn.ok_or_else(|| failed("the server stops"))?;
        let request = request(url).ok_or_else(|| failed("the request can't be signed"))?;
        request.send().await.map_err(|error| Answer::Failed(with_cause(&error)))
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

/// What an error says: nothing is wrong with the gateway if it does not want just this.
fn unwanted(status: StatusCode) -> Answer {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Answer::Refused(status.to_string()),
        status => Answer::Failed(status.to_string()),
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

/// What an error says, and why.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
