//! Reading one object by URL: all that a node needs of a bucket.
//!
//! A URL is a secret, because whoever knows it can read the object: it is no argument, `Debug` hides it, and no error quotes more of it than the name of the host.
//! What a server answers is data of strangers: exactly the range that was asked for, of an object of exactly the length that was told, or nothing. There are no
//! redirects, no proxies, no cookies and no other encodings; TLS believes the roots that are built in, and those that its caller adds; plain HTTP goes to this machine alone.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod dns;
mod head;
mod line;
mod resolve;
mod stream;
mod url;

pub use crate::authorities::{Authorities, BadAuthorities};
pub use resolve::Resolver;
pub use stream::{Stream, Watch};
pub use url::{BadUrl, Url};

use head::Head;
use line::Line;

/// An object did not come, or not the one that was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("{host} is not found: {why}")]
    Name { host: String, why: String },
    #[error("{host} resolves to {ip}, which is no place for an object")]
    Place { host: String, ip: std::net::IpAddr },
    #[error("{host} cannot be reached: {why}")]
    Connect { host: String, why: String },
    #[error("{host} is not believed: {why}")]
    Tls { host: String, why: String },
    /// Also what a server says to whom it does not know: a URL that ran out is renewed, and no more than a few times.
    #[error("the URL is not valid any more")]
    Expired,
    #[error("the object is not there any more")]
    Gone,
    #[error("it answered by sending us elsewhere, which is refused")]
    Redirected,
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it answered with what is refused: {0}")]
    Answer(&'static str),
    #[error("the object has {found} bytes, not {expected}")]
    Length { expected: u64, found: u64 },
    #[error("the connection was cut")]
    Cut,
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("it comes too slowly: fewer than {least} bytes in {} s", window.as_secs())]
    Slow { least: u64, window: Duration },
    #[error("it was given up")]
    Cancelled,
}

impl FetchError {
    /// Returns whether the same may succeed a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Name { .. } | Self::Cut | Self::Stalled(_) => true,
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// How long is waited, and for how little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the head of the answer is there: connecting, TLS, everything.
    pub head: Duration,
    /// Until the next byte.
    pub silence: Duration,
    /// In each of these, at least `least` bytes come.
    pub window: Duration,
    /// Bytes.
    pub least: u64,
    /// Before the first repetition; each later one waits twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(20),
            silence: Duration::from_secs(10),
            window: Duration::from_secs(10),
            least: 16 << 10,
            pause: Duration::from_millis(100),
        }
    }
}

/// Asks for objects.
pub struct Client {
    resolver: Resolver,
    tls: Arc<rustls::ClientConfig>,
    patience: Patience,
}

impl Client {
    /// Prepares a client that believes the built-in roots, and perhaps others besides.
    pub fn new(others: Option<&Authorities>, resolver: Resolver, patience: Patience) -> Self {
        let mut roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        roots.extend(others.iter().flat_map(|others| others.roots().roots.iter().cloned()));
        Self::believing(roots, resolver, patience)
    }

    fn believing(roots: rustls::RootCertStore, resolver: Resolver, patience: Patience) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = versions.expect("ring knows TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
        Self { resolver, tls: Arc::new(tls), patience }
    }

    /// Asks for `len` bytes, at least one, from `start` on, of an object of `total` bytes.
    ///
    /// # Errors
    /// It cannot be reached, or it answers anything but that.
    fn range(&self, url: &Url, start: u64, len: u64, total: u64) -> Result<Part, FetchError> {
        let deadline = Instant::now() + self.patience.head;
        let mut line = Line::open(url, &self.resolver, &self.tls, deadline, self.patience)?;
        let (head, rest) = line.ask(&request(url, start, len))?;
        judge(&head, start, len, total)?;
        line.body_begins();
        Ok(Part { line, rest, at: 0, left: len })
    }
}

/// A range on its way.
struct Part {
    line: Line,
    /// What came with the head.
    rest: Vec<u8>,
    at: usize,
    left: u64,
}

impl Part {
    /// Appends what comes next, at most `most` bytes; nothing at the end.
    fn read_into(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, FetchError> {
        let most = self.left.min(most as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let len = if self.at < self.rest.len() {
            let more = &self.rest[self.at..][..most.min(self.rest.len() - self.at)];
            bytes.extend_from_slice(more);
            self.at += more.len();
            more.len()
        } else {
            let before = bytes.len();
            bytes.resize(before + most, 0);
            let read = self.line.read(&mut bytes[before..]);
            bytes.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(FetchError::Cut),
                Ok(len) => len,
                Err(error) => return Err(self.line.why(&error)),
            }
        };
        self.left -= len as u64;
        Ok(len)
    }
}

fn request(url: &Url, start: u64, len: u64) -> Vec<u8> {
    let (target, host, end) = (url.target(), url.authority(), start + len - 1);
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{end}\r\nAccept-Encoding: identity\r\n\
         User-Agent: df-node\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Decides whether an answer is the one to the question.
fn judge(head: &Head, start: u64, len: u64, total: u64) -> Result<(), FetchError> {
    match head.status {
        206 => {}
        200 => return Err(FetchError::Answer("the whole instead of a part")),
        300..=399 => return Err(FetchError::Redirected),
        401 | 403 => return Err(FetchError::Expired),
        404 | 410 => return Err(FetchError::Gone),
        // It is shorter than what is asked for.
        416 => return Err(FetchError::Answer("no such range")),
        status => return Err(FetchError::Status(status)),
    }
    if head.is_encoded {
        return Err(FetchError::Answer("a body whose length nobody says"));
    }
    let Some((first, last, of)) = head.range else { return Err(FetchError::Answer("a part that does not say which")) };
    if of != total {
        return Err(FetchError::Length { expected: total, found: of });
    }
    if first != start || last != start + len - 1 || head.len != Some(len) {
        return Err(FetchError::Answer("another part than was asked for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
