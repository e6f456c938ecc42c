//! Time and randomness, passed in wherever they are needed, so that several servers can run in one
//! process and be replayed from a seed.

use std::sync::Arc;
#[cfg(test)]
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ruma::MilliSecondsSinceUnixEpoch;

/// Where the time comes from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Milliseconds since the Unix epoch that a test moves.
    #[cfg(test)]
    Manual(Arc<AtomicU64>),
    /// The runtime's time, which a test can have stand still, from some ms since the Unix epoch on.
    #[cfg(test)]
    Runtime(u64, tokio::time::Instant),
}

impl Clock {
    /// A clock that stands still until it is moved.
    #[cfg(test)]
    pub(crate) fn manual(now_ms: u64) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_ms)))
    }

    /// A clock that goes as the runtime's timers do.
    #[cfg(test)]
    pub(crate) fn of_runtime(now_ms: u64) -> Self {
        Self::Runtime(now_ms, tokio::time::Instant::now())
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            #[expect(clippy::disallowed_methods, reason = "here is where the clock is read")]
            Self::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX)),
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
            #[cfg(test)]
            Self::Runtime(start_ms, start) => {
                start_ms + u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
            }
        }
    }

    /// Now, as events carry it.
    pub(crate) fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(
            self.now_ms().try_into().expect("the year is below 287,396, so it is an exact integer"),
        )
    }

    /// Moves a manual clock; the machine's is left alone.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        if let Self::Manual(now) = self {
            now.fetch_add(by.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Where randomness comes from.
#[derive(Clone, Debug)]
pub(crate) struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Seeded by the operating system.
    pub(crate) fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "here is where randomness is read")]
        let seeded = StdRng::from_rng(&mut rand::rng());
        Self(Arc::new(Mutex::new(seeded)))
    }

    /// The same sequence for the same seed.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Random bytes.
    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.lock().fill_bytes(&mut bytes);
        bytes
    }

    /// `N` random bytes as text that needs no escaping in an URL.
    pub(crate) fn token<const N: usize>(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.bytes::<N>())
    }
}
