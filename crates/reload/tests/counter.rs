//! Clients that stay connected across versions: `examples/counter.rs` and `tests/counter.py` under a supervisor that is this test.

use distributive_flow::connection::message::Role;
use distributive_flow::parent::{self, IntroduceError, NotifySocket, Received};
use distributive_flow::protocol::{self, NotifyAddress};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn clients_stay_connected_over_ten_versions_and_no_number_is_skipped() {
    let mut port = Port::new();
    let mut serving = port.start(Program::Counter(&[]), "hand-over");
    let clients = Clients::start(port.address, 20);
    for _ in 2..=10 {
        let new = port.start(Program::Counter(&[]), "hand-over");
        serving.replace_by(&new);
        serving = new;
    }
    clients.await_generation(10);
    let seen = clients.stop();
    assert!(seen.iter().all(|seen| seen.dropped.is_none() && seen.generations.len() >= 2), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.generations.is_sorted()), "{seen:?}");
}

#[test]
fn without_the_library_they_are_dropped() {
    let mut port = Port::new();
    let mut serving = port.start(Program::Counter(&["--plain"]), "hand-over");
    let clients = Clients::start(port.address, 20);
    let new = port.start(Program::Counter(&["--plain"]), "hand-over");
    serving.introduce(&new).expect("both listen");
    serving.signal(libc::SIGTERM);
    serving.wait();
    let seen = clients.stop();
    assert!(seen.iter().all(|seen| seen.dropped.is_some()), "the control lost nothing: {seen:?}");
}

#[test]
fn a_program_in_python_takes_part() {
    let mut port = Port::new();
    let mut serving = port.start(Program::Counter(&[]), "hand-over");
    let clients = Clients::start(port.address, 10);
    for program in [Program::Python, Program::Python, Program::Counter(&[])] {
        let new = port.start(program, "hand-over");
        serving.replace_by(&new);
        serving = new;
        clients.await_generation(port.n_started);
    }
    let seen = clients.stop();
    assert!(seen.iter().all(|seen| seen.dropped.is_none()), "{seen:?}");
}

#[test]
fn what_the_next_version_refuses_is_served_on() {
    let mut port = Port::new();
    for program in [Program::Counter(&[]), Program::Python] {
        let mut old = port.start(program, "hand-over");
        let mut client = Client::connect(port.address);
        client.expect(1, old.generation);
        let new = port.start(Program::Counter(&["--refuse"]), "hand-over");
        old.introduce(&new).expect("both listen");
        old.signal(libc::SIGTERM);
        for n in 2..5 {
            client.expect(n, old.generation);
        }
        drop(client);
        assert!(old.wait().success(), "it leaves when its last client has");
    }
}

#[test]
fn a_port_may_drain_or_drop_instead() {
    let mut port = Port::new();
    let mut drains = port.start(Program::Counter(&[]), "drain");
    let mut client = Client::connect(port.address);
    client.expect(1, 1);
    let mut drops = port.start(Program::Counter(&[]), "drop");
    drains.introduce(&drops).expect("both listen");
    drains.signal(libc::SIGTERM);
    client.expect(2, 1);
    drop(client);
    assert!(drains.wait().success());

    let mut client = Client::connect(port.address);
    client.expect(1, 2);
    let next = port.start(Program::Counter(&[]), "drop");
    drops.introduce(&next).expect("both listen");
    drops.signal(libc::SIGTERM);
    assert!(drops.wait().success());
    assert_eq!(client.stream.read(&mut [0]).expect("the end, no reset"), 0);
}

#[test]
fn half_a_line_travels_along() {
    let mut port = Port::new();
    let mut serving = port.start(Program::Counter(&[]), "hand-over");
    let mut client = Client::connect(port.address);
    client.expect(1, 1);
    for (generation, program) in [(2, Program::Python), (3, Program::Counter(&[])), (4, Program::Counter(&[]))] {
        client.send(b"next\nne");
        client.expect_answer(generation * 2 - 2, generation - 1);
        let new = port.start(program, "hand-over");
        serving.replace_by(&new);
        serving = new;
        client.send(b"xt\n");
        client.expect_answer(generation * 2 - 1, generation);
    }
}

/// Connections at the version that leaves.
const N_OPEN: usize = 50;

/// Kills one side at the moment of the `nth` packet of a kind, which its sender has sent and its receiver not read; expects that so many connections live on, and the others
/// ended with the side that had them.
#[track_caller]
fn check_kill(dies: Role, kind: char, nth: usize, n_alive: usize) {
    let mut port = Port::new();
    let (mut old, mut clients) = (port.start(Program::Counter(&[]), "hand-over"), vec![]);
    for _ in 0..N_OPEN {
        let mut client = Client::connect(port.address);
        client.expect(1, 1);
        clients.push(client);
    }
    let mut new = port.start(Program::Counter(&[]), "hand-over");
    let mut relay = Relay::start(&old, &new, kind, nth);
    old.signal(libc::SIGTERM);
    relay.expect("moment");
    let (victim, generation) = if dies == Role::Give { (&mut old, 2) } else { (&mut new, 1) };
    victim.child.kill().expect("kill");
    victim.wait();
    relay.go_on();
    let mut found = 0;
    for client in &mut clients {
        // Who is dead may refuse what it is sent.
        let answer = client.stream.get_mut().write_all(b"next\n").and_then(|()| client.line());
        match answer.as_deref() {
            Ok("") | Err(_) => {}
            Ok(answer) => {
                assert_eq!(answer, format!("2 {generation}\n"), "a number was skipped or doubled, or the dead one answers");
                client.expect(3, generation);
                found += 1;
            }
        }
    }
    assert_eq!(found, n_alive, "{dies:?} was killed at {kind} {nth}: of {N_OPEN} so many live on");
}

#[test]
fn when_the_version_that_gives_is_killed_all_that_it_had_offered_live_on() {
    for nth in [1, 25, N_OPEN] {
        // Of offer, accept, commit and taken of the same connection.
        for kind in ['O', 'A', 'C', 'T'] {
            check_kill(Role::Give, kind, nth, nth);
        }
    }
}

#[test]
fn when_the_version_that_takes_is_killed_all_that_it_had_not_taken_live_on() {
    for nth in [1, 25, N_OPEN] {
        for kind in ['O', 'A', 'C'] {
            check_kill(Role::Take, kind, nth, N_OPEN + 1 - nth);
        }
        // It said that it serves it, and dies with it.
        check_kill(Role::Take, 'T', nth, N_OPEN - nth);
    }
}

#[test]
fn before_anything_is_offered_a_version_that_is_killed_takes_only_its_own_along() {
    check_kill(Role::Take, 'H', 1, N_OPEN);
    check_kill(Role::Give, 'H', 1, 0);
}

/// Stands between two versions, and stops at a moment.
struct Relay {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Relay {
    fn start(giver: &Version, taker: &Version, kind: char, nth: usize) -> Self {
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relay.py"));
        command.args([giver.handoff.to_variable(), taker.handoff.to_variable()]).args([kind.to_string(), nth.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let mut relay = Self { child, said };
        relay.expect("met");
        relay
    }

    #[track_caller]
    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it is read");
        assert_eq!(line.trim_end(), word, "the relay ended before");
    }

    /// Goes on until one side has ended, which the other then sees.
    fn go_on(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("wait").success());
    }
}

/// One listener, and the versions that serve on it.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
    n_started: u64,
}

enum Program<'a> {
    Counter(&'a [&'a str]),
    Python,
}

/// A version; killed when dropped.
struct Version {
    child: Child,
    generation: u64,
    notify: NotifySocket,
    handoff: NotifyAddress,
}

impl Port {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        Self { address: listener.local_addr().expect("address"), listener, n_started: 0 }
    }

    /// Starts a version and waits until it is ready.
    fn start(&mut self, program: Program<'_>, choice: &str) -> Version {
        self.n_started += 1;
        let (notify, handoff) = (NotifySocket::bind(address("notify")).expect("bind"), address("handoff"));
        // A shell sets LISTEN_PID, because its own pid is what the program keeps through exec, and moves the listener from where
        // Command can put it to where the protocol wants it.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null"]);
        match program {
            Program::Counter(args) => command.arg(example()).args(args),
            Program::Python => command.arg(python()).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counter.py")),
        };
        command.stdin(Stdio::from(OwnedFd::from(self.listener.try_clone().expect("clone")))).stdout(Stdio::null());
        command.envs(parent::environment(&["lines"]).expect("a good name"));
        command.env(protocol::NOTIFY_SOCKET, notify.variable()).env(protocol::DF_HANDOFF, handoff.to_variable());
        command.env(protocol::DF_CONNECTIONS, format!("lines={choice}"));
        command.env(protocol::DF_GENERATION, self.n_started.to_string());
        let version = Version { child: command.spawn().expect("start"), generation: self.n_started, notify, handoff };
        version.await_ready();
        version
    }
}

impl Version {
    fn await_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.notify.receive_until(deadline).expect("receive") {
                Some(Received::Notification(n)) if n.ready => return,
                Some(_) => {}
                None => panic!("generation {} was not ready in time", self.generation),
            }
        }
    }

    fn introduce(&self, to: &Version) -> Result<(), IntroduceError> {
        let expected = |role| if role == Role::Give { self.child.id() } else { to.child.id() };
        parent::introduce(&self.handoff, &to.handoff, |role, pid| pid == expected(role).cast_signed())
    }

    /// Lets another version take over all that is open.
    fn replace_by(&mut self, new: &Version) {
        self.introduce(new).expect("both listen");
        self.signal(libc::SIGTERM);
        assert!(self.wait().success());
    }

    fn signal(&self, signal: i32) {
        // SAFETY: takes two integers; the process is our child and not yet waited for.
        let failed = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
    }

    /// Waits for the exit, with a deadline: polling, as std has no wait with one.
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // As a supervisor does, or there is no room for what it says at last.
            while self.notify.try_receive().expect("receive").is_some() {}
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "generation {} did not exit in time", self.generation);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        // It may have exited, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One client, which asks for the next number.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the connection is open");
    }

    /// Returns the next line; nothing at the end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line)
    }

    #[track_caller]
    fn expect(&mut self, n: u64, generation: u64) {
        self.send(b"next\n");
        self.expect_answer(n, generation);
    }

    #[track_caller]
    fn expect_answer(&mut self, n: u64, generation: u64) {
        let mut answer = String::new();
        self.stream.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, format!("{n} {generation}\n"));
    }

    /// Asks once; returns the generation that gave the number expected.
    fn next(&mut self, n: u64) -> Result<u64, String> {
        self.stream.get_mut().write_all(b"next\n").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).map_err(|e| e.to_string())?;
        let (found, generation) = answer.trim_end().split_once(' ').ok_or(format!("{answer:?} after {n}"))?;
        assert_eq!(found, n.to_string(), "a number was skipped or doubled");
        generation.parse().map_err(|_| answer.clone())
    }
}

/// Clients that ask all the time, each on one connection.
struct Clients {
    stop: Arc<AtomicBool>,
    latest: Vec<Arc<AtomicU32>>,
    threads: Vec<thread::JoinHandle<Seen>>,
}

/// What one of them saw.
#[derive(Debug)]
struct Seen {
    generations: Vec<u64>,
    dropped: Option<String>,
}

impl Clients {
    fn start(address: SocketAddr, n: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let latest: Vec<Arc<AtomicU32>> = (0..n).map(|_| Arc::default()).collect();
        let ask = |latest: &Arc<AtomicU32>| {
            let (stop, latest, mut client) = (Arc::clone(&stop), Arc::clone(latest), Client::connect(address));
            thread::spawn(move || {
                let (mut generations, mut n) = (vec![], 1);
                while !stop.load(Ordering::Relaxed) {
                    match client.next(n) {
                        Ok(generation) => generations.push(generation),
                        Err(why) => return Seen { generations, dropped: Some(why) },
                    }
                    generations.dedup();
                    n += 1;
                    latest.store(generations.last().map_or(0, |g| u32::try_from(*g).unwrap_or(0)), Ordering::Relaxed);
                }
                Seen { generations, dropped: None }
            })
        };
        let threads = latest.iter().map(ask).collect();
        let clients = Self { stop, latest, threads };
        clients.await_generation(1);
        clients
    }

    /// Waits until each was answered by this generation or a later one, or has ended.
    fn await_generation(&self, generation: u64) {
        let deadline = Instant::now() + PATIENCE;
        let has = |(latest, thread): (&Arc<AtomicU32>, &thread::JoinHandle<Seen>)| {
            thread.is_finished() || u64::from(latest.load(Ordering::Relaxed)) >= generation
        };
        while !self.latest.iter().zip(&self.threads).all(has) {
            assert!(Instant::now() < deadline, "not all clients reached generation {generation}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no number was skipped")).collect()
    }
}

fn address(what: &str) -> NotifyAddress {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("@df-counter-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    NotifyAddress::parse(OsStr::new(&name)).expect("a good name")
}

/// Returns the example that cargo built for this test, beside it in the target directory.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps").join("examples/counter");
    assert!(program.exists(), "{} is missing: `cargo build --example counter` makes it", program.display());
    program
}

/// Returns the interpreter itself: what lies in PATH may be a script that starts it.
fn python() -> PathBuf {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("python3 is there");
    PathBuf::from(String::from_utf8(asked.stdout).expect("text").trim_end())
}
