//! Where each old place is in the new file, as an alignment says it.

use std::collections::BinaryHeap;

use crate::align::Segment;

/// Old places to new ones: every place has one, also where no segment is.
pub(crate) struct Map {
    /// Stretches of one drift, ascending; the first begins at 0.
    stretches: Vec<Stretch>,
    /// For each page of old places, the last stretch that begins at or before its first place.
    pages: Vec<u32>,
    shift: u32,
    old_len: u32,
    new_len: u32,
}

#[derive(Clone, Copy)]
struct Stretch {
    start: u32,
    /// What is added (wrapping) to an old place.
    drift: u32,
}

impl Map {
    /// Makes the map of an alignment between files of these lengths. Where segments overlap in the old, the longest one counts; what no segment covers moves with
    /// what is before it. Takes O(n log n) of the segments.
    pub fn new(segments: &[Segment], old_len: u32, new_len: u32) -> Self {
        let mut stretches = vec![Stretch { start: 0, drift: 0 }];
        for (start, drift) in owners(segments) {
            if stretches.last().is_some_and(|last| last.drift == drift) {
                continue;
            }
            stretches.pop_if(|last| last.start == start);
            stretches.push(Stretch { start, drift });
        }
        let shift = (old_len / (2 * stretches.len() as u32).max(1024)).max(1).ilog2().max(4);
        let mut last = 0;
        let pages = (0..=old_len >> shift)
            .map(|page| {
                while stretches.get(last + 1).is_some_and(|next| next.start <= page << shift) {
                    last += 1;
                }
                last as u32
            })
            .collect();
        Self { stretches, pages, shift, old_len, new_len }
    }

    /// Returns the new place of an old one. Places beyond the files (memory that no file holds) keep their distance to the ends.
    #[inline]
    pub fn get(&self, old: u32) -> u32 {
        if old >= self.old_len {
            return (old - self.old_len).wrapping_add(self.new_len);
        }
        let page = (old >> self.shift) as usize;
        let first = self.pages[page] as usize;
        let end = self.pages.get(page + 1).map_or(self.stretches.len(), |&last| last as usize + 1);
        let n_more = if end - first <= 1 { 0 } else { self.stretches[first..end].partition_point(|next| next.start <= old) - 1 };
        // A drift that leads out of the new file is one of bytes that are gone; any place will do.
        old.wrapping_add(self.stretches[first + n_more].drift).min(self.new_len)
    }
}

/// Returns where each stretch begins that belongs to one segment, and the drift of that segment.
fn owners(segments: &[Segment]) -> Vec<(u32, u32)> {
    let mut by_old: Vec<&Segment> = segments.iter().collect();
    by_old.sort_by_key(|segment| (segment.old, segment.new));
    let drift = |segment: &Segment| segment.new.wrapping_sub(segment.old);
    let mut out = Vec::with_capacity(segments.len());
    // Those that cover the present place, the longest first; which end earlier are dropped when they come up.
    let mut open: BinaryHeap<(u32, u32, u32)> = BinaryHeap::new();
    let close_until = |limit: u32, open: &mut BinaryHeap<(u32, u32, u32)>, out: &mut Vec<(u32, u32)>| {
        while let Some(&(_, _, end)) = open.peek() {
            if end > limit {
                break;
            }
            open.pop();
            while open.peek().is_some_and(|&(_, _, other)| other <= end) {
                open.pop();
            }
            if let Some(&(_, drift, _)) = open.peek() {
                out.push((end, drift));
            }
        }
    };
    for segment in by_old {
        close_until(segment.old, &mut open, &mut out);
        let this = (segment.len, drift(segment), segment.old + segment.len);
        if open.peek().is_none_or(|top| *top < this) {
            out.push((segment.old, this.1));
        }
        open.push(this);
    }
    close_until(u32::MAX, &mut open, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(segments: &[Segment], old_len: u32, new_len: u32) -> Vec<u32> {
        let mut drift = 0;
        (0..old_len)
            .map(|old| {
                let covering = segments.iter().filter(|s| s.old <= old && old - s.old < s.len);
                drift = covering.map(|s| (s.len, s.new.wrapping_sub(s.old))).max().map_or(drift, |(_, drift)| drift);
                old.wrapping_add(drift).min(new_len)
            })
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn the_longest_segment_counts(segments in proptest::collection::vec((0_u32..200, 0_u32..300, 1_u32..60), 0..12)) {
            let segments: Vec<Segment> = segments.into_iter().map(|(old, new, len)| Segment { old, new, len }).collect();
            let map = Map::new(&segments, 260, 360);
            let found: Vec<u32> = (0..260).map(|old| map.get(old)).collect();
            proptest::prop_assert_eq!(found, naive(&segments, 260, 360));
            proptest::prop_assert_eq!(map.get(270), 370);
        }
    }
}
