//! What can go wrong in this area.

use crate::{storage::StorageError, users::limits::LimitExceeded};

/// Why keys or messages were not stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum E2eeError {
    /// The device is gone.
    #[error("the device is not logged in")]
    UnknownDevice,
    /// A key is not of the form that the spec gives it.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A key names another user or device than the one that uploads it.
    #[error("the keys are those of another user or device")]
    NotOwn,
    /// A signature is missing or wrong.
    #[error("the signature of the {what} is missing or wrong")]
    InvalidSignature {
        /// What should be signed.
        what: &'static str,
    },
    /// There is no master key that others could be signed with.
    #[error("no master signing key is available")]
    NoMasterKey,
    /// A public key is spelled like one of the user's devices.
    #[error("a key has the same ID as a device")]
    KeyIdInUse,
    /// A one-time key of that ID is there already.
    // The wording is what clients look for.
    #[error("One time key {id} already exists. Old key: {old}; new key: {new}")]
    OneTimeKeyExists {
        /// Algorithm and ID.
        id: String,
        /// The one that is there.
        old: Box<str>,
        /// The one that was uploaded.
        new: Box<str>,
    },
    /// Too many of something.
    #[error("{what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
    },
    /// Something is too large.
    #[error("{what}")]
    TooLarge {
        /// What.
        what: &'static str,
    },
    /// There is no such thing.
    #[error("{what}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// The backup version is not the current one.
    #[error("this is not the current backup version")]
    WrongBackupVersion {
        /// The current one.
        current: u64,
    },
    /// Too much was sent, or too much waits.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// Too many changes at once.
    #[error("the keys are being changed by others")]
    Busy,
    /// The database failed.
    #[error("cannot read or write keys")]
    Storage(#[source] StorageError),
}

impl From<StorageError> for E2eeError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::BatchTooLarge { .. } | StorageError::TooLarge { .. } => {
                Self::TooLarge { what: "this is too large to be stored at once" }
            }
            error => Self::Storage(error),
        }
    }
}
