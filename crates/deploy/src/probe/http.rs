//! The probe that asks for a page over HTTP/1.1.

use super::{Dial, ProbeOutcome, left, outcome, words};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What to ask for and what the answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// The Host header, `name` or `name:port`.
    pub host: String,
    /// The path and query, beginning with `/`.
    pub path: String,
    /// The expected status.
    pub status: u16,
}

/// Asks by GET and compares the status.
///
/// The verdict stands on the status alone, but an answer that ends before its announced length is a failure. Of the answer at most 64 KiB are read.
pub fn http(name: &str, probe: &HttpProbe, dial: Dial<'_>, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    outcome(name, || {
        let request = request(probe, "close").ok_or("the path or host can't be put into a request")?;
        let mut stream = dial(timeout).map_err(|e| format!("connect: {}", words(&e)))?;
        let answer = ask(&mut stream, &request, deadline)?;
        judge(&answer, probe.status)
    })
}

/// Asks as [`http`] does over a connection that may be asked again; returns whether the other side keeps it open.
pub fn http_again(stream: &mut TcpStream, probe: &HttpProbe, timeout: Duration) -> Result<bool, String> {
    let deadline = Instant::now() + timeout;
    let request = request(probe, "keep-alive").ok_or("the path or host can't be put into a request")?;
    let answer = ask(stream, &request, deadline)?;
    judge(&answer, probe.status).map(|_| answer.keeps)
}

const MAX_ANSWER_LEN: usize = 64 * 1024;

/// What of a body is shown when the status is wrong.
const SHOWN_LEN: usize = 200;

/// What was read of an answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    cut: Option<String>,
    /// The connection stays open, and where this answer ends is known.
    keeps: bool,
}

/// What a head says.
struct Head {
    status: u16,
    /// The length of the head.
    len: usize,
    /// The announced length of the body.
    body_len: Option<usize>,
    keeps: bool,
}

fn request(probe: &HttpProbe, connection: &str) -> Option<Vec<u8>> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let fits = probe.path.starts_with('/') && visible(&probe.path) && visible(&probe.host) && !probe.host.is_empty();
    let HttpProbe { host, path, .. } = probe;
    let text =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: df-probe\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n");
    fits.then(|| text.into_bytes())
}

fn ask(stream: &mut TcpStream, request: &[u8], deadline: Instant) -> Result<Answer, String> {
    let send = left(deadline).and_then(|time| stream.set_write_timeout(Some(time)));
    send.and_then(|()| stream.write_all(request)).map_err(|e| format!("send: {}", words(&e)))?;
    let mut received = Vec::new();
    let Head { status, len: head_len, body_len, keeps } = loop {
        if let Some(head) = parse_head(&received)? {
            break head;
        }
        match receive(stream, &mut received, deadline) {
            Ok(0) if received.is_empty() => return Err("closed without an answer".to_owned()),
            Ok(0) => return Err("the answer ends within its head".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("receive: {}", words(&error))),
        }
    };
    let wanted = body_len.map_or(MAX_ANSWER_LEN, |len| head_len.saturating_add(len));
    let mut cut = None;
    while received.len() < wanted.min(MAX_ANSWER_LEN) {
        match receive(stream, &mut received, deadline) {
            Ok(0) => {
                cut = body_len.map(|len| format!("the answer ends after {} of {len} bytes", received.len() - head_len));
                break;
            }
            Ok(_) => {}
            // A body without end, or a slow one, says nothing against the status.
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => break,
            Err(error) => {
                cut = Some(format!("receive: {}", words(&error)));
                break;
            }
        }
    }
    let keeps = keeps && received.len() == wanted;
    Ok(Answer { status, body: received.split_off(head_len), cut, keeps })
}

/// Receives some more, never beyond the limit in total.
fn receive(stream: &mut TcpStream, received: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut chunk = [0; 4096];
    let room = chunk.len().min(MAX_ANSWER_LEN - received.len());
    let n = stream.read(&mut chunk[..room])?;
    received.extend_from_slice(&chunk[..n]);
    Ok(n)
}

/// Returns what the head says, once it is whole; heads of 1xx are skipped.
fn parse_head(received: &[u8]) -> Result<Option<Head>, String> {
    let mut start = 0;
    loop {
        let rest = &received[start..];
        let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else {
            let looks_wrong = rest.len() >= 5 && !rest.starts_with(b"HTTP/");
            return match looks_wrong || received.len() >= MAX_ANSWER_LEN {
                true => Err("the answer is not HTTP, or its head is longer than 64 KiB".to_owned()),
                false => Ok(None),
            };
        };
        let head = String::from_utf8_lossy(&rest[..end]);
        let status = parse_status(&head).ok_or("the answer is not HTTP/1")?;
        start += end + 4;
        if !(100..200).contains(&status) {
            let body_len = content_len(&head);
            return Ok(Some(Head { status, len: start, body_len, keeps: body_len.is_some() && keeps_open(&head) }));
        }
    }
}

fn parse_status(head: &str) -> Option<u16> {
    let line = head.split("\r\n").next()?.strip_prefix("HTTP/1.")?;
    let (version, rest) = line.split_at_checked(1)?;
    let code = rest.strip_prefix(' ')?.split(' ').next()?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if digits(version) && code.len() == 3 && digits(code) { code.parse().ok() } else { None }
}

/// Returns whether the other side says that it keeps the connection open: HTTP/1.1 without a word against it, or HTTP/1.0 with one for it.
fn keeps_open(head: &str) -> bool {
    let headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let words: Vec<String> = headers
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .map(|(_, value)| value.to_ascii_lowercase())
        .collect();
    let says = |what: &str| words.iter().any(|word| word.split(',').any(|word| word.trim() == what));
    if head.starts_with("HTTP/1.0") { says("keep-alive") } else { !says("close") }
}

fn content_len(head: &str) -> Option<usize> {
    let headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next()?.1.trim().parse().ok()
}

fn judge(answer: &Answer, expected: u16) -> Result<String, String> {
    let status = answer.status;
    if status != expected {
        let shown = &answer.body[..answer.body.len().min(SHOWN_LEN)];
        let body = String::from_utf8_lossy(shown);
        let said = if body.trim().is_empty() { String::new() } else { format!(": {}", body.trim()) };
        return Err(format!("status {status}, expected {expected}{said}"));
    }
    match &answer.cut {
        Some(cut) => Err(cut.clone()),
        None => Ok(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener};

    const SOON: Duration = Duration::from_secs(10);

    fn probe() -> HttpProbe {
        HttpProbe { host: "localhost:80".into(), path: "/health?full=1".into(), status: 200 }
    }

    /// Serves one connection: reads the request, answers with these bytes, and then closes or hangs until the probe has gone.
    #[track_caller]
    fn check(answer: &[u8], then: Then, timeout: Duration, expect: (bool, &str)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let outcome = std::thread::scope(|scope| {
            scope.spawn(move || serve(&listener, answer, then));
            http("http", &probe(), &|t| TcpStream::connect_timeout(&address, t), timeout)
        });
        assert_eq!((outcome.ok, outcome.detail.as_str()), expect);
        assert!(outcome.seconds < SOON.as_secs_f64());
    }

    #[derive(Clone, Copy)]
    enum Then {
        Close,
        Hang,
        Flood,
        Drip,
    }

    fn serve(listener: &TcpListener, answer: &[u8], then: Then) {
        let mut stream = listener.accept().unwrap().0;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let expect = "GET /health?full=1 HTTP/1.1\r\nHost: localhost:80\r\nUser-Agent: df-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(request).unwrap(), expect);
        stream.write_all(answer).unwrap();
        match then {
            Then::Close => stream.shutdown(Shutdown::Both).unwrap(),
            Then::Hang => drop(stream.read(&mut [0])),
            Then::Flood => while stream.write_all(&[b'x'; 4096]).is_ok() {},
            Then::Drip => {
                // One byte each time the probe might wait anew: the deadline is for all of it.
                while stream.write_all(b"x").is_ok() {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn the_status_decides() {
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Hang, SOON, (true, "status 200"));
        check(b"HTTP/1.0 200\r\n\r\nanything", Then::Close, SOON, (true, "status 200"));
        check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Then::Close, SOON, (true, "status 200"));
        let broken = b"HTTP/1.1 503 Busy\r\ncontent-length: 11\r\n\r\nno database";
        check(broken, Then::Hang, SOON, (false, "status 503, expected 200: no database"));
        check(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Then::Hang, SOON, (false, "status 404, expected 200"));
    }

    #[test]
    fn a_connection_is_kept_only_where_both_ends_know_where_the_answer_ends() {
        let keeps = |head: &str| parse_head(head.as_bytes()).unwrap().unwrap().keeps;
        assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
        assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n"));
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: x, Close\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(!keeps(head), "{head}");
        }
    }

    #[test]
    fn half_an_answer_is_none() {
        check(b"", Then::Close, SOON, (false, "closed without an answer"));
        check(b"HTTP/1.1 200 OK\r\n", Then::Close, SOON, (false, "the answer ends within its head"));
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
        check(cut, Then::Close, SOON, (false, "the answer ends after 9 of 100 bytes"));
    }

    #[test]
    fn other_protocols_are_told() {
        let not = "the answer is not HTTP, or its head is longer than 64 KiB";
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Then::Hang, SOON, (false, not));
        check(b"HTTP/2 200\r\n\r\n", Then::Close, SOON, (false, "the answer is not HTTP/1"));
        check(b"HTTP/1.1 2000 OK\r\n\r\n", Then::Close, SOON, (false, "the answer is not HTTP/1"));
        check(b"HTTP/1.\xff\r\n\r\n", Then::Close, SOON, (false, "the answer is not HTTP/1"));
    }

    #[test]
    fn answers_without_end_cost_bounded_time_and_memory() {
        let not = "the answer is not HTTP, or its head is longer than 64 KiB";
        check(b"HTTP/1.1 200 OK\r\nX: ", Then::Flood, SOON, (false, not));
        check(b"HTTP/1.1 200 OK\r\n\r\n", Then::Flood, SOON, (true, "status 200"));
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n";
        check(huge, Then::Flood, SOON, (true, "status 200"));
        let short = Duration::from_millis(100);
        check(b"", Then::Hang, short, (false, "receive: no answer in time"));
        check(b"HTTP/1.1 200 OK\r\nX: ", Then::Drip, short, (false, "receive: no answer in time"));
        check(b"HTTP/1.1 200 OK\r\n\r\n", Then::Drip, short, (true, "status 200"));
    }

    #[test]
    fn a_path_can_not_smuggle_a_second_request() {
        for path in ["/ HTTP/1.1\r\nX: y", "health", "", "/a b", "/\u{e9}"] {
            assert_eq!(request(&HttpProbe { path: path.into(), ..probe() }, "close"), None, "{path}");
        }
        assert_eq!(request(&HttpProbe { host: "a\r\nb".into(), ..probe() }, "close"), None);
    }
}
