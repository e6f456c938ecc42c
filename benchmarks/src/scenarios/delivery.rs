//! From one user's send to another's receipt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Barrier;

use crate::http::{Account, CallError, segment};
use crate::measure::{Row, Samples, measure};
use crate::world::World;

/// Between two messages, so that each finds everybody waiting.
const PAUSE: Duration = Duration::from_millis(50);

/// All members of one room wait by long-poll; the first of them sends `count` messages.
///
/// The latency is from the beginning of the send to the answer at one watcher, and
/// the CPU time of a message, its sending included, is divided by the watchers.
pub(super) async fn delivery(
    world: &World,
    members: Vec<Account>,
    count: usize,
) -> Result<Row, CallError> {
    let room = world.room_of(&members).await?;
    let watchers = members.len();
    let began = Instant::now();
    let everybody = Arc::new(Barrier::new(watchers + 1));
    let mut tasks = Vec::new();
    for member in &members {
        let watcher =
            Watcher { user: member.clone(), since: member.now().await?, room: room.clone(), began };
        tasks.push(Task::Watch(watcher, count, Arc::clone(&everybody)));
    }
    let sender = members.first().cloned().ok_or(CallError::Missing("member"))?;
    tasks.push(Task::Send { sender, room, count, began, everybody, name: world.name("delivery") });
    let workers = tasks.into_iter().map(Task::run).collect();
    let name = format!("delivery to a long-poll, {watchers} members");
    Ok(measure(&name, world.usage, workers).await)
}

enum Task {
    Watch(Watcher, usize, Arc<Barrier>),
    Send {
        sender: Account,
        room: String,
        count: usize,
        began: Instant,
        everybody: Arc<Barrier>,
        name: String,
    },
}

struct Watcher {
    user: Account,
    since: String,
    room: String,
    began: Instant,
}

impl Task {
    async fn run(self) -> Samples {
        match self {
            Self::Watch(watcher, count, everybody) => {
                everybody.wait().await;
                watcher.watch(count).await
            }
            Self::Send { sender, room, count, began, everybody, name } => {
                let mut samples = Samples::default();
                everybody.wait().await;
                for number in 0..count {
                    tokio::time::sleep(PAUSE).await;
                    let text = format!("sent at {}", began.elapsed().as_nanos());
                    let sent = sender.say(&room, &format!("{name}-{number}"), &text).await;
                    if let Err(error) = sent {
                        samples.failed(&error);
                    }
                }
                samples
            }
        }
    }
}

impl Watcher {
    async fn watch(mut self, count: usize) -> Samples {
        let mut samples = Samples::default();
        let mut seen = 0;
        let pointer = format!("/rooms/join/{}/timeline", self.room);
        while seen < count {
            // Messages are what is measured, not who comes online.
            let since = segment(&self.since);
            let path = format!("sync?set_presence=offline&timeout=30000&since={since}");
            let answer = match self.user.read(&path).await {
                Ok(answer) => answer,
                Err(error) => {
                    samples.failed(&error);
                    break;
                }
            };
            let now = self.began.elapsed();
            if let Some(next) = answer.get("next_batch").and_then(Value::as_str) {
                next.clone_into(&mut self.since);
            }
            let Some(timeline) = answer.pointer(&pointer) else { continue };
            if timeline.get("limited").and_then(Value::as_bool) == Some(true) {
                samples.failed(&CallError::Missing("complete timeline: the watcher fell behind"));
                break;
            }
            let events = timeline.get("events").and_then(Value::as_array);
            for event in events.into_iter().flatten() {
                let text = event.pointer("/content/body").and_then(Value::as_str);
                let sent = text.and_then(|text| text.strip_prefix("sent at ")?.parse().ok());
                if let Some(sent) = sent {
                    samples.add(now.saturating_sub(Duration::from_nanos(sent)));
                    seen += 1;
                }
            }
        }
        samples
    }
}
