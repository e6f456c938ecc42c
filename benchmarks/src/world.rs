//! Users and rooms that the scenarios work with.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;

use crate::homeserver::Homeserver;
use crate::http::{Account, Api, CallError};
use crate::usage::Usage;

/// How many preparing requests are under way at once.
const AT_ONCE: usize = 8;

/// How much of each scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scale {
    /// A tenth: to see that everything works.
    Quick,
    /// As the figures are published.
    Full,
}

/// One server with the users made so far.
pub(crate) struct World {
    /// The server.
    pub(crate) api: Api,
    /// Its process.
    pub(crate) usage: Usage,
    /// Fifty users, who are in no room at first.
    pub(crate) users: Vec<Account>,
    scale: Scale,
    /// A thousand users, made when a scenario needs them first.
    crowd: OnceCell<Vec<Account>>,
    /// Part of names, so that a server can be loaded several times.
    run: String,
    names: AtomicU64,
}

impl World {
    /// A world on this server.
    pub(crate) async fn new(server: &Homeserver, scale: Scale) -> Result<Self, CallError> {
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut world = Self {
            api: Api::new(&server.url),
            usage: server.usage,
            users: Vec::new(),
            scale,
            crowd: OnceCell::new(),
            run: format!("{:x}", since_1970.as_millis()),
            names: AtomicU64::new(0),
        };
        world.users = world.register(50).await?;
        Ok(world)
    }

    /// `full`, or a tenth of it.
    pub(crate) fn count(&self, full: usize) -> usize {
        match self.scale {
            Scale::Full => full,
            Scale::Quick => full.div_ceil(10),
        }
    }

    /// A name that nothing on the server has yet.
    pub(crate) fn name(&self, kind: &str) -> String {
        format!("{kind}-{}-{}", self.run, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// New users.
    pub(crate) async fn register(&self, count: usize) -> Result<Vec<Account>, CallError> {
        let names = stream::iter((0..count).map(|_| self.name("user")));
        let users = names.map(|name| async move { self.api.register(&name).await });
        users.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// A thousand users (in a quick run: a hundred).
    pub(crate) async fn crowd(&self) -> Result<&[Account], CallError> {
        let count = self.count(1000);
        self.crowd.get_or_try_init(|| self.register(count)).await.map(Vec::as_slice)
    }

    /// A room of all these users.
    pub(crate) async fn room_of(&self, members: &[Account]) -> Result<String, CallError> {
        let Some((creator, others)) = members.split_first() else {
            return Err(CallError::Missing("member"));
        };
        let room = creator.create_room(&self.name("room")).await?;
        let joins = stream::iter(others).map(|member| member.join(&room));
        joins.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(room)
    }

    /// Sends `count` messages, one after the other.
    pub(crate) async fn fill(
        &self,
        user: &Account,
        room: &str,
        count: usize,
    ) -> Result<(), CallError> {
        for number in 0..count {
            let text = format!("message {number} of a conversation about this and that");
            user.say(room, &self.name("fill"), &text).await?;
        }
        Ok(())
    }
}
