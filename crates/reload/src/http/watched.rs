//! Whether something is under way on a connection, seen from outside of hyper.

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// What is known of one connection.
#[derive(Debug, Default)]
pub(super) struct Watched {
    n_requests: AtomicUsize,
    n_under_way: AtomicUsize,
    is_unflushed: AtomicBool,
    is_held: AtomicBool,
}

/// The body of a request. As long as one lives, its connection stays where it is.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    // After the body: once this is gone, hyper can see that nobody reads on.
    _under_way: UnderWay,
}

/// A service that counts what is under way: from the request until the body of the answer was handed to hyper whole.
#[derive(Debug)]
pub(super) struct Counted<S> {
    service: Arc<S>,
    watched: Arc<Watched>,
}

/// The body of an answer that is under way.
pub(super) struct CountedBody<B> {
    body: Pin<Box<B>>,
    _under_way: UnderWay,
}

impl Watched {
    /// Returns how many requests there were, if none is under way and every byte of answers is with the kernel.
    ///
    /// Where hyper had a turn and this is as before, it knows where the next request begins.
    pub(super) fn rests(&self) -> Option<usize> {
        let rests = self.n_under_way.load(Ordering::Acquire) == 0 && !self.is_unflushed.load(Ordering::Acquire);
        rests.then(|| self.n_requests.load(Ordering::Acquire))
    }

    /// Lets nothing more be read, or lets it again.
    pub(super) fn hold(&self, on: bool) {
        self.is_held.store(on, Ordering::Release);
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// Remembers that bytes were written, or that all of them were.
    pub(super) fn set_unflushed(&self, on: bool) {
        self.is_unflushed.store(on, Ordering::Release);
    }
}

impl<S> Counted<S> {
    pub(super) fn new(service: &Arc<S>, watched: &Arc<Watched>) -> Self {
        Self { service: Arc::clone(service), watched: Arc::clone(watched) }
    }
}

impl<S, B> Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Body,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.watched.n_requests.fetch_add(1, Ordering::AcqRel);
        let under_way = UnderWay::new(&self.watched);
        let of_body = UnderWay::new(&self.watched);
        let answer = self.service.call(request.map(|body| RequestBody { body, _under_way: of_body }));
        Box::pin(async move { Ok(answer.await?.map(|body| CountedBody { body: Box::pin(body), _under_way: under_way })) })
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts while it lives.
#[derive(Debug)]
struct UnderWay(Arc<Watched>);

impl UnderWay {
    fn new(watched: &Arc<Watched>) -> Self {
        watched.n_under_way.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(watched))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.n_under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
