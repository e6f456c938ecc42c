//! Users and their tokens.

use crate::measure::{Row, Samples, measure};
use crate::world::World;

pub(super) async fn whoami(world: &World) -> Row {
    let count = world.count(1000);
    let workers = world.users.iter().take(16).cloned().map(|user| async move {
        let mut samples = Samples::default();
        for _ in 0..count {
            samples.time(user.get("account/whoami")).await;
        }
        samples
    });
    measure("whoami", world.usage, workers.collect()).await
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
