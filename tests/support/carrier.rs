//! A small server for what other servers here do not do: HTTP over a socket in the file system, or over all sockets of TCP that it is given; or an echo of datagrams. Compiled alone, by `rustc`, with the standard library only.
//!
//! Its first word says what it speaks: `unix` and `udp` take descriptor 3 and `tcp` all, `unix-binds PATH`, `tcp-binds ADDRESS` and `udp-binds ADDRESS` bind by themselves. With `sick` behind it,
//! it is never ready. It says READY=1, and on SIGTERM it serves what waits and leaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

unsafe extern "C" {
    fn signal(number: i32, action: usize) -> usize;
}

const SIGTERM: i32 = 15;
/// As a program that has something to do before it binds: whoever comes meanwhile is lost.
const BEFORE_BINDING: Duration = Duration::from_millis(300);

static DRAINING: AtomicBool = AtomicBool::new(false);

extern "C" fn drain(_signal: i32) {
    DRAINING.store(true, SeqCst);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal(SIGTERM, drain as extern "C" fn(i32) as usize) };
    if words.last().is_some_and(|word| word == "sick") {
        loop {
            std::thread::park();
        }
    }
    // SAFETY: whoever started us passed descriptor 3, and nobody else uses it.
    match words[1].as_str() {
        "unix" => answer(vec![unsafe { UnixListener::from_raw_fd(3) }]),
        "unix-binds" => {
            std::thread::sleep(BEFORE_BINDING);
            let _ = std::fs::remove_file(&words[2]);
            answer(vec![UnixListener::bind(&words[2]).expect("the path is free")]);
        }
        "tcp" => {
            let n: i32 = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).expect("how many there are");
            answer((3..3 + n).map(|fd| unsafe { TcpListener::from_raw_fd(fd) }).collect());
        }
        "tcp-binds" => {
            std::thread::sleep(BEFORE_BINDING);
            answer(vec![TcpListener::bind(&words[2]).expect("the address is free")]);
        }
        "udp" => echo(&unsafe { UdpSocket::from_raw_fd(3) }),
        "udp-binds" => {
            std::thread::sleep(BEFORE_BINDING);
            echo(&UdpSocket::bind(&words[2]).expect("the address is free"));
        }
        other => panic!("{other}?"),
    }
}

fn ready() {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let to = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).expect("an abstract name");
    UnixDatagram::unbound().expect("a socket").send_to_addr(b"READY=1", &to).expect("heard");
}

fn commit() -> String {
    std::env::var("DF_COMMIT").unwrap_or_default()
}

/// Sends every datagram back, with the commit behind it.
fn echo(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    ready();
    let commit = commit();
    let mut datagram = [0; 512];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((len, from)) => {
                let mut back = datagram[..len].to_vec();
                back.extend(commit.as_bytes());
                let _ = socket.send_to(&back, from);
            }
            Err(_) if DRAINING.load(SeqCst) => return,
            Err(_) => {}
        }
    }
}

/// A listener whose connections are answered.
trait Door {
    type Stream: Read + Write + Send + 'static;
    /// Takes who waits, if somebody does.
    fn take(&self) -> Option<Self::Stream>;
}

impl Door for UnixListener {
    type Stream = UnixStream;
    fn take(&self) -> Option<UnixStream> {
        self.set_nonblocking(true).expect("set");
        let (stream, _) = self.accept().ok()?;
        stream.set_nonblocking(false).ok().map(|()| stream)
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;
    fn take(&self) -> Option<TcpStream> {
        self.set_nonblocking(true).expect("set");
        let (stream, _) = self.accept().ok()?;
        stream.set_nonblocking(false).ok().map(|()| stream)
    }
}

fn answer<D: Door>(doors: Vec<D>) {
    ready();
    loop {
        let taken: Vec<D::Stream> = doors.iter().filter_map(D::take).collect();
        match taken.is_empty() {
            true if DRAINING.load(SeqCst) => break,
            true => std::thread::sleep(Duration::from_millis(1)),
            false => taken.into_iter().for_each(|stream| drop(std::thread::spawn(move || converse(stream)))),
        }
    }
    // Those who were accepted last are still being answered.
    std::thread::sleep(Duration::from_millis(500));
}

fn converse(mut stream: impl Read + Write) {
    let mut received = vec![];
    let mut chunk = [0; 1024];
    while !received.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => received.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let body = commit();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}
