//! Loopback addresses that are free, and the smallest HTTP exchange that tells a whole answer from a broken one.

mod kept;

pub use kept::{Kept, Missed};

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An answer to one request, read to the end of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
}

/// How one request can be lost. Each of these is a client who noticed the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Nobody listened.
    Refused,
    /// The connection was cut by the other side, before or after it was accepted.
    Reset,
    /// The deadline passed.
    Timeout,
    /// The connection ended before the announced end of the answer; how many body bytes came of how many.
    Short {
        /// Body bytes that came.
        got: usize,
        /// Body bytes announced; `None` when even the header was cut.
        expected: Option<usize>,
    },
    /// More came than was announced, by so many bytes.
    Doubled(usize),
    /// Not the status that was asked for.
    Status(u16),
    /// No HTTP answer that this client understands.
    Malformed(String),
    /// A fault of the client's own machine, such as no free port.
    Here(ErrorKind),
}

/// Answers larger than this are malformed: a test server has no reason to send them.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Sends `GET path` over a connection of its own and reads the answer to its end.
///
/// The answer must have a length, or chunks: without either, a short answer could not be told from a whole one.
pub fn get(addr: SocketAddr, path: &str, deadline: Duration) -> Result<Answer, Loss> {
    let end = Instant::now() + deadline;
    let mut stream = TcpStream::connect_timeout(&addr, deadline).map_err(loss)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.set_write_timeout(Some(deadline)).map_err(loss)?;
    stream.write_all(request.as_bytes()).map_err(loss)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Loss::Timeout);
        }
        stream.set_read_timeout(Some(left)).map_err(loss)?;
        match stream.read(&mut buffer) {
            Ok(0) => return parse(&bytes),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(loss(error)),
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(Loss::Malformed("the answer does not end".to_owned()));
        }
    }
}

/// Asks once; returns the status and the body as text. For asserting, not for counting losses.
pub fn http_get(addr: SocketAddr, path: &str, deadline: Duration) -> io::Result<(u16, String)> {
    match get(addr, path, deadline) {
        Ok(answer) => Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned())),
        Err(loss) => Err(io::Error::other(format!("GET http://{addr}{path}: {loss:?}"))),
    }
}

/// Returns a loopback address that no other caller in this process gets, and rarely one in another: 127.128.0.0/9 by process id.
///
/// Tests run side by side in processes and threads; an address of one's own makes every port free.
pub fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 500, "a test program asked for more than 500 addresses");
    // One bit of the counter, 14 bits of process id, then the rest of the counter. 127.77.0.N is left to nodes in directories.
    let process = std::process::id() & 0x3fff;
    let [high, low] = [(process >> 8) as u8, process as u8];
    Ipv4Addr::new(127, 128 + 64 * (number / 250) as u8 + high, low, 2 + (number % 250) as u8)
}

/// Returns a port that was free on `ip` a moment ago.
#[track_caller]
pub fn free_port(ip: impl Into<IpAddr>) -> u16 {
    let ip = ip.into();
    let listener = TcpListener::bind((ip, 0)).unwrap_or_else(|error| panic!("bind {ip}: {error}"));
    listener.local_addr().expect("the address just bound").port()
}

/// Returns an address of one's own with a free port.
#[track_caller]
pub fn free_addr() -> SocketAddr {
    let ip = own_loopback();
    SocketAddr::from((ip, free_port(ip)))
}

fn loss(error: io::Error) -> Loss {
    match error.kind() {
        ErrorKind::ConnectionRefused => Loss::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Loss::Reset,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Loss::Timeout,
        kind => Loss::Here(kind),
    }
}

fn parse(bytes: &[u8]) -> Result<Answer, Loss> {
    let cut = Loss::Short { got: 0, expected: None };
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or(cut)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Loss::Malformed(head.lines().next().unwrap_or("").to_owned()))?;
    let rest = &bytes[end + 4..];
    let body = match (header(&head, "content-length"), header(&head, "transfer-encoding")) {
        (Some(length), _) => {
            let length = length.parse().map_err(|_| Loss::Malformed(format!("content-length {length}")))?;
            exactly(rest, length)?.to_vec()
        }
        (None, Some(_)) => chunks(rest)?,
        (None, None) if status == 204 || status == 304 => exactly(rest, 0)?.to_vec(),
        (None, None) => return Err(Loss::Malformed("neither content-length nor chunks".to_owned())),
    };
    Ok(Answer { status, body })
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

fn exactly(rest: &[u8], expected: usize) -> Result<&[u8], Loss> {
    match rest.len() {
        got if got < expected => Err(Loss::Short { got, expected: Some(expected) }),
        got if got > expected => Err(Loss::Doubled(got - expected)),
        _ => Ok(rest),
    }
}

fn chunks(mut rest: &[u8]) -> Result<Vec<u8>, Loss> {
    let mut body = Vec::new();
    loop {
        let short = Loss::Short { got: body.len(), expected: None };
        let end = rest.windows(2).position(|two| two == b"\r\n").ok_or_else(|| short.clone())?;
        let line = String::from_utf8_lossy(&rest[..end]);
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let size = size.map_err(|_| Loss::Malformed(format!("chunk size {line:?}")))?;
        rest = &rest[end + 2..];
        if size > MAX_ANSWER_BYTES {
            return Err(Loss::Malformed(format!("chunk of {size} bytes")));
        }
        if rest.len() < size + 2 {
            return Err(short);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
        if size == 0 {
            // Trailers are not for test servers.
            return exactly(rest, 0).map(|_| body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

    fn serve_once(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind(free_addr()).expect("a free address");
        let addr = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer);
            stream.write_all(answer).expect("a client that listens");
        });
        addr
    }

    #[track_caller]
    fn check(answer: &'static [u8], expected: Result<(u16, &str), Loss>) {
        let found = get(serve_once(answer), "/", SECOND);
        let expected = expected.map(|(status, body)| Answer { status, body: body.as_bytes().to_vec() });
        assert_eq!(found, expected);
    }

    #[test]
    fn whole_answers_are_read() {
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Ok((200, "hi")));
        check(b"HTTP/1.0 404 No\r\ncontent-length:0\r\n\r\n", Ok((404, "")));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        check(chunked, Ok((200, "abcde")));
    }

    #[test]
    fn broken_answers_are_losses() {
        check(b"", Err(Loss::Short { got: 0, expected: None }));
        check(b"HTTP/1.1 200 OK\r\nContent-", Err(Loss::Short { got: 0, expected: None }));
        let short = Loss::Short { got: 1, expected: Some(2) };
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", Err(short));
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhihi", Err(Loss::Doubled(2)));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        check(chunked, Err(Loss::Short { got: 3, expected: None }));
    }

    #[test]
    fn a_closed_port_refuses() {
        assert_eq!(get(free_addr(), "/", SECOND), Err(Loss::Refused));
    }

    #[test]
    fn a_silent_server_times_out() {
        let listener = TcpListener::bind(free_addr()).expect("a free address");
        let addr = listener.local_addr().expect("its address");
        assert_eq!(get(addr, "/", Duration::from_millis(50)), Err(Loss::Timeout));
    }

    #[test]
    fn addresses_do_not_repeat() {
        assert_ne!(own_loopback(), own_loopback());
    }
}
