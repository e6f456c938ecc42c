//! What can go wrong with media.

use media::{blob::BlobError, thumbnail::ThumbnailError};

use super::remote::RemoteError;
use crate::{http::BodyError, storage::StorageError, users::limits::LimitExceeded};

/// Why something about media was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// There is none, it is kept from people, or it may not be had this way.
    #[error("there is no such media")]
    NotFound,
    /// It was announced but has not arrived.
    #[error("the media has not been uploaded yet")]
    NotYetUploaded,
    /// It has arrived already.
    #[error("the media has been uploaded already")]
    CannotOverwrite,
    /// Somebody else announced it.
    #[error("the media was announced by somebody else")]
    NotYours,
    /// The type of the file is not one of those allowed.
    #[error("files of type {content_type} are not allowed")]
    TypeNotAllowed {
        /// As declared.
        content_type: String,
    },
    /// The user may not upload more.
    #[error("the quota for uploads is used up")]
    Quota,
    /// This file was quarantined.
    #[error("this file is not allowed")]
    Quarantined,
    /// The scanner found something in it.
    #[error("something harmful was found in the file")]
    Infected,
    /// It is larger than `media.max_upload_bytes`.
    #[error("the file is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Too many uploads, or too many that have not arrived.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The body did not come whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// There is no thumbnail.
    #[error(transparent)]
    Thumbnail(ThumbnailError),
    /// The scanner gave no verdict; without one the file is not given out.
    #[error("the file could not be scanned")]
    Scan(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another server gave no file.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The files failed.
    #[error("the media store failed")]
    Blob(#[source] BlobError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<BlobError> for ContentError {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl From<ThumbnailError> for ContentError {
    fn from(error: ThumbnailError) -> Self {
        match error {
            ThumbnailError::Blob(error) => Self::Blob(error),
            error => Self::Thumbnail(error),
        }
    }
}
