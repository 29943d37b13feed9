//! The logistic function and its inverse, in integers.

use crate::entropy::range::ONE;

/// Logits are in 256ths, from `-LOGIT` to `LOGIT`.
pub(super) const LOGIT: i32 = 3071;
/// Guesses go from `-GUESS` to `GUESS`: 32 of them, each by a weight of 16 bits, add up within 32 bits.
pub(super) const GUESS: i32 = 2047;

/// `1 / (1 + e^-x)` of 65536, for every logit.
static SQUASH: [u16; 2 * LOGIT as usize + 1] = squash_table();
/// `ln(p / (1 - p))` in 256ths, for every 16th probability.
static STRETCH: [i16; 4096] = stretch_table();

/// The probability of a logit, of 65536; never 0 or 65536.
#[inline]
pub(super) fn squash(logit: i32) -> u32 {
    u32::from(SQUASH[(logit.clamp(-LOGIT, LOGIT) + LOGIT) as usize])
}

/// The logit of a probability below 65536.
#[inline]
pub(super) fn stretch(p: u32) -> i32 {
    i32::from(STRETCH[(p >> 4) as usize & 4095])
}

const fn squash_table() -> [u16; 2 * LOGIT as usize + 1] {
    // e^(-1/256) in 2^62, to the last digit.
    const STEP: u128 = 4_593_706_758_521_714_574;
    let mut table = [0; 2 * LOGIT as usize + 1];
    let (mut power, mut x) = (1u128 << 62, 0);
    while x <= LOGIT as usize {
        let p = (ONE as u128) * (1 << 62) / ((1 << 62) + power);
        let p = if p >= ONE as u128 { ONE - 1 } else { p as u32 };
        table[LOGIT as usize + x] = p as u16;
        table[LOGIT as usize - x] = (ONE - p) as u16;
        power = (power * STEP) >> 62;
        x += 1;
    }
    table
}

const fn stretch_table() -> [i16; 4096] {
    let squash = squash_table();
    let mut table = [0; 4096];
    let (mut i, mut x) = (0, 0);
    while i < 4096 {
        // The middle of the sixteen probabilities that share an entry.
        while x < 2 * LOGIT as usize && (squash[x] as usize) < 16 * i + 8 {
            x += 1;
        }
        let logit = x as i32 - LOGIT;
        table[i] = (if logit < -GUESS {
            -GUESS
        } else if logit > GUESS {
            GUESS
        } else {
            logit
        }) as i16;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretch_undoes_squash() {
        assert_eq!((squash(0), stretch(ONE / 2 - 1)), (ONE / 2, 0));
        assert_eq!((squash(LOGIT + 1), squash(-LOGIT - 1)), (65535, 1));
        for p in (8..ONE).step_by(16) {
            assert!(squash(stretch(p)).abs_diff(p) <= 64, "{p}");
        }
    }
}
