//! One large room: what it costs to come in, to speak and to read, and what it takes on the disk.
//!
//! Between the phases the server is stopped, so that what is on the disk is all there, and started
//! again, so that memory holds nothing of what was written.

use std::path::Path;

use serde_json::Value;

use crate::BenchError;
use crate::homeserver::{Homeserver, Start};
use crate::http::{Account, CallError, segment, text};
use crate::measure::{Row, Samples, measure};
use crate::report::Report;
use crate::world::{Scale, World};

/// How many members do something at the same time.
const AT_ONCE: usize = 64;
/// How often what is read is read.
const REPEAT: usize = 100;
/// The same for answers with all members.
const REPEAT_LARGE: usize = 5;

/// Builds the room on a server of its own, and says what it took.
pub(crate) async fn run(
    myelin: &Path,
    members: usize,
    messages: usize,
) -> Result<Report, BenchError> {
    let start = Start::Myelin(myelin.to_owned());
    let mut server = start.empty()?;
    let mut report = Report::new(&format!("{members} members, {messages} messages"));
    report.idle_mib = server.usage.resident_mib();
    let mut world = World::new(&server, Scale::Full).await?;
    let users = world.register(members.max(2)).await?;
    let empty = server.stopped_bytes(&start).await?;
    world.usage = server.usage;

    let creator = users.first().ok_or(CallError::Missing("member"))?;
    let room = creator.create_room(&world.name("large")).await?;
    report.rows.push(join_all(&world, &room, users.get(1..).unwrap_or_default()).await);
    let joined = server.stopped_bytes(&start).await?;
    world.usage = server.usage;

    report.rows.push(fill(&world, &room, &users, messages).await);
    let filled = server.stopped_bytes(&start).await?;
    world.usage = server.usage;

    report.rows.extend(in_use(&world, &room, creator).await?);
    report.after_mib = server.usage.resident_mib();
    let per = |bytes: u64, count: usize| bytes as f64 / count.max(1) as f64;
    println!("bytes on disk per join: {:.0}", per(joined.saturating_sub(empty), users.len() - 1));
    println!("bytes on disk per message: {:.0}", per(filled.saturating_sub(joined), messages));
    println!("bytes on disk in all: {filled}");
    Ok(report)
}

/// Splits work among those who do it at the same time.
fn shares<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    all.chunks(all.len().div_ceil(AT_ONCE).max(1)).map(<[T]>::to_vec).collect()
}

async fn join_all(world: &World, room: &str, users: &[Account]) -> Row {
    let workers = shares(users).into_iter().map(|users| {
        let room = room.to_owned();
        async move {
            let mut samples = Samples::default();
            for user in users {
                samples.time(user.join(&room)).await;
            }
            samples
        }
    });
    measure("join, 64 at once", world.usage, workers.collect()).await
}

async fn fill(world: &World, room: &str, users: &[Account], messages: usize) -> Row {
    let numbers: Vec<usize> = (0..messages).collect();
    let workers = shares(&numbers).into_iter().zip(users.iter().cycle()).map(|(numbers, user)| {
        let (user, room, name) = (user.clone(), room.to_owned(), world.name("large"));
        async move {
            let mut samples = Samples::default();
            for number in numbers {
                let words = format!("message {number} of a conversation about this and that");
                samples.time(user.say(&room, &format!("{name}-{number}"), &words)).await;
            }
            samples
        }
    });
    measure("send, 64 at once", world.usage, workers.collect()).await
}

/// One request after the other, the server having just been started.
async fn in_use(world: &World, room: &str, user: &Account) -> Result<Vec<Row>, CallError> {
    let path = |rest: &str| format!("rooms/{}/{rest}", segment(room));
    let mut rows = Vec::new();
    // Pages from the end to what is long ago, and events of all of them.
    let mut events = Vec::new();
    let mut pages = Vec::new();
    let mut from = String::new();
    for _ in 0..REPEAT {
        let page = path(&format!("messages?dir=b&limit=100{from}"));
        let found: Value = user.read(&page).await?;
        pages.push(page);
        let ids = found["chunk"].as_array().into_iter().flatten();
        events
            .extend(ids.filter_map(|event| event["event_id"].as_str().map(str::to_owned)).take(1));
        let Ok(end) = text(&found, "end") else { break };
        from = format!("&from={}", segment(&end));
    }
    rows.push(read(world, user, "page of 100 messages", pages).await);
    let around = events.iter().map(|event| path(&format!("context/{}?limit=10", segment(event))));
    rows.push(read(world, user, "context of 10 events", around.collect()).await);
    for (name, rest) in [
        ("all member events", "members"),
        ("all joined members", "joined_members"),
        ("the whole state", "state"),
    ] {
        let paths = vec![path(rest); REPEAT_LARGE];
        rows.push(read(world, user, name, paths).await);
    }
    let topic = path("state/m.room.create/");
    rows.push(read(world, user, "one state event", vec![topic; REPEAT]).await);
    let (sender, at, name) = (user.clone(), room.to_owned(), world.name("large"));
    let sends = async move {
        let mut samples = Samples::default();
        for number in 0..REPEAT {
            samples.time(sender.say(&at, &format!("{name}-{number}"), "a message")).await;
        }
        samples
    };
    rows.push(measure("send, one at a time", world.usage, vec![sends]).await);
    Ok(rows)
}

async fn read(world: &World, user: &Account, name: &str, paths: Vec<String>) -> Row {
    let user = user.clone();
    let reads = async move {
        let mut samples = Samples::default();
        for path in paths {
            samples.time(user.get(&path)).await;
        }
        samples
    };
    measure(name, world.usage, vec![reads]).await
}

impl Homeserver {
    /// Stops it, counts what its data take on the disk, and starts it again.
    async fn stopped_bytes(&mut self, start: &Start) -> Result<u64, BenchError> {
        let own = self.stop().await?;
        let bytes = bytes_below(&own.join("data"))?;
        self.start_again(start)?;
        Ok(bytes)
    }
}

fn bytes_below(directory: &Path) -> Result<u64, std::io::Error> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
