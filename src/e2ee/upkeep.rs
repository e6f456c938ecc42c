//! Fetching lists of other servers' users again that are not complete.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use ruma::{OwnedServerName, ServerName};

use super::{E2eeError, Keys, tracked::Fetched};
use crate::{
    shutdown::Stopping,
    storage::{Range, StorageError, intern::UserNumber, schema::STALE_LISTS},
};

/// How many servers are asked at the same time.
const SERVERS_AT_ONCE: usize = 8;
/// How many lists are read of at once.
const STEP: usize = 50;
/// After this time servers that could not be asked are asked again, if it is their time.
const AGAIN: Duration = Duration::from_secs(30);
/// How long after a wake-up more of them are waited for.
const TOGETHER: Duration = Duration::from_millis(300);

impl Keys {
    /// Fetches lists that are not complete, and forgets those nobody needs, until the server stops.
    pub(crate) async fn keep_lists(self, stopping: Stopping) {
        let waiter = self.db().wait_for(UserNumber::FOR_OTHER_SERVERS);
        loop {
            if let Err(error) = self.settle_departures().await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "who left rooms can't be looked at");
            }
            tokio::select! {
                () = stopping.wait() => return,
                () = self.fetch_stale_lists() => {}
            }
            tokio::select! {
                () = stopping.wait() => return,
                () = waiter.woken() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            // Whoever wants to know does not wait for this: what comes together is done together.
            tokio::time::sleep(TOGETHER).await;
        }
    }

    async fn fetch_stale_lists(&self) {
        let servers = match self.stale_servers().await {
            Ok(servers) => servers,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "lists of devices can't be read");
                return;
            }
        };
        let fetched = stream::iter(servers).for_each_concurrent(SERVERS_AT_ONCE, |server| {
            let keys = self.clone();
            async move {
                if let Err(error) = keys.fetch_stale_of(&server).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, %server, "lists of devices can't be kept");
                }
            }
        });
        fetched.await;
    }

    async fn stale_servers(&self) -> Result<Vec<OwnedServerName>, StorageError> {
        let mut servers = Vec::new();
        let mut range = Range::all();
        while let Some(((server, _), ())) = STALE_LISTS.scan(self.db(), &range, 1).await?.pop() {
            range = range.after(&(&*server, UserNumber(u64::MAX)));
            servers.push(server);
        }
        Ok(servers)
    }

    /// Until one can't be had: then it is not the server's time.
    async fn fetch_stale_of(&self, server: &ServerName) -> Result<(), E2eeError> {
        let mut after = None;
        loop {
            let users = self.stale_of(server, after, STEP).await?;
            let is_last = users.len() < STEP;
            for (user_id, user) in users {
                after = Some(user);
                let fetched = if self.is_shared(user).await? {
                    self.fetch_list(&user_id, user).await?
                } else {
                    Fetched::NotKept
                };
                match fetched {
                    Fetched::Kept => {}
                    Fetched::NotKept => self.leave_stale(server, user).await?,
                    Fetched::Unreachable => return Ok(()),
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
