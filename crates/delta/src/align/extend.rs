//! What is made of the bytes between two anchors?
//!
//! Bytes that equal those beside them are worth having in a segment even if some between them are wrong: a wrong byte costs a little more than one that no segment covers, an equal
//! one nothing. The scores are in bits.

use super::Segment;
use super::runs;

/// Bits saved by an equal byte, which would be a literal.
const EQUAL: i64 = 6;
/// Bits that a wrong byte costs more than a literal: that it is wrong must be said, too.
const WRONG: i64 = -5;
/// Bits that a segment costs.
const SEGMENT: i64 = -28;
/// When a stretch is so much worse than it was, it does not get better: what comes after has an anchor of its own.
const HOPELESS: i64 = 400;

/// What becomes of the bytes between two anchors, and what it saves in bits.
#[derive(Clone, Copy)]
pub(super) struct Between {
    /// So many bytes belong to the one before.
    pub(super) forward: usize,
    /// So many bytes belong to the one after.
    pub(super) backward: usize,
    /// Both are one segment, wrong bytes and all.
    pub(super) joined: bool,
    pub(super) score: i64,
}

/// Decides about the bytes between two anchors; none means the beginning or the end of the new bytes.
pub(super) fn between(old: &[u8], new: &[u8], before: Option<&Segment>, after: Option<&Segment>) -> Between {
    let from = before.map_or(0, |before| (before.new + before.len) as usize);
    let to = after.map_or(new.len(), |after| after.new as usize);
    let gap = &new[from..to];
    let beside_before = before.map_or(&[][..], |before| &old[(before.old + before.len) as usize..]);
    let beside_after = after.map_or(&[][..], |after| &old[..after.old as usize]);
    let (mut forward, score_forward) = best_prefix(beside_before, gap);
    let (mut backward, score_backward) = best_suffix(beside_after, gap);
    let mut score = score_forward + score_backward;
    let overlap = (forward + backward).saturating_sub(gap.len());
    if overlap > 0 {
        let start = gap.len() - backward;
        let after = &beside_after[beside_after.len() - backward..];
        let (keep, lost) = cut(&beside_before[start..forward], &after[..overlap], &gap[start..forward]);
        forward = start + keep;
        backward -= keep;
        score -= lost;
    }
    let segment = if before.is_some() && after.is_some() { SEGMENT } else { 0 };
    let apart = Between { forward, backward, joined: false, score: score + segment };
    match (before, after) {
        (Some(a), Some(b)) if same_diagonal(a, b) => {
            let whole = self::score(runs::equal(beside_before, gap), gap.len());
            if whole >= apart.score { Between { forward: gap.len(), backward: 0, joined: true, score: whole } } else { apart }
        }
        _ => apart,
    }
}

pub(super) fn same_diagonal(a: &Segment, b: &Segment) -> bool {
    i64::from(a.old) - i64::from(a.new) == i64::from(b.old) - i64::from(b.new)
}

/// Returns what bytes save, so many of them equal, in bits.
pub(super) fn score(n_equal: usize, len: usize) -> i64 {
    n_equal as i64 * EQUAL + (len - n_equal) as i64 * WRONG
}

/// Returns the length of the best prefix and its score.
fn best_prefix(old: &[u8], new: &[u8]) -> (usize, i64) {
    best(old.iter().zip(new).map(|(x, y)| x == y))
}

fn best_suffix(old: &[u8], new: &[u8]) -> (usize, i64) {
    best(old.iter().rev().zip(new.iter().rev()).map(|(x, y)| x == y))
}

fn best(equal: impl Iterator<Item = bool>) -> (usize, i64) {
    let (mut score, mut best, mut len) = (0, 0, 0);
    for (n, equal) in equal.enumerate() {
        score += if equal { EQUAL } else { WRONG };
        if score > best {
            (best, len) = (score, n + 1);
        } else if score < best - HOPELESS {
            break;
        }
    }
    (len, best)
}

/// Returns where to go from one to the other over bytes that both want, and how much less they then save than both counted for themselves.
fn cut(before: &[u8], after: &[u8], new: &[u8]) -> (usize, i64) {
    let worth = |old: u8, new: u8| if old == new { EQUAL } else { WRONG };
    let both: i64 = new.iter().zip(before).zip(after).map(|((&n, &b), &a)| worth(b, n) + worth(a, n)).sum();
    let mut score: i64 = new.iter().zip(after).map(|(&n, &a)| worth(a, n)).sum();
    let (mut best, mut keep) = (score, 0);
    for (n, ((&new, &before), &after)) in new.iter().zip(before).zip(after).enumerate() {
        score += worth(before, new) - worth(after, new);
        if score > best {
            (best, keep) = (score, n + 1);
        }
    }
    (keep, both - best)
}
