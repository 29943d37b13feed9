//! Clients that must not notice an upgrade: each request is a new connection, and every way to lose one is counted.

use crate::net::{self, Loss};
use crate::process::wait_until;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What to ask, and how hard.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where.
    pub addr: SocketAddr,
    /// What, for example `/`.
    pub path: String,
    /// How many clients ask at the same time.
    pub n_workers: usize,
    /// Requests a second of all clients together; `None` asks again as soon as an answer is there.
    pub per_second: Option<u32>,
    /// After this long a request counts as lost.
    pub deadline: Duration,
}

/// Clients at work; [`Load::finish`] stops them and returns what they saw.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What the clients saw.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests that were begun and ended, lost ones included.
    pub requests: u64,
    /// Requests that were lost, with the reason; the first 1000 of them.
    pub lost: Vec<Lost>,
    /// How many were lost.
    pub n_lost: u64,
    /// The longest time from connecting to the last byte, lost ones included.
    pub worst_ms: u64,
    /// How often each body came, as text.
    pub bodies: BTreeMap<String, u64>,
    /// When each body came first and last, from the start of the load: `first <= last`.
    pub spans: BTreeMap<String, (Duration, Duration)>,
}

/// A request that a client missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When it began, from the start of the load.
    pub at: Duration,
    /// How it was lost.
    pub reason: Loss,
}

impl Load {
    /// Starts `n_workers` clients that ask as fast as they get answers.
    pub fn start(addr: SocketAddr, path: &str, n_workers: usize) -> Load {
        let path = path.to_owned();
        Load::run(Plan { addr, path, n_workers, per_second: None, deadline: Duration::from_secs(10) })
    }

    /// Starts clients as planned.
    pub fn run(plan: Plan) -> Load {
        let n_workers = plan.n_workers;
        let shared = Arc::new(Shared {
            plan,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            n_begun: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let start = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work())
        };
        let workers = (0..n_workers).map(start).collect();
        Load { shared, workers }
    }

    /// Returns what was seen until now.
    pub fn so_far(&self) -> Report {
        self.shared.report().clone()
    }

    /// Waits until `n` more requests have ended; panics at the deadline.
    #[track_caller]
    pub fn wait_for_requests(&self, n: u64, deadline: Duration) {
        let enough = self.shared.report().requests + n;
        let done = wait_until(deadline, || (self.shared.report().requests >= enough).then_some(()));
        assert!(done.is_some(), "{n} requests took longer than {deadline:?}: {:?}", self.so_far());
    }

    /// Waits until an answer that begins after this call has a body with `part` in it; panics at the deadline.
    #[track_caller]
    pub fn wait_for_body(&self, part: &str, deadline: Duration) {
        let count = || {
            let report = self.shared.report();
            report.bodies.iter().filter(|(body, _)| body.contains(part)).map(|(_, n)| n).sum::<u64>()
        };
        // Requests under way may have begun before; one more than the clients can hold is surely new.
        let enough = count() + self.workers.len() as u64 + 1;
        let done = wait_until(deadline, || (count() >= enough).then_some(()));
        assert!(done.is_some(), "no answer with {part:?} within {deadline:?}: {:?}", self.so_far());
    }

    /// Lets every request under way end, stops, and returns what was seen.
    #[track_caller]
    pub fn finish(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().expect("a client that does not panic");
        }
        self.shared.report().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// Returns itself when something was asked and nothing was lost, else panics with the first losses.
    #[track_caller]
    pub fn expect_no_loss(self) -> Report {
        assert!(self.requests > 0, "no request was made, which proves nothing");
        let first = &self.lost[..self.lost.len().min(10)];
        assert!(self.n_lost == 0, "{} of {} requests lost, first: {first:#?}", self.n_lost, self.requests);
        self
    }
}

const MAX_LOST_KEPT: usize = 1000;
const MAX_BODIES_KEPT: usize = 10_000;

#[derive(Debug)]
struct Shared {
    plan: Plan,
    started: Instant,
    stop: AtomicBool,
    n_begun: AtomicU64,
    report: Mutex<Report>,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("no panic while locked")
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.n_begun.fetch_add(1, Ordering::Relaxed);
            if !self.wait_for_turn(number) {
                return;
            }
            let began = self.started.elapsed();
            let answer = net::get(self.plan.addr, &self.plan.path, self.plan.deadline);
            let ended = self.started.elapsed();
            self.report().count(began, ended, answer);
            if self.plan.per_second.is_none() && self.report().n_lost > 0 {
                // A closed port answers a thousand times a second; one loss is enough to fail, so leave the processor to others.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Waits for the time of request `number`; false when the load was stopped meanwhile.
    fn wait_for_turn(&self, number: u64) -> bool {
        let Some(rate) = self.plan.per_second else { return true };
        let turn = Duration::from_secs_f64(number as f64 / f64::from(rate.max(1)));
        while let Some(left) = turn.checked_sub(self.started.elapsed()) {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        true
    }
}

impl Report {
    fn count(&mut self, began: Duration, ended: Duration, answer: Result<net::Answer, Loss>) {
        self.requests += 1;
        self.worst_ms = self.worst_ms.max((ended - began).as_millis() as u64);
        let answer = match answer {
            Ok(answer) if answer.status == 200 => answer,
            Ok(answer) => return self.lose(began, Loss::Status(answer.status)),
            Err(reason) => return self.lose(began, reason),
        };
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        if self.bodies.len() >= MAX_BODIES_KEPT && !self.bodies.contains_key(&body) {
            return;
        }
        let span = self.spans.entry(body.clone()).or_insert((ended, ended));
        *span = (span.0.min(ended), span.1.max(ended));
        *self.bodies.entry(body).or_default() += 1;
    }

    fn lose(&mut self, at: Duration, reason: Loss) {
        self.n_lost += 1;
        if self.lost.len() < MAX_LOST_KEPT {
            self.lost.push(Lost { at, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    const SOON: Duration = Duration::from_secs(20);

    /// Answers every connection with the same bytes until it is dropped.
    struct Server {
        addr: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Server {
        fn start(answer: &'static str) -> Server {
            let listener = TcpListener::bind(net::free_addr()).expect("a free address");
            let addr = listener.local_addr().expect("its address");
            let stop = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if flag.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut stream = stream.expect("a client");
                    let mut buffer = [0; 1024];
                    let _ = stream.read(&mut buffer);
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
            Server { addr, stop, thread: Some(thread) }
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            let _ = TcpStream::connect(self.addr);
            self.thread.take().expect("joined once").join().expect("a server that does not panic");
        }
    }

    const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn a_server_that_stays_loses_nothing() {
        let server = Server::start(HELLO);
        let load = Load::start(server.addr, "/", 4);
        load.wait_for_requests(200, SOON);
        load.wait_for_body("hell", SOON);
        let report = load.finish().expect_no_loss();
        assert!(report.requests >= 200);
        assert_eq!(report.bodies, BTreeMap::from([("hello".to_owned(), report.requests)]));
        let (first, last) = report.spans["hello"];
        assert!(first < last);
    }

    #[test]
    fn a_listener_that_closes_is_a_loss() {
        let server = Server::start(HELLO);
        let load = Load::start(server.addr, "/", 4);
        load.wait_for_requests(50, SOON);
        drop(server);
        load.wait_for_requests(20, SOON);
        let report = load.finish();
        assert!(report.n_lost > 0, "{report:?}");
        let known = |lost: &Lost| matches!(lost.reason, Loss::Refused | Loss::Reset | Loss::Short { .. });
        assert!(report.lost.iter().all(known), "{report:?}");
        assert!(std::panic::catch_unwind(|| report.expect_no_loss()).is_err());
    }

    #[test]
    fn a_wrong_status_and_a_short_body_are_losses() {
        for (answer, reason) in [
            ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Loss::Status(503)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Loss::Short { got: 5, expected: Some(9) }),
        ] {
            let server = Server::start(answer);
            let load = Load::start(server.addr, "/", 1);
            load.wait_for_requests(1, SOON);
            assert_eq!(load.finish().lost[0].reason, reason);
        }
    }

    #[test]
    fn a_rate_is_kept() {
        let server = Server::start(HELLO);
        let plan = Plan { addr: server.addr, path: "/".to_owned(), n_workers: 2, per_second: Some(100), deadline: SOON };
        let began = Instant::now();
        let load = Load::run(plan);
        load.wait_for_requests(21, SOON);
        // Request number 20 may not begin before its time; how late it is depends on the machine.
        assert!(began.elapsed() >= Duration::from_millis(200));
        load.finish().expect_no_loss();
    }

    #[test]
    fn no_request_at_all_proves_nothing() {
        assert!(std::panic::catch_unwind(|| Report::default().expect_no_loss()).is_err());
    }
}
