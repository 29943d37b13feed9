//! Which segments become one, so that a head lists few however many commits there were: pure.

/// So many segments a head may list before some become one.
const MOST: usize = 16;

/// Returns from which of the segments on, all of them become one with a new segment, given their lengths in the order of the head, oldest first; none when the head has
/// room.
///
/// From the end, a segment joins as long as it is at most twice as long as all after it together: each row is written again a logarithmic number of times.
pub(crate) fn from(lens: &[u64], new: u64) -> Option<usize> {
    if lens.len() < MOST {
        return None;
    }
    let mut at = lens.len() - 1;
    let mut sum = new + lens[at];
    while at > 0 && lens[at - 1] <= 2 * sum {
        at -= 1;
        sum += lens[at];
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_stay_short_and_rows_are_written_again_few_times() {
        let (mut lens, mut written) = (vec![], 0_u64);
        for n in 0..10_000 {
            let mut new = 100 + n % 7;
            if let Some(at) = from(&lens, new) {
                new += lens.drain(at..).sum::<u64>();
            }
            lens.push(new);
            written += new;
            assert!(lens.len() <= MOST, "{lens:?}");
        }
        let rows: u64 = lens.iter().sum();
        assert!(written < 12 * rows, "{written} {rows}");
        assert_eq!(from(&[5; 15], 1), None);
    }
}
