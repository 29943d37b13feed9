//! A client of our own on a port that goes from one version to the next: it asks at a steady pace, and counts what clients lose.
//!
//! Each request is a new connection; one more connection is opened at the beginning and asked again until the end. The pace is bounded in requests a second
//! and in requests at once, and a turn that was missed is never made up for: a program that is slow is not asked harder. Nothing is asked that a probe of the
//! release would not ask.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use df_core::Endpoint;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::http::{HttpProbe, http, http_again};
use super::words;
use crate::dial;

/// The smallest thing that a port can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A GET with this answer.
    Http(HttpProbe),
    /// A connection that is not reset for a moment.
    Connection,
}

/// How hard it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// New connections a second, at least 1.
    pub per_second: u32,
    /// Requests at once.
    pub at_once: usize,
    /// A request that takes longer counts as lost.
    pub patience: Duration,
}

/// A client at work; it stops when it is dropped.
#[derive(Debug)]
pub struct Steady {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What it saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Requests that were begun and ended, those over the connection that stays among them.
    pub requests: u64,
    /// How many of them were lost.
    pub failed: u64,
    /// The longest that one took.
    pub worst: Duration,
    /// How the first of them was lost.
    pub first_loss: Option<String>,
    /// Whether the connection that stays was of use to the end; `None` when the other side keeps none open.
    pub kept: Option<bool>,
}

/// How long the connection that stays is left alone between two requests.
const LONG_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection is held on which nothing is said.
const HELD: Duration = Duration::from_millis(5);
/// What is read of what is said there.
const HELD_LEN: usize = 4096;

impl Steady {
    /// Begins to ask. `stays`: whether one connection is kept open; only where HTTP says that it may be.
    pub fn start(address: impl Into<Endpoint>, question: Question, pace: Pace, stays: bool) -> Self {
        let shared =
            Arc::new(Shared { address: address.into(), question, pace, state: Mutex::default(), changed: Condvar::new() });
        let mut threads: Vec<_> = (0..pace.at_once.max(1)).map(|_| shared.clone().spawn(Shared::ask_on)).collect();
        if stays && matches!(shared.question, Question::Http(_)) {
            shared.state().opens = true;
            threads.push(shared.clone().spawn(Shared::stay));
        }
        Self { shared, threads }
    }

    /// Waits until the first request has ended and the connection that stays is open, and returns whether the request was answered.
    ///
    /// Where it was not, the version that serves is not well itself, and what is lost says nothing of the next one. A connection that is not open by then
    /// is none that was open before.
    pub fn is_answered(&self, within: Duration) -> bool {
        let mut state = self.shared.wait(within, |state| state.asked.requests > 0 && !state.opens);
        state.opens = false;
        state.asked.requests > 0 && state.asked.failed == 0
    }

    /// Returns how many requests have begun so far.
    pub fn n_begun(&self) -> u64 {
        self.shared.state().n_begun
    }

    /// Waits until so many requests have begun in all; fewer when the time is over.
    pub fn go_on(&self, n_begun: u64, within: Duration) {
        drop(self.shared.wait(within, |state| state.n_begun >= n_begun));
    }

    /// Lets no request begin any more, without waiting for those under way.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Lets what was asked be answered, and returns what was seen. The connection that stays is asked a last time.
    pub fn finish(mut self) -> Asked {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // One that panicked has counted what it saw.
            let _ = thread.join();
        }
        self.shared.state().asked.clone()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[derive(Debug)]
struct Shared {
    address: Endpoint,
    question: Question,
    pace: Pace,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    /// When the next request may begin.
    next: Option<Instant>,
    n_begun: u64,
    /// The connection that stays is being opened, and there is time for that.
    opens: bool,
    asked: Asked,
}

impl Shared {
    fn spawn(self: Arc<Self>, work: fn(&Self)) -> JoinHandle<()> {
        thread::spawn(move || work(&self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with this lock")
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    fn wait(&self, within: Duration, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.state(), within, |state| !until(state) && !state.stopped);
        waited.expect("nobody panics with this lock").0
    }

    /// One of the clients: a new connection at each turn.
    fn ask_on(&self) {
        while self.take_turn() {
            let began = Instant::now();
            let answered = match &self.question {
                Question::Http(probe) => {
                    let outcome = http("", probe, &|timeout| dial::endpoint(&self.address, timeout), self.pace.patience);
                    if outcome.ok { Ok(()) } else { Err(outcome.detail) }
                }
                Question::Connection => connect(&self.address, self.pace.patience),
            };
            self.count(began.elapsed(), answered);
        }
    }

    /// Waits for the time of the next request; false when there is none.
    fn take_turn(&self) -> bool {
        let between = Duration::from_secs(1) / self.pace.per_second.max(1);
        let turn = {
            let mut state = self.state();
            let turn = state.next.unwrap_or_else(Instant::now).max(Instant::now());
            state.next = Some(turn + between);
            turn
        };
        let mut state = self.wait(turn.saturating_duration_since(Instant::now()), |_| false);
        if state.stopped {
            return false;
        }
        state.n_begun += 1;
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The client whose connection stays: it is asked now and then, and a last time at the end.
    fn stay(&self) {
        let Question::Http(probe) = &self.question else { return };
        let opened = dial::endpoint(&self.address, self.pace.patience).ok();
        // What keeps no connection open is no loss; that it does not answer is seen by the others.
        let kept = opened
            .and_then(|mut stream| http_again(&mut stream, probe, self.pace.patience).is_ok_and(|keeps| keeps).then_some(stream));
        let mut state = self.state();
        // One that comes after the switch is the next version's, and proves nothing.
        let kept = kept.filter(|_| state.opens);
        state.opens = false;
        state.asked.kept = kept.as_ref().map(|_| true);
        drop(state);
        self.changed.notify_all();
        let Some(mut stream) = kept else { return };
        loop {
            let stopped = self.wait(LONG_PAUSE, |_| false).stopped;
            let began = Instant::now();
            let answer = http_again(&mut stream, probe, self.pace.patience);
            let keeps = *answer.as_ref().unwrap_or(&false);
            if answer.is_err() {
                self.state().asked.kept = Some(false);
            }
            self.count(began.elapsed(), answer.map(drop).map_err(|why| format!("on a connection that was open before: {why}")));
            if stopped || !keeps {
                return;
            }
        }
    }

    fn count(&self, took: Duration, answered: Result<(), String>) {
        let mut state = self.state();
        let asked = &mut state.asked;
        asked.requests += 1;
        asked.worst = asked.worst.max(took);
        if let Err(why) = answered {
            asked.failed += 1;
            asked.first_loss.get_or_insert(why);
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Connects and holds the connection for a moment: one that is reset was lost in a queue. What is said on it is read, so that closing it resets nothing.
fn connect(address: &Endpoint, patience: Duration) -> Result<(), String> {
    let mut stream = dial::endpoint(address, patience).map_err(|error| format!("connect: {}", words(&error)))?;
    let until = Instant::now() + HELD;
    let mut chunk = [0; HELD_LEN];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let time = Timespec::try_from(left).expect("a few milliseconds");
        match poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&time)) {
            Ok(0) => break,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error).to_string()),
            Ok(_) => {}
        }
        match stream.read(&mut chunk) {
            // Who closes a connection on which nothing was asked may do so.
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(format!("held: {}", words(&error))),
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use std::io::Write as _;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    const SOON: Duration = Duration::from_secs(20);
    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const BYE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

    fn question() -> Question {
        Question::Http(HttpProbe { host: "localhost".into(), path: "/".into(), status: 200 })
    }

    fn pace(per_second: u32) -> Pace {
        Pace { per_second, at_once: 4, patience: SOON }
    }

    /// Answers each request by `answer`, given how many came before in all and on its connection; `None` closes. Threads end with their clients.
    fn serve(answer: impl Fn(u64, u64) -> Option<&'static [u8]> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (n_requests, at_once, most) = (AtomicU64::new(0), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        thread::spawn(move || {
            thread::scope(|scope| {
                for stream in listener.incoming().flatten() {
                    scope.spawn(|| {
                        let mut stream = stream;
                        let (mut request, mut n_here) = ([0; 1024], 0);
                        while let Ok(1..) = stream.read(&mut request) {
                            // A request is under way until it is answered: nobody is asked for more than that.
                            seen.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            let text = answer(n_requests.fetch_add(1, Ordering::SeqCst), n_here);
                            at_once.fetch_sub(1, Ordering::SeqCst);
                            let Some(text) = text else { break };
                            n_here += 1;
                            let _ = stream.write_all(text);
                            if text == BYE {
                                break;
                            }
                        }
                    });
                }
            });
        });
        (address, most)
    }

    #[test]
    fn a_port_that_stays_loses_nothing_and_keeps_the_connection_that_stays() {
        let (address, most) = serve(|_, _| Some(HELLO));
        let steady = Steady::start(address, question(), pace(1000), true);
        assert!(steady.is_answered(SOON));
        steady.go_on(100, SOON);
        let asked = steady.finish();
        assert_eq!((asked.failed, asked.kept, asked.first_loss), (0, Some(true), None));
        assert!(asked.requests >= 100 && asked.worst > Duration::ZERO, "{} requests", asked.requests);
        assert!(most.load(Ordering::SeqCst) <= 5, "more at once than allowed");
    }

    #[test]
    fn each_way_to_lose_a_request_is_counted_and_the_first_is_named() {
        let ways: [(&'static [u8], &str); 3] = [
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "status 503"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nshort", "no answer"),
            (b"", "no answer in time"),
        ];
        for (way, said) in ways {
            let (address, _) = serve(move |n, _| Some(if n == 20 { way } else { BYE }));
            let steady = Steady::start(address, question(), Pace { patience: Duration::from_secs(5), ..pace(500) }, false);
            assert!(steady.is_answered(SOON));
            steady.go_on(60, SOON);
            let asked = steady.finish();
            let loss = asked.first_loss.clone().unwrap_or_default();
            let is_short = way.ends_with(b"short");
            // A body that is slow says nothing against the status.
            assert_eq!(asked.failed, u64::from(!is_short), "{asked:?}");
            assert!(is_short || loss.contains(said), "{loss}");
        }
    }

    #[test]
    fn a_listener_that_closes_loses_and_one_that_never_was_is_no_base() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        for question in [question(), Question::Connection] {
            drop(Steady::start(address, question, pace(100), true));
        }
        let (_nobody, address) = fixture::nobody();
        let steady = Steady::start(address, Question::Connection, pace(1000), true);
        assert!(!steady.is_answered(SOON));
        let asked = steady.finish();
        assert_eq!((asked.failed, asked.kept), (asked.requests, None));
        assert!(asked.first_loss.is_some_and(|loss| loss.contains("refused")));
    }

    #[test]
    fn a_connection_that_was_open_before_and_is_closed_is_a_loss() {
        // The first answer promises to keep it; the next request over it finds it closed.
        let (address, _) = serve(|_, n_here| (n_here == 0).then_some(HELLO));
        let steady = Steady::start(address, question(), Pace { at_once: 1, per_second: 1, ..pace(1) }, true);
        drop(steady.shared.wait(SOON, |state| state.asked.kept == Some(false)));
        let asked = steady.finish();
        assert_eq!((asked.failed, asked.kept), (1, Some(false)), "{asked:?}");
        assert!(asked.first_loss.is_some_and(|loss| loss.starts_with("on a connection that was open before")));
    }

    /// Answers at once, but on connections that stay only when told to.
    fn serve_late() -> (SocketAddr, std::sync::mpsc::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (tell, told) = std::sync::mpsc::channel();
        let told = Arc::new(Mutex::new(told));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mut stream, told) = (stream, told.clone());
                thread::spawn(move || {
                    let mut request = [0; 1024];
                    while let Ok(n @ 1..) = stream.read(&mut request) {
                        let stays = String::from_utf8_lossy(&request[..n]).contains("keep-alive");
                        if stays && told.lock().expect("no panic").recv().is_err() {
                            return;
                        }
                        let _ = stream.write_all(if stays { HELLO } else { BYE });
                        if !stays {
                            return;
                        }
                    }
                });
            }
        });
        (address, tell)
    }

    #[test]
    fn a_connection_that_was_not_open_before_the_switch_is_not_said_to_have_lived_through_it() {
        let patient = Pace { patience: SOON, ..pace(500) };
        let (address, tell) = serve_late();
        let steady = Steady::start(address, question(), patient, true);
        steady.go_on(20, SOON);
        for _ in 0..2 {
            tell.send(()).expect("the server lives");
        }
        assert!(steady.is_answered(SOON));
        assert_eq!(steady.shared.state().asked.kept, Some(true), "nobody waited for it");
        drop((steady, tell));

        let (address, tell) = serve_late();
        let steady = Steady::start(address, question(), patient, true);
        steady.go_on(20, SOON);
        assert!(steady.is_answered(Duration::ZERO), "the others are well");
        for _ in 0..2 {
            tell.send(()).expect("the server lives");
        }
        assert_eq!(steady.finish().kept, None, "it was opened later");
    }

    #[test]
    fn who_keeps_no_connection_open_loses_none() {
        let (address, _) = serve(|_, _| Some(BYE));
        let steady = Steady::start(address, question(), pace(500), true);
        steady.go_on(20, SOON);
        let asked = steady.finish();
        assert_eq!((asked.failed, asked.kept), (0, None), "{asked:?}");
    }

    #[test]
    fn the_pace_is_never_exceeded_and_a_missed_turn_not_made_up_for() {
        let (address, _) = serve(|_, _| Some(BYE));
        let began = Instant::now();
        let steady = Steady::start(address, question(), pace(50), false);
        steady.go_on(10, SOON);
        let asked = steady.finish();
        let most = began.elapsed().as_millis() / 20 + 1;
        assert!(u128::from(asked.requests) <= most, "{} requests, {most} allowed", asked.requests);
    }

    #[test]
    fn connections_on_which_nothing_is_said_are_held_and_closed_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (told, banners) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let sent = stream.write_all(b"220 welcome\r\n");
                let ended = stream.read(&mut [0; 16]).map_err(|error| error.kind());
                let _ = told.send((sent.is_ok(), ended));
            }
        });
        let steady = Steady::start(address, Question::Connection, pace(200), true);
        for _ in 0..10 {
            let seen = banners.recv_timeout(SOON).expect("a client");
            assert_eq!(seen, (true, Ok(0)), "a client went away by reset");
        }
        assert_eq!(steady.finish().failed, 0);
    }
}
