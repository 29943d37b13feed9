//! How many requests may be in flight: fewer at once when the bucket is overrun, more little by little while it is not.
//!
//! Multiplicative decrease and additive increase, as TCP does (Chiu and Jain, 1989): halved on 503 and on timeouts, three quarters when requests take twice
//! as long as they did, one more per round of requests that filled the bound. What is halved is what was in flight (RFC 5681, 3.1), not what might have been: a put has three packs on their
//! way, and a bound of thirty-two would have to be refused four times before that is less. A request that was sent before the last decrease says nothing new: a storm of 503s that
//! answers one round counts once.

use std::time::Duration;

/// Refusals may bring the bound down to one; mere slowness not below this, for it may be the network's, and few requests would only make that worse.
const FLOOR_OF_SLOWNESS: f64 = 4.0;

/// What the fixed part of a request weighs in bytes: 30 ms at 33 MB/s. Without it the small objects would look slow beside the large ones.
const BYTES_OF_A_REQUEST: f64 = 1_048_576.0;

/// The part of the newest request in the mean.
const NEWEST: f64 = 0.125;

/// How fast the best mean is forgotten, per request: a network that got slower for good is the new normal after some hundred requests.
const FORGET: f64 = 0.01;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it should, or with an error that tells nothing about load.
    Served,
    /// The bucket said that it is overrun (503, 429).
    SlowDown,
    /// No answer in time.
    Late,
    /// It was not sent at all, or nothing is known.
    Nothing,
}

/// What is known of one request afterwards. Times are since any fixed moment.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// When it was sent.
    pub begun: Duration,
    /// When it ended.
    pub ended: Duration,
    /// The length of its body, in bytes.
    pub len: u64,
    /// How many were in flight with it, itself included: when it was sent, or when it ended if they were more then.
    pub in_flight: usize,
    /// Whether as many were in flight as might be: only then does success say that more are possible.
    pub full: bool,
    /// How it ended.
    pub answer: Answer,
}

/// The bound and what it was learned from.
#[derive(Debug, Clone)]
pub struct Pace {
    bound: f64,
    most: f64,
    /// Seconds per weighed byte: the mean of late, and the best mean so far.
    mean: Option<f64>,
    best: f64,
    /// When the bound was last lowered.
    lowered: Option<Duration>,
}

impl Pace {
    /// Begins with `start` requests of at most `most`.
    pub fn new(start: usize, most: usize) -> Self {
        let most = most.max(1) as f64;
        Self { bound: (start.max(1) as f64).min(most), most, mean: None, best: f64::INFINITY, lowered: None }
    }

    /// Returns how many requests may be in flight, at least one.
    pub fn limit(&self) -> usize {
        self.bound as usize
    }

    /// Takes one request's end into account.
    pub fn learn(&mut self, outcome: &Outcome) {
        let news = self.lowered.is_none_or(|lowered| outcome.begun >= lowered);
        match outcome.answer {
            Answer::Nothing => {}
            Answer::SlowDown | Answer::Late if news => self.lower(0.5, 1.0, outcome),
            Answer::SlowDown | Answer::Late => {}
            Answer::Served => {
                if self.is_slower(outcome) && news {
                    self.lower(0.75, FLOOR_OF_SLOWNESS, outcome);
                } else if outcome.full {
                    self.bound = (self.bound + 1.0 / self.bound).min(self.most);
                }
            }
        }
    }

    fn lower(&mut self, factor: f64, floor: f64, outcome: &Outcome) {
        let used = self.bound.min(outcome.in_flight as f64);
        self.bound = (used * factor).max(floor.min(self.bound));
        self.lowered = Some(outcome.ended);
        // What was measured under the old bound is no measure of the new one.
        self.mean = None;
    }

    /// Takes a duration into the mean and tells whether that is now twice the best.
    fn is_slower(&mut self, outcome: &Outcome) -> bool {
        let took = outcome.ended.saturating_sub(outcome.begun).as_secs_f64() / (outcome.len as f64 + BYTES_OF_A_REQUEST);
        let mean = self.mean.map_or(took, |mean| mean + (took - mean) * NEWEST);
        self.mean = Some(mean);
        self.best = if mean < self.best { mean } else { self.best + (mean - self.best) * FORGET };
        mean > 2.0 * self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends rounds of as many requests as may be in flight, each taking what `took` says of that number, and returns the bound after each round.
    fn rounds(pace: &mut Pace, from: Duration, n: usize, answer: Answer, took: impl Fn(usize) -> Duration) -> Vec<usize> {
        let mut now = from;
        let mut round = || {
            let in_flight = pace.limit();
            let ended = now + took(in_flight);
            let outcome = Outcome { begun: now, ended, len: 16 << 20, in_flight, full: true, answer };
            (0..in_flight).for_each(|_| pace.learn(&outcome));
            now = ended;
            pace.limit()
        };
        (0..n).map(|_| round()).collect()
    }

    fn ms(n: usize) -> Duration {
        Duration::from_millis(n as u64)
    }

    #[test]
    fn each_round_that_goes_well_adds_one() {
        let mut pace = Pace::new(10, 14);
        assert_eq!(rounds(&mut pace, ms(0), 6, Answer::Served, |_| ms(100)), [10, 11, 12, 13, 14, 14]);
    }

    #[test]
    fn a_storm_of_refusals_halves_once_a_round_and_ends_at_one() {
        let mut pace = Pace::new(32, 64);
        assert_eq!(rounds(&mut pace, ms(0), 7, Answer::SlowDown, |_| ms(100)), [16, 8, 4, 2, 1, 1, 1]);
        assert_eq!(rounds(&mut pace, ms(9000), 3, Answer::Served, |_| ms(100)), [2, 2, 3], "and it recovers");
    }

    #[test]
    fn a_refusal_halves_what_was_in_flight_however_much_might_have_been() {
        let refused = |in_flight: usize| {
            let mut pace = Pace::new(32, 64);
            pace.learn(&Outcome { begun: ms(0), ended: ms(1), len: 1, in_flight, full: false, answer: Answer::SlowDown });
            pace.limit()
        };
        assert_eq!([1, 2, 3, 6, 32].map(refused), [1, 1, 1, 3, 16]);
    }

    #[test]
    fn slowness_alone_never_brings_few_requests_down_to_fewer() {
        let mut pace = Pace::new(32, 64);
        for took in [10, 10, 10, 100_000, 100_000] {
            pace.learn(&Outcome { begun: ms(0), ended: ms(took), len: 1, in_flight: 3, full: false, answer: Answer::Served });
        }
        assert_eq!(pace.limit(), 4);
    }

    #[test]
    fn what_comes_late_counts_like_a_refusal() {
        let mut pace = Pace::new(32, 64);
        assert_eq!(rounds(&mut pace, ms(0), 1, Answer::Late, |_| ms(100)), [16]);
    }

    #[test]
    fn latency_that_grows_with_the_requests_in_flight_stops_the_growth() {
        // Up to 20 in flight cost nothing; beyond, each takes what the queue takes.
        let knee = |in_flight: usize| ms(100 * in_flight.max(20) / 20 * if in_flight > 40 { 3 } else { 1 });
        let mut pace = Pace::new(32, 64);
        let bounds = rounds(&mut pace, ms(0), 200, Answer::Served, knee);
        assert!(bounds.iter().all(|bound| (15..=50).contains(bound)), "{bounds:?}");
    }

    #[test]
    fn slowness_alone_leaves_some_in_flight_and_a_slower_network_becomes_normal() {
        let mut pace = Pace::new(32, 64);
        rounds(&mut pace, ms(0), 3, Answer::Served, |_| ms(100));
        let worst = rounds(&mut pace, ms(1000), 60, Answer::Served, |_| ms(1000)).into_iter().min();
        assert!(worst >= Some(4), "{worst:?}");
        let last = rounds(&mut pace, ms(100_000), 100, Answer::Served, |_| ms(1000)).pop();
        assert!(last > Some(32), "{last:?}");
    }

    #[test]
    fn success_while_little_is_in_flight_proves_nothing() {
        let mut pace = Pace::new(8, 64);
        for i in 0..1000 {
            let outcome = Outcome { begun: ms(i), ended: ms(i + 1), len: 1, in_flight: 1, full: false, answer: Answer::Served };
            pace.learn(&outcome);
        }
        assert_eq!(pace.limit(), 8);
    }

    #[test]
    fn small_objects_are_no_measure_of_large_ones() {
        let mut pace = Pace::new(8, 64);
        for i in 0..400 {
            // 30 ms and 33 MB/s: what one request costs, whatever its length.
            let len = if i % 2 == 0 { 1 << 10 } else { 32 << 20 };
            let ended = ms(i) + ms(30) + Duration::from_secs_f64(len as f64 / 33e6);
            pace.learn(&Outcome { begun: ms(i), ended, len, in_flight: 8, full: true, answer: Answer::Served });
        }
        assert!(pace.limit() > 8, "{}", pace.limit());
    }
}
