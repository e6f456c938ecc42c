//! What must not stop half-way when nobody waits for it any more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::runtime::Handle;

/// Runs as part of whoever waits for it, and to its end in a task of its own if that one goes before.
///
/// As a task from the start it would be handed from one thread to another and back where that hardly
/// ever matters.
pub(crate) fn to_the_end<F>(future: F) -> ToTheEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    ToTheEnd { future: Some(Box::pin(future)) }
}

/// What [`to_the_end`] gives.
pub(crate) struct ToTheEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// None once it is done.
    future: Option<Pin<Box<F>>>,
}

impl<F> Future for ToTheEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let output = ready!(future.as_mut().poll(context));
        self.future = None;
        Poll::Ready(output)
    }
}

impl<F> Drop for ToTheEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        // Where the runtime itself goes there is nobody to run it.
        if let (Some(rest), Ok(runtime)) = (self.future.take(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::FutureExt as _;
    use tokio::sync::Notify;

    use super::*;

    /// A future that waits to be let on, and counts that it ended.
    fn waits(go_on: &Arc<Notify>, ended: &Arc<AtomicUsize>) -> impl Future<Output = u8> + use<> {
        let (go_on, ended) = (Arc::clone(go_on), Arc::clone(ended));
        async move {
            go_on.notified().await;
            ended.fetch_add(1, Ordering::AcqRel);
            7
        }
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_outcome_once() {
        let (go_on, ended) = Default::default();
        let mut running = to_the_end(waits(&go_on, &ended));
        assert_eq!((&mut running).now_or_never(), None);
        go_on.notify_one();
        assert_eq!((&mut running).await, 7);
        assert_eq!((&mut running).now_or_never(), None);
        drop(running);
        tokio::task::yield_now().await;
        assert_eq!(ended.load(Ordering::Acquire), 1);
    }

    #[tokio::test]
    async fn it_goes_on_when_nobody_waits() {
        let (go_on, ended): (Arc<Notify>, Arc<AtomicUsize>) = Default::default();
        for polled in [false, true] {
            let mut running = to_the_end(waits(&go_on, &ended));
            if polled {
                assert_eq!((&mut running).now_or_never(), None);
            }
            drop(running);
        }
        for _ in 0..2 {
            go_on.notify_one();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(ended.load(Ordering::Acquire), 2);
    }
}
