//! One pusher: what it is still to tell, in order, and how it fares.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::digest::{Digest, Oldest, Pauses};
use crate::{push::pushers::Activation, storage::intern::RoomNumber};

/// How many events wait in memory; more are read again from the timelines when it is their turn.
const MAX_WAITING: usize = 64;
/// How often a gateway may refuse one event before it is left out.
const MAX_REFUSALS: u32 = 3;
/// For how long a gateway may fail before what waits for it is given up, in ms.
const GIVE_UP_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// The first pause after a failure, in ms. Each further one is twice as long.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest pause, in ms.
const MAX_PAUSE_MS: u64 = 10 * 60 * 1_000;

/// An event that notifies the pusher's user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Item {
    /// Its stream position.
    pub(super) position: u64,
    /// Where it happened.
    pub(super) room: RoomNumber,
    /// When it was sent, in ms since the Unix epoch, and not in the future.
    pub(super) sent_ms: u64,
}

/// What of a pusher outlives a restart.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Progress {
    /// Everything up to this stream position was told, or need not be.
    pub(super) done: u64,
    /// There is more after it, whatever `push_evaluated` says.
    pub(super) behind: bool,
    /// Failures since the last success.
    failures: u32,
    /// When it is tried again, in ms since the Unix epoch.
    retry_at_ms: u64,
    /// The first of these failures, in ms since the Unix epoch.
    failing_since: Option<u64>,
    /// The number of unread messages that was told last.
    pub(super) badge: Option<u64>,
    /// Something was read since.
    pub(super) read: bool,
    /// Until when there is no mail because of some rooms.
    #[serde(default, skip_serializing_if = "Pauses::is_empty")]
    pub(super) pauses: Pauses,
}

/// A pusher at work or at rest.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) enabled: bool,
    /// The stream position at which it was made: what was before is not told.
    pub(super) since: u64,
    pub(super) progress: Progress,
    /// What is on disk.
    pub(super) written: Progress,
    waiting: VecDeque<Item>,
    /// What waits instead where it is told by mail.
    pub(super) digest: Option<Digest>,
    /// There may be more than waits.
    more: Option<More>,
    refusals: u32,
    /// With what the device was asked to activate it.
    pub(super) asked: Option<Activation>,
    /// Somebody is at it.
    pub(super) working: bool,
    /// Told when a pause is over before its time.
    pub(super) hurry: Arc<Notify>,
}

/// More than what waits in memory.
#[derive(Clone, Copy, Debug)]
struct More {
    /// It comes after this stream position.
    after: u64,
    /// Something came since it was looked for.
    came: bool,
}

/// What a pusher does next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing, until something happens.
    Rest,
    /// Nothing before this time, in ms since the Unix epoch.
    Wait(u64),
    /// Tell of an event.
    Tell(Item),
    /// Find out what there is to tell after one stream position and up to another.
    Find(u64, u64),
    /// Send a mail about what is unread, if anything is.
    Mail,
    /// Tell how much is unread.
    Badge,
}

impl Lane {
    /// A new pusher; with a digest if it tells by mail.
    pub(super) fn new(digest: Option<Digest>) -> Self {
        Self { digest, ..Self::default() }
    }

    /// A pusher as it was left; what happened up to `evaluated` was looked at then, and up to
    /// `until` is to be looked at now.
    pub(super) fn resumed(written: Progress, since: u64, evaluated: u64, until: u64) -> Self {
        let from = if written.behind { written.done } else { written.done.max(evaluated) };
        let from = from.max(since);
        let mut lane = Self { progress: written.clone(), written, since, ..Self::default() };
        lane.progress.done = from;
        lane.more = (from < until).then_some(More { after: from, came: false });
        lane
    }

    /// Whether everything is told.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_events() && !self.progress.read
    }

    /// Whether there are events to tell, or to look for.
    fn has_events(&self) -> bool {
        let mail = self.digest.as_ref().is_some_and(|digest| !digest.is_empty());
        mail || !self.waiting.is_empty() || self.more.is_some()
    }

    /// Takes an event that is to be told.
    pub(super) fn add(&mut self, item: Item) {
        if item.position <= self.since {
            return;
        }
        if let Some(more) = &mut self.more {
            more.came = true;
            return;
        }
        if let Some(digest) = &mut self.digest {
            if digest.is_empty() {
                self.progress.done = item.position.saturating_sub(1);
            }
            digest.add(item);
            return;
        }
        match self.waiting.back() {
            Some(last) if self.waiting.len() >= MAX_WAITING => {
                self.more = Some(More { after: last.position, came: false });
            }
            Some(_) => self.waiting.push_back(item),
            None => {
                self.progress.done = item.position.saturating_sub(1);
                self.waiting.push_back(item);
            }
        }
    }

    /// What is to be done now; everything up to `evaluated` has been looked at.
    pub(super) fn next(&mut self, now_ms: u64, evaluated: u64) -> Step {
        if self.is_idle() {
            return Step::Rest;
        }
        if now_ms < self.progress.retry_at_ms {
            return Step::Wait(self.progress.retry_at_ms);
        }
        if let Some(item) = self.waiting.front() {
            return Step::Tell(*item);
        }
        if let Some(more) = &mut self.more {
            more.came = false;
            return Step::Find(more.after, evaluated);
        }
        if let Some(digest) = &self.digest {
            return match digest.due(&self.progress.pauses) {
                None => Step::Rest,
                Some(due) if due > now_ms => Step::Wait(due),
                Some(_) => Step::Mail,
            };
        }
        Step::Badge
    }

    /// Takes what was found up to `reached`, of what was looked for up to `upto`.
    pub(super) fn found(&mut self, items: Vec<Item>, reached: u64, upto: u64) {
        if let Some(digest) = &mut self.digest {
            for item in items {
                digest.add(item);
            }
            self.move_on(reached);
        } else {
            if items.is_empty() {
                self.progress.done = self.progress.done.max(reached);
            }
            self.waiting.extend(items);
        }
        let came = self.more.is_some_and(|more| more.came);
        self.more = (reached < upto || came).then_some(More { after: reached, came: false });
    }

    /// The event was told, or need not be.
    pub(super) fn passed(&mut self, item: Item) {
        if self.waiting.front() == Some(&item) {
            self.waiting.pop_front();
            self.refusals = 0;
        }
        self.progress.done = self.progress.done.max(item.position);
    }

    /// It was looked at what is unread in rooms, up to a stream position. Whether there is still
    /// to be a mail now.
    pub(super) fn looked_at(
        &mut self,
        rooms: &[(RoomNumber, Option<Oldest>)],
        upto: u64,
        now_ms: u64,
    ) -> bool {
        let Some(digest) = &mut self.digest else { return false };
        for (room, unread) in rooms {
            digest.looked_at(*room, upto, *unread, now_ms);
        }
        let due = digest.due(&self.progress.pauses);
        self.move_on(upto);
        due.is_some_and(|due| due <= now_ms)
    }

    /// A mail about these rooms, up to a stream position, went out.
    pub(super) fn mailed(&mut self, rooms: &[(RoomNumber, Oldest)], upto: u64, now_ms: u64) {
        if let Some(digest) = &mut self.digest {
            digest.mailed(upto, rooms, now_ms, &mut self.progress.pauses);
        }
        self.move_on(upto);
        self.refusals = 0;
    }

    /// What is before the first event that waits for a mail, or else before `upto`, is done with.
    fn move_on(&mut self, upto: u64) {
        let first = self.digest.as_ref().and_then(Digest::first);
        let done = first.map_or(upto, |first| first.saturating_sub(1));
        self.progress.done = self.progress.done.max(done);
    }

    /// The gateway took it.
    pub(super) fn succeeded(&mut self, badge: Option<u64>) {
        self.retry_now();
        self.progress.failing_since = None;
        if badge.is_some() {
            self.progress.badge = badge;
        }
    }

    /// The pause, if there is one, is over.
    pub(super) fn retry_now(&mut self) {
        (self.progress.failures, self.progress.retry_at_ms) = (0, 0);
    }

    /// Whether it failed the last time.
    pub(super) fn is_failing(&self) -> bool {
        self.progress.failures > 0
    }

    /// The gateway did not take it: it is tried again later. A gateway that does not want this one
    /// event is not asked for ever. `spread` is random: up to a fifth of the pause is taken off, so
    /// that not all pushers of a gateway come at once.
    pub(super) fn failed(&mut self, now_ms: u64, spread: u64, evaluated: u64, refused: bool) {
        let pause = (FIRST_PAUSE_MS << self.progress.failures.min(16)).min(MAX_PAUSE_MS);
        self.progress.retry_at_ms = now_ms.saturating_add(pause - spread % (pause / 5));
        self.progress.failures = self.progress.failures.saturating_add(1);
        let since = *self.progress.failing_since.get_or_insert(now_ms);
        if now_ms.saturating_sub(since) > GIVE_UP_MS {
            tracing::info!("a push gateway failed for so long that what waits for it is given up");
            self.skip_to(evaluated);
            self.progress.failing_since = Some(now_ms);
        }
        self.refusals = if refused { self.refusals + 1 } else { 0 };
        if self.refusals >= MAX_REFUSALS
            && let Some(item) = self.waiting.front().copied()
        {
            tracing::info!("a push gateway refuses an event, which is left out");
            self.passed(item);
        } else if self.refusals >= MAX_REFUSALS && self.digest.is_some() {
            tracing::info!("the mail server refuses a mail, which is left out");
            self.skip_to(evaluated);
            self.refusals = 0;
        }
    }

    /// Nothing up to here is told any more.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.waiting.clear();
        if let Some(digest) = &mut self.digest {
            digest.clear();
        }
        self.more = None;
        self.progress.done = self.progress.done.max(position);
        self.progress.read = false;
    }

    /// What is to be on disk, if that is something else than what is there.
    pub(super) fn take_changes(&mut self) -> Option<Progress> {
        self.progress.behind = self.has_events();
        if self.progress == self.written {
            return None;
        }
        self.written = self.progress.clone();
        Some(self.progress.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(position: u64) -> Item {
        Item { position, room: RoomNumber(1), sent_ms: 0 }
    }

    fn told(lane: &mut Lane, evaluated: u64) -> u64 {
        let Step::Tell(item) = lane.next(0, evaluated) else { panic!("nothing to tell") };
        lane.passed(item);
        lane.succeeded(None);
        item.position
    }

    #[test]
    fn events_are_told_in_their_order_and_once() {
        let mut lane = Lane::default();
        for position in [3, 5, 8] {
            lane.add(item(position));
        }
        assert_eq!([told(&mut lane, 9), told(&mut lane, 9), told(&mut lane, 9)], [3, 5, 8]);
        assert_eq!(lane.next(0, 9), Step::Rest);
    }

    #[test]
    fn what_is_too_much_for_memory_is_found_again() {
        let mut lane = Lane::default();
        for position in 1..=100 {
            lane.add(item(position));
        }
        let mut all: Vec<u64> = (0..MAX_WAITING).map(|_| told(&mut lane, 100)).collect();
        assert_eq!(lane.next(0, 100), Step::Find(64, 100));
        lane.add(item(101));
        lane.found((65..=100).map(item).collect(), 100, 100);
        all.extend((65..=100).map(|_| told(&mut lane, 101)));
        assert_eq!(lane.next(0, 101), Step::Find(100, 101), "one came meanwhile");
        lane.found(vec![item(101)], 101, 101);
        all.push(told(&mut lane, 101));
        assert_eq!(all, (1..=101).collect::<Vec<u64>>());
        assert_eq!(lane.next(0, 101), Step::Rest);
    }

    #[test]
    fn a_restart_goes_on_after_what_was_told() {
        let mut lane = Lane::default();
        lane.add(item(5));
        lane.add(item(7));
        told(&mut lane, 9);
        let written = lane.take_changes().unwrap();
        assert!(written.behind);
        // Everything up to 9 had been looked at, but 7 was still to be told.
        let mut lane = Lane::resumed(written, 1, 9, 20);
        assert_eq!(lane.next(0, 20), Step::Find(5, 20));
        // Where nothing waited there is nothing to look at again.
        let idle = Progress { done: 5, ..Progress::default() };
        assert_eq!(Lane::resumed(idle.clone(), 1, 9, 9).next(0, 9), Step::Rest);
        assert_eq!(Lane::resumed(idle, 1, 9, 20).next(0, 20), Step::Find(9, 20));
        // Nobody hears of what was before the pusher.
        assert_eq!(Lane::resumed(Progress::default(), 15, 9, 20).next(0, 20), Step::Find(15, 20));
    }

    #[test]
    fn a_failure_is_a_pause_that_grows_and_is_kept() {
        let mut lane = Lane::default();
        lane.add(item(5));
        lane.failed(1_000, 0, 9, false);
        let Step::Wait(first) = lane.next(1_000, 9) else { panic!("no pause") };
        lane.failed(first, 0, 9, false);
        let Step::Wait(second) = lane.next(first, 9) else { panic!("no pause") };
        assert!(second - first > first - 1_000);
        let mut lane = Lane::resumed(lane.take_changes().unwrap(), 1, 9, 9);
        assert_eq!(lane.next(first, 9), Step::Wait(second));
        assert_eq!(lane.next(second, 9), Step::Find(4, 9));
    }

    #[test]
    fn one_refused_event_does_not_stop_the_others() {
        let mut lane = Lane::default();
        lane.add(item(5));
        lane.add(item(6));
        for _ in 0..MAX_REFUSALS {
            assert_eq!(lane.next(u64::MAX, 9), Step::Tell(item(5)));
            lane.failed(0, 0, 9, true);
        }
        assert_eq!(lane.next(u64::MAX, 9), Step::Tell(item(6)));
    }

    #[test]
    fn a_gateway_that_is_gone_for_a_week_starts_afresh() {
        let mut lane = Lane::default();
        lane.add(item(5));
        lane.failed(0, 0, 9, false);
        assert!(!lane.is_idle());
        lane.failed(GIVE_UP_MS + 1, 0, 9, false);
        assert!(lane.is_idle());
        lane.add(item(10));
        assert_eq!(lane.next(u64::MAX, 10), Step::Tell(item(10)));
    }

    #[test]
    fn what_was_read_is_told_once_nothing_else_is_to_be() {
        let mut lane = Lane::default();
        lane.add(item(5));
        lane.progress.read = true;
        told(&mut lane, 9);
        assert_eq!(lane.next(0, 9), Step::Badge);
        lane.progress.read = false;
        assert_eq!(lane.next(0, 9), Step::Rest);
    }
}
