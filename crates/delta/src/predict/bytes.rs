//! Bytes that were predicted wrong: how many are right before each, and what to add.

use crate::align::Segment;
use crate::codec::CodecError;

use super::streams::{Reader, Sort, Streams};

/// Writes how the bytes that segments cover differ from what was predicted. `gap` goes on from one member to the next.
pub(super) fn put(segments: &[Segment], predicted: &[u8], new: &[u8], gap: &mut u64, streams: &mut Streams) {
    for segment in segments {
        let range = segment.new as usize..(segment.new + segment.len) as usize;
        let (predicted, new) = (&predicted[range.clone()], &new[range]);
        let mut at = 0;
        while let Some(wrong) = first_difference(&predicted[at..], &new[at..]) {
            streams.put(Sort::Gaps, *gap + wrong as u64);
            streams.push(Sort::Values, new[at + wrong].wrapping_sub(predicted[at + wrong]));
            at += wrong + 1;
            *gap = 0;
        }
        *gap += (new.len() - at) as u64;
    }
}

/// How far the next wrong byte is.
pub(super) struct Gap(u64);

impl Gap {
    /// Reads the first.
    pub fn first(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if reader.is_at_end(Sort::Gaps) { Ok(Self(u64::MAX)) } else { Ok(Self(reader.number(Sort::Gaps)?)) }
    }
}

/// Mends the bytes that segments cover.
pub(super) fn mend(segments: &[Segment], out: &mut [u8], gap: &mut Gap, reader: &mut Reader<'_>) -> Result<(), CodecError> {
    for segment in segments {
        let range = segment.new as usize..(segment.new + segment.len) as usize;
        let mut rest = &mut out[range];
        while gap.0 < rest.len() as u64 {
            let (now, later) = rest.split_at_mut(gap.0 as usize + 1);
            let byte = &mut now[gap.0 as usize];
            *byte = byte.wrapping_add(reader.bytes(Sort::Values, 1)?[0]);
            *gap = Gap::first(reader)?;
            rest = later;
        }
        if gap.0 < u64::MAX {
            gap.0 -= rest.len() as u64;
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    let same = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| word(a) == word(b)).count() * 8;
    (same..a.len()).find(|&at| a[at] != b[at])
}
