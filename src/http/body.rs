//! The body of a request, bounded in size and time.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt as _, LengthLimitError};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

/// What is left of a refused body is read and thrown away up to this size and time.
///
/// Who still sends does not read. If the connection were closed at once, the system would throw
/// away the answer together with what was not read, and the client would see a broken connection
/// instead of the error.
const DRAIN_BYTES: u64 = 256 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Why a body could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is larger than allowed: `M_TOO_LARGE`.
    #[error("the request body is too large")]
    TooLarge,
    /// Nothing came for too long.
    #[error("the request body came too slowly")]
    TooSlow,
    /// The client went away, or did not keep to HTTP.
    #[error("the request body broke off")]
    Broken,
}

impl BodyError {
    /// What is behind the error of an extractor.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return *found;
            }
            if error.is::<LengthLimitError>() {
                return Self::TooLarge;
            }
            next = error.source();
        }
        Self::Broken
    }
}

/// A body that ends with a [`BodyError`] when it breaks a bound.
pub(super) struct Bounded {
    /// `None` once it is read or refused.
    inner: Option<Body>,
    left_bytes: u64,
    stall: Duration,
    /// Runs while the peer is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// The client waits to be asked for the body, and was not: nothing is on its way.
    held_back: bool,
}

impl Bounded {
    /// `waits_for_continue`: the request has `Expect: 100-continue`.
    pub(super) fn new(
        inner: Body,
        limit_bytes: u64,
        stall: Duration,
        waits_for_continue: bool,
    ) -> Self {
        Self {
            inner: Some(inner),
            left_bytes: limit_bytes,
            stall,
            timer: None,
            held_back: waits_for_continue,
        }
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        this.held_back = false;
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(context) else {
            let stall = this.stall;
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
            return timer.as_mut().poll(context).map(|()| {
                this.inner = None;
                Some(Err(axum::Error::new(BodyError::TooSlow)))
            });
        };
        this.timer = None;
        match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = this.left_bytes.checked_sub(bytes) else {
                    drain(this.inner.take());
                    return Poll::Ready(Some(Err(axum::Error::new(BodyError::TooLarge))));
                };
                this.left_bytes = left;
                Poll::Ready(Some(Ok(frame)))
            }
            end => {
                this.inner = None;
                Poll::Ready(end)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Bounded {
    /// The endpoint answered without reading it all, for instance because of a bad token.
    fn drop(&mut self) {
        if !self.held_back {
            drain(self.inner.take());
        }
    }
}

fn drain(body: Option<Body>) {
    let Some(mut body) = body.filter(|body| !body.is_end_stream()) else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(timeout(DRAIN_TIME, async move {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    }));
}

/// The body of an answer, which tells when it is gone.
pub(super) struct Watched<F: FnOnce()> {
    inner: Body,
    gone: Option<F>,
}

impl<F: FnOnce()> Watched<F> {
    /// `gone` is called when the body is sent or thrown away.
    pub(super) fn new(inner: Body, gone: F) -> Self {
        Self { inner, gone: Some(gone) }
    }
}

impl<F: FnOnce() + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<F: FnOnce()> Drop for Watched<F> {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            gone();
        }
    }
}
