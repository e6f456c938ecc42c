//! Transactions: made of what is queued, written down, and sent until they are acknowledged.
//!
//! Each application service has a task of its own, so one that fails holds no other up. A
//! transaction is on disk before it is sent for the first time: after a crash it is the same, under
//! the same ID.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#pushing-events>

mod compose;
mod encryption;
mod ephemeral;

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::task::JoinSet;

use self::ephemeral::Seen;
use super::{
    queue::Progress,
    registry::{Appservices, Registry, Service},
    transport::Request,
};
use crate::{
    clock::Clock,
    e2ee::Keys,
    rooms::{RoomError, Rooms, typing::Typing},
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, StorageError, Waiter,
        chunks::Chunks,
        schema::{APPSERVICE_TRANSACTIONS, APPSERVICES},
    },
    users::presence::Presence,
};

/// How long a transaction may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The pause after the first failure; it doubles with each one.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 5 * 60_000;
/// The pause after a failure of the server's own.
const OWN_FAILURE_PAUSE: Duration = Duration::from_secs(5);

const BODIES: Chunks<(String, u64)> = Chunks(&APPSERVICE_TRANSACTIONS);

/// Why a transaction is not made.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Rooms(#[from] RoomError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a transaction is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("a transaction that was written down is not there")]
    Missing,
}

/// What transactions are made of.
#[derive(Clone)]
pub(crate) struct Deliveries {
    /// Who they are for.
    pub(crate) appservices: Appservices,
    /// What happened.
    pub(crate) rooms: Rooms,
    /// Who types.
    pub(crate) typing: Typing,
    /// Who is there.
    pub(crate) presence: Presence,
    /// Whose keys changed, and how many are left.
    pub(crate) keys: Keys,
    /// For pauses.
    pub(crate) clock: Clock,
}

/// What came of looking after a service.
enum Step {
    /// There may be more to do.
    Done,
    /// Nothing waits for it.
    Idle,
    /// It did not take what waits.
    Pause(Duration),
}

impl Deliveries {
    /// Sends, until the server stops; begins anew whenever the files are read again.
    pub(crate) async fn run(self, stopping: Stopping) {
        let mut readings = self.appservices.changes();
        let mut tasks = JoinSet::new();
        loop {
            // A transaction that is broken off is on disk, and sent again.
            tasks.shutdown().await;
            let registry = Arc::clone(&readings.borrow_and_update());
            for service in registry.services().iter().filter(|service| service.listens()) {
                let (this, registry) = (self.clone(), Arc::clone(&registry));
                let service = Arc::clone(service);
                tasks.spawn(async move { this.look_after(&registry, &service).await });
            }
            tokio::select! {
                () = stopping.wait() => break,
                again = readings.changed() => if again.is_err() { break },
            }
        }
        tasks.shutdown().await;
    }

    fn db(&self) -> &Db {
        self.appservices.db()
    }

    /// Sends what waits for one service, again and again.
    async fn look_after(&self, registry: &Arc<Registry>, service: &Service) {
        let own = self.db().wait_for(service.bot);
        let registration = &service.registration;
        let all = (registration.receives_ephemeral || registration.encrypts)
            .then(|| self.db().wait_for_any());
        let mut seen = Seen::from(self.db().visible_position());
        loop {
            let pause = match self.step(registry, service, &mut seen).await {
                Ok(Step::Done) => continue,
                Ok(Step::Idle) => None,
                Ok(Step::Pause(pause)) => Some(pause),
                Err(error) => {
                    let (error, id) = (&error as &dyn std::error::Error, service.id());
                    tracing::error!(error, id, "a transaction for an application service failed");
                    Some(OWN_FAILURE_PAUSE)
                }
            };
            tokio::select! {
                // What was asked for in a pause has to wait for its end, but for a sign of life.
                () = woken(&own, all.as_ref()), if pause.is_none() => {}
                () = service.came_to_life() => {}
                () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
            }
        }
    }

    async fn step(
        &self,
        registry: &Arc<Registry>,
        service: &Service,
        seen: &mut Seen,
    ) -> Result<Step, DeliveryError> {
        let progress = self.progress(service).await?;
        let Some(number) = progress.pending else {
            let made = self.compose(registry, service, seen, &progress).await?;
            return Ok(if made { Step::Done } else { Step::Idle });
        };
        let now = self.clock.now_ms();
        let due = progress.retry_at_ms.min(now.saturating_add(LONGEST_PAUSE_MS));
        if due > now && !service.is_back() {
            return Ok(Step::Pause(Duration::from_millis(due - now)));
        }
        let key = (service.id().to_owned(), number);
        let body = BODIES.get(self.db(), &key).await?.ok_or(DeliveryError::Missing)?;
        if self.send(service, number, body).await {
            let mut batch = Batch::unsynced();
            BODIES.delete(self.db(), &mut batch, &key).await?;
            let after = Progress { pending: None, failures: 0, retry_at_ms: 0, ..progress };
            APPSERVICES.put(&mut batch, service.id(), &Json(after));
            self.db().commit(batch).await?;
            return Ok(Step::Done);
        }
        let pause = pause_ms(progress.failures);
        let after = Progress {
            failures: progress.failures.saturating_add(1),
            retry_at_ms: self.clock.now_ms().saturating_add(pause),
            ..progress
        };
        let mut batch = Batch::unsynced();
        APPSERVICES.put(&mut batch, service.id(), &Json(after));
        self.db().commit(batch).await?;
        Ok(Step::Pause(Duration::from_millis(pause)))
    }

    /// How far the service is; one that is new is told of what happens from now on.
    async fn progress(&self, service: &Service) -> Result<Progress, StorageError> {
        let stored = APPSERVICES.get(self.db(), service.id()).await?;
        let mut progress = stored.map(|Json(progress)| progress).unwrap_or_default();
        if progress.device_lists.is_none() && service.registration.encrypts {
            progress.device_lists = Some(self.db().visible_position());
            let mut batch = Batch::unsynced();
            APPSERVICES.put(&mut batch, service.id(), &Json(progress.clone()));
            self.db().commit(batch).await?;
        }
        Ok(progress)
    }

    /// Whether the service took the transaction.
    async fn send(&self, service: &Service, number: u64, body: Vec<u8>) -> bool {
        let path = format!("/_matrix/app/v1/transactions/{number}");
        let legacy = format!("/transactions/{number}");
        let request = Request {
            method: Method::PUT,
            path: &path,
            legacy: Some(&legacy),
            body: Some(body),
            timeout: TIMEOUT,
        };
        let id = service.id();
        match self.appservices.transport().ask(service, request).await {
            Ok(answer) if answer.status.is_success() => true,
            Ok(answer) => {
                let status = answer.status.as_u16();
                tracing::warn!(id, number, status, "an application service refused a transaction");
                false
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(id, number, error, "a transaction did not reach its service");
                false
            }
        }
    }
}

async fn woken(own: &Waiter, all: Option<&Waiter>) {
    match all {
        Some(all) => tokio::select! { () = own.woken() => {}, () = all.woken() => {} },
        None => own.woken().await,
    }
}

fn pause_ms(failures: u32) -> u64 {
    FIRST_PAUSE_MS.saturating_mul(1 << failures.min(20)).min(LONGEST_PAUSE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u64> = [0, 1, 2, 8, 9, 1_000].map(pause_ms).to_vec();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 256_000, 300_000, 300_000]);
    }
}
