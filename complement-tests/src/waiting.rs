//! Waiting for what comes in its own time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long it may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again until there is something. Ends the test if it never comes.
pub async fn wait_until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came: {what}");
        sleep(PAUSE).await;
    }
}
