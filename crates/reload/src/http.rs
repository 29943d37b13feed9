//! An HTTP/1 server whose idle keep-alive connections move to the next version, for services on hyper; the feature `hyper`.
//!
//! ```no_run
//! use distributive_flow::{Service, http};
//! use hyper::{Request, Response, service::service_fn};
//!
//! # async fn run() -> std::io::Result<()> {
//! let service = Service::from_env()?;
//! let listener = service.listener("http", "127.0.0.1:8080")?;
//! let (handoff, draining) = (service.handoff()?, service.draining()?);
//! service.ready()?;
//! let hello = |_: Request<http::RequestBody>| async { Ok::<_, std::convert::Infallible>(Response::new("hi\n".to_owned())) };
//! http::serve(handoff, draining, "http", listener, service_fn(hello)).await?; // until SIGTERM, and until the last answer is out
//! service.stopping()
//! # }
//! ```
//!
//! When draining begins, requests under way are answered here. A connection that is idle then, or becomes idle, goes to the next version with whatever was
//! read of its next request. One that nobody takes has a last chance of a second to ask, is told `Connection: close`, and ends.
//!
//! No upgrades (WebSocket), no HTTP/2, no TLS: a service that needs them accepts by itself, and moves connections by [`Handoff::give`] and
//! [`Handoff::take`].

mod stream;
mod watched;

use crate::connection::{Connection, Handoff, Kept};
use crate::draining::{Draining, is_about_one_client, is_closed};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use stream::Stream;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use watched::{Counted, Watched};

pub use watched::RequestBody;

/// What an idle connection is called on its way. It has no state: what was read of the next request goes along as unread bytes.
pub const TAG: &str = "http/1.1";

/// What hyper takes for a failure of a service or of a body.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the next version has to answer an offer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an idle connection that nobody takes stays open: a request may be on its way. That of a test may be late.
const LAST_CHANCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 1 });
/// After a failed accept, most likely for too many open files; the client waits in the queue.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves a port until draining has begun and every connection has ended or gone to the next version.
///
/// Takes the connections of versions before, so a process calls it once. Runs in a tokio runtime with its drivers on.
pub async fn serve<S, B>(
    handoff: Handoff,
    draining: Draining,
    port: &str,
    listener: std::net::TcpListener,
    service: S,
) -> io::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Future: Send + 'static, Error: Into<Failure> + Send>
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    #[allow(deprecated, reason = "what replaces it is younger than the tokio that services may have")]
    let drains = AsyncFd::with_interest(draining.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let (tell, told) = watch::channel(false);
    let (open, mut last_closed) = mpsc::channel::<()>(1);
    let server = Arc::new(Server { handoff, port: port.to_owned(), service: Arc::new(service) });
    let start = {
        let (server, runtime) = (Arc::clone(&server), Handle::current());
        move |stream: io::Result<TcpStream>, unread: Vec<u8>| {
            let (server, told, open) = (Arc::clone(&server), told.clone(), open.clone());
            runtime.spawn(async move {
                // An error here is a client that left; the next one is not its concern.
                let _ = server.converse(stream?, unread, told).await;
                drop(open);
                io::Result::Ok(())
            });
        }
    };
    let taking = std::thread::spawn({
        let (server, start, runtime) = (Arc::clone(&server), start.clone(), Handle::current());
        move || {
            let knows = |offered: &Connection| offered.tag == TAG && offered.state.is_empty();
            server.handoff.take(&draining, knows, |taken| {
                let _runtime = runtime.enter();
                start(to_tokio(taken.socket.into()), taken.unread);
            })
        }
    });
    accept_all(&listener, &drains, &tell, |stream| start(Ok(stream), vec![])).await?;
    tell.send_replace(true);
    let taken = tokio::task::spawn_blocking(move || taking.join()).await;
    drop(start);
    let _all_closed = last_closed.recv().await;
    taken.map_err(io::Error::other)?.map_err(|_| io::Error::other("the thread that takes connections panicked"))?
}

/// Accepts until draining has begun and nobody is in the queue, or the queue is gone. Connections hear of it before only where none is let in without
/// one that leaves.
async fn accept_all<F: AsFd + std::os::fd::AsRawFd>(
    listener: &TcpListener,
    drains: &AsyncFd<F>,
    tell: &watch::Sender<bool>,
    start: impl Fn(TcpStream),
) -> io::Result<()> {
    loop {
        let failure = tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    start(stream);
                    continue;
                }
                Err(e) => e,
            },
            ready = drains.readable() => return ready.map(drop),
        };
        // A supervisor that stops a service refuses new clients first; a closed socket stays readable for ever.
        if is_closed(&failure) {
            return drains.readable().await.map(drop);
        }
        if !is_about_one_client(&failure) {
            tokio::select! {
                biased;
                ready = drains.readable() => {
                    drop(ready?);
                    tell.send_if_modified(|drains| !std::mem::replace(drains, true));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            }
        }
    }
}

struct Server<S> {
    handoff: Handoff,
    port: String,
    service: Arc<S>,
}

/// How a conversation ended.
enum End {
    /// By itself.
    Done,
    /// Nobody asks, and the version leaves.
    Idle,
}

impl<S, B> Server<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Future: Send + 'static, Error: Into<Failure>>
        + Send
        + Sync
        + 'static,
    B: Body<Error: Into<Failure>> + 'static,
{
    /// Serves a connection here, and lets it go once it is idle and the version leaves.
    async fn converse(self: Arc<Self>, stream: TcpStream, unread: Vec<u8>, mut told: watch::Receiver<bool>) -> io::Result<()> {
        let watched = Arc::new(Watched::default());
        let service = Counted::new(&self.service, &watched);
        let stream = Stream::new(stream, unread, &watched);
        let mut connection = http1::Builder::new().serve_connection(stream, service);
        let mut drains = pin!(told.wait_for(|drains| *drains));
        let (mut is_told, mut is_asked) = (false, false);
        let end = poll_fn(|cx| {
            let before = watched.rests();
            if connection.poll_without_shutdown(cx).is_ready() {
                return Poll::Ready(End::Done);
            }
            is_told = is_told || drains.as_mut().poll(cx).is_ready();
            let rests = watched.rests();
            if !is_told || is_asked || rests.is_none() {
                return Poll::Pending;
            }
            if rests != before {
                // Of a body that nobody read hyper finds out in its next turn: then it has skipped the rest, or will end the connection.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Nothing is under way. From here on hyper reads nothing more, and gives back what it has read.
            is_asked = true;
            watched.hold(true);
            Pin::new(&mut connection).graceful_shutdown();
            if connection.poll_without_shutdown(cx).is_ready() {
                return Poll::Ready(End::Idle);
            }
            watched.hold(false);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let parts = connection.into_parts();
        let (mut stream, rest) = parts.io.into_parts();
        match end {
            End::Done => stream.shutdown().await,
            End::Idle => self.let_go(stream, [&parts.read_buf[..], &rest[..]].concat()).await,
        }
    }

    /// Gives an idle connection to the next version; serves one more request of it if nobody takes it.
    async fn let_go(self: Arc<Self>, stream: TcpStream, unread: Vec<u8>) -> io::Result<()> {
        let connection = Connection { socket: stream.into_std()?.into(), tag: TAG.into(), state: vec![], unread };
        let server = Arc::clone(&self);
        let given = tokio::task::spawn_blocking(move || server.handoff.give(&server.port, connection, PATIENCE));
        let Err(kept) = given.await.map_err(io::Error::other)? else { return Ok(()) };
        let Kept { connection, .. } = *kept;
        let mut stream = to_tokio(connection.socket.into())?;
        let is_silent = connection.unread.is_empty() && tokio::time::timeout(LAST_CHANCE, stream.readable()).await.is_err();
        if is_silent {
            return stream.shutdown().await;
        }
        let watched = Arc::new(Watched::default());
        let (service, stream) = (Counted::new(&self.service, &watched), Stream::new(stream, connection.unread, &watched));
        http1::Builder::new().keep_alive(false).serve_connection(stream, service).await.map_err(io::Error::other)
    }
}

fn to_tokio(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests;
