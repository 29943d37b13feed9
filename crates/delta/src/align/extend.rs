//! What is made of the bytes between two anchors?
//!
//! Bytes that equal those beside them are worth having in a segment even if some between them are wrong: a wrong byte costs a little more than one that no segment covers, an equal
//! one nothing.

use super::Segment;
use super::costs::Costs;
use super::runs;

/// When a stretch is so much worse than it was, it does not get better: what comes after has an anchor of its own.
const HOPELESS: i64 = 400;

/// What is aligned, and what it costs.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) old: &'a [u8],
    pub(super) new: &'a [u8],
    pub(super) costs: &'a Costs,
}

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
pub(super) fn between(sides: &Sides<'_>, before: Option<&Segment>, after: Option<&Segment>) -> Between {
    let Sides { old, new, costs } = *sides;
    let from = before.map_or(0, |before| (before.new + before.len) as usize);
    let to = after.map_or(new.len(), |after| after.new as usize);
    let gap = &new[from..to];
    let beside_before = before.map_or(&[][..], |before| &old[(before.old + before.len) as usize..]);
    let beside_after = after.map_or(&[][..], |after| &old[..after.old as usize]);
    let (mut forward, score_forward) = best_prefix(costs, beside_before, gap);
    let (mut backward, score_backward) = best_suffix(costs, beside_after, gap);
    let mut score = score_forward + score_backward;
    let overlap = (forward + backward).saturating_sub(gap.len());
    if overlap > 0 {
        let start = gap.len() - backward;
        let after = &beside_after[beside_after.len() - backward..];
        let (keep, lost) = cut(costs, &beside_before[start..forward], &after[..overlap], &gap[start..forward]);
        forward = start + keep;
        backward -= keep;
        score -= lost;
    }
    let segment = after.map_or(0, |after| costs.next(before, after));
    let apart = Between { forward, backward, joined: false, score: score - segment };
    match (before, after) {
        (Some(a), Some(b)) if same_diagonal(a, b) => {
            let whole = costs.saved(runs::equal(beside_before, gap), gap.len());
            if whole >= apart.score { Between { forward: gap.len(), backward: 0, joined: true, score: whole } } else { apart }
        }
        _ => apart,
    }
}

pub(super) fn same_diagonal(a: &Segment, b: &Segment) -> bool {
    i64::from(a.old) - i64::from(a.new) == i64::from(b.old) - i64::from(b.new)
}

/// Returns the length of the best prefix and its score.
fn best_prefix(costs: &Costs, old: &[u8], new: &[u8]) -> (usize, i64) {
    let most = old.len().min(new.len());
    let (old, new) = (&old[..most], &new[..most]);
    let (olds, news) = (old.chunks_exact(8), new.chunks_exact(8));
    let rest = runs::equal_mask(olds.remainder(), news.remainder());
    best(costs, olds.zip(news).map(|(x, y)| runs::equal_of_eight(x, y)), rest, most % 8)
}

fn best_suffix(costs: &Costs, old: &[u8], new: &[u8]) -> (usize, i64) {
    let most = old.len().min(new.len());
    let (old, new) = (&old[old.len() - most..], &new[new.len() - most..]);
    let (olds, news) = (old.rchunks_exact(8), new.rchunks_exact(8));
    let n = most % 8;
    let rest = runs::equal_mask(olds.remainder(), news.remainder()).reverse_bits().checked_shr(8 - n as u32).unwrap_or(0);
    best(costs, olds.zip(news).map(|(x, y)| runs::equal_of_eight(x, y).reverse_bits()), rest, n)
}

/// Takes which bytes are equal, eight after eight, and of the last `n_rest`.
fn best(costs: &Costs, eights: impl Iterator<Item = u8>, rest: u8, n_rest: usize) -> (usize, i64) {
    let (mut score, mut best, mut len, mut at) = (0, 0, 0, 0);
    for equal in eights {
        let eight = costs.eights[usize::from(equal)];
        if score + i64::from(eight.best) > best {
            (best, len) = (score + i64::from(eight.best), at + usize::from(eight.len));
        }
        score += i64::from(eight.all);
        at += 8;
        if score < best - HOPELESS {
            return (len, best);
        }
    }
    for n in 0..n_rest {
        score += if rest >> n & 1 > 0 { costs.literal } else { -costs.wrong };
        if score > best {
            (best, len) = (score, at + n + 1);
        }
    }
    (len, best)
}

/// Returns where to go from one to the other over bytes that both want, and how much less they then save than both counted for themselves.
fn cut(costs: &Costs, before: &[u8], after: &[u8], new: &[u8]) -> (usize, i64) {
    let worth = |old: u8, new: u8| if old == new { costs.literal } else { -costs.wrong };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(costs: &Costs, equal: impl Iterator<Item = bool>) -> (usize, i64) {
        let (mut score, mut best, mut len) = (0, 0, 0);
        for (n, equal) in equal.enumerate() {
            score += if equal { costs.literal } else { -costs.wrong };
            if score > best {
                (best, len) = (score, n + 1);
            }
        }
        (len, best)
    }

    proptest! {
        #[test]
        fn eight_at_once_are_as_good_as_one_by_one(
            old in prop::collection::vec(0_u8..2, 0..70),
            new in prop::collection::vec(0_u8..2, 0..70),
        ) {
            for costs in [&Costs::CODE, &Costs::PLAIN, &Costs::EQUAL] {
                let prefix = naive(costs, old.iter().zip(&new).map(|(x, y)| x == y));
                prop_assert_eq!(best_prefix(costs, &old, &new), prefix);
                let suffix = naive(costs, old.iter().rev().zip(new.iter().rev()).map(|(x, y)| x == y));
                prop_assert_eq!(best_suffix(costs, &old, &new), suffix);
            }
        }
    }
}
