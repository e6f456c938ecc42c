//! What is done about media now and then.

use std::time::Duration;

use super::{Content, ContentError};
use crate::shutdown::Stopping;

/// The first round is not at the start, when everybody comes back at once.
const FIRST_AFTER: Duration = Duration::from_mins(10);
const EVERY: Duration = Duration::from_hours(1);
/// All files are looked at every so many rounds.
const SWEEP_ROUNDS: u64 = 24;
/// Announced media forgotten at a time.
const FORGOTTEN_AT_ONCE: usize = 1_000;

impl Content {
    /// Removes what has expired, is unused, or was left by a crash, until the server stops.
    pub(crate) async fn keep_up(self, stopping: Stopping) {
        let mut wait = FIRST_AFTER;
        for round in 0_u64.. {
            let round_due = tokio::time::timeout(wait, stopping.wait()).await.is_err();
            if !round_due {
                return;
            }
            wait = EVERY;
            if let Err(error) = self.clean_up(round.is_multiple_of(SWEEP_ROUNDS)).await {
                tracing::warn!(%error, "media was not cleaned up");
            }
        }
    }

    async fn clean_up(&self, sweep: bool) -> Result<(), ContentError> {
        while self.forget_expired(FORGOTTEN_AT_ONCE).await? == FORGOTTEN_AT_ONCE {}
        let unused = self.remove_unused().await?;
        let swept = if sweep { self.sweep().await? } else { 0 };
        if unused + swept > 0 {
            tracing::info!(unused, swept, "media cleaned up");
        }
        Ok(())
    }
}
