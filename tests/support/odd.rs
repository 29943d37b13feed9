//! A small HTTP server that is bad on purpose, in the way that its first argument names. Compiled alone, by `rustc`, with the standard library only.
//!
//! `odd good` takes the listening descriptor 3, says READY=1, keeps connections open, and drains on SIGTERM. Whatever else it is asked to be, it says so first
//! on its standard error. With `LEAVES` in its environment it first leaves a process behind that has a session of its own and no parent; with `LEAVES=bare` that one
//! has no environment either. With `ALONE` in it, it leaves a file `two` in its data when another of its kind still runs.
//!
//! `odd told` is well until it finds one of these files in its data: `sick`, and it answers with 500; `deaf`, and it takes no more connections, and says so in `is-deaf`; `dies`, and
//! it does; `eats`, and it takes memory until it dies, once: the file is gone then; `talks`, and it writes 40 MiB, once too. `odd waits` leaves a file `waits` there, says READY=1 when it finds `go`, and then leaves `said`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn signal(number: i32, action: usize) -> usize;
    fn fork() -> i32;
    fn getpid() -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn setsid() -> i32;
}

const SIGTERM: i32 = 15;
const IGNORE: usize = 1;

static DRAINING: AtomicBool = AtomicBool::new(false);
static N_OPEN: AtomicUsize = AtomicUsize::new(0);
static N_ANSWERED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn drain(_signal: i32) {
    DRAINING.store(true, SeqCst);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let mode = words.get(1).map_or("good", String::as_str);
    eprintln!("odd: {mode}");
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal(SIGTERM, drain as extern "C" fn(i32) as usize) };
    if let Ok(how) = std::env::var("LEAVES") {
        leave(&how);
    }
    // Held until it ends.
    let _alone = std::env::var("ALONE").is_ok().then(be_alone);
    match mode {
        "exit-0" => std::process::exit(0),
        "exit-1" => std::process::exit(1),
        "panics" => panic!("on purpose"),
        // SAFETY: a signal to ourselves.
        "killed" => drop(unsafe { kill(getpid(), 9) }),
        "never-ready" | "hangs" => forever(),
        "ready-then-dies" => {
            ready();
            std::process::exit(4);
        }
        "forks-and-leaves" => {
            // SAFETY: one thread so far; the child goes on as the parent would have, in a session of its own.
            if unsafe { fork() } != 0 {
                std::process::exit(0);
            }
            // SAFETY: it touches no memory.
            unsafe { setsid() };
            ready();
        }
        "ignores-term" => drop(unsafe { signal(SIGTERM, IGNORE) }), // SAFETY: as above.
        "eats-memory" => eat(),
        "waits" => {
            std::fs::write(data("waits"), "").expect("written");
            while !data("go").exists() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            ready();
            std::fs::write(data("said"), "").expect("written");
        }
        "fills-log" => talk(24 << 20),
        "closes-at-once" => {
            // SAFETY: nobody else uses it.
            drop(unsafe { TcpListener::from_raw_fd(3) });
            ready();
            forever();
        }
        "wrong-port" => {
            let _elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
            ready();
            forever();
        }
        _ => {}
    }
    let listener = match words.get(2) {
        Some(address) => {
            // As a program that has something to do before it listens: whoever comes meanwhile is refused.
            std::thread::park_timeout(Duration::from_millis(300));
            TcpListener::bind(address).expect("the address is free")
        }
        // SAFETY: whoever started us passed it.
        None => unsafe { TcpListener::from_raw_fd(3) },
    };
    if !matches!(mode, "says-nothing" | "ignores-term" | "waits") {
        ready();
    }
    serve(listener, mode);
}

fn leave(how: &str) {
    // SAFETY: one thread so far, in each of them; setsid touches no memory.
    unsafe {
        if fork() != 0 {
            return;
        }
        setsid();
        if fork() != 0 {
            std::process::exit(0);
        }
    }
    if how == "bare" {
        let mut bare = std::process::Command::new("/proc/self/exe");
        eprintln!("{}", bare.arg("never-ready").env_clear().exec());
    }
    forever();
}

/// Takes what only one can have.
fn be_alone() -> std::fs::File {
    let file = std::fs::File::create(data("alone")).expect("a file");
    if file.try_lock().is_err() {
        std::fs::write(data("two"), "").expect("written");
    }
    file
}

fn data(name: &str) -> std::path::PathBuf {
    std::path::PathBuf::from(std::env::var("DF_DATA").expect("whoever started us says where")).join(name)
}

fn is_told(mode: &str, what: &str) -> bool {
    mode == "told" && data(what).exists()
}

/// Writes so many bytes and more without an end of a line, and then that.
fn talk(len: usize) {
    let line = [b'x'; 4096];
    for _ in 0..len / line.len() {
        let _ = std::io::stdout().write_all(&line);
    }
    println!();
}

fn eat() -> ! {
    let mut eaten: Vec<Vec<u8>> = vec![];
    loop {
        eaten.push(vec![1; 16 << 20]);
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Says READY=1 where somebody listens.
fn ready() {
    let Some(name) = std::env::var("NOTIFY_SOCKET").ok() else { return };
    let to = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).expect("an abstract name");
    UnixDatagram::unbound().expect("a socket").send_to_addr(b"READY=1", &to).expect("heard");
}

fn serve(listener: TcpListener, mode: &str) {
    listener.set_nonblocking(true).expect("set");
    let born = Instant::now();
    let mut listener = Some(listener);
    loop {
        if mode == "dies-later" && born.elapsed() > Duration::from_secs(3) {
            std::process::exit(5);
        }
        // After the probe of its trial it takes no more.
        if mode == "closes-later" && N_ANSWERED.load(SeqCst) > 0 {
            listener = None;
        }
        if is_told(mode, "dies") {
            std::process::exit(5);
        }
        if is_told(mode, "eats") {
            std::fs::remove_file(data("eats")).expect("removed");
            eat();
        }
        if is_told(mode, "talks") {
            std::fs::remove_file(data("talks")).expect("removed");
            talk(40 << 20);
            println!("odd: talked");
        }
        if is_told(mode, "deaf") {
            std::fs::write(data("is-deaf"), "").expect("written");
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((stream, _))) => {
                stream.set_nonblocking(false).expect("set");
                N_OPEN.fetch_add(1, SeqCst);
                let mode = mode.to_owned();
                std::thread::spawn(move || {
                    converse(stream, &mode);
                    N_OPEN.fetch_sub(1, SeqCst);
                });
            }
            _ if DRAINING.load(SeqCst) => break,
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    let until = Instant::now() + Duration::from_secs(2);
    while N_OPEN.load(SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn converse(mut stream: TcpStream, mode: &str) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let mut received = vec![];
    loop {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => received.extend_from_slice(&chunk[..n]),
            Err(_) if DRAINING.load(SeqCst) => return,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => return,
        }
        while let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            received.drain(..end + 4);
            if !answer(&mut stream, mode, head.contains("connection: close")) {
                return;
            }
        }
    }
}

/// Answers one request; returns whether another may follow on the connection.
fn answer(stream: &mut TcpStream, mode: &str, last: bool) -> bool {
    let commit = std::env::var("DF_COMMIT").unwrap_or_default();
    let body = format!("odd commit={commit} pid={}\n", std::process::id());
    let keep = if last { "close" } else { "keep-alive" };
    let head = |status: &str, len: usize| format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: {keep}\r\n\r\n");
    let text = match mode {
        "told" if is_told(mode, "sick") => head("500 Sick", 0),
        "sick" | "ignores-term" => head("500 Sick", 0),
        "moved" => head("302 Found", 0),
        "garbage" => "\u{1}\u{2}\u{3} this is not HTTP\n".to_owned(),
        "cut" => format!("{}half", head("200 OK", 1000)),
        "silent" => forever(),
        "closes-connections" => {
            let _ = stream.shutdown(Shutdown::Both);
            return false;
        }
        "fills-log" => head("503 Busy", 0),
        _ => head("200 OK", body.len()) + &body,
    };
    let sent = stream.write_all(text.as_bytes()).is_ok();
    N_ANSWERED.fetch_add(1, SeqCst);
    sent && !last && mode != "cut"
}
