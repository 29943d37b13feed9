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
    /// What eight bytes save, by which of them are equal: the lowest bit is the first.
    pub(super) eights: &'static [Eight; 256],
}

/// What eight bytes save.
#[derive(Clone, Copy)]
pub(super) struct Eight {
    /// All of them.
    pub(super) all: i8,
    /// The best of them up to one; nothing for none.
    pub(super) best: i8,
    /// How many of them that is.
    pub(super) len: u8,
}

const fn eights(literal: i8, wrong: i8) -> [Eight; 256] {
    let mut eights = [Eight { all: 0, best: 0, len: 0 }; 256];
    let mut equal = 0;
    while equal < 256 {
        let eight = &mut eights[equal];
        let mut n = 0;
        while n < 8 {
            eight.all += if equal >> n & 1 > 0 { literal } else { -wrong };
            n += 1;
            if eight.all > eight.best {
                (eight.best, eight.len) = (eight.all, n);
            }
        }
        equal += 1;
    }
    eights
}

impl Costs {
    /// For programs: a far segment also misleads the references in it, so it has to save much.
    pub(super) const CODE: Self = Self::new::<2, 2>(14);
    /// For all else, packed with what stands around it in the old: what was not copied mostly resembles that.
    pub(super) const PLAIN: Self = Self::new::<2, 3>(14);
    /// For the same as equal stretches only: what is wrong ends one and begins another.
    pub(super) const EQUAL: Self = Self::new::<2, 6>(12);

    const fn new<const LITERAL: i8, const WRONG: i8>(segment: i64) -> Self {
        Self { literal: LITERAL as i64, wrong: WRONG as i64, segment, eights: const { &eights(LITERAL, WRONG) } }
    }

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
