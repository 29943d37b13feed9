//! Aligns again only where the first alignment is in doubt.
//!
//! Most of a relinked program was aligned right the first time, and proves it: it means the same. Only what is left of both files, laid together, is aligned
//! anew, which takes a fraction of the time.

use std::ops::Range;

use crate::align::{self, Effort, Segment};

/// How many equal bytes prove that a stretch is aligned right.
const PROOF: usize = 48;
/// How many bytes between two proofs may differ without doubt about what is between.
const TOLERATED: usize = 64;
/// The shortest segment that is worth its numbers.
const SHORT: u32 = 16;
/// How much of what is proven is laid beside what is not, so that an aligner finds its way from there.
const MARGIN: u32 = 32;

/// Returns the segments of two files after a first alignment of them.
pub(super) fn refine(old: &[u8], new: &[u8], first: &[Segment], effort: Effort) -> Vec<Segment> {
    let proven: Vec<Segment> = first.iter().flat_map(|segment| proofs(old, new, segment)).collect();
    let new_doubts = complement(proven.iter().map(|s| s.new..s.new + s.len).collect(), new.len() as u32);
    let old_doubts = complement(proven.iter().map(|s| s.old..s.old + s.len).collect(), old.len() as u32);
    let (wide_old, wide_new) = (widened(&old_doubts, old.len()), widened(&new_doubts, new.len()));
    let len = |ranges: &[Range<u32>]| ranges.iter().map(ExactSizeIterator::len).sum::<usize>();
    if 2 * (len(&wide_old) + len(&wide_new)) > old.len() + new.len() {
        drop((proven, old_doubts, new_doubts, wide_old, wide_new));
        return align::align(old, new, effort);
    }
    let mut found = Vec::new();
    {
        let (old_rest, new_rest) = (Rest::new(old, wide_old), Rest::new(new, wide_new));
        for segment in align::align(&old_rest.bytes, &new_rest.bytes, effort) {
            place(&segment, &old_rest, &new_rest, &mut found);
        }
    }
    // The margins around what is in doubt are proven.
    let mut all = clip(&found, &new_doubts);
    all.extend(proven);
    let mut all = joined(all);
    let gaps = complement(all.iter().map(|s| s.new..s.new + s.len).collect(), new.len() as u32);
    all.extend(clip(first, &gaps));
    worth(joined(all))
}

/// Leaves out what is too short to be worth going there and back.
fn worth(segments: Vec<Segment>) -> Vec<Segment> {
    segments.into_iter().filter(|segment| segment.len >= SHORT).collect()
}

/// Returns the parts of a segment that are aligned right for sure.
fn proofs(old: &[u8], new: &[u8], segment: &Segment) -> Vec<Segment> {
    let (from, to, len) = (segment.old as usize, segment.new as usize, segment.len as usize);
    let (old, new) = (&old[from..from + len], &new[to..to + len]);
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < len {
        let equal = align::equal_bytes(&old[at..], &new[at..]);
        if equal >= PROOF {
            match runs.last_mut() {
                Some(last) if at - last.end <= TOLERATED => last.end = at + equal,
                _ => runs.push(at..at + equal),
            }
        }
        at += equal + 1;
    }
    let part = |run: Range<usize>| Segment {
        old: segment.old + run.start as u32,
        new: segment.new + run.start as u32,
        len: run.len() as u32,
    };
    runs.into_iter().map(part).collect()
}

/// Returns what of `0..len` no range holds.
fn complement(mut ranges: Vec<Range<u32>>, len: u32) -> Vec<Range<u32>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut out, mut end) = (Vec::new(), 0);
    for range in ranges.into_iter().chain(std::iter::once(len..len)) {
        if range.start > end {
            out.push(end..range.start);
        }
        end = end.max(range.end);
    }
    out
}

/// Returns ranges of a file with margins; those that touch then are one.
fn widened(ranges: &[Range<u32>], len: usize) -> Vec<Range<u32>> {
    let mut wide: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        let (start, end) = (range.start.saturating_sub(MARGIN), (range.end + MARGIN).min(len as u32));
        match wide.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => wide.push(start..end),
        }
    }
    wide
}

/// What is in doubt of a file, with margins, laid together.
struct Rest {
    bytes: Vec<u8>,
    /// Where each stretch begins in `bytes`, and where it is in the file.
    stretches: Vec<(u32, Range<u32>)>,
}

impl Rest {
    fn new(file: &[u8], ranges: Vec<Range<u32>>) -> Self {
        let len = ranges.iter().map(ExactSizeIterator::len).sum();
        let mut rest = Self { bytes: Vec::with_capacity(len), stretches: Vec::with_capacity(ranges.len()) };
        for range in ranges {
            rest.stretches.push((rest.bytes.len() as u32, range.clone()));
            rest.bytes.extend_from_slice(&file[range.start as usize..range.end as usize]);
        }
        rest
    }

    /// Returns where a place in `bytes` is in the file, and how many bytes go on from there without a jump.
    fn place(&self, at: u32) -> (u32, u32) {
        let nth = self.stretches.partition_point(|(start, _)| *start <= at) - 1;
        let (start, range) = &self.stretches[nth];
        (range.start + (at - start), range.len() as u32 - (at - start))
    }
}

/// Puts a segment of what was laid together back to its places, cut where either file jumps.
fn place(segment: &Segment, old: &Rest, new: &Rest, out: &mut Vec<Segment>) {
    let mut done = 0;
    while done < segment.len {
        let ((old_at, old_left), (new_at, new_left)) = (old.place(segment.old + done), new.place(segment.new + done));
        let len = (segment.len - done).min(old_left).min(new_left);
        out.push(Segment { old: old_at, new: new_at, len });
        done += len;
    }
}

/// Returns the parts of segments, sorted by `new`, that lie in ranges.
fn clip(segments: &[Segment], ranges: &[Range<u32>]) -> Vec<Segment> {
    let (mut out, mut from) = (Vec::new(), 0);
    for segment in segments {
        let end = segment.new + segment.len;
        from += ranges[from..].partition_point(|range| range.end <= segment.new);
        for range in ranges[from..].iter().take_while(|range| range.start < end) {
            let (start, end) = (segment.new.max(range.start), end.min(range.end));
            out.push(Segment { old: segment.old + (start - segment.new), new: start, len: end - start });
        }
    }
    out
}

/// Joins segments that go on in both files.
fn joined(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_unstable_by_key(|segment| segment.new);
    let mut out: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        match out.last_mut() {
            Some(last) if last.new + last.len == segment.new && last.old + last.len == segment.old => last.len += segment.len,
            _ => out.push(segment),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn segments_stay_sorted_apart_and_inside(
            old in proptest::collection::vec(0_u8..3, 0..600),
            cuts in proptest::collection::vec((0_usize..600, 0_usize..300), 0..6),
            noise in proptest::collection::vec(0_u8..3, 0..80),
            firsts in proptest::collection::vec((0_u32..600, 0_u32..50, 1_u32..300), 0..8),
        ) {
            let mut new: Vec<u8> = cuts.iter().flat_map(|&(at, len)| &old[at.min(old.len())..(at + len).min(old.len())]).copied().collect();
            new.extend(noise);
            let (mut at, mut first) = (0, Vec::new());
            for (from, skip, len) in firsts {
                let (from, start) = (from.min(old.len() as u32), at + skip);
                let len = len.min(old.len() as u32 - from).min((new.len() as u32).saturating_sub(start));
                if len > 0 {
                    first.push(Segment { old: from, new: start, len });
                    at = start + len;
                }
            }
            let segments = refine(&old, &new, &first, Effort::Fast);
            let mut end = 0;
            for segment in segments {
                proptest::prop_assert!(segment.len > 0 && segment.new >= end);
                end = segment.new + segment.len;
                proptest::prop_assert!(end as usize <= new.len() && (segment.old + segment.len) as usize <= old.len());
            }
        }
    }
}
