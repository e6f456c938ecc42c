//! When to send to a server, and when to leave it alone: what one destination is in, as a state
//! machine without a network.
//!
//! One transaction is in flight at a time. A failure makes the destination wait, longer each time;
//! a request that comes from it ends the wait. What waits is kept elsewhere, in the database.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use serde::{Deserialize, Serialize};

/// The most PDUs in a transaction.
pub const MAX_PDUS: usize = 50;
/// The most EDUs in a transaction.
pub const MAX_EDUS: usize = 100;
/// The first pause after a failure.
const FIRST_PAUSE_MS: u64 = 5_000;
/// The longest pause: a server that comes back is noticed within that time even if it is silent.
const MAX_PAUSE_MS: u64 = 3_600_000;
/// After so many failures in a row, some 40 minutes, a destination was away for long: it is no
/// longer sent everything it missed.
const LONG_ABSENCE: u32 = 9;
/// How many failures double the pause; later ones no longer change it.
const MAX_DOUBLINGS: u32 = 20;

/// How often in a row sending failed, and when it is tried again: what is kept over a restart.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Backoff {
    /// Failures since the last success.
    pub failures: u32,
    /// Nothing is sent before, in ms since the Unix epoch.
    pub retry_at_ms: u64,
}

impl Backoff {
    /// After one more failure. `spread` is random: up to a fifth of the pause is taken off, so that
    /// many destinations that failed together are not tried together.
    #[must_use]
    pub fn failed(self, now_ms: u64, spread: u64) -> Self {
        let pause = (FIRST_PAUSE_MS << self.failures.min(MAX_DOUBLINGS)).min(MAX_PAUSE_MS);
        let pause = pause - spread % (pause / 5);
        Self {
            failures: self.failures.saturating_add(1),
            retry_at_ms: now_ms.saturating_add(pause),
        }
    }

    /// Whether requests to the destination may be made.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.retry_at_ms
    }
}

/// What the owner of a [`Destination`] does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Make a transaction of what waits and send it; then tell [`Destination::sent`],
    /// [`Destination::empty`] or [`Destination::failed`].
    Send,
    /// Ask again at this time, in ms since the Unix epoch.
    Wait(u64),
    /// Nothing, until something happens.
    Rest,
}

/// One destination.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Destination {
    backoff: Backoff,
    in_flight: bool,
    /// Something may wait for it.
    pending: bool,
    /// It was away for long, and has not caught up since.
    behind: bool,
}

impl Destination {
    /// As it was before a restart; something may wait for it.
    pub fn restored(backoff: Backoff) -> Self {
        let behind = backoff.failures >= LONG_ABSENCE;
        Self { backoff, in_flight: false, pending: true, behind }
    }

    /// What is kept over a restart.
    pub fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// Whether there is nothing to keep it in memory for.
    pub fn is_idle(&self) -> bool {
        !self.in_flight && !self.pending && self.backoff == Backoff::default()
    }

    /// Whether a transaction is on its way.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether it was away for long and is to catch up: of what happened meanwhile it is sent the
    /// newest, and fetches the rest.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Something new waits for it.
    pub fn queued(&mut self) {
        self.pending = true;
    }

    /// A request came from it: it is there. Says whether it was given up on.
    pub fn contacted(&mut self) -> bool {
        let was_waiting = self.backoff != Backoff::default();
        self.backoff = Backoff::default();
        was_waiting
    }

    /// Whether [`Destination::next`] would have something sent.
    pub fn is_due(&self, now_ms: u64) -> bool {
        !self.in_flight && self.pending && self.backoff.is_over(now_ms)
    }

    /// What to do now. After [`Next::Send`] a transaction is in flight.
    pub fn next(&mut self, now_ms: u64) -> Next {
        if self.in_flight || !self.pending {
            return Next::Rest;
        }
        if !self.backoff.is_over(now_ms) {
            return Next::Wait(self.backoff.retry_at_ms);
        }
        self.in_flight = true;
        // What is queued from here on may miss this transaction.
        self.pending = false;
        Next::Send
    }

    /// The transaction was taken. `more`: there was more than it could hold.
    pub fn sent(&mut self, more: bool) {
        self.in_flight = false;
        self.backoff = Backoff::default();
        self.pending |= more;
        self.behind &= more;
    }

    /// There was nothing to send after all. `more`: not in that transaction, that is.
    pub fn empty(&mut self, more: bool) {
        self.in_flight = false;
        self.pending |= more;
        self.behind &= more;
    }

    /// The transaction was not taken: the same is sent again later.
    pub fn failed(&mut self, now_ms: u64, spread: u64) {
        self.in_flight = false;
        self.pending = true;
        self.backoff = self.backoff.failed(now_ms, spread);
        self.behind |= self.backoff.failures >= LONG_ABSENCE;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_transaction_is_in_flight_at_a_time() {
        let mut destination = Destination::default();
        assert_eq!(destination.next(0), Next::Rest);
        destination.queued();
        assert_eq!(destination.next(0), Next::Send);
        destination.queued();
        assert_eq!(destination.next(0), Next::Rest);
        destination.sent(false);
        assert_eq!(destination.next(0), Next::Send, "what came meanwhile");
        destination.empty(false);
        assert!(destination.is_idle());
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_contact_ends_it() {
        let mut destination = Destination::default();
        destination.queued();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..15 {
            assert_eq!(destination.next(now), Next::Send);
            destination.failed(now, 0);
            let Next::Wait(at) = destination.next(now) else { panic!("it must wait") };
            pauses.push(at - now);
            now = at;
        }
        assert_eq!(pauses.first(), Some(&FIRST_PAUSE_MS));
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&MAX_PAUSE_MS));
        assert_eq!(destination.next(now), Next::Send);
        destination.failed(now, 0);
        assert!(destination.contacted());
        assert_eq!(destination.next(now), Next::Send);
        destination.sent(false);
        assert!(!destination.contacted());
    }

    #[test]
    fn who_was_away_for_long_is_behind_until_everything_is_sent() {
        let mut destination = Destination::default();
        for _ in 0..LONG_ABSENCE - 1 {
            destination.failed(0, 0);
        }
        assert!(!destination.is_behind());
        destination.failed(0, 0);
        destination.contacted();
        assert!(destination.is_behind(), "it is there again, but has missed a lot");
        destination.sent(true);
        assert!(destination.is_behind());
        destination.empty(true);
        assert!(destination.is_behind());
        destination.empty(false);
        assert!(!destination.is_behind());
        let backoff = Backoff { failures: LONG_ABSENCE, retry_at_ms: 0 };
        assert!(Destination::restored(backoff).is_behind());
    }

    #[test]
    fn the_wait_goes_on_after_a_restart() {
        let backoff = Backoff::default().failed(1_000, 0);
        let mut destination = Destination::restored(backoff);
        assert_eq!(destination.next(1_000), Next::Wait(1_000 + FIRST_PAUSE_MS));
        assert_eq!(destination.next(1_000 + FIRST_PAUSE_MS), Next::Send);
    }

    proptest! {
        /// Whatever happens in whatever order, what was queued is sent in the end.
        #[test]
        fn nothing_queued_is_forgotten(steps in proptest::collection::vec(0_u8..5, 0..100)) {
            let mut destination = Destination::default();
            let mut now = 0;
            let mut flying = false;
            let mut owed = false;
            for step in steps {
                match step {
                    0 => { destination.queued(); owed = true; }
                    1 => { destination.contacted(); }
                    2 if flying => { destination.failed(now, now); flying = false; owed = true; }
                    3 if flying => { destination.sent(false); flying = false; }
                    _ => match destination.next(now) {
                        Next::Send => { prop_assert!(!flying); flying = true; owed = false; }
                        Next::Wait(at) => now = at,
                        Next::Rest => prop_assert!(flying || !owed),
                    },
                }
            }
            if flying { destination.empty(false); }
            if owed && let Next::Wait(at) = destination.next(now) {
                prop_assert_eq!(destination.next(at), Next::Send);
            }
        }

        #[test]
        fn a_pause_is_bounded_whatever_the_spread(failures: u32, now in 0..u64::MAX / 2, spread: u64) {
            let backoff = Backoff { failures, retry_at_ms: 0 }.failed(now, spread);
            let pause = backoff.retry_at_ms - now;
            prop_assert!((FIRST_PAUSE_MS * 4 / 5..=MAX_PAUSE_MS).contains(&pause));
        }
    }
}
