//! A process commits under load and dies: killed, or with the power.
//!
//! The process is this test program again, told by its environment to be the one that dies.

mod load;
mod power;

use std::{
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::tempdir;

use super::open;
use crate::storage::{Batch, Db, StorageError, schema::TEST_ROWS};
use load::Said;
use power::{Disk, Unsynced};

const ROUNDS: u64 = 50;

const ROLE: &str = "MYELIN_CRASH_ROLE";
const DIRECTORY: &str = "MYELIN_CRASH_DIRECTORY";
const SEED: &str = "MYELIN_CRASH_SEED";

/// What the other process does; as a test of this one, nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    // The test harness has begun a line.
    println!();
    match role.as_str() {
        "load" => load::run(&directory, true, seed).await,
        "load without syncing" => load::run(&directory, false, seed).await,
        "sync some files" => power::write_with_and_without_syncing(&directory),
        "fill the disk" => fill_the_disk(&directory).await,
        other => panic!("no role is called {other}"),
    }
}

fn command(role: &str, directory: &Path, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["storage::tests::crash::role", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// When to kill a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// While it starts, which is when it recovers from the time before.
    Starting,
    /// When it has its first stream position, and nothing that uses it is on the disk.
    FirstPosition,
    /// After so many acknowledgements.
    Acknowledged(u32),
    /// It is killed.
    Past,
}

impl Moment {
    fn some(random: &mut StdRng) -> Self {
        match random.random_range(0..10) {
            0 => Self::Starting,
            1 | 2 => Self::FirstPosition,
            _ => Self::Acknowledged(random.random_range(1..150)),
        }
    }
}

/// Kills `child` at `moment`, and adds what it said until then.
fn kill_at(mut moment: Moment, mut child: Child, random: &mut StdRng, said: &mut Said) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    if moment == Moment::Starting {
        std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
        child.kill().unwrap();
        moment = Moment::Past;
    }
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut off.
        let Some(whole) = line.strip_suffix('\n') else { break };
        match whole.split(' ').collect::<Vec<_>>()[..] {
            ["took", position] => {
                if moment == Moment::FirstPosition {
                    child.kill().unwrap();
                    moment = Moment::Past;
                }
                said.took(position.parse().unwrap());
            }
            ["acknowledged", writer, change] => {
                moment = match moment {
                    Moment::Acknowledged(1) => {
                        child.kill().unwrap();
                        Moment::Past
                    }
                    Moment::Acknowledged(more) => Moment::Acknowledged(more - 1),
                    other => other,
                };
                said.acknowledged.insert(writer.parse().unwrap(), change.parse().unwrap());
            }
            _ => (),
        }
        line.clear();
    }
    if moment != Moment::Past {
        let mut why = String::new();
        child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        panic!("the process ended by itself: {why}");
    }
    child.wait().unwrap();
}

/// Opens what the process left and checks it; says what is wrong.
async fn check(directory: &Path, said: &mut Said) -> Result<(), String> {
    let db = open(directory).await.map_err(|error| format!("can't be opened: {error:?}"))?;
    load::check(&db, said).await?;
    let (position, last) = (db.position().await.unwrap().value(), said.positions.last().copied());
    if last.is_some_and(|last| position <= last) {
        return Err(format!("position {position} comes after {last:?}"));
    }
    said.took(position);
    if !said.twice.is_empty() {
        return Err(format!("positions were used twice: {:?}", said.twice));
    }
    db.close().await;
    Ok(())
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let directory = tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(9);
    let mut said = Said::default();
    for round in 0..ROUNDS {
        let child = command("load", directory.path(), round).spawn().unwrap();
        kill_at(Moment::some(&mut random), child, &mut random, &mut said);
        check(directory.path(), &mut said).await.unwrap_or_else(|why| panic!("{round}: {why}"));
    }
}

#[tokio::test]
async fn a_power_failure_loses_nothing_that_was_acknowledged() {
    let mut disk = Disk::new();
    let mut random = StdRng::seed_from_u64(15);
    let mut said = Said::default();
    for round in 0..ROUNDS {
        let directory = disk.root().join("new/data");
        let mut command = command("load", &directory, round);
        disk.preload(&mut command);
        let child = command.spawn().unwrap();
        kill_at(Moment::some(&mut random), child, &mut random, &mut said);
        let unsynced = if round % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn };
        disk.fail(unsynced, &mut random);
        let directory = disk.root().join("new/data");
        check(&directory, &mut said)
            .await
            .unwrap_or_else(|why| panic!("{round}, {unsynced:?}: {why}"));
        disk.keep_everything();
    }
}

/// Shows that the test above would notice.
#[tokio::test]
async fn a_power_failure_loses_what_was_acknowledged_without_syncing() {
    let mut disk = Disk::new();
    let mut random = StdRng::seed_from_u64(3);
    let mut said = Said::default();
    let directory = disk.root().join("data");
    let mut command = command("load without syncing", &directory, 0);
    disk.preload(&mut command);
    kill_at(Moment::Acknowledged(20), command.spawn().unwrap(), &mut random, &mut said);
    disk.fail(Unsynced::Lost, &mut random);
    let lost = check(&disk.root().join("data"), &mut said).await.unwrap_err();
    assert!(lost.contains("were acknowledged"), "{lost}");
}

#[test]
fn the_disk_keeps_what_was_synced_and_nothing_else() {
    let mut disk = Disk::new();
    let mut command = command("sync some files", &disk.root(), 0);
    disk.preload(&mut command);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    disk.fail(Unsynced::Lost, &mut StdRng::seed_from_u64(0));
    power::assert_only_what_was_synced_is_left(&disk.root());
}

/// In a process that may not write large files: commits until it can't.
async fn fill_the_disk(directory: &Path) {
    let db = open(directory).await.unwrap();
    let mut rows = 0;
    let failure = loop {
        match commit_row(&db, rows).await {
            Ok(()) => rows += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, StorageError::Unknown { .. }), "{failure:?}");
    let later = commit_row(&db, rows + 1).await.unwrap_err();
    assert!(matches!(later, StorageError::Engine { .. }), "{later:?}");
    assert!(db.stats().commits.stopped);
    for row in 0..rows {
        assert!(TEST_ROWS.contains(&db, &(row, 0)).await.unwrap(), "reads go on");
    }
    println!("full after {rows}");
    db.close().await;
}

async fn commit_row(db: &Db, row: u64) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    TEST_ROWS.put(&mut batch, &(row, 0), &vec![1; 50_000]);
    TEST_ROWS.put(&mut batch, &(row, 1), &Vec::new());
    db.commit(batch).await
}

#[tokio::test]
async fn a_full_disk_stops_writes_and_loses_nothing() {
    let directory = tempdir().unwrap();
    let limited = command("fill the disk", directory.path(), 0);
    // A write beyond the limit then fails, as on a full disk, instead of killing the process.
    let done = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 2000; exec "$0" "$@""#])
        .arg(limited.get_program())
        .args(limited.get_args())
        .envs(limited.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let rows: u64 =
        said.lines().find_map(|line| line.strip_prefix("full after ")?.parse().ok()).unwrap();
    let db = open(directory.path()).await.unwrap();
    for row in 0..=rows {
        let keys = [(row, 0_u64), (row, 1)];
        let found: Vec<bool> =
            TEST_ROWS.multi_get(&db, keys).await.unwrap().iter().map(Option::is_some).collect();
        match row {
            // Whose outcome is not known.
            last if last == rows => assert_eq!(found[0], found[1]),
            _ => assert_eq!(found, [true, true], "row {row} of {rows}"),
        }
    }
    assert!(!TEST_ROWS.contains(&db, &(rows + 1, 0)).await.unwrap());
    commit_row(&db, rows).await.unwrap();
}
