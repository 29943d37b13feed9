//! A small HTTP/1.1 service that can be upgraded while clients are using it; std and this library only.
//!
//! It shows what a service owes its clients while draining: everyone in the accept queue is answered, requests under way
//! are finished, streams are ended properly, and idle keep-alive connections get a last chance before they are closed.
//!
//!     /               greeter commit=<DF_COMMIT> generation=<DF_GENERATION> pid=<pid>, then the greeting
//!     /health         200, or what --fail makes of it
//!     /slow?ms=5000   answers after that time, at most 30 s
//!     /stream         a line every 100 ms until the client leaves or the service drains

use distributive_flow::{Draining, Service, Wake};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The second line of `/`: change it, commit, deploy, and see.
const GREETING: &str = "Hello.";

const MAX_CONNECTIONS: usize = 1024;
const MAX_HEAD: usize = 16 * 1024;
const MAX_SLOW: Duration = Duration::from_secs(30);
/// How long a request may take to arrive once it has begun, and the first one of a connection to begin.
const HEAD_TIME: Duration = Duration::from_secs(5);
const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long an idle keep-alive connection stays open while draining: a request may be on its way.
const LAST_CHANCE: Duration = Duration::from_secs(1);
const WRITE_TIME: Duration = Duration::from_secs(10);

const USAGE: &str = "usage: greeter [--listen ADDR | --bind ADDR] [--fail exit|never-ready|sick|die-after-ready]
       greeter --self-test
  --listen ADDR  where to listen when started by hand (default 127.0.0.1:8080)
  --bind ADDR    bind by itself with SO_REUSEPORT even under a supervisor: loses clients, for comparison
  --fail HOW     be a bad version on purpose; GREETER_FAIL=HOW does the same";

fn main() -> ExitCode {
    let outcome = match parse_options(std::env::args().skip(1), std::env::var("GREETER_FAIL").ok()) {
        Ok(options) if options.fail == Some(Fail::Exit) => return ExitCode::from(3),
        Ok(options) if options.self_test => self_test(),
        Ok(options) => run(&options),
        Err(words) => {
            eprintln!("greeter: {words}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("greeter: {e}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fail {
    Exit,
    NeverReady,
    Sick,
    DieAfterReady,
}

struct Options {
    listen: String,
    bind: Option<String>,
    fail: Option<Fail>,
    self_test: bool,
}

fn parse_options(mut args: impl Iterator<Item = String>, env_fail: Option<String>) -> Result<Options, String> {
    let mut options = Options { listen: "127.0.0.1:8080".into(), bind: None, fail: None, self_test: false };
    options.fail = env_fail.filter(|how| !how.is_empty()).map(|how| parse_fail(&how)).transpose()?;
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--listen" => options.listen = value()?,
            "--bind" => options.bind = Some(value()?),
            "--fail" => options.fail = Some(parse_fail(&value()?)?),
            "--self-test" => options.self_test = true,
            _ => return Err(format!("unknown argument {flag:?}")),
        }
    }
    Ok(options)
}

fn parse_fail(how: &str) -> Result<Fail, String> {
    match how {
        "exit" => Ok(Fail::Exit),
        "never-ready" => Ok(Fail::NeverReady),
        "sick" => Ok(Fail::Sick),
        "die-after-ready" => Ok(Fail::DieAfterReady),
        _ => Err(format!("unknown way to fail {how:?}")),
    }
}

fn run(options: &Options) -> io::Result<()> {
    let service = Service::from_env()?;
    let listener = match &options.bind {
        Some(address) => bind_reuseport(address)?,
        None => service.listener("http", options.listen.as_str())?,
    };
    let greeter = Greeter::new(&service, service.draining()?, options.fail);
    if options.fail != Some(Fail::NeverReady) {
        service.ready()?;
    }
    if options.fail == Some(Fail::DieAfterReady) {
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(1));
            std::process::exit(4);
        });
    }
    eprintln!("greeter: serving on {}", listener.local_addr()?);
    serve(&Arc::new(greeter), &listener, || {
        // A supervisor that is gone must not keep the requests under way from being finished.
        let _ = service.stopping();
    })
}

/// What every connection needs to know.
struct Greeter {
    commit: String,
    generation: String,
    fail: Option<Fail>,
    draining: Draining,
    open: Mutex<usize>,
    closed_one: Condvar,
}

impl Greeter {
    fn new(service: &Service, draining: Draining, fail: Option<Fail>) -> Self {
        let commit = service.commit().unwrap_or("none").to_owned();
        let generation = service.generation().map_or("none".to_owned(), |n| n.to_string());
        Self { commit, generation, fail, draining, open: Mutex::new(0), closed_one: Condvar::new() }
    }

    fn hello(&self) -> String {
        let Self { commit, generation, .. } = self;
        format!("greeter commit={commit} generation={generation} pid={}\n{GREETING}\n", std::process::id())
    }

    /// Waits until fewer than `limit` connections are open.
    fn wait_below(&self, limit: usize) -> std::sync::MutexGuard<'_, usize> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed_one.wait_while(open, |open| *open >= limit).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the open connections, given back when dropped.
struct Place(Arc<Greeter>);

impl Place {
    fn take(greeter: &Arc<Greeter>) -> Self {
        *greeter.wait_below(MAX_CONNECTIONS) += 1;
        Self(Arc::clone(greeter))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.closed_one.notify_all();
    }
}

/// Serves until draining has begun, the queue is empty, and every connection is finished.
fn serve(greeter: &Arc<Greeter>, listener: &TcpListener, on_stopping: impl FnOnce()) -> io::Result<()> {
    for connection in greeter.draining.incoming(listener)? {
        match connection {
            Ok(stream) => start_conversation(Place::take(greeter), stream),
            Err(e) => {
                // Too many open files, most likely: the client waits in the queue until one is closed.
                eprintln!("greeter: accept: {e}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    on_stopping();
    drop(greeter.wait_below(1));
    Ok(())
}

fn start_conversation(place: Place, stream: TcpStream) {
    let conversation = move || {
        // An error here is a client that left or stalled; the next one is not its concern.
        let _ = converse(&place.0, stream);
    };
    if let Err(e) = thread::Builder::new().stack_size(128 * 1024).spawn(conversation) {
        eprintln!("greeter: no thread for a connection: {e}");
    }
}

fn converse(greeter: &Greeter, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIME))?;
    let mut unread = Vec::new();
    let mut is_first = true;
    while let Some(head) = read_head(greeter, &mut stream, &mut unread, is_first)? {
        let goes_on = match head.and_then(|head| parse_request(&head)) {
            Ok(request) => answer(greeter, &mut stream, &request)?,
            Err(status) => respond(&mut stream, status, status, true, false)?,
        };
        if !goes_on {
            return close(&mut stream);
        }
        is_first = false;
    }
    Ok(())
}

/// Closes without a reset: bytes left unread would make the kernel throw the answer away before the client has it.
fn close(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let deadline = Instant::now() + LAST_CHANCE;
    while Instant::now() < deadline && stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

/// Reads up to the empty line; `None` when the client has nothing (more) to ask, `Err` inside holds a refusal.
fn read_head(
    greeter: &Greeter,
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    is_first: bool,
) -> io::Result<Option<Result<Vec<u8>, &'static str>>> {
    if unread.is_empty() && !begins(greeter, stream, is_first)? {
        return Ok(None);
    }
    let deadline = Instant::now() + HEAD_TIME;
    loop {
        if let Some(at) = unread.windows(4).position(|end| end == b"\r\n\r\n").filter(|at| *at <= MAX_HEAD) {
            return Ok(Some(Ok(unread.drain(..at + 4).collect())));
        }
        if unread.len() > MAX_HEAD {
            return Ok(Some(Err("431 Request Header Fields Too Large")));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(Err("408 Request Timeout")));
        }
        stream.set_read_timeout(Some(left))?;
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) => return Ok(None),
            Ok(n) => unread.extend_from_slice(&part[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits for a request to begin; while draining only as long as one may be on its way.
fn begins(greeter: &Greeter, stream: &TcpStream, is_first: bool) -> io::Result<bool> {
    let (patience, last_chance) = if is_first { (HEAD_TIME, HEAD_TIME) } else { (IDLE_TIME, LAST_CHANCE) };
    match greeter.draining.wait_for(stream, Some(patience))? {
        Wake::Readable => return Ok(true),
        Wake::Deadline => return Ok(false),
        Wake::Draining => {}
    }
    stream.set_read_timeout(Some(last_chance))?;
    Ok(stream.peek(&mut [0; 1]).is_ok_and(|n| n > 0))
}

struct Request {
    path: String,
    query: String,
    is_head: bool,
    keep_alive: bool,
}

/// Parses what this service needs; the refusal is a status line. A request with a body is refused.
fn parse_request(head: &[u8]) -> Result<Request, &'static str> {
    let bad = "400 Bad Request";
    let mut lines = std::str::from_utf8(head).map_err(|_| bad)?.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let &[method, target, version] = words.as_slice() else { return Err(bad) };
    if !["HTTP/1.0", "HTTP/1.1"].contains(&version) {
        return Err("505 HTTP Version Not Supported");
    }
    if !["GET", "HEAD"].contains(&method) {
        return Err("405 Method Not Allowed");
    }
    let mut keep_alive = version == "HTTP/1.1";
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(bad)?;
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("connection", value) => keep_alive &= !value.split(',').any(|v| v.trim().eq_ignore_ascii_case("close")),
            ("content-length", value) if value != "0" => return Err("413 Content Too Large"),
            ("transfer-encoding", _) => return Err("413 Content Too Large"),
            _ => {}
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request { path: path.to_owned(), query: query.to_owned(), is_head: method == "HEAD", keep_alive })
}

/// Answers one request; returns whether the connection goes on.
fn answer(greeter: &Greeter, stream: &mut TcpStream, request: &Request) -> io::Result<bool> {
    let (status, body) = match request.path.as_str() {
        "/" => ("200 OK", greeter.hello()),
        "/health" => match greeter.fail {
            Some(Fail::NeverReady) => ("503 Service Unavailable", "not ready\n".to_owned()),
            Some(Fail::Sick) => ("500 Internal Server Error", "sick\n".to_owned()),
            _ => ("200 OK", "well\n".to_owned()),
        },
        "/slow" => {
            let ms = request.query.split('&').find_map(|pair| pair.strip_prefix("ms=")?.parse().ok());
            let pause = Duration::from_millis(ms.unwrap_or(5000)).min(MAX_SLOW);
            thread::sleep(pause);
            ("200 OK", format!("slept {} ms\n{}", pause.as_millis(), greeter.hello()))
        }
        "/stream" if !request.is_head => return stream_lines(greeter, stream).map(|()| false),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    // Asked after the work: a slow answer that ends while draining must say that it is the last one.
    let goes_on = request.keep_alive && !greeter.draining.is_set();
    respond(stream, status, &body, !request.is_head, goes_on)
}

fn respond(stream: &mut TcpStream, status: &str, body: &str, with_body: bool, goes_on: bool) -> io::Result<bool> {
    let (len, connection) = (body.len(), if goes_on { "keep-alive" } else { "close" });
    let body = if with_body { body } else { "" };
    let kind = "text/plain; charset=utf-8";
    let whole =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: {connection}\r\n\r\n{body}");
    stream.write_all(whole.as_bytes())?;
    Ok(goes_on)
}

/// Writes a line every 100 ms, each a chunk, until the client leaves (a write fails) or draining begins.
fn stream_lines(greeter: &Greeter, stream: &mut TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    for n in 0_u64.. {
        let line = format!("line {n} generation={}\n", greeter.generation);
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
        if greeter.draining.wait_timeout(Duration::from_millis(100)) {
            break;
        }
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Binds as services do that take no descriptor: each version its own socket, the kernel spreads clients over them, and
/// those queued at a socket that closes are lost.
fn bind_reuseport(address: &str) -> io::Result<TcpListener> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let Ok(SocketAddr::V4(address)) = address.parse() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--bind needs an IPv4 address and a port"));
    };
    let (on, len): (libc::c_int, _) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    };
    let checked = |n: libc::c_int| if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n) };
    // SAFETY: the descriptor is new and owned at once; every pointer is to a live local of the length stated.
    unsafe {
        let fd = OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?);
        for option in [libc::SO_REUSEPORT, libc::SO_REUSEADDR] {
            checked(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), len))?;
        }
        checked(libc::bind(fd.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as libc::socklen_t))?;
        checked(libc::listen(fd.as_raw_fd(), 1024))?;
        Ok(TcpListener::from(fd))
    }
}

/// Serves itself on a port of its own, asks, drains.
fn self_test() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let greeter = Arc::new(Greeter::new(&Service::from_env()?, Draining::detached()?, None));
    let serving = thread::spawn({
        let greeter = Arc::clone(&greeter);
        move || serve(&greeter, &listener, || {})
    });
    for (path, expect) in [("/", greeter.hello()), ("/health", "well\n".to_owned())] {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HEAD_TIME))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut found = String::new();
        stream.read_to_string(&mut found)?;
        if !(found.starts_with("HTTP/1.1 200 OK\r\n") && found.ends_with(&format!("\r\n\r\n{expect}"))) {
            return Err(io::Error::other(format!("{path} answered {found:?}")));
        }
    }
    greeter.draining.begin();
    serving.join().map_err(|_| io::Error::other("the server panicked"))??;
    eprintln!("greeter: well");
    Ok(())
}
