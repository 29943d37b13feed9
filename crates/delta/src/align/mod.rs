//! Which stretches of new bytes resemble which stretches of old ones.
//!
//! In three steps, each a pure function of its arguments and the same on every machine:
//! 1. `anchors`: equal stretches, found through an `index` of the old bytes while walking over the new ones;
//! 2. `chain`: of those the ones that pay, by what a segment, a wrong byte and a literal cost, each extended (`extend`) into the bytes around it, wrong ones and all;
//! 3. `exact`, for bytes that travel as copies and literals: segments cut into equal stretches, and the gaps between them searched for short ones.
//!
//! Only the encoder aligns; what it found travels. So anything here may change without a new version of the format.
//! Time is linear in both lengths, whatever is in them; the index takes at most eight times `old` with [`Effort::Small`] and twice with [`Effort::Fast`].

mod anchors;
mod chain;
mod costs;
mod exact;
mod extend;
mod index;
mod runs;

use anchors::Search;
use costs::Costs;
use extend::Sides;
use index::Index;

/// New bytes `[new, new + len)` resemble old bytes `[old, old + len)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where the old bytes begin.
    pub old: u32,
    /// Where the new bytes begin.
    pub new: u32,
    /// How many bytes there are.
    pub len: u32,
}

/// How much work a few bytes less are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As fast as the disk reads.
    Fast,
    /// As exact as pays.
    Small,
}

/// Returns segments that resemble each other, with few wrong bytes in them: sorted by `new`, not overlapping in `new`, inside both.
///
/// What no segment covers has nothing like it in `old`. Both may be at most 2 GiB.
pub(crate) fn align(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    resembling(&Sides { old, new, costs: &Costs::CODE }, effort)
}

/// Returns segments of equal bytes: sorted by `new`, not overlapping in `new`, inside both.
pub(crate) fn align_exact(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    let sides = Sides { old, new, costs: if exact::is_text(new) { &Costs::TEXT } else { &Costs::DATA } };
    exact::split(&sides, &resembling(&sides, effort))
}

fn resembling(sides: &Sides<'_>, effort: Effort) -> Vec<Segment> {
    let search = Search::by(effort);
    let index = Index::new(sides.old, search.step);
    let anchors = anchors::find(sides, &index, &search);
    chain::choose(sides, &anchors)
}
