//! Segments as numbers, and back.

use std::ops::Range;

use crate::align::Segment;
use crate::codec::CodecError;

use super::streams::{Reader, Sort, Streams};

/// The most segments that `len` new bytes may be made of.
pub(super) fn max_segments(len: usize) -> usize {
    len / 8 + 16
}

/// Writes segments that make `len` bytes, sorted by `new`.
pub(super) fn put(segments: &[Segment], len: usize, streams: &mut Streams) {
    let (mut new, mut old) = (0, 0);
    for segment in segments {
        streams.put(Sort::LiteralLens, u64::from(segment.new - new));
        streams.put(Sort::CopyLens, u64::from(segment.len));
        streams.put_signed(Sort::Jumps, i64::from(segment.old) - i64::from(old));
        (new, old) = (segment.new + segment.len, segment.old + segment.len);
    }
    if (new as usize) < len {
        streams.put(Sort::LiteralLens, len as u64 - u64::from(new));
    }
}

/// Reads segments that make `len` bytes of `old_len` old ones.
pub(super) fn read(reader: &mut Reader, len: usize, old_len: usize) -> Result<Vec<Segment>, CodecError> {
    let (mut new, mut old, mut segments) = (0, 0, Vec::new());
    while new < len {
        new += reader.at_most(Sort::LiteralLens, len - new)?;
        if new == len {
            break;
        }
        let copied = reader.at_most(Sort::CopyLens, len - new)?;
        let at = (old as i64).checked_add(reader.signed(Sort::Jumps)?).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|&at| at <= old_len && copied <= old_len - at).ok_or(CodecError::Body)?;
        if copied == 0 || segments.len() == max_segments(len) {
            return Err(CodecError::Body);
        }
        // All are below the length of a piece, 64 MiB.
        segments.push(Segment { old: at as u32, new: new as u32, len: copied as u32 });
        (new, old) = (new + copied, at + copied);
    }
    Ok(segments)
}

/// Appends the stretches of `len` new bytes that no segment covers, as they are when the new bytes begin at `start`.
pub(super) fn put_holes(segments: &[Segment], start: usize, len: usize, holes: &mut Vec<Range<u32>>) {
    let ends = [0].into_iter().chain(segments.iter().map(|segment| segment.new + segment.len));
    let starts = segments.iter().map(|segment| segment.new).chain([len as u32]);
    // All are below the length of a piece, 64 MiB.
    let start = start as u32;
    let between = ends.zip(starts).filter(|(end, next)| end < next).map(|(end, next)| start + end..start + next);
    // Counted first: what grows takes half as much again, and there may be a hole for every eight bytes.
    holes.reserve(between.clone().count());
    holes.extend(between);
}

/// Copies segments, and guesses that what is between them is what goes on behind the one before.
pub(super) fn copy(segments: &[Segment], old: &[u8], out: &mut [u8]) {
    for (n, segment) in segments.iter().enumerate() {
        let (from, to) = (segment.old as usize, segment.new as usize);
        let next = segments.get(n + 1).map_or(out.len(), |next| next.new as usize);
        let len = (next - to).min(old.len() - from);
        out[to..to + len].copy_from_slice(&old[from..from + len]);
    }
}

/// Appends the old bytes that lie where no segment goes to: what holes most likely resemble.
pub(super) fn put_surroundings(segments: &[Segment], old: &[u8], new_len: usize, out: &mut Vec<u8>) {
    /// How much is taken before and behind, and at most between.
    const MARGIN: usize = 64;
    const BETWEEN: usize = 1 << 10;
    out.reserve(old.len().saturating_sub(out.len()).min(segments.len() * (BETWEEN + 2 * MARGIN)));
    let mut done = 0..0;
    let none = Segment { old: 0, new: 0, len: 0 };
    let end = Segment { old: old.len() as u32, new: new_len as u32, len: 0 };
    let befores = [none].into_iter().chain(segments.iter().copied());
    for (before, after) in befores.zip(segments.iter().copied().chain([end])) {
        if before.new + before.len == after.new {
            continue;
        }
        let from = (before.old + before.len) as usize;
        let to = (after.old as usize).clamp(from, from + BETWEEN);
        let mut range = from.saturating_sub(MARGIN)..(to + MARGIN).min(old.len());
        if done.contains(&range.start) {
            range.start = done.end;
        }
        if !range.is_empty() {
            // Segments may come from the same place over and over: what is taken, with all that was before, is no longer than the old.
            if out.len() + range.len() > old.len() {
                return;
            }
            done = range.clone();
            out.extend_from_slice(&old[range]);
        }
    }
}
