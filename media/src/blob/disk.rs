//! Files on the local disk, below folders of the first two bytes of their hash.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, ready},
    stream,
};

use super::{
    BlobError, BlobStore, BlobStream, Hash, Label, Listed, LocalFile, PIECE_BYTES, Staged,
    staging::blocking,
};

/// A folder with files by their hash: `ab/cd/abcd…`. The staging folder must be on the same file
/// system, since files are moved.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// The store in `root`, which is made when it is needed.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, hash: Hash) -> PathBuf {
        let [first, second, ..] = hash.0;
        self.root.join(format!("{first:02x}")).join(format!("{second:02x}")).join(hash.to_string())
    }
}

/// The names in a folder are on disk afterwards.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder and those above it up to `root`, each on disk before something is put into it.
fn make_folder(root: &Path, path: &Path) -> io::Result<()> {
    if path == root {
        return fs::create_dir_all(path);
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(above) = path.parent() else { return Err(error) };
            make_folder(root, above)?;
            return make_folder(root, path);
        }
        Err(error) => return Err(error),
    }
    path.parent().map_or(Ok(()), sync_folder)
}

fn keep(root: &Path, target: &Path, staged: &Staged) -> Result<(), BlobError> {
    if fs::metadata(target).is_ok_and(|there| there.len() == staged.bytes()) {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(root);
    make_folder(root, folder)?;
    fs::rename(staged.path(), target)?;
    Ok(sync_folder(folder)?)
}

fn read_piece(file: &File, range: &mut Range<u64>) -> Result<Bytes, BlobError> {
    let left = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut piece = vec![0; left.min(PIECE_BYTES)];
    file.read_exact_at(&mut piece, range.start)?;
    range.start += piece.len() as u64;
    Ok(piece.into())
}

fn list(folder: &Path) -> Result<Vec<Listed>, BlobError> {
    let mut listed = Vec::new();
    let inner = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listed),
        inner => inner?,
    };
    for inner in inner {
        for file in fs::read_dir(inner?.path())? {
            let file = file?;
            let Some(hash) = file.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let modified = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
            let modified_ms = modified.map_or(0, |since| since.as_millis());
            let modified_ms = u64::try_from(modified_ms).unwrap_or(u64::MAX);
            listed.push(Listed { hash, modified_ms });
        }
    }
    Ok(listed)
}

impl BlobStore for Disk {
    fn keep(&self, staged: Staged) -> BoxFuture<'_, Result<(), BlobError>> {
        let (root, target) = (self.root.clone(), self.path(staged.hash()));
        blocking(move || keep(&root, &target, &staged)).boxed()
    }

    fn read(
        &self,
        hash: Hash,
        mut range: Range<u64>,
    ) -> BoxFuture<'_, Result<BlobStream, BlobError>> {
        let path = self.path(hash);
        async move {
            // The first piece comes with the opening: small files take one turn on a thread.
            let (file, first, range) = blocking(move || {
                let file = File::open(path)?;
                let first = read_piece(&file, &mut range)?;
                Ok((file, first, range))
            })
            .await?;
            let rest = stream::try_unfold((file, range), |(file, mut range)| async move {
                if range.is_empty() {
                    return Ok(None);
                }
                blocking(move || {
                    let piece = read_piece(&file, &mut range)?;
                    Ok(Some((piece, (file, range))))
                })
                .await
            });
            Ok(stream::once(ready(Ok(first))).chain(rest).boxed())
        }
        .boxed()
    }

    fn size(&self, hash: Hash) -> BoxFuture<'_, Result<Option<u64>, BlobError>> {
        let path = self.path(hash);
        blocking(move || match fs::metadata(path) {
            Ok(there) => Ok(Some(there.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        })
        .boxed()
    }

    fn local(&self, hash: Hash) -> BoxFuture<'_, Result<LocalFile, BlobError>> {
        let path = self.path(hash);
        blocking(move || {
            fs::metadata(&path)?;
            Ok(LocalFile::InStore(path))
        })
        .boxed()
    }

    fn delete(&self, hash: Hash) -> BoxFuture<'_, Result<(), BlobError>> {
        let path = self.path(hash);
        blocking(move || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        })
        .boxed()
    }

    fn list(&self, shard: u8) -> BoxFuture<'_, Result<Vec<Listed>, BlobError>> {
        let folder = self.root.join(format!("{shard:02x}"));
        blocking(move || list(&folder)).boxed()
    }

    fn signed_url(
        &self,
        _hash: Hash,
        _valid: Duration,
        _label: Label,
    ) -> BoxFuture<'_, Result<Option<String>, BlobError>> {
        ready(Ok(None)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use tempfile::TempDir;

    use super::*;
    use crate::blob::Staging;

    fn store() -> (TempDir, Staging, Disk) {
        let folder = TempDir::new().unwrap();
        let staging = Staging::open(&folder.path().join("incoming")).unwrap();
        let disk = Disk::new(&folder.path().join("blobs"));
        (folder, staging, disk)
    }

    async fn staged(staging: &Staging, content: &[u8]) -> Staged {
        let mut incoming = staging.begin();
        for piece in content.chunks(10_000) {
            incoming.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        incoming.finish().await.unwrap()
    }

    async fn all(disk: &Disk, hash: Hash, range: Range<u64>) -> Vec<u8> {
        let stream = disk.read(hash, range).await.unwrap();
        stream
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
            .unwrap()
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_kept_is_read_whole_and_in_ranges() {
        let (folder, staging, disk) = store();
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 77] {
            let content: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let file = staged(&staging, &content).await;
            let (hash, bytes) = (file.hash(), file.bytes());
            assert_eq!(file.head(), &content[..size.min(512)]);
            assert_eq!(hash.0[..], Sha256::digest(&content)[..]);
            disk.keep(file).await.unwrap();
            assert_eq!(disk.size(hash).await.unwrap(), Some(size as u64));
            assert_eq!(all(&disk, hash, 0..bytes).await, content);
            if size > 300 {
                assert_eq!(all(&disk, hash, 17..299).await, &content[17..299]);
                assert_eq!(all(&disk, hash, bytes - 1..bytes).await, &content[size - 1..]);
            }
        }
        assert_eq!(files(&folder.path().join("incoming")), 0);
    }

    #[tokio::test]
    async fn the_same_content_is_kept_once() {
        let (folder, staging, disk) = store();
        let (one, two) = (staged(&staging, b"same").await, staged(&staging, b"same").await);
        let hash = one.hash();
        assert_eq!(hash, two.hash());
        disk.keep(one).await.unwrap();
        disk.keep(two).await.unwrap();
        let listed = disk.list(hash.0[0]).await.unwrap();
        assert_eq!(listed.iter().map(|file| file.hash).collect::<Vec<_>>(), [hash]);
        assert_eq!(files(&folder.path().join("incoming")), 0);
        disk.delete(hash).await.unwrap();
        disk.delete(hash).await.unwrap();
        assert_eq!(disk.size(hash).await.unwrap(), None);
        assert!(matches!(disk.read(hash, 0..4).await, Err(BlobError::NotFound)));
    }

    #[tokio::test]
    async fn what_is_not_finished_or_not_kept_is_gone() {
        let (folder, staging, _disk) = store();
        let mut half = staging.begin();
        half.write(Bytes::from(vec![0; 2 * PIECE_BYTES])).await.unwrap();
        let whole = staged(&staging, b"whole").await;
        let incoming = folder.path().join("incoming");
        assert_eq!(files(&incoming), 2);
        drop((half, whole));
        assert_eq!(files(&incoming), 0);
        // What a process left that was killed goes when the next one starts.
        fs::write(incoming.join("left"), "half").unwrap();
        Staging::open(&incoming).unwrap();
        assert_eq!(files(&incoming), 0);
    }

    #[tokio::test]
    async fn a_file_that_lost_its_end_is_an_error_not_a_short_answer() {
        let (_folder, staging, disk) = store();
        let file = staged(&staging, &[7; 1000]).await;
        let hash = file.hash();
        disk.keep(file).await.unwrap();
        File::options().write(true).open(disk.path(hash)).unwrap().set_len(10).unwrap();
        assert!(matches!(disk.read(hash, 0..1000).await, Err(BlobError::Io { .. })));
        // Given again it is whole again.
        disk.keep(staged(&staging, &[7; 1000]).await).await.unwrap();
        assert_eq!(all(&disk, hash, 0..1000).await, [7; 1000]);
    }

    use sha2::{Digest as _, Sha256};
}
