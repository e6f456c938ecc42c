//! Waking those who wait for something to change. A wake-up is a hint: whoever wakes reads storage.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::intern::UserNumber;

/// Who waits, by user.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    waiting: Mutex<HashMap<UserNumber, Vec<Arc<Signal>>>>,
}

#[derive(Debug, Default)]
struct Signal {
    notify: Notify,
    woken: AtomicBool,
}

/// One that waits; it no longer does when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    user: UserNumber,
    signal: Arc<Signal>,
    wakes: Arc<Wakes>,
}

/// Stands for everybody: no user has this number.
const ANYBODY: UserNumber = UserNumber(0);

impl Wakes {
    /// Starts waiting for whatever wakes anybody.
    pub(crate) fn subscribe_to_any(self: &Arc<Self>) -> Waiter {
        self.subscribe(ANYBODY)
    }

    /// Starts waiting. Subscribe first and read afterwards: what is committed in between wakes too.
    pub(crate) fn subscribe(self: &Arc<Self>, user: UserNumber) -> Waiter {
        let signal = Arc::<Signal>::default();
        self.waiting.lock().entry(user).or_default().push(Arc::clone(&signal));
        Waiter { user, signal, wakes: Arc::clone(self) }
    }

    /// Wakes all that wait for one of these users.
    pub(crate) fn wake(&self, users: &[UserNumber]) {
        if users.is_empty() {
            return;
        }
        let waiting = self.waiting.lock();
        let users = users.iter().chain([&ANYBODY]);
        for signal in users.filter_map(|user| waiting.get(user)).flatten() {
            signal.woken.store(true, Ordering::Release);
            signal.notify.notify_one();
        }
    }
}

impl Waiter {
    /// Returns once there was a wake-up since the subscription or the last call.
    pub(crate) async fn woken(&self) {
        while !self.signal.woken.swap(false, Ordering::AcqRel) {
            self.signal.notify.notified().await;
        }
    }

    /// Whether there was a wake-up that nobody has taken yet.
    #[cfg(test)]
    pub(crate) fn is_woken(&self) -> bool {
        self.signal.woken.load(Ordering::Acquire)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.wakes.waiting.lock();
        if let Some(signals) = waiting.get_mut(&self.user) {
            signals.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
            if signals.is_empty() {
                waiting.remove(&self.user);
            }
        }
    }
}
