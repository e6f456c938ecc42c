//! Thumbnails: made once, when first wanted.

use std::{io::Read as _, sync::Arc};

use bytes::Bytes;
use media::{
    blob::{BlobError, Hash, LocalFile, Staged},
    kind::Kind,
    poster::PosterError,
    thumbnail::{Method, Rendered, Size, Source, ThumbnailError},
};

use super::{
    Content, ContentError, Served,
    rows::{FileRecord, ThumbnailRecord, thumbnail_reference},
};
use crate::storage::{
    Batch, Json, Range, StorageError,
    schema::{BLOB_REFERENCES, THUMBNAILS},
};

/// How many thumbnails of one file are stored; more are made each time. Requests choose among a few
/// sizes, and cropped ones of any aspect.
const MAX_STORED: usize = 64;

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThumbnailRequest {
    /// In pixels.
    pub(crate) width: u32,
    /// In pixels.
    pub(crate) height: u32,
    /// How to fit it.
    pub(crate) method: Method,
    /// Whether it may move.
    pub(crate) animated: bool,
}

/// The name of a thumbnail among those of its file.
fn name(size: Size, animated: bool) -> String {
    let method = match size.method {
        Method::Crop => "crop",
        Method::Scale => "scale",
    };
    let animated = if animated { "-animated" } else { "" };
    format!("{}x{}-{method}{animated}", size.width, size.height)
}

impl Content {
    /// A thumbnail of a file.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>
    ///
    /// # Errors
    /// [`ContentError::Thumbnail`] if there can be none.
    pub(crate) async fn thumbnail(
        &self,
        original: &Served,
        request: ThumbnailRequest,
    ) -> Result<Served, ContentError> {
        let size = Size::for_request(request.width, request.height, request.method);
        let largest = Size { width: 1600, height: 1200, method: Method::Scale };
        let (size, whole) = (size.unwrap_or(largest), size.is_none());
        let name = name(size, request.animated);
        let made = if let Some(record) = self.stored_thumbnail(original.hash, &name).await? {
            record
        } else {
            // Goes on if the client gives up, for the next one who wants it.
            let (content, source) = (self.clone(), original.clone());
            let making = tokio::spawn(async move {
                content.make_thumbnail(&source, size, request.animated, name).await
            });
            match making.await {
                Ok(Ok(Made::Stored(record))) => record,
                Ok(Ok(Made::Passing(served))) => return Ok(served),
                Ok(Err(error)) => return Err(error),
                Err(_stopping) => return Err(ThumbnailError::Busy.into()),
            }
        };
        match made {
            // Larger than all that are made: the picture itself is the only one large enough.
            ThumbnailRecord::Made(_) if whole && !moves(original, request.animated) => {
                Ok(self.as_picture(original).await?)
            }
            ThumbnailRecord::Made(file) => Ok(served(&file)),
            ThumbnailRecord::Original { content_type } => {
                Ok(Served { content_type, name: None, ..original.clone() })
            }
            ThumbnailRecord::Refused { too_large: false } => {
                Err(ThumbnailError::NotAPicture.into())
            }
            ThumbnailRecord::Refused { too_large: true } => {
                Err(ThumbnailError::TooLarge { width: 0, height: 0 }.into())
            }
        }
    }

    async fn as_picture(&self, original: &Served) -> Result<Served, ContentError> {
        let local = self.shared.store.local(original.hash).await?;
        let kind = kind_of(Arc::new(local)).await?.filter(|kind| kind.is_picture());
        let kind = kind.ok_or(ThumbnailError::NotAPicture)?;
        let content_type = kind.content_type().to_owned();
        Ok(Served { content_type, name: None, ..original.clone() })
    }

    async fn stored_thumbnail(
        &self,
        source: Hash,
        name: &str,
    ) -> Result<Option<ThumbnailRecord>, StorageError> {
        let found = THUMBNAILS.get(&self.shared.db, &(source.0, name)).await?;
        Ok(found.map(|Json(record)| record))
    }

    async fn make_thumbnail(
        &self,
        original: &Served,
        size: Size,
        animated: bool,
        name: String,
    ) -> Result<Made, ContentError> {
        let shared = &*self.shared;
        let source = original.hash;
        let _making = shared.making.lock(&(source, name.clone())).await;
        if let Some(record) = self.stored_thumbnail(source, &name).await? {
            return Ok(Made::Stored(record));
        }
        let rendered = match self.render(source, size, animated).await {
            Ok(rendered) => rendered,
            Err(ContentError::Thumbnail(error)) => {
                let too_large = match &error {
                    ThumbnailError::TooLarge { .. } => true,
                    ThumbnailError::NotAPicture | ThumbnailError::Broken { .. } => false,
                    // The next try may do better.
                    _ => return Err(error.into()),
                };
                tracing::debug!(%error, "no thumbnail");
                let record = ThumbnailRecord::Refused { too_large };
                return self.store_record(source, &name, record).await;
            }
            Err(error) => return Err(error),
        };
        let (content_type, bytes) = match rendered {
            Rendered::Original { content_type } => {
                let record = ThumbnailRecord::Original { content_type: content_type.to_owned() };
                return self.store_record(source, &name, record).await;
            }
            Rendered::Made { content_type, bytes, .. } => (content_type, Bytes::from(bytes)),
        };
        let stored = THUMBNAILS.scan(&shared.db, &Range::prefix(&(source.0,)), MAX_STORED).await?;
        let staged = self.stage(bytes.clone()).await?;
        let file = FileRecord {
            hash: staged.hash(),
            bytes: staged.bytes(),
            content_type: content_type.to_owned(),
            name: Some(format!("thumbnail.{}", content_type.rsplit('/').next().unwrap_or("bin"))),
        };
        if stored.len() >= MAX_STORED {
            return Ok(Made::Passing(Served { inline: Some(bytes), ..served(&file) }));
        }
        let record = ThumbnailRecord::Made(file);
        let _file = shared.files.lock(&staged.hash()).await;
        let reference = (staged.hash().0, thumbnail_reference(source, &name));
        shared.store.keep(staged).await?;
        let mut batch = Batch::new();
        BLOB_REFERENCES.put(&mut batch, &reference, &());
        THUMBNAILS.put(&mut batch, &(source.0, name), &Json(record.clone()));
        shared.db.commit(batch).await?;
        Ok(Made::Stored(record))
    }

    async fn store_record(
        &self,
        source: Hash,
        name: &str,
        record: ThumbnailRecord,
    ) -> Result<Made, ContentError> {
        let mut batch = Batch::unsynced();
        THUMBNAILS.put(&mut batch, &(source.0, name), &Json(record.clone()));
        self.shared.db.commit(batch).await?;
        Ok(Made::Stored(record))
    }

    async fn render(
        &self,
        source: Hash,
        size: Size,
        animated: bool,
    ) -> Result<Rendered, ContentError> {
        let shared = &*self.shared;
        let local = Arc::new(shared.store.local(source).await?);
        let kind = kind_of(Arc::clone(&local)).await?;
        let kind = kind.ok_or(ThumbnailError::NotAPicture)?;
        if kind.is_picture() {
            let source = Source::File(local);
            return Ok(shared.thumbnailer.thumbnail(source, size, animated).await?);
        }
        let Some(posters) = &shared.posters else {
            return Err(ThumbnailError::NotAPicture.into());
        };
        let poster = posters.poster(local, kind).await.map_err(|error| match error {
            PosterError::NotAVideo | PosterError::NoPicture => ThumbnailError::NotAPicture,
            PosterError::TooSlow => ThumbnailError::TooSlow,
            PosterError::Program { source } => {
                tracing::error!(error = %source, "ffmpeg could not be run");
                ThumbnailError::Busy
            }
        })?;
        let source = Source::Bytes(poster.clone());
        Ok(match shared.thumbnailer.thumbnail(source, size, false).await? {
            // The video itself is no picture.
            Rendered::Original { content_type } => {
                Rendered::Made { content_type, bytes: poster.to_vec(), width: 0, height: 0 }
            }
            made @ Rendered::Made { .. } => made,
        })
    }

    /// Bytes on their way into the store.
    pub(super) async fn stage(&self, bytes: Bytes) -> Result<Staged, BlobError> {
        let mut incoming = self.shared.staging.begin();
        incoming.write(bytes).await?;
        incoming.finish().await
    }
}

/// A thumbnail that was made.
enum Made {
    Stored(ThumbnailRecord),
    /// Not stored, since there are too many of that file.
    Passing(Served),
}

/// Whether a picture may move while it must not.
fn moves(original: &Served, animated: bool) -> bool {
    !animated && !original.content_type.starts_with("image/jpeg")
}

fn served(file: &FileRecord) -> Served {
    Served {
        hash: file.hash,
        bytes: file.bytes,
        content_type: file.content_type.clone(),
        name: file.name.clone(),
        inline: None,
    }
}

/// The kind of a file by its first bytes.
async fn kind_of(file: Arc<LocalFile>) -> Result<Option<Kind>, BlobError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut head = Vec::new();
        std::fs::File::open(file.path())?.take(64).read_to_end(&mut head)?;
        std::io::Result::Ok(Kind::of(&head))
    });
    match read.await {
        Ok(read) => Ok(read?),
        Err(failed) => Err(BlobError::Io { source: std::io::Error::other(failed) }),
    }
}
