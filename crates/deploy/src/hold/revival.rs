//! When a process that died is started again: at once, then later each time that it dies young, and not for ever.

use std::time::Duration;

/// Whoever lived so long died of something new.
const OF_AGE: Duration = Duration::from_secs(10);
/// The pause before the second attempt; it doubles.
const FIRST: Duration = Duration::from_millis(100);
/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(30);
/// So many that died young, one after the other: nobody is started any more.
const ENOUGH: u32 = 12;

/// How often one died young, one after the other.
#[derive(Debug, Default)]
pub struct Revival {
    n_young: u32,
}

impl Revival {
    /// One died after so long a life; returns how long to wait before the next is started, or `None`: it is given up.
    pub fn after(&mut self, lived: Duration) -> Option<Duration> {
        self.n_young = if lived >= OF_AGE { 1 } else { self.n_young + 1 };
        match self.n_young {
            1 => Some(Duration::ZERO),
            n if n < ENOUGH => Some((FIRST * 2_u32.pow(n - 2)).min(LONGEST)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_young_again_and_again_is_given_up_and_who_lived_is_started_at_once() {
        let mut revival = Revival::default();
        let young = Duration::from_secs(1);
        let pauses: Vec<Option<u128>> = (0..13).map(|_| revival.after(young).map(|pause| pause.as_millis())).collect();
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000];
        assert_eq!(pauses[..11], expected.map(Some));
        assert_eq!(pauses[11..], [None, None]);
        assert_eq!(revival.after(OF_AGE), Some(Duration::ZERO));
        assert_eq!(revival.after(young), Some(FIRST));
    }
}
