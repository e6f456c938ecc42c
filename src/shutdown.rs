//! Telling everything that waits that the server is stopping.

use tokio::sync::watch;

/// Says once that the server stops; held by whoever runs it.
#[derive(Debug)]
pub(crate) struct Shutdown(watch::Sender<bool>);

/// Learns that the server stops. Long-polls return what they have when it does.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Shutdown {
    /// A running server.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// A listener for it; any number may be had.
    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.0.subscribe())
    }

    /// Whether everybody was told.
    pub(crate) fn has_started(&self) -> bool {
        *self.0.borrow()
    }

    /// Tells everybody.
    pub(crate) fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Stopping {
    /// Whether it has been said.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is said, or when nobody is left to say it.
    pub(crate) async fn wait(&self) {
        // An error means that the sender is gone, and the server with it.
        self.0.clone().wait_for(|stopping| *stopping).await.ok();
    }
}
