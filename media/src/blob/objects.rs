//! Files in an S3-compatible object store.

use std::{fs::File, io::Read as _, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use object_store::{
    GetOptions, ObjectStore as _, ObjectStoreExt as _, WriteMultipart,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
    signer::{Method, SignedUrlOptions, Signer as _},
};

use super::{
    BlobError, BlobStore, BlobStream, Hash, Label, Listed, LocalFile, Staged, Staging,
    staging::blocking,
};

/// Files above this are sent in parts of this size.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 2;

/// Where an object store is and how to sign in.
#[derive(Clone, Debug, Default)]
pub struct ObjectSettings {
    /// Name of the bucket.
    pub bucket: String,
    /// Base address of the service; `None`: Amazon's for the region.
    pub endpoint: Option<String>,
    /// Name of the region.
    pub region: String,
    /// Access key ID.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// What the names of all objects begin with; empty, or ending in `/`.
    pub prefix: String,
    /// Whether the bucket's name is part of the host's, and not of the path.
    pub virtual_hosted: bool,
}

/// A bucket. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<AmazonS3>,
    prefix: String,
    staging: Staging,
}

impl Objects {
    /// The bucket described by `settings`; copies for local programs go through `staging`.
    ///
    /// # Errors
    /// [`BlobError::Objects`] if the settings make no sense together.
    pub fn open(settings: &ObjectSettings, staging: Staging) -> Result<Self, BlobError> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key_id)
            .with_secret_access_key(&settings.secret_access_key)
            .with_virtual_hosted_style_request(settings.virtual_hosted);
        if let Some(endpoint) = &settings.endpoint {
            builder =
                builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let store = Arc::new(builder.build()?);
        Ok(Self { store, prefix: settings.prefix.clone(), staging })
    }

    fn path(&self, hash: Hash) -> Path {
        let first = hash.0.first().copied().unwrap_or_default();
        Path::from(format!("{}{first:02x}/{hash}", self.prefix))
    }

    async fn send(&self, staged: &Staged) -> Result<(), BlobError> {
        let path = self.path(staged.hash());
        let there = match self.store.head(&path).await {
            Ok(there) => Some(there.size),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if there == Some(staged.bytes()) {
            return Ok(());
        }
        let mut file = File::open(staged.path())?;
        if staged.bytes() <= PART_BYTES as u64 {
            let (_, content) = read_part(file).await?;
            self.store.put(&path, content.into()).await?;
            return Ok(());
        }
        let upload = self.store.put_multipart(&path).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        loop {
            let sent = async {
                upload.wait_for_capacity(PARTS_AT_ONCE).await?;
                let (back, part) = read_part(file).await?;
                Ok::<_, BlobError>((back, part))
            };
            match sent.await {
                Ok((_, part)) if part.is_empty() => break,
                Ok((back, part)) => {
                    file = back;
                    upload.put(part);
                }
                Err(error) => {
                    // The parts would cost money for ever.
                    upload.abort().await.ok();
                    return Err(error);
                }
            }
        }
        upload.finish().await?;
        Ok(())
    }
}

async fn read_part(mut file: File) -> Result<(File, Bytes), BlobError> {
    blocking(move || {
        let mut part = Vec::new();
        (&mut file).take(PART_BYTES as u64).read_to_end(&mut part)?;
        Ok((file, part.into()))
    })
    .await
}

impl BlobStore for Objects {
    fn keep(&self, staged: Staged) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { self.send(&staged).await }.boxed()
    }

    fn read(&self, hash: Hash, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream, BlobError>> {
        let path = self.path(hash);
        async move {
            if range.is_empty() {
                // An empty range can't be asked for.
                self.store.head(&path).await?;
                return Ok(futures::stream::empty().boxed());
            }
            let options = GetOptions::new().with_range(Some(range));
            let found = self.store.get_opts(&path, options).await?;
            Ok(found.into_stream().map_err(BlobError::from).boxed())
        }
        .boxed()
    }

    fn size(&self, hash: Hash) -> BoxFuture<'_, Result<Option<u64>, BlobError>> {
        let path = self.path(hash);
        async move {
            match self.store.head(&path).await {
                Ok(there) => Ok(Some(there.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }

    fn local(&self, hash: Hash) -> BoxFuture<'_, Result<LocalFile, BlobError>> {
        let path = self.path(hash);
        async move {
            let mut pieces = self.store.get(&path).await?.into_stream();
            let mut copy = self.staging.begin();
            while let Some(piece) = pieces.try_next().await? {
                copy.write(piece).await?;
            }
            Ok(LocalFile::Copy(copy.finish().await?))
        }
        .boxed()
    }

    fn delete(&self, hash: Hash) -> BoxFuture<'_, Result<(), BlobError>> {
        let path = self.path(hash);
        async move {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }

    fn list(&self, shard: u8) -> BoxFuture<'_, Result<Vec<Listed>, BlobError>> {
        let folder = Path::from(format!("{}{shard:02x}", self.prefix));
        async move {
            let listed = self.store.list(Some(&folder)).try_filter_map(|object| {
                let name = object.location.filename().and_then(|name| name.parse().ok());
                let modified_ms = object.last_modified.timestamp_millis().try_into().unwrap_or(0);
                std::future::ready(Ok(name.map(|hash| Listed { hash, modified_ms })))
            });
            Ok(listed.try_collect().await?)
        }
        .boxed()
    }

    fn signed_url(
        &self,
        hash: Hash,
        valid: Duration,
        label: Label,
    ) -> BoxFuture<'_, Result<Option<String>, BlobError>> {
        let path = self.path(hash);
        async move {
            let options = SignedUrlOptions::new().with_query([
                ("response-content-type", label.content_type),
                ("response-content-disposition", label.content_disposition),
            ]);
            let url = self.store.signed_url_opts(Method::GET, &path, valid, &options).await?;
            Ok(Some(url.into()))
        }
        .boxed()
    }
}
