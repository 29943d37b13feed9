//! One client that asks all the time, over a new connection each: who answered it, and when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use df_testkit::{net, wait_until};

/// A switch takes no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client at work.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What it saw.
#[derive(Default)]
struct Seen {
    /// The first line of each answer, and when it had come.
    answers: Vec<(Instant, String)>,
    n_lost: u64,
}

impl Watcher {
    /// Starts to ask for `/`.
    pub fn start(at: SocketAddr) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = net::get(at, "/", Duration::from_secs(10)).ok().filter(|answer| answer.status == 200);
                    let mut seen = seen.lock().expect("no panic while locked");
                    match answer {
                        Some(answer) => seen.answers.push((Instant::now(), first_line(&answer.body))),
                        None => seen.n_lost += 1,
                    }
                }
            }
        });
        Self { seen, stop, thread }
    }

    /// Waits for answers by the one that answers now, and returns who that is.
    pub fn who(&self) -> String {
        let n = self.seen().answers.len();
        wait_until(PATIENCE, || self.seen().answers.get(n + 5).map(|(_, who)| who.clone())).expect("it is answered")
    }

    /// Waits until somebody else answers, and goes on doing so.
    pub fn other_than(&self, old: &str) -> String {
        wait_until(PATIENCE, || {
            let seen = self.seen();
            seen.answers.last_chunk::<5>().filter(|last| last.iter().all(|(_, who)| who != old)).map(|last| last[4].1.clone())
        })
        .expect("somebody else answers")
    }

    /// Returns how long nobody answered, from the last answer of one to the first of another, in milliseconds.
    pub fn gap_ms(&self, old: &str, new: &str) -> f64 {
        let seen = self.seen();
        let first = seen.answers.iter().position(|(_, who)| who == new).expect("it was seen");
        let last = seen.answers[..first].iter().rposition(|(_, who)| who == old).expect("it was seen");
        millis(seen.answers[first].0 - seen.answers[last].0)
    }

    /// Returns how long it took from a moment to the first answer of somebody after it, in milliseconds.
    pub fn since_ms(&self, moment: Instant, who: &str) -> f64 {
        let seen = self.seen();
        let first = seen.answers.iter().find(|(at, by)| *at > moment && by == who).expect("it was seen");
        millis(first.0 - moment)
    }

    /// Stops; returns how many requests were lost.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a client that does not panic");
        self.seen.lock().expect("no panic while locked").n_lost
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while locked")
    }
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn first_line(body: &[u8]) -> String {
    String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned()
}
