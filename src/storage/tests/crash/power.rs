//! Power failures: see `power.c`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use rand::{RngExt, rngs::StdRng};
use tempfile::TempDir;

/// A directory on a disk that forgets what was not synced.
pub(super) struct Disk {
    /// The layer, what it keeps, and the directories as processes saw them.
    files: TempDir,
    /// How often the power failed.
    failures: u32,
}

/// What of the unsynced data is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unsynced {
    /// Nothing.
    Lost,
    /// Some pages, in no order: a disk may have written any of them.
    Torn,
}

const PAGE_BYTES: usize = 4096;

impl Disk {
    /// An empty disk.
    pub(super) fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage/tests/crash/power.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wno-format-truncation", "-o"])
            .args([&files.path().join("power.so"), &source])
            .status()
            .expect("a C compiler, `cc`, is needed for this test");
        assert!(compiled.success(), "power.c does not compile");
        let disk = Self { files, failures: 0 };
        fs::create_dir(disk.root()).unwrap();
        disk.keep_everything();
        disk
    }

    /// The directory on the disk.
    pub(super) fn root(&self) -> PathBuf {
        self.files.path().join(format!("root-{}", self.failures))
    }

    fn shadow(&self) -> PathBuf {
        self.files.path().join(format!("shadow-{}", self.failures))
    }

    /// Has `command` write to this disk.
    pub(super) fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", self.files.path().join("power.so"))
            .env("MYELIN_POWER_ROOT", self.root())
            .env("MYELIN_POWER_SHADOW", self.shadow());
    }

    /// The power fails, and the disk is read again.
    pub(super) fn fail(&mut self, unsynced: Unsynced, random: &mut StdRng) {
        let (old_root, old_shadow) = (self.root(), self.shadow());
        self.failures += 1;
        restore(&old_shadow, &old_root, &self.root(), unsynced, random);
        fs::remove_dir_all(old_root).unwrap();
        fs::remove_dir_all(old_shadow).unwrap();
        self.keep_everything();
    }

    /// What is there now is on the disk.
    pub(super) fn keep_everything(&self) {
        let shadow = self.shadow();
        // It may be there from before a process wrote without the layer.
        let _ = fs::remove_dir_all(&shadow);
        fs::create_dir(&shadow).unwrap();
        keep(&self.root(), &shadow);
    }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn keep(directory: &Path, shadow: &Path) {
    let mut list = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let (inode, name) = (inode(&path), path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            list.push(format!("{inode} d {name}\n"));
            keep(&path, shadow);
        } else {
            list.push(format!("{inode} f {name}\n"));
            fs::copy(&path, shadow.join(format!("data-{inode}"))).unwrap();
            fs::hard_link(&path, shadow.join(format!("pin-{inode}"))).unwrap();
        }
    }
    fs::write(shadow.join(format!("dir-{}", inode(directory))), list.concat()).unwrap();
}

fn restore(shadow: &Path, from: &Path, to: &Path, unsynced: Unsynced, random: &mut StdRng) {
    restore_directory(shadow, inode(from), to, unsynced, random);
}

fn restore_directory(
    shadow: &Path,
    inode: u64,
    to: &Path,
    unsynced: Unsynced,
    random: &mut StdRng,
) {
    fs::create_dir(to).unwrap();
    // A directory that was never synced is empty.
    let list = fs::read_to_string(shadow.join(format!("dir-{inode}"))).unwrap_or_default();
    // Sorted, so that the same seed tears the same pages.
    let entries: BTreeMap<&str, (u64, &str)> = list
        .lines()
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            let (inode, kind) = (parts.next().unwrap(), parts.next().unwrap());
            (parts.next().unwrap(), (inode.parse().unwrap(), kind))
        })
        .collect();
    for (name, (inode, kind)) in entries {
        if kind == "d" {
            restore_directory(shadow, inode, &to.join(name), unsynced, random);
        } else {
            fs::write(to.join(name), contents(shadow, inode, unsynced, random)).unwrap();
        }
    }
}

fn contents(shadow: &Path, inode: u64, unsynced: Unsynced, random: &mut StdRng) -> Vec<u8> {
    let synced = fs::read(shadow.join(format!("data-{inode}"))).unwrap_or_default();
    // A file deleted before it could be pinned was never synced.
    let seen = fs::read(shadow.join(format!("pin-{inode}"))).unwrap_or_else(|_| synced.clone());
    assert!(seen.starts_with(&synced), "the layer is for files that only grow");
    let mut left = synced;
    if unsynced == Unsynced::Torn && seen.len() > left.len() {
        let kept_bytes = left.len();
        left.resize(random.random_range(kept_bytes..=seen.len()), 0);
        let mut at = kept_bytes;
        while at < left.len() {
            let end = (at / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES).min(left.len());
            if random.random() {
                left[at..end].copy_from_slice(&seen[at..end]);
            }
            at = end;
        }
    }
    left
}

/// In a process under the layer: one file for each way to sync too little.
pub(super) fn write_with_and_without_syncing(root: &Path) {
    let directory = fs::File::open(root).unwrap();
    let file = |name: &str| fs::File::create(root.join(name)).unwrap();
    let all = file("all");
    all.write_all_at(b"synced", 0).unwrap();
    all.sync_data().unwrap();
    all.write_all_at(b" and not", 6).unwrap();
    file("name only").write_all_at(b"lost", 0).unwrap();
    fs::write(root.join("old name"), "").unwrap();
    fs::write(root.join("deleted"), "").unwrap();
    directory.sync_all().unwrap();
    let contents_only = file("contents only");
    contents_only.write_all_at(b"lost", 0).unwrap();
    contents_only.sync_all().unwrap();
    fs::rename(root.join("old name"), root.join("new name")).unwrap();
    fs::remove_file(root.join("deleted")).unwrap();
}

/// What must be left of [`write_with_and_without_syncing`].
pub(super) fn assert_only_what_was_synced_is_left(root: &Path) {
    let mut found: Vec<(String, String)> = fs::read_dir(root)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    let expected = [("all", "synced"), ("deleted", ""), ("name only", ""), ("old name", "")];
    assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}
