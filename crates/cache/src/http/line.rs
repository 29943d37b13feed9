//! One connection, for one question: plain to this machine, else TLS. All waiting ends: at a deadline until the head is there, by progress after that.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::head::{HEAD_LEN, Head};
use super::resolve::Resolver;
use super::url::{Host, Url};
use super::{FetchError, Patience};

/// How long one of several addresses may take to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to a host.
pub(super) struct Line {
    host: String,
    over: Over,
}

enum Over {
    Plain(Paced),
    Tls(Box<StreamOwned<ClientConnection, Paced>>),
}

/// A connection whose reads end.
struct Paced {
    stream: TcpStream,
    patience: Patience,
    /// Until when the head has to be there; `None`: it is.
    deadline: Option<Instant>,
    /// When the window began, and what came in it.
    begun: Instant,
    came: u64,
    /// Why it ended.
    ended: Option<FetchError>,
}

impl Line {
    /// Connects to where a URL leads.
    pub fn open(
        url: &Url,
        resolver: &Resolver,
        tls: &Arc<ClientConfig>,
        deadline: Instant,
        patience: Patience,
    ) -> Result<Self, FetchError> {
        let host = url.host();
        let stream = connect(url, resolver, deadline)?;
        let paced = Paced { stream, patience, deadline: Some(deadline), begun: Instant::now(), came: 0, ended: None };
        if !url.is_tls {
            return Ok(Self { host, over: Over::Plain(paced) });
        }
        let distrust = |why: String| FetchError::Tls { host: host.clone(), why };
        let name = match &url.host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| distrust("its name is none".into()))?,
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
        };
        let connection = ClientConnection::new(tls.clone(), name).map_err(|error| distrust(error.to_string()))?;
        Ok(Self { over: Over::Tls(Box::new(StreamOwned::new(connection, paced))), host })
    }

    /// Asks, and waits for the head of the answer; returns what came after it too.
    pub fn ask(&mut self, request: &[u8]) -> Result<(Head, Vec<u8>), FetchError> {
        let sent = self.write_all(request).and_then(|()| self.flush());
        sent.map_err(|error| self.why(&error))?;
        let mut bytes = vec![];
        let mut buffer = [0; 4096];
        loop {
            let len = self.read(&mut buffer).map_err(|error| self.why(&error))?;
            if len == 0 {
                return Err(FetchError::Cut);
            }
            bytes.extend_from_slice(&buffer[..len]);
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = Head::read(&bytes[..end])?;
                return Ok((head, bytes.split_off(end + 4)));
            }
            if bytes.len() > HEAD_LEN {
                return Err(FetchError::Answer("a head without an end"));
            }
        }
    }

    /// Says that the head is there: from now on progress counts.
    pub fn body_begins(&mut self) {
        let paced = self.paced();
        (paced.deadline, paced.begun, paced.came) = (None, Instant::now(), 0);
    }

    /// Returns why a read or a write failed.
    pub fn why(&mut self, error: &io::Error) -> FetchError {
        if let Some(ended) = &self.paced().ended {
            return ended.clone();
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => FetchError::Tls { host: self.host.clone(), why: error.to_string() },
            None => FetchError::Cut,
        }
    }

    fn paced(&mut self) -> &mut Paced {
        match &mut self.over {
            Over::Plain(paced) => paced,
            Over::Tls(tls) => &mut tls.sock,
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.over {
            Over::Plain(paced) => paced.read(buffer),
            Over::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.over {
            Over::Plain(paced) => paced.write(bytes),
            Over::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.over {
            Over::Plain(paced) => paced.flush(),
            Over::Tls(tls) => tls.flush(),
        }
    }
}

impl Paced {
    /// Returns how long the next read may take.
    fn wait(&mut self) -> io::Result<Duration> {
        let now = Instant::now();
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now);
            return if left.is_zero() { Err(self.end(FetchError::Stalled(self.patience.head))) } else { Ok(left) };
        }
        let Patience { window, least, silence, .. } = self.patience;
        if now.duration_since(self.begun) >= window {
            if self.came < least {
                return Err(self.end(FetchError::Slow { least, window }));
            }
            (self.begun, self.came) = (now, 0);
        }
        Ok(silence)
    }

    fn end(&mut self, error: FetchError) -> io::Error {
        self.ended = Some(error);
        io::ErrorKind::TimedOut.into()
    }
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wait = self.wait()?;
        self.stream.set_read_timeout(Some(wait))?;
        match self.stream.read(buffer) {
            Ok(len) => {
                self.came += len as u64;
                Ok(len)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(self.end(FetchError::Stalled(wait)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn connect(url: &Url, resolver: &Resolver, deadline: Instant) -> Result<TcpStream, FetchError> {
    let host = url.host();
    let mut why = "no time is left".to_owned();
    for addr in resolver.find(url)? {
        let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&addr, left) {
            Ok(stream) => {
                let set = stream.set_write_timeout(Some(CONNECT)).and_then(|()| stream.set_nodelay(true));
                return set.map(|()| stream).map_err(|error| FetchError::Connect { host, why: error.to_string() });
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(FetchError::Connect { host, why })
}
