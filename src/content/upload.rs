//! Taking files in.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use media::{
    blob::{Incoming, Staged},
    kind::Kind,
    serve,
    thumbnail::{Picture, Source, ThumbnailError},
};
use ruma::ServerName;

use super::{
    Content, ContentError,
    quarantine::Target,
    rows::{FileRecord, MediaRecord, Usage, media_reference},
};
use crate::{
    http::BodyError,
    storage::{
        Batch, Json, StorageError,
        intern::UserNumber,
        schema::{BLOB_REFERENCES, MEDIA, MEDIA_USAGE, PENDING_MEDIA, USER_MEDIA},
    },
    users::session::Session,
};

/// What an uploader says about a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    /// `Content-Type`.
    pub(crate) content_type: Option<String>,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Size of the body, if it was announced.
    pub(crate) bytes: Option<u64>,
    /// Whether the blurhash of a picture is wanted.
    pub(crate) blurhash: bool,
}

/// What became of an upload.
#[derive(Clone, Debug)]
pub(crate) struct Uploaded {
    /// The media's ID on this server.
    pub(crate) media_id: String,
    /// The blurhash, if it was wanted and it is a picture.
    pub(crate) blurhash: Option<String>,
}

/// A picture that the server has found.
#[derive(Clone, Debug)]
pub(crate) struct KeptPicture {
    /// Its ID on this server.
    pub(crate) media_id: String,
    /// Its `mxc://` URI.
    pub(crate) address: String,
    /// What it really is.
    pub(crate) content_type: &'static str,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Size of the picture.
    pub(crate) picture: Picture,
}

impl Content {
    /// Takes in a file under a new ID. It is on disk when this returns; if it does not come whole,
    /// nothing is left of it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
    ///
    /// # Errors
    /// [`ContentError`] if the file is too large or not allowed, or can't be stored.
    pub(crate) async fn upload(
        &self,
        session: &Session,
        declared: &Declared,
        body: impl Stream<Item = Result<Bytes, BodyError>>,
    ) -> Result<Uploaded, ContentError> {
        self.check_before(session, declared).await?;
        let staged = self.receive(body, self.max_upload_bytes()).await?;
        let blurhash = if declared.blurhash { self.blurhash(&staged).await } else { None };
        let media_id = self.new_media_id();
        let record = MediaRecord {
            file: Some(describe(&staged, declared)),
            user: Some(session.user.0),
            created_ms: self.shared.clock.now_ms(),
            expires_ms: None,
            open: !self.shared.settings.freeze_unauthenticated,
        };
        let server = self.shared.server_name.clone();
        self.keep(&server, &media_id, None, record, staged).await?;
        Ok(Uploaded { media_id, blurhash })
    }

    /// What can be refused before the body is looked at.
    pub(super) async fn check_before(
        &self,
        session: &Session,
        declared: &Declared,
    ) -> Result<(), ContentError> {
        let limit_bytes = self.max_upload_bytes();
        if declared.bytes.is_some_and(|bytes| bytes > limit_bytes) {
            return Err(ContentError::TooLarge { limit_bytes });
        }
        let content_type = serve::stored_type(declared.content_type.as_deref());
        if !serve::is_allowed(&content_type, &self.shared.settings.allowed_types) {
            return Err(ContentError::TypeNotAllowed { content_type });
        }
        if let Some(user) = session.limited_as() {
            self.shared.limits.upload_by(user)?;
        }
        if self.has_quota() {
            let usage = self.usage(session.user).await?;
            self.check_quota(&usage, declared.bytes.unwrap_or(0))?;
        }
        Ok(())
    }

    /// Writes a body to the staging folder.
    pub(super) async fn receive(
        &self,
        body: impl Stream<Item = Result<Bytes, BodyError>>,
        limit_bytes: u64,
    ) -> Result<Staged, ContentError> {
        self.receive_watched(body, limit_bytes, |_| {}).await
    }

    /// The same, with `watch` called after each piece.
    pub(super) async fn receive_watched(
        &self,
        body: impl Stream<Item = Result<Bytes, BodyError>>,
        limit_bytes: u64,
        mut watch: impl FnMut(&Incoming),
    ) -> Result<Staged, ContentError> {
        let mut incoming = self.shared.staging.begin();
        let mut body = std::pin::pin!(body);
        while let Some(piece) = body.next().await {
            let piece = match piece {
                Err(BodyError::TooLarge) => return Err(ContentError::TooLarge { limit_bytes }),
                piece => piece?,
            };
            if incoming.bytes() + piece.len() as u64 > limit_bytes {
                return Err(ContentError::TooLarge { limit_bytes });
            }
            incoming.write(piece).await?;
            watch(&incoming);
        }
        Ok(incoming.finish().await?)
    }

    /// Keeps a picture that the server itself has found, as one of its own. `None` if it is none, or
    /// one that no thumbnail could be made of.
    ///
    /// # Errors
    /// [`ContentError`] if it is too large or can't be stored.
    pub(crate) async fn keep_picture(
        &self,
        body: impl Stream<Item = Result<Bytes, BodyError>>,
        limit_bytes: u64,
        name: Option<String>,
    ) -> Result<Option<KeptPicture>, ContentError> {
        let staged = self.receive(body, limit_bytes).await?;
        let Some(kind) = Kind::of(staged.head()).filter(|kind| kind.is_picture()) else {
            return Ok(None);
        };
        let source = Source::path(staged.path().to_owned());
        let picture = match self.shared.thumbnailer.picture(source).await {
            Ok(picture) => picture,
            Err(ThumbnailError::Blob(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let (media_id, content_type) = (self.new_media_id(), kind.content_type());
        let (hash, bytes) = (staged.hash(), staged.bytes());
        let file = FileRecord { hash, bytes, content_type: content_type.to_owned(), name };
        let record = MediaRecord {
            file: Some(file),
            user: None,
            created_ms: self.shared.clock.now_ms(),
            expires_ms: None,
            open: !self.shared.settings.freeze_unauthenticated,
        };
        let server = self.shared.server_name.clone();
        self.keep(&server, &media_id, None, record, staged).await?;
        let address = format!("mxc://{server}/{media_id}");
        Ok(Some(KeptPicture { media_id, address, content_type, bytes, picture }))
    }

    async fn blurhash(&self, staged: &Staged) -> Option<String> {
        if !Kind::of(staged.head()).is_some_and(Kind::is_picture) {
            return None;
        }
        let source = Source::path(staged.path().to_owned());
        match self.shared.thumbnailer.blurhash(source).await {
            Ok(blurhash) => Some(blurhash),
            Err(error) => {
                tracing::debug!(%error, "no blurhash");
                None
            }
        }
    }

    /// Puts a file into the store and then its rows, with the file's lock held: nobody takes it for
    /// unused in between. `before`: the row that the new one replaces.
    pub(super) async fn keep(
        &self,
        server: &ServerName,
        media_id: &str,
        before: Option<MediaRecord>,
        record: MediaRecord,
        staged: Staged,
    ) -> Result<(), ContentError> {
        let shared = &*self.shared;
        let hash = staged.hash();
        let _file = shared.files.lock(&hash).await;
        if self.is_quarantined_target(&Target::Hash(hash)).await? {
            return Err(ContentError::Quarantined);
        }
        let bytes = staged.bytes();
        let user = record.user();
        let _owner = match user {
            Some(user) => Some(shared.owners.lock(&user).await),
            None => None,
        };
        let mut batch = Batch::new();
        let key = (server, media_id);
        match before {
            None => MEDIA.require_absent(&mut batch, &key),
            Some(before) => MEDIA.require_equals(&mut batch, &key, &Json(before)),
        }
        if let Some(user) = user {
            let old = MEDIA_USAGE.get(&shared.db, &user).await?;
            let usage = old.clone().map(|Json(usage)| usage).unwrap_or_default();
            self.check_quota(&usage, bytes)?;
            match &old {
                None => MEDIA_USAGE.require_absent(&mut batch, &user),
                Some(old) => MEDIA_USAGE.require_equals(&mut batch, &user, old),
            }
            let usage = Usage { bytes: usage.bytes + bytes, files: usage.files + 1 };
            MEDIA_USAGE.put(&mut batch, &user, &Json(usage));
            USER_MEDIA.put(&mut batch, &(user, record.created_ms, media_id), &bytes);
            PENDING_MEDIA.delete(&mut batch, &(user, media_id));
        }
        BLOB_REFERENCES.put(&mut batch, &(hash.0, media_reference(server, media_id)), &());
        MEDIA.put(&mut batch, &key, &Json(record));
        shared.store.keep(staged).await?;
        match shared.db.commit(batch).await {
            // Another upload to the same ID was faster.
            Err(StorageError::Precondition { .. }) => Err(ContentError::CannotOverwrite),
            done => Ok(done?),
        }
    }

    /// What a user has uploaded.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn usage(&self, user: UserNumber) -> Result<Usage, StorageError> {
        let usage = MEDIA_USAGE.get(&self.shared.db, &user).await?;
        Ok(usage.map(|Json(usage)| usage).unwrap_or_default())
    }

    fn has_quota(&self) -> bool {
        let settings = &self.shared.settings;
        settings.user_quota_bytes.is_some() || settings.user_quota_files.is_some()
    }

    /// Spec: "Homeservers should limit the number and total size of media that can be uploaded by
    /// clients, returning a HTTP 403 error with the `M_FORBIDDEN` code."
    fn check_quota(&self, usage: &Usage, more_bytes: u64) -> Result<(), ContentError> {
        let settings = &self.shared.settings;
        let bytes = settings.user_quota_bytes.unwrap_or(u64::MAX);
        let files = settings.user_quota_files.unwrap_or(u64::MAX);
        if usage.bytes.saturating_add(more_bytes) > bytes || usage.files >= files {
            return Err(ContentError::Quota);
        }
        Ok(())
    }
}

/// What is remembered of a file: what its uploader says, as far as it can be believed.
pub(super) fn describe(staged: &Staged, declared: &Declared) -> FileRecord {
    let (content_type, name) = believed(declared, staged.head());
    FileRecord { hash: staged.hash(), bytes: staged.bytes(), content_type, name }
}

/// Media type and name as they are served, of a file that begins with `head`.
pub(super) fn believed(declared: &Declared, head: &[u8]) -> (String, Option<String>) {
    let content_type = serve::stored_type(declared.content_type.as_deref());
    let name = declared.name.as_deref().and_then(serve::safe_name);
    (serve::served_type(&content_type, head).to_owned(), name)
}
