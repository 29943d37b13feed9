//! Bodies of answers that do not behave.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Some bytes, then the end of the connection, although more was announced.
pub(super) struct Cut {
    bytes: Option<Bytes>,
    flushed: bool,
    announced: u64,
}

impl Cut {
    pub(super) fn new(bytes: Vec<u8>, announced: u64) -> Cut {
        Cut { bytes: Some(Bytes::from(bytes)).filter(|bytes| !bytes.is_empty()), flushed: false, announced }
    }
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        // What was given is sent only when there is nothing to take for a moment.
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("cut on purpose"))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

/// Zeros without an end.
pub(super) struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))))
    }
}

/// One byte at a time.
pub(super) struct Drip {
    bytes: Bytes,
    every: Duration,
    pause: Pin<Box<Sleep>>,
}

impl Drip {
    pub(super) fn new(bytes: Vec<u8>, every: Duration) -> Drip {
        Drip { bytes: Bytes::from(bytes), every, pause: Box::pin(tokio::time::sleep(every)) }
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        std::task::ready!(self.pause.as_mut().poll(cx));
        let every = self.every;
        self.pause = Box::pin(tokio::time::sleep(every));
        let one = self.bytes.split_to(1);
        Poll::Ready(Some(Ok(Frame::data(one))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
