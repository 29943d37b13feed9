//! One program, predicted from another.

use crate::align::{self, Effort, Segment};
use crate::codec::CodecError;
use crate::elf::{Image, Layout, Reference, Transformed, references, with_labels, without_operands};

use super::map::Map;
use super::references::{Sides, Truth, predict as move_references};
use super::refine::refine;

/// Writes what the new program most likely is to where segments are in `out`. `old` is transformed.
pub(super) fn predict(
    old: &[u8],
    old_layout: &Layout,
    references: &[Reference],
    new_layout: &Layout,
    segments: &[Segment],
    truth: &mut impl Truth,
    out: &mut [u8],
) -> Result<(), CodecError> {
    if new_layout.len as usize != out.len() {
        return Err(CodecError::Body);
    }
    let map = Map::new(segments, old.len() as u32, out.len() as u32);
    move_references(&Sides { old, old_layout, new_layout, references, map: &map }, segments, truth, out)
}

/// A program as the alignment wants it: transformed, with its references.
pub(super) struct Program<'a> {
    pub bytes: &'a [u8],
    pub image: Image,
    pub references: Vec<Reference>,
}

impl<'a> Program<'a> {
    /// Reads a transformed program.
    pub fn read(bytes: &'a [u8], transformed: &Transformed) -> Option<Self> {
        let image = Image::read(bytes)?;
        let references = references(&image, bytes, transformed);
        Some(Self { bytes, image, references })
    }
}

/// Returns which stretches of the new program come from which of the old.
///
/// First by the bytes that are not operands; then by all bytes, operands replaced by what they mean in the new file, as far as the first alignment tells.
pub(super) fn align(old: &Program<'_>, new: &Program<'_>, effort: Effort) -> Vec<Segment> {
    let first = {
        let (old, new) = (without_operands(old.bytes, &old.references), without_operands(new.bytes, &new.references));
        align::align(&old, &new, effort)
    };
    let map = Map::new(&first, old.bytes.len() as u32, new.bytes.len() as u32);
    let labels = with_labels(old.bytes, &old.references, old.image.layout(), |place| map.get(place));
    let new_labels = with_labels(new.bytes, &new.references, new.image.layout(), |place| place);
    match effort {
        Effort::Fast => refine(&labels, &new_labels, &first, effort),
        Effort::Small => align::align(&labels, &new_labels, effort),
    }
}
