//! When a request is tried again, and how long a try may take: decided from what is passed in.

use std::time::Duration;

use super::failure::{Failure, Kind};

/// How patient the client is with a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often a request is tried.
    pub tries: u32,
    /// The pause after the first try; it doubles.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// No try begins later than this after the first.
    pub altogether: Duration,
    /// How long nothing may happen: for a connection, an answer's beginning, the first bytes of a body.
    pub silence: Duration,
    /// How many bytes a second a body must make from then on.
    pub least_rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 10,
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            altogether: Duration::from_secs(300),
            silence: Duration::from_secs(20),
            // 32 bodies in flight share a line; half a megabit a second among all of them is the least that is worth waiting for.
            least_rate: 2 << 10,
        }
    }
}

impl Patience {
    /// Returns how long a body of which `len` bytes are sent or were received may have taken.
    pub fn time_for(&self, len: u64) -> Duration {
        self.silence.saturating_add(Duration::from_millis(len.saturating_mul(1000) / self.least_rate.max(1)))
    }

    /// Returns the pause before the next try after `tries` failed, or nothing when it is enough. `random` spreads the clients that failed together.
    pub(super) fn next(&self, failure: &Failure, tries: u32, elapsed: Duration, random: u64) -> Option<Duration> {
        let whole = self.pause.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(self.longest_pause);
        let half = whole / 2;
        let pause = half + half.mul_f64(random as f64 / u64::MAX as f64);
        (failure.is_transient() && tries < self.tries && elapsed + pause <= self.altogether).then_some(pause)
    }
}

/// The failures of one request, for its last word.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// How many there were.
    pub count: u32,
    /// The first that may have been done all the same.
    pub unclear: Option<Failure>,
}

impl Tries {
    /// Counts one more.
    pub(super) fn add(&mut self, failure: &Failure) {
        self.count += 1;
        if self.unclear.is_none() && failure.is_unclear() {
            self.unclear = Some(failure.clone());
        }
    }

    /// Returns what is not known at the end: for a write, whether an earlier try was done, unless the last answer tells.
    pub(super) fn unknown(&self, last: &Failure) -> Option<&Failure> {
        self.unclear.as_ref().filter(|_| last.kind != Kind::Changed)
    }
}

/// Returns a number nobody can tell beforehand, good enough to spread pauses.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        tries: 4,
        pause: Duration::from_millis(100),
        longest_pause: Duration::from_millis(250),
        altogether: Duration::from_secs(10),
        silence: Duration::from_secs(20),
        least_rate: 1000,
    };

    fn next(kind: Kind, tries: u32, elapsed: u64, random: u64) -> Option<u128> {
        PATIENCE.next(&Failure::new(kind, ""), tries, Duration::from_secs(elapsed), random).map(|pause| pause.as_millis())
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread_over_their_second_half() {
        assert_eq!(
            (1..4).map(|tries| next(Kind::Overrun, tries, 0, u64::MAX)).collect::<Vec<_>>(),
            [Some(100), Some(200), Some(250)]
        );
        assert_eq!((1..4).map(|tries| next(Kind::Lost, tries, 0, 0)).collect::<Vec<_>>(), [Some(50), Some(100), Some(125)]);
    }

    #[test]
    fn tries_end_by_number_by_time_and_at_what_no_try_changes() {
        assert_eq!(next(Kind::Late, 4, 0, 0), None, "by number");
        assert_eq!(next(Kind::Late, 1, 10, 0), None, "by time");
        for kind in [Kind::Absent, Kind::Changed, Kind::Denied, Kind::Malformed, Kind::Hopeless, Kind::TooLong(1), Kind::NoUpload]
        {
            assert_eq!(next(kind, 1, 0, 0), None, "{kind:?}");
        }
    }

    #[test]
    fn a_body_has_time_by_its_length() {
        assert_eq!((PATIENCE.time_for(0), PATIENCE.time_for(5000)), (Duration::from_secs(20), Duration::from_secs(25)));
        assert!(PATIENCE.time_for(u64::MAX) > Duration::from_secs(1 << 30));
    }

    #[test]
    fn a_lost_reply_leaves_the_outcome_unknown_unless_the_bucket_changed() {
        let mut tries = Tries::default();
        tries.add(&Failure::new(Kind::Overrun, "first"));
        assert_eq!(tries.unknown(&Failure::new(Kind::Overrun, "")), None);
        tries.add(&Failure::new(Kind::Lost, "second"));
        assert_eq!(tries.unknown(&Failure::new(Kind::Denied, "")).map(|failure| failure.why.as_str()), Some("second"));
        assert_eq!(tries.unknown(&Failure::new(Kind::Changed, "")), None);
    }
}
