//! What may be in flight to a bucket: a fair permit over requests and bytes, whose bound adapts to how the bucket answers.
//!
//! [`pace`] decides, without a clock; this measures and blocks.

pub mod pace;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pace::{Answer, Outcome, Pace};

/// Permits of one direction. Whoever asks first goes first, so that a large body is not overtaken for ever by small ones.
pub struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
    bytes: u64,
    epoch: Instant,
}

struct State {
    pace: Pace,
    in_flight: usize,
    bytes_in_flight: u64,
    /// Tickets of those who wait, in the order they came.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

impl Schedule {
    /// Makes a schedule that begins with `start` requests, never lets more than `most` through, and holds at most `bytes` of bodies.
    pub fn new(start: usize, most: usize, bytes: u64) -> Self {
        let state =
            State { pace: Pace::new(start, most), in_flight: 0, bytes_in_flight: 0, waiting: VecDeque::new(), next_ticket: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes, epoch: Instant::now() }
    }

    /// Waits until a request with a body of `len` bytes may begin. A body above the bound goes alone.
    pub fn enter(&self, len: u64) -> Permit<'_> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        while state.waiting.front() != Some(&ticket) || !state.fits(len, self.bytes) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        state.in_flight += 1;
        state.bytes_in_flight += len;
        let (in_flight, full) = (state.in_flight, state.in_flight >= state.pace.limit());
        drop(state);
        // The next in line may fit too.
        self.changed.notify_all();
        Permit { schedule: self, len, in_flight, full, begun: Instant::now(), answer: Answer::Nothing }
    }

    /// Returns how many requests may be in flight now.
    pub fn limit(&self) -> usize {
        self.lock().pace.limit()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the counters right: they are only changed by statements that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fits(&self, len: u64, bytes: u64) -> bool {
        let room = self.bytes_in_flight.checked_add(len).is_some_and(|sum| sum <= bytes);
        self.in_flight == 0 || (self.in_flight < self.pace.limit() && room)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("limit", &self.limit()).finish_non_exhaustive()
    }
}

/// One request that may be in flight; gives its place back when it is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    schedule: &'a Schedule,
    len: u64,
    /// How many there were when it began, itself included.
    in_flight: usize,
    full: bool,
    begun: Instant,
    answer: Answer,
}

impl Permit<'_> {
    /// Says how the request ended, which is what the bound adapts to, and gives the place back.
    pub fn done(mut self, answer: Answer) {
        self.answer = answer;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let schedule = self.schedule;
        let mut state = schedule.lock();
        let outcome = Outcome {
            begun: self.begun.duration_since(schedule.epoch),
            ended: schedule.epoch.elapsed(),
            len: self.len,
            in_flight: self.in_flight.max(state.in_flight),
            full: self.full,
            answer: self.answer,
        };
        state.pace.learn(&outcome);
        state.in_flight -= 1;
        state.bytes_in_flight -= self.len;
        drop(state);
        schedule.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    /// Long enough for a thread that could go on to have done so.
    const MOMENT: Duration = Duration::from_millis(50);

    #[test]
    fn no_more_requests_than_the_bound_are_in_flight() {
        let schedule = Schedule::new(3, 3, u64::MAX);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let permit = schedule.enter(1);
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn bytes_are_bounded_and_a_body_above_the_bound_goes_alone() {
        let schedule = Arc::new(Schedule::new(8, 8, 100));
        let first = schedule.enter(60);
        let (entered, wait) = mpsc::channel();
        let other = std::thread::spawn({
            let schedule = Arc::clone(&schedule);
            move || {
                drop(schedule.enter(1000));
                entered.send(()).expect("the test waits");
            }
        });
        assert!(wait.recv_timeout(MOMENT).is_err(), "too many bytes in flight");
        drop(first);
        wait.recv_timeout(Duration::from_secs(10)).expect("alone");
        other.join().expect("no panic");
    }

    #[test]
    fn who_came_first_goes_first() {
        let schedule = Arc::new(Schedule::new(2, 2, 100));
        let held = schedule.enter(60);
        let (entered, order) = mpsc::channel();
        let spawn = |len: u64| {
            let (schedule, entered) = (Arc::clone(&schedule), entered.clone());
            let before = schedule.lock().waiting.len();
            let thread = std::thread::spawn({
                let schedule = Arc::clone(&schedule);
                move || {
                    let permit = schedule.enter(len);
                    entered.send(len).expect("the test waits");
                    drop(permit);
                }
            });
            while schedule.lock().waiting.len() == before {
                std::thread::yield_now();
            }
            thread
        };
        // The small one would fit at once; it must not overtake the large one. The two do not fit together, so each says in its turn that it entered.
        let threads = [spawn(90), spawn(20)];
        assert!(order.recv_timeout(MOMENT).is_err());
        drop(held);
        assert_eq!((order.recv(), order.recv()), (Ok(90), Ok(20)));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    /// Has as many requests in flight at once as `most` threads would have, all answered alike; returns how many that were.
    fn round(schedule: &Schedule, most: usize, answer: Answer) -> usize {
        let n = schedule.limit().min(most);
        let permits: Vec<_> = (0..n).map(|_| schedule.enter(1)).collect();
        permits.into_iter().for_each(|permit| permit.done(answer));
        n
    }

    #[test]
    fn refusals_leave_fewer_packs_in_flight_at_once_and_success_brings_all_of_them_back() {
        let schedule = Schedule::new(32, 64, u64::MAX);
        let rounds = |n: usize, answer| (0..n).map(|_| round(&schedule, 3, answer)).collect::<Vec<_>>();
        assert_eq!(rounds(2, Answer::Served), [3, 3]);
        assert_eq!(rounds(3, Answer::SlowDown), [3, 1, 1]);
        // In how many rounds depends on how long each took.
        let back = rounds(1000, Answer::Served);
        assert!(back[0] == 1 && back.is_sorted() && back.last() == Some(&3), "{back:?}");
    }
}
