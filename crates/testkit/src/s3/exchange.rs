//! One request and its answer, or whatever the faults make of it.

use super::bodies::{Cut, Drip, Endless};
use super::fault::Act;
use super::lists::ListFault;
use super::raw;
use super::record::Request;
use super::server::Shared;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::{Response, StatusCode};
use rustix::fd::OwnedFd;
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpRequest};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Bodies of answers that faults may change; nothing of a test is longer.
const ANSWER_LIMIT: usize = 512 << 20;

/// What answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) service: S3Service,
    /// The connection's socket, to say how it ends.
    pub(super) socket: Arc<OwnedFd>,
}

type Answer = Result<Response<Body>, HttpError>;

impl Exchange {
    /// Answers one request; an error ends the connection.
    pub(super) async fn answer(self, request: hyper::Request<Incoming>) -> Answer {
        let uri = request.uri();
        let mut record = Request::new(request.method(), uri.path(), uri.query().unwrap_or_default());
        let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        record.range = header(RANGE).map(str::to_owned);
        record.bytes_up = header(CONTENT_LENGTH).and_then(|len| len.parse().ok()).unwrap_or(0);
        let (number, fault) = self.shared.record(record.clone());
        let answer = match fault {
            None => self.service.call(request.map(Body::from)).await,
            Some(act) => self.misbehave(request, &record, act).await,
        };
        if let Ok(answer) = &answer {
            let announced = answer.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
            let down = announced.or(answer.body().size_hint().exact()).unwrap_or(0);
            self.shared.answered(number, answer.status().as_u16(), down);
        }
        answer
    }

    async fn misbehave(&self, mut request: hyper::Request<Incoming>, record: &Request, act: Act) -> Answer {
        let list = self.list_fault(&act);
        match act {
            Act::SlowDown => refuse(request, 503, "SlowDown").await,
            Act::Conflict => refuse(request, 409, "ConditionalRequestConflict").await,
            Act::Refuse { status, code } => refuse(request, status, code).await,
            Act::ErrorWith200 => refuse(request, 200, "InternalError").await,
            Act::Redirect { to } => {
                let mut answer = refuse(request, 307, "TemporaryRedirect").await?;
                answer.headers_mut().insert(LOCATION, value(&to));
                Ok(answer)
            }
            Act::Drop => Err(self.end()),
            Act::CutRequest { after } => {
                swallow(request.body_mut(), after).await;
                self.reset();
                Err(self.end())
            }
            Act::LostReply => {
                self.done(request).await?;
                Err(self.end())
            }
            Act::Raw { first, then } => {
                swallow(request.body_mut(), u64::MAX).await;
                let socket = Arc::clone(&self.socket);
                let _ = tokio::task::spawn_blocking(move || raw::say(&socket, &first, &then)).await;
                Err(self.end())
            }
            Act::Hold => self.shared.hold().await,
            Act::HoldDone => {
                self.done(request).await?;
                self.shared.hold().await
            }
            _ if list.is_some() => {
                let mut request: HttpRequest = request.map(Body::from);
                request.extensions_mut().insert(list.expect("just looked"));
                self.service.call(request).await
            }
            act => {
                let answer = self.service.call(request.map(Body::from)).await?;
                self.change(answer, record, act).await
            }
        }
    }

    fn list_fault(&self, act: &Act) -> Option<ListFault> {
        match act {
            Act::StaleList => Some(ListFault::Stale(self.shared.stale())),
            Act::HideFromList { keys } => Some(ListFault::Hide(keys.clone())),
            Act::DoubleList => Some(ListFault::Double),
            Act::AddToList { keys } => Some(ListFault::Add(keys.clone())),
            Act::EndlessList => Some(ListFault::Endless),
            _ => None,
        }
    }

    /// Does what was asked, to its end.
    async fn done(&self, request: hyper::Request<Incoming>) -> Result<(), HttpError> {
        let answer = self.service.call(request.map(Body::from)).await?;
        answer.into_body().store_all_limited(ANSWER_LIMIT).await.map_err(HttpError::new)?;
        Ok(())
    }

    /// Changes a good answer.
    async fn change(&self, answer: Response<Body>, record: &Request, act: Act) -> Answer {
        let (mut head, mut body) = answer.into_parts();
        let mut bytes = body.store_all_limited(ANSWER_LIMIT).await.map_err(HttpError::new)?.to_vec();
        let announced = bytes.len() as u64;
        match act {
            Act::CutAnswer { after } => {
                bytes.truncate(usize::try_from(after).unwrap_or(usize::MAX));
                self.reset();
                return Ok(Response::from_parts(head, Body::http_body_unsync(Cut::new(bytes, announced))));
            }
            Act::LongLength { by } => {
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from(announced + by));
                return Ok(Response::from_parts(head, Body::http_body_unsync(Cut::new(bytes, announced + by))));
            }
            Act::Endless => {
                head.headers.remove(CONTENT_LENGTH);
                return Ok(Response::from_parts(without_checksums(head), Body::http_body_unsync(Endless)));
            }
            Act::Drip { every } => return Ok(drip(head, bytes, every)),
            Act::Truncate { to } => bytes.truncate(usize::try_from(to).unwrap_or(usize::MAX)),
            Act::Flip { at } => {
                let place = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at));
                *place.unwrap_or_else(|| panic!("{} has no byte {at} to flip", record.key)) ^= 1;
            }
            Act::Body(other) => bytes = other,
            Act::Holds(whole) => {
                let (start, len) = asked(record, whole.len() as u64);
                bytes = whole.get(start as usize..(start + len) as usize).unwrap_or_default().to_vec();
                if record.range.is_some() {
                    let named = format!("bytes {start}-{}/{}", (start + len).saturating_sub(1), whole.len());
                    head.status = StatusCode::PARTIAL_CONTENT;
                    head.headers.insert(CONTENT_RANGE, value(&named));
                }
            }
            Act::Swap { with } => bytes = slice(&self.object(&with), record, 0),
            Act::Etag(other) => {
                head.headers.insert(ETAG, value(&format!("\"{other}\"")));
            }
            Act::IgnoreRange => {
                bytes = self.object(&record.key);
                head.status = StatusCode::OK;
                head.headers.remove(CONTENT_RANGE);
            }
            Act::WrongRange { by } => {
                let whole = self.object(&record.key);
                bytes = slice(&whole, record, by);
                let start = asked(record, whole.len() as u64).0.wrapping_add(by) % (whole.len() as u64).max(1);
                let named = format!("bytes {start}-{}/{}", (start + bytes.len() as u64).saturating_sub(1), whole.len());
                head.headers.insert(CONTENT_RANGE, value(&named));
            }
            Act::Partial { to } => {
                bytes.truncate(usize::try_from(to).unwrap_or(usize::MAX));
                head.status = StatusCode::PARTIAL_CONTENT;
                let named = format!("bytes 0-{}/{announced}", (bytes.len() as u64).saturating_sub(1));
                head.headers.insert(CONTENT_RANGE, value(&named));
            }
            Act::Header { name, value: text } => {
                head.headers.insert(HeaderName::from_static(name), value(&text));
            }
            Act::WrongBytes { by } => bytes = slice(&self.object(&record.key), record, by),
            act => unreachable!("{act:?} was done above"),
        }
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Ok(Response::from_parts(without_checksums(head), Body::from(bytes)))
    }

    fn object(&self, key: &str) -> Vec<u8> {
        let place = self.shared.bucket_dir().join(key);
        std::fs::read(&place).unwrap_or_else(|error| panic!("read {}: {error}", place.display()))
    }

    /// From now on the connection ends with a reset.
    fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO));
    }

    fn end(&self) -> HttpError {
        HttpError::new(Box::new(io::Error::other("ended on purpose")))
    }
}

/// Reads the request to its end, so that the answer is heard, and refuses it.
async fn refuse(mut request: hyper::Request<Incoming>, status: u16, code: &str) -> Answer {
    swallow(request.body_mut(), u64::MAX).await;
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}, on purpose</Message><RequestId>0</RequestId></Error>"
    );
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(answer)
}

/// Reads at least so many bytes of a body, or to its end.
async fn swallow(body: &mut Incoming, bytes: u64) {
    let mut read = 0;
    while read < bytes {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => return,
        }
    }
}

fn drip(mut head: hyper::http::response::Parts, bytes: Vec<u8>, every: Duration) -> Response<Body> {
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Response::from_parts(head, Body::http_body_unsync(Drip::new(bytes, every)))
}

/// A server that lies about bytes does not tell their checksums.
fn without_checksums(mut head: hyper::http::response::Parts) -> hyper::http::response::Parts {
    let names: Vec<HeaderName> =
        head.headers.keys().filter(|name| name.as_str().starts_with("x-amz-checksum")).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    head
}

/// Returns the range asked for of an object of `len` bytes: its start and its length.
fn asked(record: &Request, len: u64) -> (u64, u64) {
    let range = record.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else { return (0, len) };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, (last + 1).min(len).saturating_sub(first)),
        (Ok(first), Err(_)) => (first, len.saturating_sub(first)),
        (Err(_), Ok(suffix)) => (len.saturating_sub(suffix), suffix.min(len)),
        (Err(_), Err(_)) => (0, len),
    }
}

/// Returns the range asked for, moved by so many bytes; what would lie past the end is taken from the start.
fn slice(whole: &[u8], record: &Request, by: u64) -> Vec<u8> {
    let (start, len) = asked(record, whole.len() as u64);
    let whole_len = (whole.len() as u64).max(1);
    (0..len).filter_map(|at| whole.get(((start + by + at) % whole_len) as usize).copied()).collect()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| panic!("{text:?} cannot be the value of a header"))
}
