//! One place in a file that means another.

use super::Layout;
use crate::varint;

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
    #[inline]
    pub fn base_place(&self) -> Option<u32> {
        matches!(self.kind, Kind::From | Kind::Within).then_some(self.base)
    }

    /// Returns the place that it means, `None` if what it holds means no place of this file (then predict its bytes as they are).
    #[inline]
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
    #[inline]
    pub fn write(&self, layout: &Layout, at: u32, base: u32, target: u32, out: &mut [u8]) -> bool {
        self.value_at(layout, at, base, target).is_some_and(|value| self.put(value, at, out))
    }

    #[inline]
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

    #[inline]
    fn value(&self, bytes: &[u8]) -> Option<u64> {
        let signed = matches!(self.kind, Kind::Near | Kind::Operand | Kind::From);
        let value = self.holds(bytes)?;
        Some(match self.width {
            1 if signed => value as i8 as i64 as u64,
            4 if signed => value as i32 as i64 as u64,
            _ => value,
        })
    }

    /// Returns its bytes as they are, the first one lowest.
    #[inline]
    pub fn holds(&self, bytes: &[u8]) -> Option<u64> {
        let bytes = bytes.get(self.at as usize..)?;
        Some(match self.width {
            1 => u64::from(*bytes.first()?),
            2 => u64::from(u16::from_le_bytes(*bytes.first_chunk()?)),
            4 => u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
            6 => {
                let [a, b, c, d, e, f] = *bytes.first_chunk()?;
                u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
            }
            8 => u64::from_le_bytes(*bytes.first_chunk()?),
            _ => return None,
        })
    }

    #[inline]
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
        fits && out.get_mut(at as usize..).is_some_and(|rest| put_bytes(rest, self.width, value))
    }
}

/// Writes the lowest bytes of a value, if there is room. One copy for each width: of a length that is known only when it runs, it would be a call.
#[inline]
fn put_bytes(out: &mut [u8], width: u8, value: u64) -> bool {
    #[inline]
    fn put<const N: usize>(out: &mut [u8], value: u64) -> bool {
        let bytes = value.to_le_bytes();
        out.first_chunk_mut::<N>().zip(bytes.first_chunk()).map(|(slot, bytes)| *slot = *bytes).is_some()
    }
    match width {
        1 => put::<1>(out, value),
        2 => put::<2>(out, value),
        4 => put::<4>(out, value),
        6 => put::<6>(out, value),
        _ => put::<8>(out, value),
    }
}

/// What references held before something else was written there, and where: they themselves may go meanwhile.
#[must_use = "the bytes are not those of the file before it is shown again"]
pub(crate) struct Hidden {
    held: Vec<u8>,
    /// For each, how far it is from the end of the one before, times four, and half of its length less two.
    steps: Vec<u8>,
}

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
    /// Puts back what was there.
    pub fn show(self, bytes: &mut [u8]) {
        fn show<const N: usize>(held: &mut &[u8], bytes: &mut [u8], at: usize) -> usize {
            if let (Some((before, rest)), Some(slot)) = (held.split_first_chunk::<N>(), bytes[at..].first_chunk_mut()) {
                *slot = *before;
                *held = rest;
            }
            at + N
        }
        let (mut held, mut steps, mut at) = (&self.held[..], &self.steps[..], 0);
        while let Ok(step) = varint::take(&mut steps) {
            at += step as usize >> 2;
            at = match step & 3 {
                0 => show::<4>(&mut held, bytes, at),
                1 => show::<6>(&mut held, bytes, at),
                _ => show::<8>(&mut held, bytes, at),
            };
        }
    }

    fn hide<const N: usize>(&mut self, bytes: &mut [u8], at: usize, what: Option<u32>) {
        let Some(slot) = bytes[at..].first_chunk_mut::<N>() else { return };
        self.held.extend_from_slice(slot);
        if let Some(what) = what {
            *slot = [0; N];
            // The most telling byte first: an aligner that looks at the bytes in order meets the difference early.
            slot[..4].copy_from_slice(&what.to_be_bytes());
        }
    }
}

/// Writes something else to references, where there is something; each of them is read before it is written, and no other.
fn hide(bytes: &mut [u8], references: &[Reference], what: impl Fn(&Reference, &[u8]) -> Option<u32>) -> Hidden {
    let (n, len) = wide(references).fold((0, 0), |(n, len), reference| (n + 1, len + usize::from(reference.width)));
    let mut hidden = Hidden { held: Vec::with_capacity(len), steps: Vec::with_capacity(n + n / 8) };
    let mut end = 0;
    for reference in wide(references) {
        let (at, width, what) = (reference.at as usize, u64::from(reference.width), what(reference, bytes));
        varint::put(&mut hidden.steps, ((at - end) as u64) << 2 | (width / 2 - 2));
        match width {
            4 => hidden.hide::<4>(bytes, at, what),
            6 => hidden.hide::<6>(bytes, at, what),
            _ => hidden.hide::<8>(bytes, at, what),
        }
        end = at + width as usize;
    }
    hidden
}

/// Returns those references that hold more than a short jump: four, six or eight bytes.
fn wide(references: &[Reference]) -> impl Iterator<Item = &Reference> {
    references.iter().filter(|reference| reference.is_wide())
}
