//! One program, predicted from another.

use std::sync::Arc;

use crate::align::{self, Effort, Segment};
use crate::codec::CodecError;
use crate::elf::{Image, Layout, Reference, Transformed, hide_operands, hide_targets, references, references_again};

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
    /// What finding the references again takes.
    transformed: Transformed,
    has_debug: bool,
    /// What the references were that are to be found again.
    forgotten: Option<u64>,
    only_wide: bool,
}

impl Program {
    /// Reads a transformed program.
    pub fn read(bytes: &[u8], mut transformed: Transformed) -> Option<Self> {
        let image = Image::read(bytes)?;
        let has_debug = transformed.debug.is_some();
        let references = references(&image, bytes, &mut transformed);
        let layout = Arc::new(image.layout().clone());
        Some(Self { layout, references, transformed, has_debug, forgotten: None, only_wide: false })
    }

    /// Leaves out what an alignment does not ask for: of a new program nothing else is.
    pub fn only_for_alignment(mut self) -> Self {
        self.only_wide = true;
        self.keep_wide();
        self
    }

    fn keep_wide(&mut self) {
        self.references.retain(Reference::is_wide);
        self.references.shrink_to_fit();
    }

    /// Gives the memory of the references back, which is as much as the program, until they are to be remembered.
    pub fn forget(&mut self) {
        self.forgotten = Some(sum(&self.references));
        self.references = Vec::new();
    }

    /// Finds the references again if they were forgotten. `None` if they are others now, which the decoder would not know.
    pub fn remember(&mut self, bytes: &[u8]) -> Option<()> {
        let Some(forgotten) = self.forgotten.take() else { return Some(()) };
        let image = Image::read(bytes)?;
        let find = if self.has_debug { references_again } else { references };
        self.references = find(&image, bytes, &mut self.transformed);
        if self.only_wide {
            self.keep_wide();
        }
        (sum(&self.references) == forgotten).then_some(())
    }
}

/// Returns a number that tells references from others.
fn sum(references: &[Reference]) -> u64 {
    references.iter().fold(references.len() as u64, |sum, reference| {
        let Reference { at, base, kind, width, bias } = *reference;
        let places = u64::from(at) << 32 | u64::from(base);
        let rest = u64::from(kind as u8) << 16 | u64::from(width) << 8 | u64::from(bias as u8);
        (sum.rotate_left(5) ^ places).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(rest)
    })
}

/// Returns which stretches of the new program come from which of the old. The bytes of both are written to, and are afterwards what they were.
///
/// First by the bytes that are not operands; then by all bytes, operands replaced by what they mean in the new file, as far as the first alignment tells. Where that takes
/// long anyway, references are forgotten meanwhile. `None` if they are not found again.
pub(super) fn align(
    (old, old_bytes): (&mut Program, &mut [u8]),
    (new, new_bytes): (&mut Program, &mut [u8]),
    effort: Effort,
) -> Option<Vec<Segment>> {
    let forget = |old: &mut Program, new: &mut Program| {
        if effort == Effort::Small {
            old.forget();
            new.forget();
        }
    };
    let hidden = (hide_operands(old_bytes, &old.references), hide_operands(new_bytes, &new.references));
    forget(old, new);
    let first = align::align(old_bytes, new_bytes, effort);
    hidden.0.show(old_bytes);
    hidden.1.show(new_bytes);
    old.remember(old_bytes)?;
    new.remember(new_bytes)?;
    let map = Map::new(&first, old_bytes.len() as u32, new_bytes.len() as u32);
    let hidden = (
        hide_targets(old_bytes, &old.references, &old.layout, |place| map.get(place)),
        hide_targets(new_bytes, &new.references, &new.layout, |place| place),
    );
    forget(old, new);
    drop(map);
    let segments = match effort {
        Effort::Fast => refine(old_bytes, new_bytes, &first, effort),
        Effort::Small => align::align(old_bytes, new_bytes, effort),
    };
    hidden.0.show(old_bytes);
    hidden.1.show(new_bytes);
    old.remember(old_bytes)?;
    Some(segments)
}
