//! Telling clients what happened: nothing missed, nothing twice.

mod account_data;
pub(crate) mod e2ee;
mod ephemeral;
mod events;
mod filter;
mod heroes;
mod presence;
mod response;
mod room;
mod sliding;
mod stream;
#[cfg(test)]
mod tests;
mod timeline;
pub(crate) mod token;
mod v3;
mod views;

use crate::{rooms::RoomError, storage::StorageError};

pub(crate) use events::{EventStream, InitialRoom, InitialSync};
pub(crate) use filter::SyncFilter;
pub(crate) use response::{Response, StateForm};
pub(crate) use sliding::{DeployedBody, MergedBody, Sliding, SlidingError, sliding_position};
pub(crate) use stream::{KEEP_ALIVE, Streams, SyncStream};
pub(crate) use v3::{Request, Sync};

/// Why a sync is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The token says more was seen than there is.
    #[error("this server has not given out that token")]
    FromTheFuture,
    /// The device was logged out while its request waited.
    #[error("the device was logged out")]
    LoggedOut,
    /// The user has as many streams as may be open at once.
    #[error("as many streams as one user may have are open")]
    TooManyStreams,
    /// What happened can't be read.
    #[error("cannot read what happened")]
    Storage(#[from] StorageError),
    /// What happened in a room can't be read.
    #[error("cannot read what happened in a room")]
    Room(#[from] RoomError),
}
