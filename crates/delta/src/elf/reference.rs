//! One place in a file that means another.

use std::ops::Range;

use super::Layout;

/// What a reference's value is counted in and from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An address, counted from the address of the reference itself: calls, jumps, rip-relative operands, pointers of `.eh_frame`. `base` is `at`.
    Near,
    /// As [`Kind::Near`], and certainly an operand of an instruction: [`hide_operands`] makes it zero.
    Operand,
    /// An address, counted from the address of the place `base`: jump tables, lengths of functions.
    From,
    /// An address.
    Address,
    /// A file offset, counted from the place `base`: references between debugging entries.
    Within,
    /// A file offset, counted from the start of the unit of `.debug_info` that the reference is in.
    Entry,
    /// A file offset, counted from the start of a [`Part`](super::layout::Part), whose number is `base`.
    Part,
    /// A file offset.
    Offset,
    /// A small number that means the same all over a unit: of a file, of a form. `base` is the unit's; the number becomes a place far beyond the file, so that what
    /// one of them is in the new file is learned from its first.
    Number,
}

/// How many different numbers a unit may have.
pub(super) const NUMBERS: u32 = 1 << 10;

/// Returns the place of the first number: beyond what any load has in memory, or nearly any.
fn numbers(layout: &Layout) -> Option<u32> {
    layout.len.checked_add(0x6000_0000)
}

/// A place in the (transformed) file that holds an address, an offset of a string, the length of a function and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Where it is in the file.
    pub at: u32,
    /// What its value is counted from; see [`Kind`].
    pub base: u32,
    /// How to read it.
    pub kind: Kind,
    /// Its length in bytes: 1, 2, 4, 6 or 8. All but 8 are sign extended when counted from a place, zero extended otherwise.
    pub width: u8,
    /// What is added to the value's meaning to get the target: where the next instruction starts, or -1 for an end, which is best
    /// found by the last byte before it.
    pub bias: i8,
}

impl Reference {
    /// Returns what `base` is to be moved as a place (through the map of the alignment) before [`Reference::write`], or `None` if it is no place or just `at`.
    pub fn base_place(&self) -> Option<u32> {
        matches!(self.kind, Kind::From | Kind::Within).then_some(self.base)
    }

    /// Returns the place that it means, `None` if what it holds means no place of this file (then predict its bytes as they are).
    pub fn target(&self, layout: &Layout, bytes: &[u8]) -> Option<u32> {
        let value = self.value(bytes)?.wrapping_add(self.bias as i64 as u64);
        let offset = |from: u32| u32::try_from(u64::from(from).wrapping_add(value)).ok().filter(|place| *place < layout.len);
        match self.kind {
            Kind::Near | Kind::Operand => layout.place(layout.address(self.at)?.wrapping_add(value)),
            Kind::From => layout.place(layout.address(self.base)?.wrapping_add(value)),
            Kind::Address => layout.place(value),
            Kind::Within => offset(self.base),
            Kind::Entry => offset(layout.unit(self.at)?),
            Kind::Part => offset(*layout.parts.get(self.base as usize)?),
            Kind::Offset => offset(0),
            Kind::Number => {
                numbers(layout)?.checked_add(self.base)?.checked_add(u32::try_from(value).ok().filter(|value| *value < NUMBERS)?)
            }
        }
    }

    /// Writes what it holds in the file of `layout`, when it is at `out_at` there (the caller puts `out[out_at..]` in), its base at `base` and its target at
    /// `target`. Returns `false`, and leaves `out` as it is, when that has no value of its width.
    pub fn write(&self, layout: &Layout, at: u32, base: u32, target: u32, out: &mut [u8]) -> bool {
        self.value_at(layout, at, base, target).is_some_and(|value| self.put(value, at, out))
    }

    fn value_at(&self, layout: &Layout, at: u32, base: u32, target: u32) -> Option<u64> {
        let from = match self.kind {
            Kind::Near | Kind::Operand => layout.address(at)?,
            Kind::From => layout.address(base)?,
            Kind::Within => u64::from(base),
            Kind::Entry => u64::from(layout.unit(at)?),
            Kind::Part => u64::from(*layout.parts.get(self.base as usize)?),
            Kind::Number => u64::from(numbers(layout)?.checked_add(self.base)?),
            Kind::Address | Kind::Offset => 0,
        };
        let to = match self.kind {
            Kind::Within | Kind::Entry | Kind::Part | Kind::Offset | Kind::Number => u64::from(target),
            _ => layout.address(target)?,
        };
        Some(to.wrapping_sub(from).wrapping_sub(self.bias as i64 as u64))
    }

    /// Returns whether it is long enough that an alignment goes better without it.
    pub fn is_wide(&self) -> bool {
        self.width >= 4
    }

    fn value(&self, bytes: &[u8]) -> Option<u64> {
        let at = self.at as usize;
        let signed = matches!(self.kind, Kind::Near | Kind::Operand | Kind::From);
        Some(match self.width {
            1 if signed => *bytes.get(at)? as i8 as i64 as u64,
            1 => u64::from(*bytes.get(at)?),
            2 => u64::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)),
            4 => {
                let value = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
                if signed { value as i32 as i64 as u64 } else { u64::from(value) }
            }
            6 => {
                let [a, b, c, d, e, f] = *bytes.get(at..)?.first_chunk()?;
                u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
            }
            8 => u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?),
            _ => return None,
        })
    }

    fn put(&self, value: u64, at: u32, out: &mut [u8]) -> bool {
        let signed = matches!(self.kind, Kind::Near | Kind::Operand | Kind::From);
        let fits = match self.width {
            1 if signed => i8::try_from(value as i64).is_ok(),
            // In seven bits, so that it is one byte wherever it is.
            1 => value < 0x80,
            2 => u16::try_from(value).is_ok(),
            4 if signed => i32::try_from(value as i64).is_ok(),
            4 => u32::try_from(value).is_ok(),
            6 => value >> 48 == 0,
            width => width == 8,
        };
        let width = usize::from(self.width);
        let slot = out.get_mut(at as usize..).and_then(|rest| rest.get_mut(..width));
        match (slot, fits) {
            (Some(slot), true) => {
                slot.copy_from_slice(&value.to_le_bytes()[..width]);
                true
            }
            _ => false,
        }
    }
}

/// What references held before something else was written there.
#[must_use = "the bytes are not those of the file before it is shown again"]
pub(crate) struct Hidden(Vec<u8>);

/// Zeroes the operands of instructions: what the first alignment compares.
pub(crate) fn hide_operands(bytes: &mut [u8], references: &[Reference]) -> Hidden {
    hide(bytes, references, |reference, _| (reference.kind != Kind::Address).then_some(0))
}

/// Replaces each reference by its target, moved: what the second alignment compares. The old file's places are moved into the new
/// file by the first alignment's map, the new file's stay, so that what means the same reads the same.
pub(crate) fn hide_targets(bytes: &mut [u8], references: &[Reference], layout: &Layout, moved: impl Fn(u32) -> u32) -> Hidden {
    hide(bytes, references, |reference, bytes| reference.target(layout, bytes).map(&moved))
}

impl Hidden {
    /// Puts what the same references held back.
    pub fn show(self, bytes: &mut [u8], references: &[Reference]) {
        let mut held = &self.0[..];
        for slot in wide(references) {
            let Some((before, rest)) = held.split_at_checked(slot.len()) else { return };
            bytes[slot].copy_from_slice(before);
            held = rest;
        }
    }
}

/// Writes something else to references, where there is something; each of them is read before it is written, and no other.
fn hide(bytes: &mut [u8], references: &[Reference], what: impl Fn(&Reference, &[u8]) -> Option<u32>) -> Hidden {
    let mut held = Vec::with_capacity(wide(references).map(|slot| slot.len()).sum());
    for (slot, reference) in wide(references).zip(references.iter().filter(|reference| reference.is_wide())) {
        held.extend_from_slice(&bytes[slot.clone()]);
        if let Some(what) = what(reference, bytes) {
            let slot = &mut bytes[slot];
            slot.fill(0);
            // The most telling byte first: an aligner that looks at the bytes in order meets the difference early.
            slot[..4].copy_from_slice(&what.to_be_bytes());
        }
    }
    Hidden(held)
}

/// Returns where those references are that hold more than a short jump.
fn wide(references: &[Reference]) -> impl Iterator<Item = Range<usize>> {
    let range = |r: &Reference| r.at as usize..r.at as usize + usize::from(r.width);
    references.iter().filter(|reference| reference.is_wide()).map(range)
}
