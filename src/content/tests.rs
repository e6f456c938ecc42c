use std::{ops::Range as Part, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture, stream};
use media::blob::{
    BlobError, BlobStore, BlobStream, Disk, Hash, Label, Listed, LocalFile, Staged, Staging,
};
use ruma::{device_id, server_name, user_id};
use tempfile::TempDir;

use super::{quarantine::Target, *};
use crate::{
    storage::{
        Range,
        schema::{BLOB_REFERENCES, MEDIA, MEDIA_USAGE, PENDING_MEDIA, THUMBNAILS, USER_MEDIA},
    },
    users::session::Session,
};

const DAY: Duration = Duration::from_hours(24);
const ANY: Duration = Duration::ZERO;

struct Repository {
    content: Content,
    db: Db,
    clock: Clock,
    folder: TempDir,
}

impl Repository {
    async fn new(settings: impl FnOnce(&mut Config)) -> Self {
        Self::with_store(settings, |disk| Arc::new(disk)).await
    }

    async fn with_store(
        settings: impl FnOnce(&mut Config),
        store: impl FnOnce(Disk) -> Arc<dyn BlobStore>,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        config.rate_limits.enabled = false;
        settings(&mut config);
        let (db, clock) = (Db::in_memory().await, Clock::manual(1_700_000_000_000));
        let staging = Staging::open(&folder.path().join("incoming")).unwrap();
        let store = store(Disk::new(&folder.path().join("files")));
        let random = Random::seeded(1);
        let content =
            Content::over(&config, db.clone(), clock.clone(), random, (store, staging), None)
                .unwrap();
        Self { content, db, clock, folder }
    }

    async fn upload(&self, user: u64, file: &str) -> Result<String, ContentError> {
        let pieces = file.as_bytes().chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let pieces: Vec<Result<Bytes, BodyError>> = pieces.collect();
        let body = stream::iter(pieces);
        let uploaded = self.content.upload(&session(user), &Declared::default(), body).await?;
        Ok(uploaded.media_id)
    }

    async fn find(&self, media_id: &str) -> Result<Served, ContentError> {
        let server = server_name!("localhost");
        self.content.find(server, media_id, wish(ANY)).await
    }

    async fn read(&self, media_id: &str) -> String {
        let served = self.find(media_id).await.unwrap();
        let stream = self.content.read(&served, 0..served.bytes).await.unwrap();
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
        String::from_utf8(pieces.concat()).unwrap()
    }

    fn files(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
            entries
                .map(|entry| entry.unwrap().path())
                .map(|path| if path.is_dir() { count(&path) } else { 1 })
                .sum()
        }
        count(&self.folder.path().join("files")) + count(&self.folder.path().join("incoming"))
    }
}

use crate::http::BodyError;

fn wish(wait: Duration) -> Wish {
    Wish { wait, access: Access::Authenticated, allow_remote: true }
}

fn session(user: u64) -> Session {
    Session {
        user_id: user_id!("@alice:localhost").to_owned(),
        user: UserNumber(user),
        device_id: device_id!("PHONE").to_owned(),
        guest: false,
        appservice: None,
    }
}

#[tokio::test]
async fn the_same_file_is_kept_once_and_goes_with_the_last_that_has_it() {
    let here = Repository::new(|_| {}).await;
    let one = here.upload(1, "the same").await.unwrap();
    let two = here.upload(2, "the same").await.unwrap();
    assert_eq!(here.files(), 1);
    let server = server_name!("localhost");
    assert!(here.content.remove(server, &one).await.unwrap());
    assert!(!here.content.remove(server, &one).await.unwrap());
    assert!(matches!(here.find(&one).await, Err(ContentError::NotFound)));
    assert_eq!(here.read(&two).await, "the same");
    assert!(here.content.remove(server, &two).await.unwrap());
    assert_eq!(here.files(), 0);
    assert!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(BLOB_REFERENCES.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(USER_MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert_eq!(here.content.usage(UserNumber(1)).await.unwrap(), rows::Usage::default());
}

#[tokio::test]
async fn a_quota_counts_what_is_there_and_gives_back_what_is_removed() {
    let here = Repository::new(|config| config.media.user_quota_bytes = Some(20)).await;
    let first = here.upload(1, "twelve bytes").await.unwrap();
    assert!(matches!(here.upload(1, "nine more").await, Err(ContentError::Quota)));
    here.upload(2, "somebody else's").await.unwrap();
    here.upload(1, "8 bytes!").await.unwrap();
    here.content.remove(server_name!("localhost"), &first).await.unwrap();
    here.upload(1, "nine more").await.unwrap();
    let usage = here.content.usage(UserNumber(1)).await.unwrap();
    assert_eq!(usage, rows::Usage { bytes: 17, files: 2 });
    assert_eq!(MEDIA_USAGE.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 2);
    // What was refused left nothing.
    assert_eq!(here.files(), 3);
}

#[tokio::test]
async fn uploads_at_once_are_all_counted() {
    let here = Repository::new(|config| config.media.user_quota_files = Some(10)).await;
    let names: Vec<String> = (0..20).map(|number| format!("file {number}")).collect();
    let done = futures::future::join_all(names.iter().map(|name| here.upload(1, name))).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 10);
    assert_eq!(here.content.usage(UserNumber(1)).await.unwrap().files, 10);
    here.clock.advance(DAY);
    here.content.sweep().await.unwrap();
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let here = Repository::new(|_| {}).await;
    let body = stream::iter([Ok(Bytes::from(vec![1; 1 << 20])), Err(BodyError::Broken)]);
    let done = here.content.upload(&session(1), &Declared::default(), body).await;
    assert!(matches!(done, Err(ContentError::Body(BodyError::Broken))), "{done:?}");
    // The client goes away in the middle.
    let never = stream::once(std::future::ready(Ok(Bytes::from(vec![1; 1 << 20]))));
    let body = futures::StreamExt::chain(never, stream::pending());
    let declared = Declared::default();
    let session = session(1);
    let uploading = here.content.upload(&session, &declared, body);
    tokio::time::timeout(Duration::from_millis(300), uploading).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(20), async {
        while here.files() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_announced_is_waited_for_and_forgotten_in_time() {
    let here = Repository::new(|config| config.media.max_pending_uploads = 2).await;
    let (first, expires_ms) = here.content.announce(&session(1)).await.unwrap();
    assert_eq!(expires_ms, here.clock.now_ms() + 86_400_000);
    assert!(matches!(here.find(&first).await, Err(ContentError::NotYetUploaded)));
    here.content.announce(&session(1)).await.unwrap();
    assert!(matches!(here.content.announce(&session(1)).await, Err(ContentError::Limit(_))));
    here.content.announce(&session(2)).await.unwrap();

    let server = server_name!("localhost");
    let upload = async |user, id: &str| {
        let body = stream::iter([Ok(Bytes::from_static(b"at last"))]);
        let declared = Declared::default();
        here.content.upload_announced(&session(user), server, id, &declared, body).await
    };
    assert!(matches!(upload(2, &first).await, Err(ContentError::NotYours)));
    assert!(matches!(upload(1, "unknown").await, Err(ContentError::NotFound)));
    let waiting = here.content.find(server, &first, wish(Duration::from_secs(30)));
    let (found, uploaded) = tokio::join!(waiting, upload(1, &first));
    uploaded.unwrap();
    assert_eq!(found.unwrap().bytes, 7);
    assert!(matches!(upload(1, &first).await, Err(ContentError::CannotOverwrite)));
    // There is room for another.
    let (late, _) = here.content.announce(&session(1)).await.unwrap();
    here.clock.advance(DAY);
    assert!(matches!(upload(1, &late).await, Err(ContentError::NotFound)));
    assert_eq!(here.content.forget_expired(100).await.unwrap(), 3);
    assert!(PENDING_MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert_eq!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 1);
    assert_eq!(here.read(&first).await, "at last");
}

#[tokio::test]
async fn media_nobody_wants_is_removed_when_configured() {
    let here = Repository::new(|config| config.media.local_retention_days = Some(10)).await;
    let (wanted, unwanted) =
        (here.upload(1, "wanted").await.unwrap(), here.upload(1, "unwanted").await.unwrap());
    let (pending, _) = here.content.announce(&session(1)).await.unwrap();
    here.clock.advance(9 * DAY);
    here.find(&wanted).await.unwrap();
    assert_eq!(here.content.remove_unused().await.unwrap(), 0);
    here.clock.advance(2 * DAY);
    assert_eq!(here.content.remove_unused().await.unwrap(), 1);
    assert!(matches!(here.find(&unwanted).await, Err(ContentError::NotFound)));
    assert!(!matches!(here.upload(1, &pending).await, Err(ContentError::Storage(_))));
    assert_eq!(here.read(&wanted).await, "wanted");
}

#[tokio::test]
async fn what_is_quarantined_is_not_given_out_and_does_not_come_back() {
    let here = Repository::new(|_| {}).await;
    let admin = user_id!("@admin:localhost");
    let bad = here.upload(1, "bad").await.unwrap();
    let fine = here.upload(1, "fine").await.unwrap();
    let server = server_name!("localhost").to_owned();
    let target = Target::Media(server.clone(), bad.clone());
    here.content.quarantine(std::slice::from_ref(&target), admin).await.unwrap();
    assert!(matches!(here.find(&bad).await, Err(ContentError::NotFound)));
    assert!(matches!(here.upload(2, "bad").await, Err(ContentError::Quarantined)));
    here.find(&fine).await.unwrap();
    assert_eq!(here.content.quarantined(None, 10).await.unwrap().len(), 2);
    here.content.release(&target).await.unwrap();
    here.find(&bad).await.unwrap();
    for target in [
        Target::User(UserNumber(1)),
        Target::Server(server),
        Target::Hash(here.find(&fine).await.unwrap().hash),
    ] {
        here.content.quarantine(std::slice::from_ref(&target), admin).await.unwrap();
        assert!(matches!(here.find(&fine).await, Err(ContentError::NotFound)), "{target:?}");
        here.content.release(&target).await.unwrap();
        here.find(&fine).await.unwrap();
    }
    let of_user = here.content.of_user(UserNumber(1), None, 10).await.unwrap();
    assert_eq!(of_user.len(), 2);
}

#[tokio::test]
async fn a_sweep_deletes_just_what_nothing_refers_to() {
    let here = Repository::new(|_| {}).await;
    let kept = here.upload(1, "kept").await.unwrap();
    // A crash between the file and its rows.
    let orphan = here.content.stage(Bytes::from_static(b"orphan")).await.unwrap();
    here.content.shared.store.keep(orphan).await.unwrap();
    assert_eq!(here.files(), 2);
    // The files' times are real ones: before them nothing is old enough.
    assert_eq!(here.content.sweep().await.unwrap(), 0);
    here.clock.advance(365 * 20 * DAY);
    assert_eq!(here.content.sweep().await.unwrap(), 1);
    assert_eq!(here.files(), 1);
    assert_eq!(here.read(&kept).await, "kept");
}

fn picture(width: u32, height: u32) -> Vec<u8> {
    // A BMP would do for nobody; this is the smallest encoder at hand: an uncompressed GIF.
    let mut gif = b"GIF89a".to_vec();
    let side = |length: u32| u16::try_from(length).unwrap().to_le_bytes();
    gif.extend(side(width));
    gif.extend(side(height));
    gif.extend([0x80, 0, 0, 255, 0, 0, 0, 0, 255, 0x2c, 0, 0, 0, 0]);
    gif.extend(side(width));
    gif.extend(side(height));
    gif.extend([0, 7]);
    // Codes of eight bits, with a new table so often that they never grow.
    let mut codes = Vec::new();
    for pixel in 0..width * height {
        if pixel % 100 == 0 {
            codes.push(128);
        }
        codes.push(u8::from(pixel % width > width / 2));
    }
    codes.push(129);
    for block in codes.chunks(255) {
        gif.push(u8::try_from(block.len()).unwrap());
        gif.extend(block);
    }
    gif.extend([0, 0x3b]);
    gif
}

#[tokio::test]
async fn a_thumbnail_is_made_once_and_goes_with_its_picture() {
    let here = Repository::new(|_| {}).await;
    let body = stream::iter([Ok(Bytes::from(picture(500, 400)))]);
    let declared = Declared::default();
    let uploaded = here.content.upload(&session(1), &declared, body).await.unwrap();
    let original = here.find(&uploaded.media_id).await.unwrap();
    let method = media::thumbnail::Method::Scale;
    let request = ThumbnailRequest { width: 300, height: 200, method, animated: false };
    let made = (0..8).map(|_| here.content.thumbnail(&original, request));
    for made in futures::future::join_all(made).await {
        let made = made.unwrap();
        assert!(made.content_type == "image/png" || made.content_type == "image/jpeg");
        assert_ne!(made.hash, original.hash);
    }
    assert_eq!(THUMBNAILS.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 1);
    assert_eq!(here.files(), 2);
    here.content.remove(server_name!("localhost"), &uploaded.media_id).await.unwrap();
    assert_eq!(here.files(), 0);
    assert!(THUMBNAILS.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(BLOB_REFERENCES.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_picture_is_told_again_without_another_look() {
    let here = Repository::new(|_| {}).await;
    let media_id = here.upload(1, "<svg onload='alert(1)'/>").await.unwrap();
    let original = here.find(&media_id).await.unwrap();
    let method = media::thumbnail::Method::Crop;
    let request = ThumbnailRequest { width: 96, height: 96, method, animated: false };
    for _ in 0..2 {
        let made = here.content.thumbnail(&original, request).await;
        assert!(matches!(made, Err(ContentError::Thumbnail(_))), "{made:?}");
        assert_eq!(THUMBNAILS.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 1);
    }
}

/// A disk with no space left.
struct FullStore(Disk);

impl BlobStore for FullStore {
    fn keep(&self, _staged: Staged) -> BoxFuture<'_, Result<(), BlobError>> {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        std::future::ready(Err(full.into())).boxed()
    }
    fn read(&self, hash: Hash, range: Part<u64>) -> BoxFuture<'_, Result<BlobStream, BlobError>> {
        self.0.read(hash, range)
    }
    fn size(&self, hash: Hash) -> BoxFuture<'_, Result<Option<u64>, BlobError>> {
        self.0.size(hash)
    }
    fn local(&self, hash: Hash) -> BoxFuture<'_, Result<LocalFile, BlobError>> {
        self.0.local(hash)
    }
    fn delete(&self, hash: Hash) -> BoxFuture<'_, Result<(), BlobError>> {
        self.0.delete(hash)
    }
    fn list(&self, shard: u8) -> BoxFuture<'_, Result<Vec<Listed>, BlobError>> {
        self.0.list(shard)
    }
    fn signed_url(
        &self,
        hash: Hash,
        valid: Duration,
        label: Label,
    ) -> BoxFuture<'_, Result<Option<String>, BlobError>> {
        self.0.signed_url(hash, valid, label)
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left_of_the_upload() {
    let here = Repository::with_store(|_| {}, |disk| Arc::new(FullStore(disk))).await;
    let done = here.upload(1, "too much").await;
    assert!(matches!(done, Err(ContentError::Blob(BlobError::Full { .. }))), "{done:?}");
    assert_eq!(here.files(), 0);
    assert!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert_eq!(here.content.usage(UserNumber(1)).await.unwrap(), rows::Usage::default());
}

#[tokio::test]
async fn only_allowed_types_are_taken() {
    let types = vec!["image/*".to_owned()];
    let here = Repository::new(|config| config.media.allowed_types = types).await;
    let refused = here.upload(1, "bytes").await;
    assert!(matches!(refused, Err(ContentError::TypeNotAllowed { .. })), "{refused:?}");
}

#[tokio::test]
async fn without_a_verdict_of_the_scanner_nobody_gets_a_file() {
    let here = Repository::new(|config| {
        config.media.scan.clamd = Some("unix:/nonexistent/clamd".to_owned());
    })
    .await;
    let media_id = here.upload(1, "unseen").await.unwrap();
    let found = here.find(&media_id).await;
    assert!(matches!(found, Err(ContentError::Scan(_))), "{found:?}");
}
