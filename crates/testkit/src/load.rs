//! Clients that must not notice an upgrade: new connections, kept ones and slow answers, and every way to lose one is counted.

mod report;

pub use report::{Lost, Report};

use crate::net::{self, Answer, Kept, Loss, Missed};
use crate::process::wait_until;
use report::Asked;
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
    /// How many clients ask at the same time, over a new connection for each request.
    pub n_workers: usize,
    /// How many more ask over connections that they keep.
    pub n_kept: usize,
    /// How many more ask for an answer that is slow: how many, and what.
    pub slow: (usize, String),
    /// Requests a second of all clients together but the slow ones; `None` asks again as soon as an answer is there.
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

impl Plan {
    /// Returns the plan of one client that asks as fast as it gets answers, over new connections.
    pub fn to(addr: SocketAddr, path: &str) -> Plan {
        let (slow, deadline) = ((0, String::new()), Duration::from_secs(10));
        Plan { addr, path: path.to_owned(), n_workers: 1, n_kept: 0, slow, per_second: None, deadline }
    }
}

impl Load {
    /// Starts `n_workers` clients that ask as fast as they get answers.
    pub fn start(addr: SocketAddr, path: &str, n_workers: usize) -> Load {
        Load::run(Plan { n_workers, ..Plan::to(addr, path) })
    }

    /// Starts clients as planned.
    pub fn run(plan: Plan) -> Load {
        let kinds = [(Asked::New, plan.n_workers), (Asked::Kept, plan.n_kept), (Asked::Slow, plan.slow.0)];
        let shared = Arc::new(Shared {
            plan,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            n_begun: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let start = |asked| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work(asked))
        };
        let workers = kinds.into_iter().flat_map(|(asked, n)| std::iter::repeat_n(asked, n)).map(start).collect();
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
        self.wait_until_requests(enough, deadline);
    }

    /// Waits until `n` requests have ended since the start; panics at the deadline.
    #[track_caller]
    pub fn wait_until_requests(&self, n: u64, deadline: Duration) {
        let done = wait_until(deadline, || (self.shared.report().requests >= n).then_some(()));
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

    fn work(&self, asked: Asked) {
        let mut kept = None;
        while !self.stop.load(Ordering::Relaxed) {
            if asked != Asked::Slow && !self.wait_for_turn(self.n_begun.fetch_add(1, Ordering::Relaxed)) {
                return;
            }
            let began = self.started.elapsed();
            let answer = match asked {
                Asked::New => net::get(self.plan.addr, &self.plan.path, self.plan.deadline),
                Asked::Slow => net::get(self.plan.addr, &self.plan.slow.1, self.plan.deadline),
                Asked::Kept => self.ask_kept(&mut kept),
            };
            let ended = self.started.elapsed();
            self.report().count(asked, began, ended, answer);
            if self.plan.per_second.is_none() && self.report().n_lost > 0 {
                // A closed port answers a thousand times a second; one loss is enough to fail, so leave the processor to others.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Asks over the connection that is kept, or over a new one that is kept from now on.
    fn ask_kept(&self, kept: &mut Option<Kept>) -> Result<Answer, Loss> {
        let Plan { addr, path, deadline, .. } = &self.plan;
        if let Some(mut open) = kept.take() {
            match open.ask(path, *deadline) {
                Ok((answer, goes_on)) => {
                    *kept = goes_on.then_some(open);
                    return Ok(answer);
                }
                Err(Missed::Lost(loss)) => return Err(loss),
                Err(Missed::Closed) => self.report().n_closed += 1,
            }
        }
        let mut open = Kept::connect(*addr, *deadline)?;
        self.report().n_connected += 1;
        let (answer, goes_on) = open.ask(path, *deadline).map_err(|missed| match missed {
            Missed::Lost(loss) => loss,
            Missed::Closed => Loss::Reset,
        })?;
        *kept = goes_on.then_some(open);
        Ok(answer)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
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
        let plan = Plan { n_workers: 2, per_second: Some(100), deadline: SOON, ..Plan::to(server.addr, "/") };
        let began = Instant::now();
        let load = Load::run(plan);
        load.wait_for_requests(21, SOON);
        // Request number 20 may not begin before its time; how late it is depends on the machine.
        assert!(began.elapsed() >= Duration::from_millis(200));
        load.finish().expect_no_loss();
    }
}
