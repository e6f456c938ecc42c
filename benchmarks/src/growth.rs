//! How the cost of an operation follows the size of what it works on.

use std::path::Path;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::BenchError;
use crate::homeserver::{Homeserver, Start};
use crate::http::{CallError, segment};
use crate::measure::{Row, Samples, measure};
use crate::plot::{self, Line};
use crate::world::{Scale, World};

/// How often each operation is repeated at each size.
const REPEAT: usize = 100;

/// Which size grows.
#[derive(Clone, Copy)]
enum Dimension {
    /// Members of the room that is sent to, joined and read.
    Members,
    /// Messages in the room.
    History,
    /// Rooms that the syncing user is in.
    Rooms,
}

impl Dimension {
    const ALL: [Self; 3] = [Self::Members, Self::History, Self::Rooms];

    /// Name, axis and the smallest size.
    fn describe(self) -> (&'static str, &'static str, usize) {
        match self {
            Self::Members => ("members", "members of the room", 10),
            Self::History => ("history", "messages in the room", 100),
            Self::Rooms => ("rooms", "rooms of the user", 2),
        }
    }
}

/// Draws one plot for each dimension and prints the figures.
pub(crate) async fn all(servers: &[Start], times: usize, plots: &Path) -> Result<(), BenchError> {
    for dimension in Dimension::ALL {
        let (name, axis, smallest) = dimension.describe();
        let mut lines: Vec<Line> = Vec::new();
        for start in servers {
            let server = start.empty()?;
            let world = World::new(&server, Scale::Full).await?;
            let mut factor = 1;
            while factor <= times {
                let size = smallest * factor;
                eprintln!("{}: {size} {axis}", server.name);
                for row in at_size(dimension, &world, size).await? {
                    note(&mut lines, &server, &row, size);
                }
                factor *= 10;
            }
        }
        for line in &lines {
            let points: Vec<String> =
                line.points.iter().map(|(size, ms)| format!("{size}: {ms:.3}")).collect();
            println!("{axis}, {} (CPU ms): {}", line.name, points.join(", "));
        }
        let file = plots.join(format!("growth-{name}.svg"));
        plot::growth(&file, axis, &lines).map_err(BenchError::Draw)?;
    }
    Ok(())
}

fn note(lines: &mut Vec<Line>, server: &Homeserver, row: &Row, size: usize) {
    let name = format!("{}: {}", server.name, row.name);
    let point = (size, row.cpu_ms.unwrap_or_default());
    match lines.iter_mut().find(|line| line.name == name) {
        Some(line) => line.points.push(point),
        None => lines.push(Line { name, points: vec![point] }),
    }
}

async fn at_size(dimension: Dimension, world: &World, size: usize) -> Result<Vec<Row>, CallError> {
    match dimension {
        Dimension::Rooms => rooms(world, size).await,
        Dimension::Members => {
            let members = world.register(size).await?;
            let room = world.room_of(&members).await?;
            in_room(world, &room).await
        }
        Dimension::History => {
            let room = world.room_of(world.users.get(..10).unwrap_or_default()).await?;
            let writers = stream::iter(world.users.iter().take(10));
            let filled = writers.map(|user| world.fill(user, &room, size / 10));
            filled.buffer_unordered(10).try_collect::<()>().await?;
            in_room(world, &room).await
        }
    }
}

/// Joins, sends and pages in a room.
async fn in_room(world: &World, room: &str) -> Result<Vec<Row>, CallError> {
    let newcomers = world.register(REPEAT).await?;
    let reader = newcomers.first().cloned().ok_or(CallError::Missing("user"))?;
    let joins = {
        let room = room.to_owned();
        async move {
            let mut samples = Samples::default();
            for newcomer in newcomers {
                samples.time(newcomer.join(&room)).await;
            }
            samples
        }
    };
    let join = measure("join", world.usage, vec![joins]).await;
    let (sender, at, transaction) = (reader.clone(), room.to_owned(), world.name("grown"));
    let sends = async move {
        let mut samples = Samples::default();
        for number in 0..REPEAT {
            samples.time(sender.say(&at, &format!("{transaction}-{number}"), "a message")).await;
        }
        samples
    };
    let send = measure("send", world.usage, vec![sends]).await;
    let path = format!("rooms/{}/messages?dir=b&limit=20", segment(room));
    let pages = async move {
        let mut samples = Samples::default();
        for _ in 0..REPEAT {
            samples.time(reader.get(&path)).await;
        }
        samples
    };
    let page = measure("page of 20 messages", world.usage, vec![pages]).await;
    Ok(vec![join, send, page])
}

/// Syncs of somebody in `size` rooms: with nothing new, and with one new message.
async fn rooms(world: &World, size: usize) -> Result<Vec<Row>, CallError> {
    let reader = world.register(1).await?.remove(0);
    let writers = stream::iter((0..size).zip(world.users.iter().cycle()));
    let reader_of = &reader;
    let made = writers.map(|(_, writer)| async move {
        world.room_of(&[writer.clone(), reader_of.clone()]).await
    });
    let rooms: Vec<String> = made.buffered(8).try_collect().await?;

    let since = reader.now().await?;
    let path = format!("sync?timeout=0&since={}", segment(&since));
    let user = reader.clone();
    let idle = async move {
        let mut samples = Samples::default();
        for _ in 0..REPEAT {
            samples.time(user.get(&path)).await;
        }
        samples
    };
    let idle = measure("sync, nothing new", world.usage, vec![idle]).await;

    let (user, name) = (reader.clone(), world.name("grown"));
    let news = async move {
        let mut samples = Samples::default();
        let mut since = since;
        for (number, room) in (0..REPEAT).zip(rooms.iter().cycle()) {
            let next = async {
                user.say(room, &format!("{name}-{number}"), "a message").await?;
                let path = format!("sync?timeout=0&since={}", segment(&since));
                crate::http::text(&user.read(&path).await?, "next_batch")
            };
            if let Some(next) = samples.time(next).await {
                since = next;
            }
        }
        samples
    };
    let news = measure("send and sync of one message", world.usage, vec![news]).await;
    Ok(vec![idle, news])
}
