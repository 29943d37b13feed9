//! The promises of this crate, kept by a real service: `examples/greeter.rs` under a supervisor that is this test.

use distributive_flow::parent::{self, Notification, NotifySocket, Received};
use distributive_flow::protocol::{self, NotifyAddress};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn it_tells_where_it_comes_from_and_who_it_is() {
    let greeter = Greeter::start(&[], "http");
    let heard = greeter.hear(|n| n.ready);
    assert_eq!(heard.pid, Some(greeter.pid()));
    let (status, body) = ask(greeter.address, "/");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let first = format!("greeter commit=c0ffee generation=7 pid={}\n", greeter.pid());
    assert!(body.starts_with(&first) && body.len() > first.len(), "{body:?}");
    assert_eq!(ask(greeter.address, "/health"), ("HTTP/1.1 200 OK".to_owned(), "well\n".to_owned()));
    assert_eq!(ask(greeter.address, "/nothing").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn passed_descriptors_do_not_leak_into_programs_it_starts() {
    let greeter = Greeter::start(&[], "http");
    greeter.hear(|n| n.ready);
    let about = std::fs::read_to_string(format!("/proc/{}/fdinfo/3", greeter.pid())).expect("descriptor 3 is open");
    let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
    let flags = i32::from_str_radix(flags, 8).expect("octal");
    assert_ne!(flags & libc::O_CLOEXEC, 0, "{about}");
}

#[test]
fn a_slow_request_is_finished_while_draining() {
    let mut greeter = Greeter::start(&[], "http");
    greeter.hear(|n| n.ready);
    let mut slow = connect(greeter.address);
    send(&mut slow, "/slow?ms=6000");
    greeter.signal(libc::SIGTERM);
    greeter.hear(|n| n.stopping);
    slow.set_nonblocking(true).expect("nonblocking");
    assert_eq!(slow.peek(&mut [0]).expect_err("still under way").kind(), ErrorKind::WouldBlock);
    slow.set_nonblocking(false).expect("blocking");
    let (head, body) = read_answer(&mut BufReader::new(slow));
    assert!(head.contains("\r\nConnection: close\r\n"), "the last answer says so: {head}");
    assert!(body.starts_with("slept 6000 ms\n"), "{body}");
    assert_eq!(greeter.wait().code(), Some(0));
}

#[test]
fn everyone_in_the_accept_queue_is_answered() {
    let mut greeter = Greeter::start(&[], "http");
    greeter.hear(|n| n.ready);
    greeter.signal(libc::SIGSTOP);
    let mut queued: Vec<TcpStream> = (0..30).map(|_| connect(greeter.address)).collect();
    queued.iter_mut().for_each(|client| send(client, "/"));
    greeter.signal(libc::SIGTERM);
    greeter.signal(libc::SIGCONT);
    for client in queued {
        assert!(read_answer(&mut BufReader::new(client)).0.starts_with("HTTP/1.1 200 OK"));
    }
    greeter.hear(|n| n.stopping);
    assert_eq!(greeter.wait().code(), Some(0));
}

#[test]
fn a_keep_alive_connection_is_answered_once_more_and_told_to_close() {
    let mut greeter = Greeter::start(&[], "http");
    let mut client = BufReader::new(connect(greeter.address));
    for _ in 0..3 {
        send(client.get_mut(), "/health");
        assert!(read_answer(&mut client).0.contains("\r\nConnection: keep-alive\r\n"));
    }
    greeter.signal(libc::SIGTERM);
    greeter.hear(|n| n.stopping);
    // It is not closed at once: a request may be on its way.
    client.get_ref().set_read_timeout(Some(Duration::from_millis(10))).expect("timeout");
    assert_eq!(client.get_ref().peek(&mut [0]).expect_err("still open").kind(), ErrorKind::WouldBlock);
    client.get_ref().set_read_timeout(Some(PATIENCE)).expect("timeout");
    send(client.get_mut(), "/health");
    assert!(read_answer(&mut client).0.contains("\r\nConnection: close\r\n"));
    assert_eq!(client.read(&mut [0]).expect("the end, no reset"), 0);
    assert_eq!(greeter.wait().code(), Some(0));
}

#[test]
fn a_stream_stays_open_and_ends_properly() {
    let mut greeter = Greeter::start(&[], "http");
    let mut client = connect(greeter.address);
    send(&mut client, "/stream");
    let mut client = BufReader::new(client);
    let mut lines = client.by_ref().lines().map(|line| line.expect("the stream is open"));
    for n in 0..3 {
        let wanted = format!("line {n} generation=7");
        assert!(lines.any(|line| line == wanted), "{wanted}");
    }
    greeter.signal(libc::SIGTERM);
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the end, no reset");
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
    assert_eq!(greeter.wait().code(), Some(0));
}

#[test]
fn foreign_requests_are_refused() {
    let greeter = Greeter::start(&[], "http");
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(60_000));
    for (request, expect) in [
        (long.as_str(), "HTTP/1.1 431 Request Header Fields Too Large"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/3\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported"),
        ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 413 Content Too Large"),
    ] {
        let mut client = connect(greeter.address);
        client.write_all(request.as_bytes()).expect("send");
        let mut client = BufReader::new(client);
        let (head, _) = read_answer(&mut client);
        assert_eq!(head.lines().next(), Some(expect), "{}", &request[..12]);
        assert_eq!(client.read(&mut [0]).expect("the end, no reset"), 0);
    }
}

#[test]
fn bad_versions_are_bad_in_the_way_asked_for() {
    let mut exits = Greeter::start(&["--fail", "exit"], "http");
    assert_eq!(exits.wait().code(), Some(3));

    let sick = Greeter::start(&["--fail", "sick"], "http");
    sick.hear(|n| n.ready);
    assert_eq!(ask(sick.address, "/health").0, "HTTP/1.1 500 Internal Server Error");

    let mut dies = Greeter::start(&["--fail", "die-after-ready"], "http");
    dies.hear(|n| n.ready);
    assert_eq!(dies.wait().code(), Some(4));

    let never = Greeter::start(&["--fail", "never-ready"], "http");
    assert_eq!(ask(never.address, "/health").0, "HTTP/1.1 503 Service Unavailable");
    // It serves by now, and has said nothing.
    assert_eq!(never.notify.try_receive().expect("receive"), None);
}

#[test]
fn a_port_that_was_not_passed_is_not_bound() {
    let mut greeter = Greeter::start(&["--listen", "127.0.0.1:0"], "other");
    assert_eq!(greeter.wait().code(), Some(1));
    let mut words = String::new();
    greeter.child.stderr.take().expect("piped").read_to_string(&mut words).expect("text");
    assert_eq!(words, "greeter: no descriptor was passed as \"http\", only as: other\n");
}

#[test]
fn by_hand_it_binds_by_itself() {
    for flag in ["--listen", "--bind"] {
        let mut child = quiet(Command::new(program()).args([flag, "127.0.0.1:0"])).spawn().expect("start the greeter");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("text");
        let address = line.trim_end().rsplit(' ').next().and_then(|a| a.parse().ok()).expect(&line);
        let (_, body) = ask(address, "/");
        assert!(body.starts_with(&format!("greeter commit=none generation=none pid={}\n", child.id())), "{body}");
        kill(child.id(), libc::SIGTERM);
        assert_eq!(wait(&mut child).code(), Some(0));
    }
}

#[test]
fn it_tests_itself_and_refuses_unknown_arguments() {
    for (args, code) in [(["--self-test"], 0), (["--unknown"], 2), (["--fail"], 2)] {
        let mut child = quiet(Command::new(program()).args(args)).spawn().expect("start the greeter");
        assert_eq!(wait(&mut child).code(), Some(code), "{args:?}");
    }
}

/// The greeter under this test as its supervisor; killed when dropped.
struct Greeter {
    child: Child,
    address: SocketAddr,
    notify: NotifySocket,
}

impl Greeter {
    /// Starts it with one listener passed under this name.
    fn start(args: &[&str], name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let notify = notify_socket();
        // A shell sets LISTEN_PID, because its own pid is what the program keeps through exec, and moves the listener
        // from where Command can put it to where the protocol wants it.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null"]).arg(program()).args(args);
        command.stdin(Stdio::from(OwnedFd::from(listener)));
        command.envs(parent::environment(&[name]).expect("a good name"));
        command.env(protocol::NOTIFY_SOCKET, notify.variable());
        command.envs([(protocol::DF_COMMIT, "c0ffee"), (protocol::DF_GENERATION, "7")]);
        let child = quiet(&mut command).spawn().expect("start the greeter");
        Self { child, address, notify }
    }

    fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a pid")
    }

    fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// Waits for a notification of this sort.
    #[track_caller]
    fn hear(&self, wanted: impl Fn(&Notification) -> bool) -> Notification {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.notify.receive_until(deadline).expect("receive") {
                Some(Received::Notification(n)) if wanted(&n) => return n,
                Some(_) => {}
                None => panic!("it was not said in time"),
            }
        }
    }

    fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // It may have exited, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the example that cargo built for this test, beside it in the target directory.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps").join("examples/greeter");
    assert!(program.exists(), "{} is missing: `cargo build --example greeter` makes it", program.display());
    program
}

fn quiet(command: &mut Command) -> &mut Command {
    command.env_remove("GREETER_FAIL").stdout(Stdio::null()).stderr(Stdio::piped())
}

fn notify_socket() -> NotifySocket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("@df-greeter-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    NotifySocket::bind(NotifyAddress::parse(OsStr::new(&name)).expect("a good name")).expect("bind")
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: takes two integers; the process is our child and not yet waited for.
    let failed = unsafe { libc::kill(pid.try_into().expect("a pid"), signal) };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
}

/// Waits for the exit, with a deadline: polling, as std has no wait with one.
fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        assert!(Instant::now() < deadline, "it did not exit in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

fn send(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).expect("send");
}

/// Returns the head, and the body by its length.
fn read_answer(stream: &mut BufReader<TcpStream>) -> (String, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).expect("an answer, no reset"), 0, "the end inside {head:?}");
    }
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).expect("a length");
    let mut body = vec![0; len];
    stream.read_exact(&mut body).expect("the whole body");
    (head, String::from_utf8(body).expect("text"))
}

/// Asks over a new connection; returns the status line and the body.
fn ask(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = connect(address);
    send(&mut stream, path);
    let (head, body) = read_answer(&mut BufReader::new(stream));
    (head.lines().next().unwrap_or_default().to_owned(), body)
}
