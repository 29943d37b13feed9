//! A connection as hyper reads and writes it: first what another version has read, and nothing while it is held.

use super::watched::Watched;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are read at once.
const PART: usize = 8 * 1024;

/// A connection, and what of it was read and not used.
#[derive(Debug)]
pub(super) struct Stream {
    inner: TcpStream,
    unread: Vec<u8>,
    watched: Arc<Watched>,
}

impl Stream {
    pub(super) fn new(inner: TcpStream, unread: Vec<u8>, watched: &Arc<Watched>) -> Self {
        Self { inner, unread, watched: Arc::clone(watched) }
    }

    /// Returns the connection and what hyper has not read.
    pub(super) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.inner, self.unread)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.watched.is_held() {
            // Whoever holds it polls again.
            return Poll::Pending;
        }
        if !self.unread.is_empty() {
            let n = self.unread.len().min(into.remaining());
            into.put_slice(&self.unread.drain(..n).collect::<Vec<u8>>());
            return Poll::Ready(Ok(()));
        }
        let mut part = [0; PART];
        let len = PART.min(into.remaining());
        let mut part = ReadBuf::new(&mut part[..len]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        into.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Hyper flushes only when it has written all it has, so until then something is left.
        self.watched.set_unflushed(true);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.watched.set_unflushed(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
