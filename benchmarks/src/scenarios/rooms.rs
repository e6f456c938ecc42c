//! Rooms being made, entered and talked in.

use crate::http::{Account, CallError};
use crate::measure::{Row, Samples, measure};
use crate::world::World;

pub(super) async fn create(world: &World) -> Row {
    let names: Vec<String> = (0..world.count(100)).map(|_| world.name("created")).collect();
    let users = world.users.clone();
    let worker = async move {
        let mut samples = Samples::default();
        for (name, user) in names.iter().zip(users.iter().cycle()) {
            samples.time(user.create_room(name)).await;
        }
        samples
    };
    measure("create a public room", world.usage, vec![worker]).await
}

pub(super) async fn join(world: &World) -> Result<Row, CallError> {
    let mut rooms = Vec::new();
    for creator in world.users.iter().take(world.count(10)) {
        rooms.push(world.room_of(std::slice::from_ref(creator)).await?);
    }
    let users = world.users.clone();
    let worker = async move {
        let mut samples = Samples::default();
        for (room, creator) in rooms.iter().zip(&users) {
            for user in users.iter().filter(|user| user.user_id != creator.user_id) {
                samples.time(user.join(room)).await;
            }
        }
        samples
    };
    Ok(measure("join a public room", world.usage, vec![worker]).await)
}

pub(super) async fn send(world: &World) -> Result<Row, CallError> {
    let members: Vec<Account> = world.users.iter().take(16).cloned().collect();
    let mut workers = Vec::new();
    for sender in &members {
        let room = world.room_of(&members).await?;
        workers.push(sender_in(world, sender, &room, world.count(500)));
    }
    Ok(measure("send, 16 rooms of 16 members, 16 senders", world.usage, workers).await)
}

pub(super) async fn send_one(world: &World) -> Result<Vec<Row>, CallError> {
    let mut rows = Vec::new();
    for members in [&world.users, world.crowd().await?] {
        let room = world.room_of(members).await?;
        let senders = members.iter().take(16);
        let workers =
            senders.map(|sender| sender_in(world, sender, &room, world.count(100))).collect();
        let name = format!("send, one room of {} members, 16 senders", members.len());
        rows.push(measure(&name, world.usage, workers).await);
    }
    Ok(rows)
}

/// Somebody who sends `count` messages as fast as they are taken.
fn sender_in(
    world: &World,
    sender: &Account,
    room: &str,
    count: usize,
) -> impl Future<Output = Samples> + Send + use<> {
    let (sender, room, transaction) = (sender.clone(), room.to_owned(), world.name("send"));
    async move {
        let mut samples = Samples::default();
        for number in 0..count {
            let text = format!("message {number} of a conversation about this and that");
            samples.time(sender.say(&room, &format!("{transaction}-{number}"), &text)).await;
        }
        samples
    }
}
