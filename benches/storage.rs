//! What storage costs: commits per second, latency of reads, and instructions against `RocksDB`
//! used directly.
//!
//! ```sh
//! cargo bench --features bench --bench storage                    # times, about a minute
//! cargo bench --features bench --bench storage -- instructions    # needs valgrind
//! ```
//!
//! Compare times only between runs on the same idle machine and disk: a synced commit is one flush
//! of the disk, whatever else is done. `TMPDIR` says on which disk. Instructions hardly depend on
//! the machine.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a benchmark may panic, and reports rounded figures"
)]

use std::{path::Path, process::Command, time::Duration};

use myelin::bench::{Bench, Error, TABLE};
use rocksdb::{ReadOptions, WriteBatch, WriteOptions};
use tokio::{runtime::Runtime, time::Instant};

/// Rows that reads choose from, and the size of their values, which is that of a message.
const ROWS: usize = 20_000;
const VALUE_BYTES: usize = 500;
/// Rows in one batch, and in one `multi_get` or scan.
const BATCH_ROWS: usize = 6;
const MANY: usize = 50;

fn main() -> Result<(), Error> {
    let runtime = Runtime::new()?;
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => runtime.block_on(times()),
        ["instructions"] => instructions(),
        ["run", operation, way, count] => {
            runtime.block_on(run(operation, way == "raw", count.parse()?))
        }
        _ => Err("use: storage [instructions]".into()),
    }
}

fn key(number: usize) -> String {
    // Spread out, so that neighbours in time are not neighbours in the file.
    format!("row {:08x}", (number as u32).wrapping_mul(0x9E37_79B1))
}

/// Rows in a file, and all of it in the cache.
async fn filled(directory: &Path, rows: usize) -> Result<Bench, Error> {
    let bench = Bench::open(directory).await?;
    let keys: Vec<String> = (0..rows).map(key).collect();
    for keys in keys.chunks(1_000) {
        bench.put(keys, &vec![b'v'; VALUE_BYTES], false).await?;
    }
    let raw = bench.raw()?;
    raw.flush_cf(&raw.cf_handle(TABLE).ok_or("no table")?)?;
    bench.count().await?;
    Ok(bench)
}

async fn times() -> Result<(), Error> {
    println!("{:<28}{:>12}{:>14}{:>20}", "commits", "per second", "mean", "flushes per commit");
    for synced in [true, false] {
        for writers in [1, 8, 64] {
            commits(writers, synced).await?;
        }
    }
    println!("\n{:<28}{:>12}{:>14}", "reads", "", "mean");
    let directory = tempfile::tempdir()?;
    let bench = filled(directory.path(), ROWS).await?;
    let keys: Vec<Vec<u8>> = (0..ROWS).map(|number| Bench::encoded(&key(number))).collect();
    let absent: Vec<Vec<u8>> =
        (0..ROWS).map(|number| Bench::encoded(&number.to_string())).collect();
    for (what, keys) in [("get, cached", &keys), ("get, absent", &absent)] {
        let start = Instant::now();
        for key in keys {
            std::hint::black_box(bench.get(key).await?);
        }
        report(what, start.elapsed(), keys.len());
    }
    let start = Instant::now();
    for keys in keys.chunks(MANY) {
        std::hint::black_box(bench.multi_get(keys).await?);
    }
    report("multi_get of 50, cached", start.elapsed(), ROWS / MANY);
    let start = Instant::now();
    for key in keys.iter().step_by(MANY) {
        std::hint::black_box(bench.scan(key, MANY).await?);
    }
    report("scan of 50, cached", start.elapsed(), ROWS / MANY);

    bench.close().await;
    let bench = Bench::open(directory.path()).await?;
    let start = Instant::now();
    for key in keys.iter().step_by(MANY) {
        std::hint::black_box(bench.get(key).await?);
    }
    report("get, from the file", start.elapsed(), ROWS / MANY);
    bench.close().await;
    let bench = Bench::open(directory.path()).await?;
    let start = Instant::now();
    for keys in keys.chunks(MANY).step_by(20) {
        std::hint::black_box(bench.multi_get(keys).await?);
    }
    report("multi_get of 50, from the file", start.elapsed(), ROWS / MANY / 20);
    bench.close().await;
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
    {
        println!("\nlargest resident memory: {}", peak.trim());
    }
    Ok(())
}

fn report(what: &str, took: Duration, count: usize) {
    println!("{what:<34}{:>20.1?}", took / u32::try_from(count).unwrap_or(u32::MAX));
}

async fn commits(writers: usize, synced: bool) -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let bench = Bench::open(directory.path()).await?;
    let before = bench.commits();
    let start = Instant::now();
    let until = start + Duration::from_secs(3);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let value = vec![b'v'; VALUE_BYTES];
                let mut change = 0;
                while Instant::now() < until {
                    let keys = [0; BATCH_ROWS].map(|_| {
                        change += 1;
                        key(writer * 10_000_000 + change)
                    });
                    bench.put(&keys, &value, synced).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let took = start.elapsed();
    let after = bench.commits();
    let batches = after.batches - before.batches;
    println!(
        "{:<28}{:>12.0}{:>14.1?}{:>20.3}",
        format!("{writers} writers, {}", if synced { "synced" } else { "unsynced" }),
        batches as f64 / took.as_secs_f64(),
        took * u32::try_from(writers)? / u32::try_from(batches.max(1))?,
        (after.flushes - before.flushes) as f64 / batches as f64,
    );
    bench.close().await;
    Ok(())
}

/// Runs one operation `count` times, for callgrind.
async fn run(operation: &str, raw: bool, count: usize) -> Result<(), Error> {
    const FEW: usize = 1_000;
    let directory = tempfile::tempdir()?;
    let bench = filled(directory.path(), FEW).await?;
    let names: Vec<String> = (0..FEW).map(key).collect();
    let keys: Vec<Vec<u8>> = names.iter().map(|key| Bench::encoded(key)).collect();
    let value = vec![b'v'; VALUE_BYTES];
    let db = bench.raw()?;
    let table = db.cf_handle(TABLE).ok_or("no table")?;
    let options = ReadOptions::default();
    let nth = |number: usize| number % (FEW - MANY);
    for number in 0..count {
        let at = nth(number);
        match (operation, raw) {
            ("get", true) => drop(db.get_cf_opt(&table, &keys[at], &options)?),
            ("get", false) => drop(bench.get(&keys[at]).await?),
            ("get typed", _) => drop(bench.get_typed(&names[at]).await?),
            ("multi_get", true) => {
                let keys = &keys[at..at + MANY];
                for found in db.batched_multi_get_cf_opt(&table, keys, false, &options) {
                    std::hint::black_box(found?.map(|value| value.to_vec()));
                }
            }
            ("multi_get", false) => drop(bench.multi_get(&keys[at..at + MANY]).await?),
            ("scan", true) => {
                let mut options = ReadOptions::default();
                options.set_iterate_lower_bound(keys[at].as_slice());
                let mut cursor = db.raw_iterator_cf_opt(&table, options);
                cursor.seek(&keys[at]);
                let mut rows = Vec::new();
                while rows.len() < MANY
                    && let Some((key, value)) = cursor.item()
                {
                    rows.push((key.to_vec(), value.to_vec()));
                    cursor.next();
                }
                std::hint::black_box(rows);
            }
            ("scan", false) => drop(bench.scan(&keys[at], MANY).await?),
            ("commit", true) => {
                let mut batch = WriteBatch::default();
                for row in 0..BATCH_ROWS {
                    batch.put_cf(&table, &keys[at + row], &value);
                }
                let mut options = WriteOptions::default();
                options.set_sync(true);
                db.write_opt(batch, &options)?;
            }
            ("commit", false) => bench.put_encoded(&keys[at..at + BATCH_ROWS], &value).await?,
            ("commit typed", _) => bench.put(&names[at..at + BATCH_ROWS], &value, true).await?,
            _ => return Err("no such operation".into()),
        }
    }
    drop(table);
    bench.close().await;
    Ok(())
}

fn instructions() -> Result<(), Error> {
    println!("{:<12}{:>12}{:>12}{:>10}", "instructions", "raw", "storage", "more");
    for (operation, count) in
        [("get", 20_000), ("multi_get", 1_000), ("scan", 1_000), ("commit", 1_000)]
    {
        let raw = counted(operation, "raw", count)?;
        let ours = counted(operation, "storage", count)?;
        let more = (ours / raw - 1.0) * 100.0;
        println!("{operation:<12}{raw:>12.0}{ours:>12.0}{more:>9.1}%");
    }
    for (operation, count) in [("get typed", 20_000), ("commit typed", 1_000)] {
        let typed = counted(operation, "storage", count)?;
        println!("{operation:<12}{:>12}{typed:>12.0}", "");
    }
    Ok(())
}

/// Instructions per operation: what `count` of them take beyond a tenth of that.
fn counted(operation: &str, way: &str, count: usize) -> Result<f64, Error> {
    let few = count / 10;
    let difference = total(operation, way, count)? - total(operation, way, few)?;
    Ok(difference / (count - few) as f64)
}

fn total(operation: &str, way: &str, count: usize) -> Result<f64, Error> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", operation, way, &count.to_string()])
        .output()
        .map_err(|error| format!("valgrind is needed: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1));
    Ok(collected.ok_or_else(|| format!("valgrind said:\n{said}"))?.trim().parse()?)
}
