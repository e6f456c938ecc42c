//! How often logins, registrations and uploads may be tried.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

use crate::{
    clock::Clock,
    config::{Rate, RateLimits},
    storage::intern::UserNumber,
};

/// Too many attempts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many attempts")]
pub(crate) struct LimitExceeded {
    /// When the next one may succeed.
    pub(crate) retry_after: Duration,
}

/// What is counted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Counted {
    LoginTo(UserNumber),
    /// A name nobody has: counted like one that exists, so that it can't be told apart.
    LoginToUnknown(String),
    LoginFrom(IpAddr),
    RegistrationFrom(IpAddr),
    UploadBy(UserNumber),
    PreviewFor(UserNumber),
    IdentityFor(UserNumber),
    DelayedBy(UserNumber),
    DelayedFrom(IpAddr),
    ToDevicesBy(UserNumber),
    ActOf(UserNumber, Act),
}

/// What users do in rooms.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Act {
    /// Sending a message, state or a redaction.
    Send,
    /// Making a room.
    Create,
    /// Coming into a room, or asking to.
    Join,
    /// Inviting somebody.
    Invite,
}

/// How many counters are kept; the least used ones are forgotten first.
const MAX_COUNTERS: u64 = 100_000;
/// After this time without attempts a counter is full again at any sensible rate.
const IDLE: Duration = Duration::from_hours(1);

/// The counters of this process.
#[derive(Clone)]
pub(crate) struct Limits {
    settings: Arc<RateLimits>,
    clock: Clock,
    /// For each: the time, in ms since the Unix epoch, at which its bucket is full again.
    counters: Cache<Counted, Arc<AtomicU64>>,
}

impl Limits {
    /// Limits as configured.
    pub(crate) fn new(settings: &RateLimits, clock: Clock) -> Self {
        let counters = Cache::builder().max_capacity(MAX_COUNTERS).time_to_idle(IDLE).build();
        Self { settings: Arc::new(settings.clone()), clock, counters }
    }

    /// Counts a login to an account, before its password is looked at: guesses made at the same
    /// time are all counted.
    pub(crate) fn login_to(
        &self,
        user: Option<UserNumber>,
        name: &str,
    ) -> Result<Attempt<'_>, LimitExceeded> {
        let counted = match user {
            Some(user) => Counted::LoginTo(user),
            None => Counted::LoginToUnknown(name.chars().take(255).collect()),
        };
        self.attempt(Some(counted), self.settings.login_account)
    }

    /// Counts the use of a refresh token with the logins from an address; those that succeed are
    /// given back, since every client of a large household comes once an hour.
    pub(crate) fn refresh_from(
        &self,
        address: Option<IpAddr>,
    ) -> Result<Attempt<'_>, LimitExceeded> {
        let counted = address.map(|address| Counted::LoginFrom(network(address)));
        self.attempt(counted, self.settings.login_address)
    }

    fn attempt(&self, counted: Option<Counted>, rate: Rate) -> Result<Attempt<'_>, LimitExceeded> {
        if let Some(counted) = &counted {
            self.take(counted.clone(), rate)?;
        }
        Ok(Attempt { limits: self, counted, rate })
    }

    /// Counts a login from an address.
    pub(crate) fn login_from(&self, address: Option<IpAddr>) -> Result<(), LimitExceeded> {
        let Some(address) = address else { return Ok(()) };
        self.take(Counted::LoginFrom(network(address)), self.settings.login_address)
    }

    /// Counts a registration, or what belongs to one, from an address.
    pub(crate) fn registration_from(&self, address: Option<IpAddr>) -> Result<(), LimitExceeded> {
        let Some(address) = address else { return Ok(()) };
        self.take(Counted::RegistrationFrom(network(address)), self.settings.registration_address)
    }

    /// Counts an upload by a user.
    pub(crate) fn upload_by(&self, user: UserNumber) -> Result<(), LimitExceeded> {
        self.take(Counted::UploadBy(user), self.settings.upload_user)
    }

    /// Counts a preview for a user.
    pub(crate) fn preview_for(&self, user: UserNumber) -> Result<(), LimitExceeded> {
        self.take(Counted::PreviewFor(user), self.settings.preview_user)
    }

    /// Counts a question to an identity server for a user, as if it were an invitation.
    pub(crate) fn identity_for(&self, user: UserNumber) -> Result<(), LimitExceeded> {
        self.take(Counted::IdentityFor(user), self.settings.invite_user)
    }

    /// Whether anything is limited.
    pub(crate) fn are_enabled(&self) -> bool {
        self.settings.enabled
    }

    /// Counts what a user does so many times at once, by the rate of the user's own if there is one.
    pub(crate) fn act(
        &self,
        user: UserNumber,
        act: Act,
        times: u32,
        own: Option<Rate>,
    ) -> Result<(), LimitExceeded> {
        let usual = match act {
            Act::Send => self.settings.message_user,
            Act::Create => self.settings.room_creation_user,
            Act::Join => self.settings.join_user,
            Act::Invite => self.settings.invite_user,
        };
        self.take_many(Counted::ActOf(user, act), times, own.unwrap_or(usual))
    }

    /// Counts something that a user does with delayed events.
    pub(crate) fn delayed_by(&self, user: UserNumber) -> Result<(), LimitExceeded> {
        self.take(Counted::DelayedBy(user), self.settings.delayed_events)
    }

    /// Counts messages that a user sends to devices.
    pub(crate) fn messages_between_devices(
        &self,
        user: UserNumber,
        messages: u32,
    ) -> Result<(), LimitExceeded> {
        self.take_many(Counted::ToDevicesBy(user), messages, self.settings.to_device_user)
    }

    /// Counts something that is done with them from an address, without a login.
    pub(crate) fn delayed_from(&self, address: Option<IpAddr>) -> Result<(), LimitExceeded> {
        let Some(address) = address else { return Ok(()) };
        self.take(Counted::DelayedFrom(network(address)), self.settings.delayed_events)
    }

    /// Takes one out of a bucket that holds `burst` and gets `per_minute` new ones (GCRA).
    fn take(&self, counted: Counted, rate: Rate) -> Result<(), LimitExceeded> {
        self.take_many(counted, 1, rate)
    }

    /// Takes some. More than it holds are let have of a full one, and owed.
    fn take_many(&self, counted: Counted, some: u32, rate: Rate) -> Result<(), LimitExceeded> {
        if !self.settings.enabled {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let interval = interval_ms(rate);
        let cost = interval * u64::from(some);
        let depth = cost.max(interval * u64::from(rate.burst.max(1)));
        let full_at = self.counters.get_with(counted, Arc::default);
        full_at
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |full_at| {
                let after = full_at.max(now) + cost;
                (after - now <= depth).then_some(after)
            })
            .map(|_| ())
            .map_err(|full_at| {
                let wait = (full_at.max(now) + cost).saturating_sub(now + depth);
                LimitExceeded { retry_after: Duration::from_millis(wait) }
            })
    }
}

/// What was counted before it was known how it ends.
pub(crate) struct Attempt<'a> {
    limits: &'a Limits,
    /// None on Unix sockets, where nothing is counted by address.
    counted: Option<Counted>,
    rate: Rate,
}

impl Attempt<'_> {
    /// It was right: only failures count.
    pub(crate) fn succeeded(self) {
        let interval = interval_ms(self.rate);
        if let Some(full_at) = self.counted.and_then(|counted| self.limits.counters.get(&counted)) {
            full_at
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
                    Some(at.saturating_sub(interval))
                })
                .ok();
        }
    }
}

fn interval_ms(rate: Rate) -> u64 {
    (60_000 / u64::from(rate.per_minute.max(1))).max(1)
}

/// Whoever has an IPv6 address has the 2^64 around it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(clock: &Clock) -> Limits {
        Limits::new(&RateLimits::default(), clock.clone())
    }

    #[test]
    fn failed_logins_are_limited_and_the_wait_is_told() {
        let clock = Clock::manual(1_000_000);
        let limits = limits(&clock);
        for _ in 0..5 {
            limits.login_to(Some(UserNumber(1)), "alice").ok().unwrap();
        }
        let refused = limits.login_to(Some(UserNumber(1)), "alice").err().unwrap();
        assert_eq!(refused.retry_after, Duration::from_secs(20));
        clock.advance(refused.retry_after);
        assert!(limits.login_to(Some(UserNumber(1)), "alice").is_ok());
        assert!(limits.login_to(Some(UserNumber(1)), "alice").is_err());
        assert!(limits.login_to(Some(UserNumber(2)), "bob").is_ok());
    }

    #[test]
    fn successful_logins_to_an_account_are_free() {
        let limits = limits(&Clock::manual(1_000_000));
        for _ in 0..50 {
            limits.login_to(Some(UserNumber(1)), "alice").ok().unwrap().succeeded();
        }
    }

    #[test]
    fn more_at_once_than_the_burst_is_owed() {
        let clock = Clock::manual(1_000_000);
        let limits = limits(&clock);
        let rate = Rate { burst: 10, per_minute: 60 };
        let act = |some| limits.act(UserNumber(1), Act::Invite, some, Some(rate));
        act(30).unwrap();
        assert_eq!(act(1).unwrap_err().retry_after, Duration::from_secs(21));
        clock.advance(Duration::from_secs(21));
        act(1).unwrap();
        assert_eq!(act(30).unwrap_err().retry_after, Duration::from_secs(10));
    }

    #[test]
    fn only_refresh_tokens_that_are_not_right_count() {
        let limits = limits(&Clock::manual(1_000_000));
        let address = "192.0.2.1".parse().ok();
        for _ in 0..100 {
            limits.refresh_from(address).unwrap().succeeded();
        }
        for _ in 0..20 {
            let _failed = limits.refresh_from(address).unwrap();
        }
        assert!(limits.refresh_from(address).is_err());
        assert!(limits.login_from(address).is_err(), "they share the address's limit");
        assert!(limits.refresh_from(None).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let limits = limits(&Clock::manual(1_000_000));
        for host in 0..10_u16 {
            let address = format!("2001:db8::{host}").parse().unwrap();
            limits.registration_from(Some(address)).unwrap();
        }
        assert!(limits.registration_from("2001:db8::99".parse().ok()).is_err());
        assert!(limits.registration_from("2001:db8:0:1::1".parse().ok()).is_ok());
    }
}
