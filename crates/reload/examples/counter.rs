//! A line protocol whose clients stay connected while versions come and go; std and this library only.
//!
//! Each connection has a counter. The client sends `next`, and is answered with the next number and the generation that says so:
//!
//! ```text
//! next        1 7
//! next        2 7
//! next        3 8      <- upgraded in between, on the same connection
//! ```
//!
//! It shows what a service with long connections does: while draining it gives each of them to the next version between two answers, with what
//! it knows of it, and takes those of the version before.

use distributive_flow::connection::{Connection, Handoff};
use distributive_flow::{Draining, Service, Wake};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What the state of a connection looks like: the last number, eight bytes, little-endian. Another form would get another tag.
const TAG: &str = "counter/1";
/// The name of the port.
const PORT: &str = "lines";
/// The longest line.
const MAX_LINE: usize = 1024;
/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(600);
/// How long a client may take to read an answer.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long the next version has to answer an offer.
const PATIENCE: Duration = Duration::from_secs(30);

const USAGE: &str = "usage: counter [--listen ADDR] [--refuse | --take N | --plain]
  --listen ADDR  where to listen when started by hand (default 127.0.0.1:7000)
  --refuse       take no connection of the version before
  --take N       take only the first N
  --plain        as without the library: connections end with the version";

fn main() -> ExitCode {
    let outcome = match parse_options(std::env::args().skip(1)) {
        Ok(options) => run(&options),
        Err(words) => {
            eprintln!("counter: {words}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("counter: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    listen: String,
    /// How many connections of versions before are taken; none: all.
    most: Option<usize>,
    plain: bool,
}

fn parse_options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { listen: "127.0.0.1:7000".into(), most: None, plain: false };
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--listen" => options.listen = args.next().ok_or("--listen needs a value")?,
            "--refuse" => options.most = Some(0),
            "--take" => options.most = Some(args.next().and_then(|n| n.parse().ok()).ok_or("--take needs a number")?),
            "--plain" => options.plain = true,
            _ => return Err(format!("unknown argument {flag:?}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> io::Result<()> {
    let service = Service::from_env()?;
    let listener = service.listener(PORT, options.listen.as_str())?;
    // In the plain one nobody sets it: SIGTERM ends the process with all its connections.
    let draining = if options.plain { Draining::detached()? } else { service.draining()? };
    let counter = Arc::new(Counter {
        handoff: service.handoff()?,
        draining,
        generation: service.generation().unwrap_or(0),
        n_open: Mutex::new(0),
        closed_one: Condvar::new(),
    });
    let taking = (!options.plain).then(|| start_taking(&counter, options.most.unwrap_or(usize::MAX)));
    service.ready()?;
    for stream in counter.draining.incoming(&listener)? {
        match stream {
            Ok(stream) => start_line(&counter, Line { stream, count: 0, unread: vec![] }),
            Err(e) => {
                // Too many open files, most likely: the client waits in the queue until one is closed.
                eprintln!("counter: accept: {e}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    // First all that may still come, then the end of all that is here.
    taking.into_iter().for_each(|taking| drop(taking.join()));
    counter.wait_until_empty();
    service.stopping()
}

struct Counter {
    handoff: Handoff,
    draining: Draining,
    generation: u64,
    n_open: Mutex<usize>,
    closed_one: Condvar,
}

impl Counter {
    fn wait_until_empty(&self) {
        let open = self.n_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.closed_one.wait_while(open, |open| *open > 0));
    }
}

/// A place among the open connections, given back when dropped.
struct Place(Arc<Counter>);

impl Place {
    fn take(counter: &Arc<Counter>) -> Self {
        *counter.n_open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(counter))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.n_open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.closed_one.notify_all();
    }
}

/// One client, and all that is known of it.
struct Line {
    stream: TcpStream,
    count: u64,
    unread: Vec<u8>,
}

impl From<Line> for Connection {
    fn from(line: Line) -> Self {
        let state = line.count.to_le_bytes().to_vec();
        Self { socket: line.stream.into(), tag: TAG.into(), state, unread: line.unread }
    }
}

impl Line {
    /// Whether a connection is one of ours.
    fn is_known(connection: &Connection) -> bool {
        connection.tag == TAG && connection.state.len() == 8 && connection.unread.len() <= 2 * MAX_LINE
    }

    /// Returns the client of a connection that [`Line::is_known`].
    fn of(connection: Connection) -> Self {
        let count = connection.state.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { stream: connection.socket.into(), count, unread: connection.unread }
    }
}

fn start_taking(counter: &Arc<Counter>, most: usize) -> thread::JoinHandle<()> {
    let counter = Arc::clone(counter);
    thread::spawn(move || {
        let mut left = most;
        let accepts = |offered: &Connection| {
            let is_wanted = left > 0 && Line::is_known(offered);
            left -= usize::from(is_wanted);
            is_wanted
        };
        let taken = counter.handoff.take(&counter.draining, accepts, |taken| start_line(&counter, Line::of(taken)));
        if let Err(e) = taken {
            eprintln!("counter: take connections: {e}");
        }
    })
}

fn start_line(counter: &Arc<Counter>, line: Line) {
    let place = Place::take(counter);
    let conversation = move || {
        // An error here is a client that left or stalled; the next one is not its concern.
        let _ = converse(&place.0, line);
    };
    if let Err(e) = thread::Builder::new().stack_size(128 * 1024).spawn(conversation) {
        eprintln!("counter: no thread for a connection: {e}");
    }
}

fn converse(counter: &Counter, mut line: Line) -> io::Result<()> {
    line.stream.set_nonblocking(false)?;
    line.stream.set_nodelay(true)?;
    line.stream.set_read_timeout(Some(IDLE))?;
    line.stream.set_write_timeout(Some(WRITE_TIME))?;
    let mut is_ours = false;
    loop {
        // Between two answers, whether or not the client has sent more: what the kernel has not given us goes along by itself.
        if !is_ours && counter.draining.is_set() {
            line = match counter.handoff.give(PORT, line.into(), PATIENCE) {
                Ok(_) => return Ok(()),
                Err(kept) => Line::of(kept.connection),
            };
            is_ours = true;
        }
        if let Some(end) = line.unread.iter().position(|b| *b == b'\n') {
            let asked: Vec<u8> = line.unread.drain(..=end).collect();
            answer(counter, &mut line, asked.trim_ascii())?;
            continue;
        }
        if line.unread.len() > MAX_LINE {
            return line.stream.write_all(b"too long\n");
        }
        if !is_ours {
            match counter.draining.wait_for(&line.stream, Some(IDLE))? {
                Wake::Readable => {}
                Wake::Draining => continue,
                Wake::Deadline => return Ok(()),
            }
        }
        let mut part = [0; MAX_LINE];
        let n = line.stream.read(&mut part)?;
        if n == 0 {
            return Ok(());
        }
        line.unread.extend_from_slice(&part[..n]);
    }
}

fn answer(counter: &Counter, line: &mut Line, asked: &[u8]) -> io::Result<()> {
    if asked != b"next" {
        return line.stream.write_all(b"what?\n");
    }
    line.count += 1;
    line.stream.write_all(format!("{} {}\n", line.count, counter.generation).as_bytes())
}
