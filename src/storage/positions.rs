//! Stream positions: handed out once, seen in order.
//!
//! A position becomes visible when the batches of all smaller ones are done, so a reader who has
//! seen everything up to a position never misses something that was slower. Positions are handed
//! out below a ceiling that was synced beforehand; after a restart they go on above it, so none
//! that anybody may have seen is used twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::wakes::{Concern, Wakes};

/// How many positions one synced ceiling is good for.
pub(super) const BLOCK: u64 = 10_000;

/// The positions of this process.
#[derive(Debug)]
pub(crate) struct Positions {
    allocation: Mutex<Allocation>,
    visible: AtomicU64,
    wakes: Arc<Wakes>,
}

#[derive(Debug)]
struct Allocation {
    next: u64,
    ceiling: u64,
    /// Positions handed out and not yet visible. Some: done, with those to wake.
    in_flight: BTreeMap<u64, Option<Vec<Concern>>>,
}

/// A position that was handed out. It is done when dropped.
#[derive(Debug)]
pub(crate) struct Position {
    value: u64,
    positions: Arc<Positions>,
}

impl Positions {
    /// Goes on from a ceiling that is on disk.
    pub(super) fn starting_at(ceiling: u64, wakes: Arc<Wakes>) -> Arc<Self> {
        let allocation = Allocation {
            next: ceiling.max(1),
            ceiling: ceiling.max(1),
            in_flight: BTreeMap::new(),
        };
        let last = ceiling.max(1) - 1;
        Arc::new(Self { allocation: Mutex::new(allocation), visible: AtomicU64::new(last), wakes })
    }

    /// The next position; none when the ceiling must be raised first.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Position> {
        let mut allocation = self.allocation.lock();
        let value = allocation.next;
        if value >= allocation.ceiling {
            return None;
        }
        allocation.next += 1;
        allocation.in_flight.insert(value, None);
        Some(Position { value, positions: Arc::clone(self) })
    }

    /// The ceiling in force.
    pub(super) fn ceiling(&self) -> u64 {
        self.allocation.lock().ceiling
    }

    /// Raises the ceiling to one that is on disk.
    pub(super) fn raise(&self, ceiling: u64) {
        let mut allocation = self.allocation.lock();
        allocation.ceiling = allocation.ceiling.max(ceiling);
    }

    /// The largest position up to which everything is committed.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// The last position that was handed out.
    pub(super) fn handed_out(&self) -> u64 {
        self.allocation.lock().next - 1
    }

    fn done(&self, value: u64, concerned: Vec<Concern>) {
        self.wakes.remember(value, &concerned);
        let mut allocation = self.allocation.lock();
        allocation.in_flight.insert(value, Some(concerned));
        let mut woken = Vec::new();
        while let Some(first) = allocation.in_flight.first_entry() {
            if first.get().is_none() {
                break;
            }
            woken.extend(first.remove().unwrap_or_default());
        }
        let visible = match allocation.in_flight.first_key_value() {
            Some((first, _)) => first - 1,
            None => allocation.next - 1,
        };
        self.visible.store(visible, Ordering::Release);
        drop(allocation);
        self.wakes.wake(woken.into_iter().map(|concern| concern.user));
    }
}

impl Position {
    /// The number itself.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// Says that the position's batch is committed, or what it stands for is done in memory: those it
    /// concerns are woken once it is visible.
    pub(crate) fn committed(mut self, concerned: Vec<Concern>) {
        let value = std::mem::take(&mut self.value);
        self.positions.done(value, concerned);
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        // Zero is never handed out; `committed` leaves it behind.
        if self.value != 0 {
            self.positions.done(self.value, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::intern::UserNumber, *};

    fn positions() -> Arc<Positions> {
        let positions = Positions::starting_at(1, Arc::default());
        positions.raise(100);
        positions
    }

    #[test]
    fn a_position_is_visible_only_after_all_smaller_ones() {
        let positions = positions();
        let first = positions.try_take().unwrap();
        let second = positions.try_take().unwrap();
        second.committed(Vec::new());
        assert_eq!(positions.visible(), 0);
        first.committed(Vec::new());
        assert_eq!(positions.visible(), 2);
    }

    #[test]
    fn an_abandoned_position_holds_nobody_up() {
        let positions = positions();
        let abandoned = positions.try_take().unwrap();
        let second = positions.try_take().unwrap();
        second.committed(Vec::new());
        drop(abandoned);
        assert_eq!(positions.visible(), 2);
    }

    #[test]
    fn no_position_is_handed_out_at_or_above_the_ceiling() {
        let positions = Positions::starting_at(7, Arc::default());
        assert!(positions.try_take().is_none());
        positions.raise(8);
        assert_eq!(positions.try_take().unwrap().value(), 7);
        assert!(positions.try_take().is_none());
    }

    #[tokio::test]
    async fn users_are_woken_when_the_position_is_visible_not_when_it_is_committed() {
        let wakes = Arc::<Wakes>::default();
        let positions = Positions::starting_at(1, Arc::clone(&wakes));
        positions.raise(100);
        let waiter = wakes.subscribe(UserNumber(5), || 0);
        let first = positions.try_take().unwrap();
        let concern = Concern { user: UserNumber(5), room: None };
        positions.try_take().unwrap().committed(vec![concern]);
        assert!(!waiter.is_woken());
        drop(first);
        waiter.woken().await;
    }
}
