//! How often what may be done.

use serde::{Deserialize, Serialize};

/// How often something may be tried before `M_LIMIT_EXCEEDED`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RateLimits {
    /// `false` switches all of them off.
    pub(crate) enabled: bool,
    /// Failed logins to one account, from wherever they come.
    pub(crate) login_account: Rate,
    /// Logins from one address, to whatever account.
    pub(crate) login_address: Rate,
    /// Registrations from one address.
    pub(crate) registration_address: Rate,
    /// Uploads by one user.
    pub(crate) upload_user: Rate,
    /// Previews of web pages for one user.
    pub(crate) preview_user: Rate,
    /// Events sent by one user.
    pub(crate) message_user: Rate,
    /// Rooms made by one user.
    pub(crate) room_creation_user: Rate,
    /// Rooms that one user comes into, or asks to.
    pub(crate) join_user: Rate,
    /// Invitations by one user.
    pub(crate) invite_user: Rate,
    /// What one user, or one address, does with delayed events.
    pub(crate) delayed_events: Rate,
    /// Messages of one user to devices, each device counted.
    pub(crate) to_device_user: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            login_account: Rate { burst: 5, per_minute: 3 },
            login_address: Rate { burst: 20, per_minute: 20 },
            registration_address: Rate { burst: 10, per_minute: 10 },
            upload_user: Rate { burst: 100, per_minute: 120 },
            preview_user: Rate { burst: 50, per_minute: 60 },
            message_user: Rate { burst: 100, per_minute: 600 },
            room_creation_user: Rate { burst: 30, per_minute: 10 },
            join_user: Rate { burst: 50, per_minute: 30 },
            invite_user: Rate { burst: 100, per_minute: 60 },
            delayed_events: Rate { burst: 50, per_minute: 120 },
            to_device_user: Rate { burst: 30_000, per_minute: 12_000 },
        }
    }
}

/// A token bucket: `burst` at once, then `per_minute`. Both above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_minute: u32,
}
