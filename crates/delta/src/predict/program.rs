//! One program, predicted from another.

use std::sync::Arc;

use crate::align::{self, Effort, Segment};
use crate::codec::CodecError;
use crate::elf::{Image, Layout, Reference, Transformed, hide_operands, hide_targets, references};

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

/// What is known of a program besides its bytes, which are transformed.
pub(super) struct Program {
    pub layout: Arc<Layout>,
    pub references: Vec<Reference>,
}

impl Program {
    /// Reads a transformed program.
    pub fn read(bytes: &[u8], mut transformed: Transformed) -> Option<Self> {
        let image = Image::read(bytes)?;
        let references = references(&image, bytes, &mut transformed);
        Some(Self { layout: Arc::new(image.layout().clone()), references })
    }

    /// Forgets what an alignment does not ask for: of a new program nothing else is.
    pub fn only_for_alignment(mut self) -> Self {
        self.references.retain(Reference::is_wide);
        self.references.shrink_to_fit();
        self
    }
}

/// Returns which stretches of the new program come from which of the old. The bytes of both are written to, and are afterwards what they were.
///
/// First by the bytes that are not operands; then by all bytes, operands replaced by what they mean in the new file, as far as the first alignment tells.
pub(super) fn align(
    (old, old_bytes): (&Program, &mut [u8]),
    (new, new_bytes): (&Program, &mut [u8]),
    effort: Effort,
) -> Vec<Segment> {
    let hidden = (hide_operands(old_bytes, &old.references), hide_operands(new_bytes, &new.references));
    let first = align::align(old_bytes, new_bytes, effort);
    hidden.0.show(old_bytes, &old.references);
    hidden.1.show(new_bytes, &new.references);
    let map = Map::new(&first, old_bytes.len() as u32, new_bytes.len() as u32);
    let hidden = (
        hide_targets(old_bytes, &old.references, &old.layout, |place| map.get(place)),
        hide_targets(new_bytes, &new.references, &new.layout, |place| place),
    );
    drop(map);
    let segments = match effort {
        Effort::Fast => refine(old_bytes, new_bytes, &first, effort),
        Effort::Small => align::align(old_bytes, new_bytes, effort),
    };
    hidden.0.show(old_bytes, &old.references);
    hidden.1.show(new_bytes, &new.references);
    segments
}
