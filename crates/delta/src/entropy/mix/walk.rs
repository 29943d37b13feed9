//! The way through a target that is being corrected: from wrong byte to wrong byte, around the holes.

use std::ops::Range;

use super::model::Bits;

/// What the writer knows; empty for the reader.
pub(super) struct Truth<'a> {
    pub(super) actual: &'a [u8],
    pub(super) gaps: &'a [u32],
}

impl Truth<'_> {
    /// Returns what is right at a place.
    #[inline]
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.actual.get(at).copied().unwrap_or(0)
    }
}

/// Writes what comes on the way, or reads it, by what it learned from what came before.
pub(super) trait Guess {
    /// How many bytes are right before the next that is wrong; `None` if that is no gap.
    fn gap(&mut self, bits: &mut impl Bits, gap: u32) -> Option<u64>;

    /// Corrects the byte at a place.
    fn value(&mut self, bits: &mut impl Bits, at: usize, truth: &Truth);

    /// Comes to a hole.
    fn hole(&mut self, bits: &mut impl Bits, hole: Range<usize>, truth: &Truth);
}

/// Goes over all places of a target of `len` bytes; returns whether they are within it.
pub(super) fn walk<G: Guess, B: Bits>(
    guess: &mut G,
    bits: &mut B,
    len: usize,
    holes: &[Range<u32>],
    n_wrong: usize,
    truth: &Truth,
) -> bool {
    let next = |guess: &mut G, bits: &mut B, n_done| {
        if n_done == n_wrong { Some(u64::MAX) } else { guess.gap(bits, truth.gaps.get(n_done).copied().unwrap_or(0)) }
    };
    let (mut n_done, mut at) = (0, 0);
    let Some(mut gap) = next(guess, bits, n_done) else { return false };
    for hole in holes.iter().map(|hole| hole.start as usize..hole.end as usize).chain(std::iter::once(len..len)) {
        while gap < (hole.start - at) as u64 {
            at += gap as usize;
            guess.value(bits, at, truth);
            at += 1;
            n_done += 1;
            let Some(following) = next(guess, bits, n_done) else { return false };
            gap = following;
        }
        if n_done < n_wrong {
            gap -= (hole.start - at) as u64;
        }
        at = hole.end;
        guess.hole(bits, hole, truth);
    }
    n_done == n_wrong
}

/// Codes a gap seven bits at a time, the lowest first, each byte but the last with its highest bit set; `code` gets the byte and how far its bits are shifted.
///
/// `None` if it is longer than it need be: the room of a part counts on that a gap takes one byte, or one more for each 128 bytes that it leads over.
#[inline]
pub(super) fn gap(mut rest: u32, mut code: impl FnMut(u8, u32) -> u8) -> Option<u64> {
    let mut gap = 0;
    for shift in (0..35).step_by(7) {
        let byte = code(if rest < 128 { rest as u8 } else { rest as u8 | 128 }, shift);
        rest >>= 7;
        gap |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return (byte > 0 || shift == 0).then_some(gap);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes bytes as a forger wrote them.
    fn read(bytes: &[u8]) -> Option<u64> {
        let mut bytes = bytes.iter();
        gap(0, |_, _| *bytes.next().expect("no gap takes more"))
    }

    #[test]
    fn a_gap_that_takes_longer_to_read_than_it_leads_is_refused() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let mut written = vec![];
            let found = gap(value, |byte, _| {
                written.push(byte);
                byte
            });
            assert_eq!((found, read(&written)), (Some(value.into()), Some(value.into())));
        }
        for longer in [&[0x80, 0][..], &[0x80, 0x80, 0x80, 0x80, 0], &[0x85, 0x80, 0], &[0x80; 5]] {
            assert_eq!(read(longer), None, "{longer:02x?}");
        }
    }
}
