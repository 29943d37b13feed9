//! Clients of one version that find themselves at the next.

use super::*;
use crate::connection::parse_choices;
use crate::parent;
use crate::protocol::NotifyAddress;
use crate::scarce;
use hyper::Method;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

const DEADLINE: Duration = Duration::from_secs(20);

/// A server on a runtime of its own, on a thread of its own, as a process would be.
struct Version {
    handoff: NotifyAddress,
    at: SocketAddr,
    draining: Draining,
    /// Tells of each `/slow` that it is under way.
    begun: Receiver<()>,
    /// The supervisor's copy.
    listener: std::net::TcpListener,
    served: Receiver<io::Result<()>>,
}

impl Version {
    /// Answers with its name, and what is no method with itself; `/slow` only when draining has begun, which the server may notice a moment later.
    fn start(name: &'static str, choice: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let address = format!("df-http-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = NotifyAddress::Abstract(address.into_bytes());
        let choices = parse_choices(&format!("http={choice}")).expect("a choice");
        let handoff = Handoff::new(Some(&address), choices).expect("the address is free");
        let draining = Draining::detached().expect("eventfd");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let (at, seen) = (listener.local_addr().expect("an address"), draining.clone());
        let ((begin, begun), (end, served)) = (channel(), channel());
        thread::spawn({
            let (draining, listener) = (draining.clone(), listener.try_clone().expect("a descriptor"));
            move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
                let answer = service_fn(move |request: Request<RequestBody>| {
                    let (seen, begin) = (seen.clone(), begin.clone());
                    async move {
                        if request.uri().path() == "/slow" {
                            begin.send(()).expect("the test listens");
                            let _ = tokio::task::spawn_blocking(move || seen.wait()).await;
                        }
                        let known = [Method::GET, Method::POST].contains(request.method());
                        Ok::<_, Infallible>(Response::new(if known { name.to_owned() } else { request.method().to_string() }))
                    }
                });
                // Nobody listens any more where the test has failed.
                let _ = end.send(runtime.block_on(serve(handoff, draining, "http", listener, answer)));
            }
        });
        Self { handoff: address, at, draining, begun, listener, served }
    }

    fn await_slow(&self) {
        self.begun.recv_timeout(DEADLINE).expect("the request is under way");
    }

    fn introduce(&self, to: &Version) {
        parent::introduce(&self.handoff, &to.handoff, |_, _| true).expect("both listen");
    }

    /// Shuts the listener down, as a supervisor does that stops a service.
    fn close(&self) {
        // SAFETY: shutdown takes two numbers and touches no memory of ours.
        assert_eq!(unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RD) }, 0);
    }

    fn end(self) {
        self.draining.begin();
        self.served.recv_timeout(DEADLINE).expect("it ends, without a panic").expect("served");
    }
}

struct Client(BufReader<std::net::TcpStream>);

impl Client {
    fn connect(at: SocketAddr) -> Self {
        let stream = std::net::TcpStream::connect(at).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("the connection is open");
    }

    /// Reads an answer; returns its body, and whether it is the last one.
    fn answer(&mut self) -> (String, bool) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).expect("an answer"), 0, "the end inside {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).expect("a length");
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).expect("the whole body");
        (String::from_utf8(body).expect("text"), head.contains("\r\nconnection: close\r\n"))
    }

    #[track_caller]
    fn expect(&mut self, path: &str, body: &str, is_last: bool) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(self.answer(), (body.to_owned(), is_last));
    }

    /// Asks until the answer is this one; before that each is of the other version, whole, and not the last.
    #[track_caller]
    fn expect_soon(&mut self, path: &str, body: &str, before: &str) {
        let begun = std::time::Instant::now();
        loop {
            self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
            match self.answer() {
                (said, false) if said == body => return,
                (said, false) if said == before => assert!(begun.elapsed() < DEADLINE, "still {before}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_idle_connection_is_answered_by_the_next_version() {
    let (old, new) = (Version::start("old", "hand-over"), Version::start("new", "drain"));
    let (mut idle, mut fresh, mut half) = (Client::connect(old.at), Client::connect(old.at), Client::connect(old.at));
    idle.expect("/", "old", false);
    half.expect("/", "old", false);
    half.send("GET / HTTP/1.1\r\nHo");
    old.introduce(&new);
    old.end();
    idle.expect("/", "new", false);
    fresh.expect("/", "new", false);
    half.send("st: test\r\n\r\n");
    assert_eq!(half.answer(), ("new".to_owned(), false));
    half.expect("/", "new", false);
    drop((idle, fresh, half));
    new.end();
}

#[test]
fn a_request_under_way_is_answered_by_the_old_version_and_the_next_one_by_the_new() {
    let (old, new) = (Version::start("old", "hand-over"), Version::start("new", "drain"));
    let mut client = Client::connect(old.at);
    client.expect("/", "old", false);
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    old.await_slow();
    old.introduce(&new);
    old.draining.begin();
    assert_eq!(client.answer(), ("old".to_owned(), false));
    let (body, is_last) = client.answer();
    assert!(["old", "new"].contains(&body.as_str()) && !is_last, "what came with it may be answered by either: {body}");
    client.expect_soon("/", "new", "old");
    old.end();
    drop(client);
    new.end();
}

#[test]
fn a_request_whose_body_is_still_to_come_is_finished_where_it_began() {
    let (old, new) = (Version::start("old", "hand-over"), Version::start("new", "drain"));
    let mut client = Client::connect(old.at);
    client.send("POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nab");
    old.await_slow();
    old.introduce(&new);
    old.draining.begin();
    let (body, _) = client.answer();
    assert_eq!(body, "old");
    // Nobody wanted the rest of the body: either the connection ends, or what comes of it in time is skipped.
    client.send("cdeGET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let mut rest = String::new();
    let _ended_or_reset = client.0.read_to_string(&mut rest);
    assert!(!rest.contains("cdeGET"), "the body was taken for a request: {rest}");
    drop(client);
    old.end();
    new.end();
}

#[test]
fn a_connection_that_nobody_takes_has_a_last_chance() {
    let old = Version::start("old", "hand-over");
    let (mut asks, mut silent) = (Client::connect(old.at), Client::connect(old.at));
    asks.expect("/", "old", false);
    silent.expect("/", "old", false);
    old.draining.begin();
    // It may ask before the version has noticed; each answer is whole, and one is the last.
    loop {
        asks.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let (body, is_last) = asks.answer();
        assert_eq!(body, "old");
        if is_last {
            break;
        }
    }
    assert_eq!(asks.0.read(&mut [0]).expect("the end, no reset"), 0);
    assert_eq!(silent.0.read(&mut [0]).expect("the end, no reset"), 0);
    old.end();
}

#[test]
fn a_service_whose_listener_was_closed_first_drains_all_the_same() {
    let old = Version::start("old", "drain");
    let mut client = Client::connect(old.at);
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    old.await_slow();
    old.close();
    old.draining.begin();
    assert_eq!(client.answer().0, "old");
    assert_eq!(client.0.read(&mut [0]).expect("the end, no reset"), 0);
    old.end();
}

#[test]
fn a_connection_on_which_a_body_was_ignored_goes_on_at_the_next_version() {
    let (old, new) = (Version::start("old", "hand-over"), Version::start("new", "drain"));
    let mut client = Client::connect(old.at);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nabcde");
    assert_eq!(client.answer(), ("old".to_owned(), false));
    old.introduce(&new);
    old.end();
    client.expect("/", "new", false);
    drop(client);
    new.end();
}

#[test]
fn without_descriptors_draining_lets_connections_go_and_whoever_waits_is_answered() {
    scarce::alone("http::tests::without_descriptors_draining_lets_connections_go_and_whoever_waits_is_answered", || {
        let old = Version::start("old", "hand-over");
        let mut idle = Client::connect(old.at);
        idle.expect("/", "old", false);
        let _limit = scarce::leave(1);
        let mut waits = Client::connect(old.at);
        waits.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        old.draining.begin();
        assert_eq!(waits.answer().0, "old");
        assert_eq!(idle.0.read(&mut [0]).expect("the end, no reset"), 0);
        old.end();
    });
}
