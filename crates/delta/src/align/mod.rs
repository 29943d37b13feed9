//! Which stretches of new bytes resemble which stretches of old ones.
//!
//! In three steps, each a pure function of its arguments and the same on every machine:
//! 1. `anchors`: equal stretches, found through an `index` of the old bytes while walking over the new ones;
//! 2. `chain`: of those the ones that pay, by what a segment, a wrong byte and a literal cost (`costs`), each extended (`extend`) into the bytes around it, wrong ones and all;
//! 3. `exact`, where nothing corrects a wrong byte: segments cut into those equal stretches that are worth copying.
//!
//! Only the encoder aligns; what it found travels. So anything here may change without a new version of the format.
//! Time is linear in both lengths, whatever is in them. The index takes at most twice `old` with [`Effort::Fast`], four times with [`Effort::Small`], and eight
//! times when `old` is at most 16 MiB.

mod anchors;
mod chain;
mod costs;
mod exact;
mod extend;
mod index;
mod runs;

pub(crate) use runs::forward as equal_bytes;

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

/// Old bytes that take so much memory already that only every second of their places is indexed.
const LARGE: usize = 16 << 20;

/// Returns segments that resemble each other, with few wrong bytes in them: sorted by `new`, not overlapping in `new`, inside both.
///
/// What no segment covers has nothing like it in `old`. Both may be at most 2 GiB.
pub(crate) fn align(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    resembling(&Sides { old, new, costs: &Costs::CODE }, &Search::by(effort))
}

/// Returns segments that resemble each other as [`align`] does, of what is no program: more often exact, as text is when it was edited by hand.
pub(crate) fn align_plain(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    let sides = Sides { old, new, costs: &Costs::PLAIN };
    resembling(&sides, &Search::of_equals(effort))
}

/// Returns segments of equal bytes: sorted by `new`, not overlapping in `new`, inside both.
pub(crate) fn align_exact(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    let sides = Sides { old, new, costs: &Costs::EQUAL };
    exact::split(&sides, &resembling(&sides, &Search::of_equals(effort)))
}

fn resembling(sides: &Sides<'_>, search: &Search) -> Vec<Segment> {
    let step = if sides.old.len() > LARGE { search.step.max(2) } else { search.step };
    let anchors = anchors::find(sides, &Index::new(sides.old, step), search);
    // Where anchors are as dense as in noise, there are too many ways for what choosing well could save.
    let n_passed = search.n_passed.min(sides.new.len() / (8 * anchors.len() + 1)).max(1);
    chain::choose(sides, &anchors, n_passed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EFFORTS: [Effort; 2] = [Effort::Fast, Effort::Small];

    /// Bytes without a pattern, the same each time.
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        });
        words.take(len.div_ceil(4)).flat_map(u32::to_le_bytes).take(len).collect()
    }

    /// Checks what holds for all segments, and of those of equal bytes that they are. Returns both.
    #[track_caller]
    fn check(old: &[u8], new: &[u8], effort: Effort) -> [Vec<Segment>; 2] {
        let found = [align(old, new, effort), align_exact(old, new, effort)];
        for segments in &found {
            let mut end = 0;
            for segment in segments {
                assert!(segment.len > 0 && segment.new >= end, "{segment:?} begins before {end}");
                end = segment.new + segment.len;
                assert!(end as usize <= new.len() && segment.old as usize + segment.len as usize <= old.len(), "{segment:?}");
            }
        }
        for &Segment { old: from, new: to, len } in &found[1] {
            assert_eq!(old[from as usize..][..len as usize], new[to as usize..][..len as usize]);
        }
        found
    }

    fn covered(segments: &[Segment]) -> usize {
        segments.iter().map(|segment| segment.len as usize).sum()
    }

    /// One of the things that people and linkers do to a file.
    fn edit(bytes: &mut Vec<u8>, what: u8, from: usize, len: usize, seed: u64) {
        let from = from % (bytes.len() + 1);
        let to = (from + len).min(bytes.len());
        match what % 5 {
            0 => drop(bytes.drain(from..to)),
            1 => drop(bytes.splice(from..from, noise(len, seed))),
            2 => drop(bytes.splice(from..to, noise(to - from, seed))),
            3 => bytes.rotate_left(from),
            _ => bytes[from..to].iter_mut().step_by(9).for_each(|byte| *byte ^= 1),
        }
    }

    proptest! {
        #[test]
        fn segments_are_inside_sorted_and_disjoint(
            len in 0_usize..5000, period in 1_usize..5000, edits in prop::collection::vec((any::<u8>(), any::<u16>(), 0_usize..300, any::<u64>()), 0..12),
        ) {
            let old: Vec<u8> = noise(period, 5).into_iter().cycle().take(len).collect();
            let mut new = old.clone();
            edits.into_iter().for_each(|(what, from, len, seed)| edit(&mut new, what, usize::from(from), len, seed));
            for effort in EFFORTS {
                check(&old, &new, effort);
            }
        }

        #[test]
        fn few_different_bytes_are_no_trouble(old in prop::collection::vec(0_u8..2, 0..600), new in prop::collection::vec(0_u8..2, 0..600)) {
            for effort in EFFORTS {
                check(&old, &new, effort);
            }
        }
    }

    #[test]
    fn a_shuffled_file_is_found_again() {
        let old = noise(1 << 18, 1);
        let mut blocks: Vec<&[u8]> = old.chunks(1 << 14).collect();
        let order = noise(blocks.len(), 2);
        for (n, &with) in order.iter().enumerate() {
            blocks.swap(n, usize::from(with) % order.len());
        }
        for effort in EFFORTS {
            for segments in check(&old, &blocks.concat(), effort) {
                assert!(covered(&segments) == old.len() && segments.len() <= blocks.len(), "{effort:?} {}", segments.len());
            }
        }
    }

    #[test]
    fn wrong_bytes_do_not_end_a_segment() {
        let old = noise(1 << 16, 3);
        let mut new = old.clone();
        new.iter_mut().skip(10).step_by(20).for_each(|byte| *byte ^= 0x55);
        for effort in EFFORTS {
            let [alike, equal] = check(&old, &new, effort);
            assert_eq!(alike, [Segment { old: 0, new: 0, len: 1 << 16 }]);
            // The last stretch may be too short to be worth it.
            assert!(covered(&equal) + 19 >= new.len() - (new.len() - 10).div_ceil(20));
        }
    }

    #[test]
    fn an_edit_of_a_text_costs_a_segment_or_two() {
        let old: String =
            (0..2000_u32).map(|n| format!("let value_{n} = other({}) ?? {};\n", n.wrapping_mul(77_773) % 4099, n % 7)).collect();
        let cases: [(&str, &str, usize); 4] = [
            ("value_77 =", "value_77: number =", 2),
            ("let value_1200 = ", "", 2),
            ("value_500 =", "renamed =", 2),
            ("value_1999 = ", "value_1999 = /* the last one */ ", 2),
        ];
        for (from, to, n_segments) in cases {
            let new = old.replacen(from, to, 1);
            for effort in EFFORTS {
                let [_, equal] = check(old.as_bytes(), new.as_bytes(), effort);
                assert!(equal.len() <= n_segments, "{from}: {equal:?}");
                assert!(new.len() - covered(&equal) <= to.len(), "{from}: {equal:?}");
            }
        }
    }

    #[test]
    fn repetitive_bytes_are_aligned_in_linear_time() {
        let len = 1 << 19;
        let zeros = vec![0; len];
        let spotted =
            |step: usize| zeros.iter().enumerate().map(|(n, &zero)| zero + u8::from(n % step == 0)).collect::<Vec<u8>>();
        let period = |len_of: usize| noise(len_of, 9).into_iter().cycle().take(len).collect::<Vec<u8>>();
        let pairs = [
            (zeros.clone(), vec![0; len / 3]),
            (vec![0; len / 3], zeros.clone()),
            (spotted(10), spotted(11)),
            (spotted(1000), spotted(1001)),
            (period(7), period(7)),
            (period(1000), period(1001)),
            (noise(len, 1), noise(len, 2)),
        ];
        for (old, new) in pairs {
            for effort in EFFORTS {
                check(&old, &new, effort);
            }
        }
    }
}
