//! What is measured, one scenario after the other.

mod accounts;
mod delivery;
mod media;
mod messages;
mod rooms;
mod syncs;

use crate::http::CallError;
use crate::measure::Row;
use crate::world::World;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// The cheapest request with authentication, from 16 connections and from one.
    Whoami,
    /// Registrations.
    Register,
    /// Public rooms, one after the other.
    Create,
    /// Joins of public rooms.
    Join,
    /// Sixteen senders, each in a room of 16 members.
    Send,
    /// Sixteen senders in one room of 50, then of 1,000 members.
    SendOne,
    /// From send to receipt by long-poll in a room of 50 members.
    Delivery,
    /// The same with 1,000 watchers.
    DeliveryLarge,
    /// Initial and idle incremental syncs of somebody in 200 rooms.
    Sync,
    /// Ten thousand long-polls that wait.
    Idle,
    /// Pages of 100 messages.
    Messages,
    /// Upload, download, thumbnails.
    Media,
}

impl Scenario {
    /// All of them, in the order they are run.
    pub(crate) fn all() -> &'static [Self] {
        <Self as clap::ValueEnum>::value_variants()
    }

    /// Runs it.
    ///
    /// # Errors
    /// If a request that prepares it fails; failures of what is measured are counted.
    pub(crate) async fn run(self, world: &World) -> Result<Vec<Row>, CallError> {
        match self {
            Self::Whoami => Ok(accounts::whoami(world).await),
            Self::Register => Ok(vec![accounts::register(world).await]),
            Self::Create => Ok(vec![rooms::create(world).await]),
            Self::Join => Ok(vec![rooms::join(world).await?]),
            Self::Send => Ok(vec![rooms::send(world).await?]),
            Self::SendOne => rooms::send_one(world).await,
            Self::Delivery => {
                let users = world.users.clone();
                Ok(vec![delivery::delivery(world, users, world.count(200)).await?])
            }
            Self::DeliveryLarge => {
                let crowd = world.crowd().await?.to_vec();
                Ok(vec![delivery::delivery(world, crowd, world.count(30)).await?])
            }
            Self::Sync => syncs::syncs(world).await,
            Self::Idle => syncs::idle(world).await,
            Self::Messages => Ok(vec![messages::pages(world).await?]),
            Self::Media => media::media(world).await,
        }
    }
}
