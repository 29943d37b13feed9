//! Which equal stretches are worth copying, when nothing corrects a wrong byte?

use super::Segment;
use super::extend::Sides;
use super::runs;

/// Cuts segments into their equal stretches; those that are shorter than pays are left out.
pub(super) fn split(sides: &Sides<'_>, segments: &[Segment]) -> Vec<Segment> {
    let least = sides.costs.segment / sides.costs.literal + 1;
    let mut stretches: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        let (old, new) = (&sides.old[segment.old as usize..], &sides.new[segment.new as usize..]);
        let (old, new) = (&old[..segment.len as usize], &new[..segment.len as usize]);
        let mut at = 0;
        while at < new.len() {
            let len = runs::forward(&old[at..], &new[at..]);
            if len as i64 >= least {
                stretches.push(Segment { old: segment.old + at as u32, new: segment.new + at as u32, len: len as u32 });
            }
            at += len + 1;
        }
    }
    stretches
}
