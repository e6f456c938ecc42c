//! Users and their tokens.

use crate::measure::{Row, Samples, measure};
use crate::world::World;

/// From many connections at once, then from one: what else is done one at a time can't cost less.
pub(super) async fn whoami(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, connections) in [("whoami", 16), ("whoami, one at a time", 1)] {
        let count = world.count(1000);
        let workers = world.users.iter().take(connections).cloned().map(|user| async move {
            let mut samples = Samples::default();
            for _ in 0..count {
                samples.time(user.get("account/whoami")).await;
            }
            samples
        });
        rows.push(measure(name, world.usage, workers.collect()).await);
    }
    rows
}

pub(super) async fn register(world: &World) -> Row {
    let names: Vec<String> = (0..world.count(100)).map(|_| world.name("new")).collect();
    let api = world.api.clone();
    let worker = async move {
        let mut samples = Samples::default();
        for name in names {
            samples.time(api.register(&name)).await;
        }
        samples
    };
    measure("register (cheap password hash)", world.usage, vec![worker]).await
}
