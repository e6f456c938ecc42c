//! The content repository: what users upload, thumbnails of it, and what it is allowed to cost. Files
//! are in a [`BlobStore`]; what is known about them is in the database.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

mod error;
mod find;
mod locks;
mod pending;
mod quarantine;
mod remote;
mod removal;
pub(crate) mod rows;
mod scanning;
#[cfg(test)]
mod tests;
mod thumbnails;
mod unreferenced;
mod upkeep;
mod upload;

use std::sync::Arc;

use media::{
    blob::{BlobError, BlobStore, Disk, Hash, ObjectSettings, Objects, Staging},
    poster::Posters,
    thumbnail::Thumbnailer,
};
use ruma::OwnedServerName;
use tokio::sync::Notify;

use self::{remote::Fetching, scanning::Scanner};
use crate::{
    clock::{Clock, Random},
    config::{Config, Media},
    outgoing::OutgoingError,
    storage::{Db, intern::UserNumber},
    users::limits::Limits,
};

pub(crate) use self::{
    error::ContentError,
    find::{Access, Found, Served, Wish},
    locks::Locks,
    quarantine::Target as QuarantineTarget,
    remote::{Arriving, RemoteError, RemoteFile, RemoteMedia},
    thumbnails::ThumbnailRequest,
    upload::Declared,
};

/// The longest media ID that is looked up.
const MAX_MEDIA_ID_BYTES: usize = 255;

/// Why the content repository can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The store can't be opened.
    #[error("cannot open the media store")]
    Store(#[from] BlobError),
    /// The scanner can't be asked.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
}

/// The content repository. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Content {
    shared: Arc<Shared>,
}

struct Shared {
    server_name: OwnedServerName,
    settings: Media,
    db: Db,
    clock: Clock,
    random: Random,
    store: Arc<dyn BlobStore>,
    staging: Staging,
    thumbnailer: Thumbnailer,
    posters: Option<Posters>,
    scanner: Option<Scanner>,
    /// `None`: other servers are not asked.
    remote: Option<Arc<dyn RemoteMedia>>,
    limits: Limits,
    /// Whoever keeps a file, deletes it or asks about it, by its hash.
    files: Locks<Hash>,
    /// Whoever changes what a user has uploaded.
    owners: Locks<UserNumber>,
    /// Whoever makes a thumbnail.
    making: Locks<(Hash, String)>,
    /// Media of other servers that are being fetched.
    fetching: Fetching,
    /// Whoever has a file scanned.
    scanning: Locks<Hash>,
    /// Told whenever a file arrives that was announced before.
    arrived: Notify,
}

impl Content {
    /// The repository as configured, over its rows in `db`.
    ///
    /// # Errors
    /// [`OpenError`] if the store can't be opened, or no requests can be made.
    pub(crate) fn open(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        remote: Option<Arc<dyn RemoteMedia>>,
    ) -> Result<Self, OpenError> {
        let folder = config.data_dir.join("media");
        let staging = Staging::open(&folder.join("incoming"))?;
        let store: Arc<dyn BlobStore> = match &config.media.s3 {
            None => Arc::new(Disk::new(&folder.join("files"))),
            Some(s3) => {
                let settings = ObjectSettings {
                    bucket: s3.bucket.clone(),
                    endpoint: s3.endpoint.clone(),
                    region: s3.region.clone(),
                    access_key_id: s3.access_key_id.clone(),
                    secret_access_key: s3.secret_access_key.expose().to_owned(),
                    prefix: s3.prefix.clone(),
                    virtual_hosted: s3.virtual_hosted,
                };
                Arc::new(Objects::open(&settings, staging.clone())?)
            }
        };
        Ok(Self::over(config, db, clock, random, (store, staging), remote)?)
    }

    /// The repository over any store.
    fn over(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        (store, staging): (Arc<dyn BlobStore>, Staging),
        remote: Option<Arc<dyn RemoteMedia>>,
    ) -> Result<Self, OutgoingError> {
        let settings = config.media.clone();
        let thumbnails = &settings.thumbnails;
        let thumbnailer = Thumbnailer::new(thumbnails.limits());
        let posters = thumbnails.ffmpeg.clone();
        let posters = posters.map(|program| Posters::new(program, thumbnails.time()));
        let scanner = Scanner::new(&settings.scan, &config.outgoing)?;
        Ok(Self {
            shared: Arc::new(Shared {
                server_name: config.server_name.clone(),
                limits: Limits::new(&config.rate_limits, clock.clone()),
                thumbnailer,
                posters,
                scanner,
                remote,
                settings,
                db,
                clock,
                random,
                store,
                staging,
                files: Locks::default(),
                owners: Locks::default(),
                making: Locks::default(),
                fetching: Fetching::default(),
                scanning: Locks::default(),
                arrived: Notify::new(),
            }),
        })
    }

    /// The largest upload, in bytes.
    pub(crate) fn max_upload_bytes(&self) -> u64 {
        self.shared.settings.max_upload_bytes
    }

    /// What no file contains, to stand between the parts of an answer.
    pub(crate) fn new_boundary(&self) -> String {
        self.shared.random.token::<24>()
    }

    /// An ID that nobody guesses.
    fn new_media_id(&self) -> String {
        self.shared.random.token::<18>()
    }
}

/// Whether this can be a media ID.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repo-security-considerations>
fn is_media_id(text: &str) -> bool {
    (1..=MAX_MEDIA_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
