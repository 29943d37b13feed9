//! What do literals, wrong bytes and segments cost?
//!
//! All in bits, as measured on what the bodies of deltas are packed to. They only have to be right on average: they decide between descriptions that are nearly as short.

use super::Segment;

/// What a way of describing new bytes costs.
#[derive(Clone, Copy)]
pub(super) struct Costs {
    /// A byte that no segment covers, and so what an equal one saves.
    pub(super) literal: i64,
    /// What a wrong byte in a segment costs more than a literal.
    pub(super) wrong: i64,
    /// A segment, besides where it is.
    pub(super) segment: i64,
}

impl Costs {
    /// For programs: a far segment also misleads the references in it, so it has to save much.
    pub(super) const CODE: Self = Self { literal: 2, wrong: 2, segment: 14 };
    /// For all else, packed with what stands around it in the old: what was not copied mostly resembles that.
    pub(super) const PLAIN: Self = Self { literal: 2, wrong: 3, segment: 14 };
    /// For the same as equal stretches only: what is wrong ends one and begins another.
    pub(super) const EQUAL: Self = Self { literal: 2, wrong: 6, segment: 12 };

    /// Returns what bytes save, so many of them equal.
    pub(super) fn saved(&self, n_equal: usize, len: usize) -> i64 {
        n_equal as i64 * self.literal - (len - n_equal) as i64 * self.wrong
    }

    /// Returns what a segment after another one costs: the nearer to where that one would go on, the less.
    pub(super) fn next(&self, before: Option<&Segment>, after: &Segment) -> i64 {
        let (old, new) = before.map_or((0, 0), |before| (before.old + before.len, before.new + before.len));
        let jump = i64::from(after.old) - i64::from(old);
        self.segment + jump_bits(jump, i64::from(after.new) - i64::from(new))
    }
}

/// That a segment goes on elsewhere at all.
const JUMP: i64 = 8;

/// Returns the bits of going on elsewhere in the old, where the new goes on after a gap.
pub(super) fn jump_bits(jump: i64, gap: i64) -> i64 {
    let bits = |jump: i64| if jump == 0 { 0 } else { JUMP + i64::from(u64::BITS - jump.unsigned_abs().leading_zeros()) };
    bits(jump).min(bits(jump - gap))
}
