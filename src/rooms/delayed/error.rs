//! Why nothing was done about a delayed event.

use crate::{rooms::RoomError, storage::StorageError, users::limits::LimitExceeded};

/// What can go wrong. Each variant has its errcode in `api/error.rs`, named here in brackets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DelayedError {
    /// This server sends no delayed events. (`M_FORBIDDEN`, 403)
    #[error("this server sends no delayed events")]
    Off,
    /// Without a delay it is no delayed event. (`M_INVALID_PARAM`, 400)
    #[error("the delay must be above 0")]
    NoDelay,
    /// Nothing is kept for so long. (`M_MAX_DELAY_EXCEEDED`, 400)
    #[error("the delay is longer than {max_ms} ms")]
    TooLong {
        /// The longest delay, in ms.
        max_ms: u64,
    },
    /// The user has too many waiting. (`M_LIMIT_EXCEEDED`, 429)
    #[error("too many delayed events are waiting")]
    TooMany(#[source] LimitExceeded),
    /// Too much at once. (`M_LIMIT_EXCEEDED`, 429)
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// There is none of that ID. (`M_NOT_FOUND`, 404)
    #[error("there is no such delayed event")]
    Unknown,
    /// It was sent or cancelled before. (`M_UNKNOWN`, 409)
    #[error("the delayed event has been sent or cancelled already")]
    Ended,
    /// The room stands against it. (As there)
    #[error(transparent)]
    Room(RoomError),
    /// The database failed. (`M_UNKNOWN`, 500)
    #[error("cannot read or write delayed events")]
    Storage(#[from] StorageError),
}

impl From<RoomError> for DelayedError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Storage(error) => Self::Storage(error),
            error => Self::Room(error),
        }
    }
}
