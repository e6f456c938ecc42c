//! Syncs of somebody in many rooms, and of many who wait.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use serde_json::Value;

use crate::http::{Account, CallError, segment};
use crate::measure::{Row, Samples, measure};
use crate::world::World;

/// How many long-polls a user of the crowd holds.
const POLLS_EACH: usize = 10;

pub(super) async fn syncs(world: &World) -> Result<Vec<Row>, CallError> {
    let rooms = world.count(200);
    let reader = world.register(1).await?.remove(0);
    let writers = stream::iter((0..rooms).zip(world.users.iter().cycle()));
    let reader_of = &reader;
    let filled = writers.map(|(_, writer)| async move {
        let members = [writer.clone(), reader_of.clone()];
        let room = world.room_of(&members).await?;
        world.fill(writer, &room, 20).await
    });
    filled.buffer_unordered(8).try_collect::<()>().await?;

    let limit = segment(r#"{"room":{"timeline":{"limit":20}}}"#);
    let initial = format!("sync?filter={limit}");
    let size = reader.get(&initial).await?.len();
    let name = format!("initial sync, {rooms} rooms × 20 events");
    let initial = repeat(&reader, initial, world.count(20));
    let initial = measure(&name, world.usage, vec![initial]).await;
    eprintln!("    {} KiB each", size / 1024);

    let since = reader.now().await?;
    let name = format!("incremental sync, {rooms} rooms, nothing new");
    let idle = vec![follow(reader, since, world.count(2000))];
    let idle = measure(&name, world.usage, idle).await;
    Ok(vec![initial, idle])
}

/// Syncs as clients do, each from where the last one ended.
async fn follow(user: Account, mut since: String, count: usize) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..count {
        let path = format!("sync?timeout=0&since={}", segment(&since));
        match samples.time(user.read(&path)).await {
            Some(answer) => {
                if let Some(next) = answer.get("next_batch").and_then(Value::as_str) {
                    next.clone_into(&mut since);
                }
            }
            None => break,
        }
    }
    samples
}

fn repeat(
    user: &Account,
    path: String,
    count: usize,
) -> impl Future<Output = Samples> + Send + use<> {
    let user = user.clone();
    async move {
        let mut samples = Samples::default();
        for _ in 0..count {
            samples.time(user.get(&path)).await;
        }
        samples
    }
}

/// What long-polls cost that wait for half a minute and then end, with nothing to tell.
pub(super) async fn idle(world: &World) -> Result<Vec<Row>, CallError> {
    const WAIT: Duration = Duration::from_secs(30);
    let mut polls = Vec::new();
    for user in world.crowd().await? {
        let since = user.now().await?;
        // Everybody coming online would wake everybody else.
        let path = format!(
            "sync?set_presence=offline&timeout={}&since={}",
            WAIT.as_millis(),
            segment(&since)
        );
        polls.extend((0..POLLS_EACH).map(|_| (user.clone(), path.clone())));
    }
    let before = world.usage.resident_mib();
    let (usage, count) = (world.usage, polls.len());
    // In the middle of the wait: when all have come and before any has gone.
    let middle = tokio::spawn(async move {
        tokio::time::sleep(WAIT / 2).await;
        let begun = usage.cpu_ms();
        let resident = usage.resident_mib();
        tokio::time::sleep(WAIT / 4).await;
        (resident, usage.cpu_ms().zip(begun).map(|(after, begun)| after - begun))
    });
    let workers = polls.into_iter().map(|(user, path)| async move {
        let mut samples = Samples::default();
        samples.time(user.get(&path)).await;
        samples
    });
    let name = format!("long-poll of {} s that brings nothing", WAIT.as_secs());
    let row = measure(&name, world.usage, workers.collect()).await;
    let (resident, cpu) = middle.await.unwrap_or_default();
    let mut waiting = row.clone();
    waiting.name = format!("{count} of them waiting: CPU ms in all each second");
    waiting.cpu_ms = cpu.map(|cpu| cpu / (WAIT / 4).as_secs_f64());
    waiting.memory_mib = resident;
    crate::report::progress(&waiting);
    if let (Some(before), Some(during)) = (before, resident) {
        let each = (during - before) * 1024.0 / count as f64;
        eprintln!("    {each:.1} KiB each");
    }
    Ok(vec![row, waiting])
}
