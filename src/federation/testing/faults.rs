//! A network that loses, delays, repeats and cuts off, as its seed says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use federation::{BodyStream, Limits, Transport, TransportError};
use futures::{StreamExt as _, future::BoxFuture, stream};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::time::{sleep, timeout};

use super::Network;
use crate::clock::Random;

/// How many bytes of a body come at once.
const PIECE_BYTES: usize = 4_096;

/// Draws from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Random);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    /// Below `sides`.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        u64::from_be_bytes(self.0.bytes()) % sides
    }

    /// So often out of a hundred times.
    pub(crate) fn percent(&self, chance: u64) -> bool {
        self.roll(100) < chance
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.roll(from.len() as u64)).unwrap();
        from.get(at).unwrap()
    }
}

/// What becomes of what the servers send each other. Clones are the same weather.
#[derive(Clone)]
pub(crate) struct Weather {
    network: Network,
    shared: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    is_calm: bool,
    /// Servers of different groups don't reach each other.
    groups: HashMap<OwnedServerName, u64>,
    /// How often each server crashed.
    lives: HashMap<OwnedServerName, u64>,
}

/// What becomes of one request.
struct Fate {
    before: Duration,
    after: Duration,
    is_lost: bool,
    /// It comes once more, so long after the first time: what was sent later may have come before.
    echo: Option<Duration>,
    answer_is_lost: bool,
    /// Between two pieces of the answer's body.
    pause: Duration,
}

impl Weather {
    /// Calm, over `network`.
    pub(crate) fn over(network: Network, seed: u64) -> Self {
        let state = State {
            dice: Dice::new(seed),
            is_calm: true,
            groups: HashMap::new(),
            lives: HashMap::new(),
        };
        Self { network, shared: Arc::new(Mutex::new(state)) }
    }

    /// How `server` reaches the others until it crashes.
    pub(crate) fn link(&self, server: &ServerName) -> Arc<dyn Transport> {
        let life = self.life(server);
        Arc::new(Link { weather: self.clone(), from: server.to_owned(), life })
    }

    /// From now on things get lost, or no longer.
    pub(crate) fn set_calm(&self, is_calm: bool) {
        self.shared.lock().is_calm = is_calm;
    }

    /// Cuts the servers off from those with another number.
    pub(crate) fn split(&self, groups: HashMap<OwnedServerName, u64>) {
        self.shared.lock().groups = groups;
    }

    /// What `server` was about to send or to answer is gone.
    pub(crate) fn crash(&self, server: &ServerName) {
        *self.shared.lock().lives.entry(server.to_owned()).or_default() += 1;
    }

    fn life(&self, server: &ServerName) -> u64 {
        self.shared.lock().lives.get(server).copied().unwrap_or_default()
    }

    fn fate(&self, from: &ServerName, to: &ServerName) -> Fate {
        let state = self.shared.lock();
        let dice = &state.dice;
        let group = |server: &ServerName| state.groups.get(server).copied().unwrap_or_default();
        if state.is_calm {
            return Fate {
                before: Duration::from_millis(dice.roll(20)),
                after: Duration::ZERO,
                is_lost: false,
                echo: None,
                answer_is_lost: false,
                pause: Duration::ZERO,
            };
        }
        let slow = if dice.percent(5) { 90_000 } else { 2_000 };
        let late = if dice.percent(20) { 300_000 } else { 2_000 };
        let dragging = if dice.percent(5) { 40_000 } else { 20 };
        Fate {
            before: Duration::from_millis(dice.roll(2_000)),
            after: Duration::from_millis(dice.roll(slow)),
            is_lost: dice.percent(10) || group(from) != group(to),
            echo: dice.percent(10).then(|| Duration::from_millis(dice.roll(late))),
            answer_is_lost: dice.percent(10),
            pause: Duration::from_millis(dice.roll(dragging)),
        }
    }
}

struct Link {
    weather: Weather,
    from: OwnedServerName,
    life: u64,
}

impl Link {
    /// The answer, and the pause between two pieces of its body.
    async fn carry(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<(http::Response<Bytes>, Duration), TransportError> {
        let Weather { network, .. } = &self.weather;
        let fate = self.weather.fate(&self.from, to);
        sleep(fate.before).await;
        let life = self.weather.life(to);
        if fate.is_lost || self.weather.life(&self.from) != self.life {
            return Err(TransportError::Lost);
        }
        if let Some(late) = fate.echo {
            let again = request.clone();
            let (network, to) = (network.clone(), to.to_owned());
            tokio::spawn(async move {
                sleep(late).await;
                network.send(&to, again, limits).await.ok()
            });
        }
        let answer = network.send(to, request, limits).await?;
        sleep(fate.after).await;
        let crashed = self.weather.life(to) != life || self.weather.life(&self.from) != self.life;
        if fate.answer_is_lost || crashed {
            return Err(TransportError::Lost);
        }
        Ok((answer, fate.pause))
    }
}

impl Transport for Link {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let carried = async {
                let (answer, pause) = self.carry(destination, request, limits).await?;
                let pieces = answer.body().len().div_ceil(PIECE_BYTES);
                sleep(pause * u32::try_from(pieces).unwrap_or(u32::MAX)).await;
                Ok(answer)
            };
            timeout(limits.timeout, carried).await.unwrap_or(Err(TransportError::Timeout))
        })
    }

    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let carried = timeout(limits.timeout, self.carry(destination, request, limits));
            let (answer, pause) = carried.await.unwrap_or(Err(TransportError::Timeout))?;
            Ok(answer.map(|body| {
                let pieces = body.chunks(PIECE_BYTES).map(Bytes::copy_from_slice);
                let pieces: Vec<Bytes> = pieces.collect();
                let coming = stream::iter(pieces).then(move |piece| async move {
                    let waited = timeout(limits.timeout, sleep(pause)).await;
                    waited.map(|()| piece).map_err(|_| TransportError::Timeout)
                });
                coming.boxed()
            }))
        })
    }
}
