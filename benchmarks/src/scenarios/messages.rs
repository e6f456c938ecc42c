//! History being read.

use crate::http::{CallError, segment};
use crate::measure::{Row, Samples, measure};
use crate::world::World;

pub(super) async fn pages(world: &World) -> Result<Row, CallError> {
    let room = world.room_of(world.users.get(..16).unwrap_or_default()).await?;
    let reader = world.users.first().cloned().ok_or(CallError::Missing("user"))?;
    world.fill(&reader, &room, 300).await?;
    let path = format!("rooms/{}/messages?dir=b&limit=100", segment(&room));
    let count = world.count(300);
    let worker = async move {
        let mut samples = Samples::default();
        for _ in 0..count {
            samples.time(reader.get(&path)).await;
        }
        samples
    };
    Ok(measure("page of 100 messages", world.usage, vec![worker]).await)
}
