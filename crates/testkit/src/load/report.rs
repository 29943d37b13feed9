//! What clients saw, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::{Answer, Loss};

/// What the clients saw.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests that were begun and ended, lost ones included.
    pub requests: u64,
    /// How many of them asked over a connection that had answered before.
    pub n_kept: u64,
    /// How many of them were for the slow answer.
    pub n_slow: u64,
    /// How often a kept connection was closed between two questions; the question was asked again, over a new one.
    pub n_closed: u64,
    /// How many connections were opened to be kept: more than there are such clients, if one was closed, also one that was said to be.
    pub n_connected: u64,
    /// Requests that were lost, with the reason; the first 1000 of them.
    pub lost: Vec<Lost>,
    /// How many were lost.
    pub n_lost: u64,
    /// The longest time from connecting to the last byte, lost ones included, those for the slow answer left out.
    pub worst_ms: u64,
    /// How often each body came, as text.
    pub bodies: BTreeMap<String, u64>,
    /// When each body came first and last, from the start of the load: `first <= last`.
    pub spans: BTreeMap<String, (Duration, Duration)>,
    times: Times,
}

/// A request that a client missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When it began, from the start of the load.
    pub at: Duration,
    /// How it was lost.
    pub reason: Loss,
}

/// Which of the clients asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    New,
    Kept,
    Slow,
}

const MAX_LOST_KEPT: usize = 1000;
const MAX_BODIES_KEPT: usize = 10_000;

impl Report {
    /// Returns itself when something was asked and nothing was lost, else panics with the first losses.
    #[track_caller]
    pub fn expect_no_loss(self) -> Report {
        assert!(self.requests > 0, "no request was made, which proves nothing");
        let first = &self.lost[..self.lost.len().min(10)];
        assert!(self.n_lost == 0, "{} of {} requests lost, first: {first:#?}", self.n_lost, self.requests);
        self
    }

    /// Returns the time that so many of a thousand requests did not exceed, those for the slow answer left out; at most a sixteenth too long.
    pub fn of_a_thousand(&self, n: u64) -> Duration {
        self.times.of_a_thousand(n)
    }

    pub(super) fn count(&mut self, asked: Asked, began: Duration, ended: Duration, answer: Result<Answer, Loss>) {
        self.requests += 1;
        match asked {
            Asked::Slow => self.n_slow += 1,
            Asked::Kept => self.n_kept += 1,
            Asked::New => {}
        }
        if asked != Asked::Slow {
            self.worst_ms = self.worst_ms.max((ended - began).as_millis() as u64);
            self.times.add(ended - began);
        }
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

/// How many requests took how long: sixteen steps for each doubling.
#[derive(Debug, Clone, Default)]
struct Times(BTreeMap<u32, u64>);

impl Times {
    fn add(&mut self, time: Duration) {
        *self.0.entry(step(time.as_micros() as u64)).or_default() += 1;
    }

    fn of_a_thousand(&self, n: u64) -> Duration {
        let all: u64 = self.0.values().sum();
        let mut left = (all * n).div_ceil(1000);
        let found = self.0.iter().find(|(_, count)| {
            left = left.saturating_sub(**count);
            left == 0
        });
        found.map_or(Duration::ZERO, |(step, _)| Duration::from_micros(longest(*step)))
    }
}

fn step(us: u64) -> u32 {
    match us {
        0..16 => us as u32,
        _ => (us.ilog2() - 3) * 16 + ((us >> (us.ilog2() - 4)) & 15) as u32,
    }
}

fn longest(step: u32) -> u64 {
    match step {
        0..16 => u64::from(step),
        _ => ((u64::from(step % 16) + 17) << (step / 16 - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_at_all_proves_nothing() {
        assert!(std::panic::catch_unwind(|| Report::default().expect_no_loss()).is_err());
    }

    #[test]
    fn of_a_thousand_requests_the_slowest_are_told() {
        let mut times = Times::default();
        (0..999).for_each(|_| times.add(Duration::from_micros(100)));
        times.add(Duration::from_millis(80));
        assert_eq!(times.of_a_thousand(999), Duration::from_micros(103));
        assert!(times.of_a_thousand(1000) >= Duration::from_millis(80));
        assert_eq!(Times::default().of_a_thousand(999), Duration::ZERO);
        for us in [0, 15, 16, 31, 32, 1000, 123_456, u64::from(u32::MAX)] {
            assert!(longest(step(us)) >= us && longest(step(us)) <= us + us / 16, "{us}");
            assert_eq!(step(longest(step(us)) + 1), step(us) + 1);
        }
    }
}
