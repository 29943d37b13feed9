//! How the attributes of entries are written.

use crate::elf::layout::Part;

/// What to do to get past an attribute, and whether it refers to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes.
    Skip(u16),
    /// A number of seven bits a byte.
    Leb,
    /// Bytes up to a zero.
    Text,
    /// A block after its length of so many bytes, 0 for seven bits a byte.
    Block(u8),
    /// An expression after its length.
    Expression,
    /// Four bytes: an offset from the start of a part.
    Offset(Part),
    /// Four bytes: an offset from the start of the unit.
    Entry,
    /// Eight bytes: an address.
    Address,
    /// Eight bytes: where the code of this entry starts.
    Start,
    /// Four bytes: how long the code of this entry is.
    Length,
    /// Eight bytes: how long the code of this entry is.
    Length8,
    /// So many bytes: the number of a file of this unit. 0 for seven bits a byte.
    File(u8),
}

impl Step {
    /// Returns what is left to do where only offsets of strings are wanted: the same way, and the same order of those.
    pub fn for_strings(self) -> Step {
        match self {
            Step::Offset(Part::DebugStrings) => self,
            Step::Offset(_) | Step::Entry | Step::Length => Step::Skip(4),
            Step::Address | Step::Length8 => Step::Skip(8),
            Step::File(0) => Step::Leb,
            Step::File(width) => Step::Skip(width.into()),
            // Whether a name comes late depends on the start of code.
            Step::Start | Step::Skip(_) | Step::Leb | Step::Text | Step::Block(_) | Step::Expression => self,
        }
    }
}

const LOW_PC: u64 = 0x11;
const HIGH_PC: u64 = 0x12;

/// Returns how to get past a form, `None` for one that is not known.
pub(super) fn step(attribute: u64, form: u64, version: u16) -> Option<Step> {
    Some(match form {
        0x01 if attribute == LOW_PC => Step::Start,
        0x01 => Step::Address,
        0x06 if attribute == HIGH_PC => Step::Length,
        0x07 if attribute == HIGH_PC => Step::Length8,
        0x0b if is_file(attribute) => Step::File(1),
        0x05 if is_file(attribute) => Step::File(2),
        0x0f if is_file(attribute) => Step::File(0),
        0x0b | 0x0c | 0x11 | 0x25 | 0x29 => Step::Skip(1),
        0x05 | 0x12 | 0x26 | 0x2a => Step::Skip(2),
        0x27 | 0x2b => Step::Skip(3),
        0x06 | 0x1c | 0x1d | 0x28 | 0x2c | 0x1f20 | 0x1f21 => Step::Skip(4),
        0x07 | 0x14 | 0x20 | 0x24 => Step::Skip(8),
        0x1e => Step::Skip(16),
        0x19 | 0x21 => Step::Skip(0),
        0x0d | 0x0f | 0x15 | 0x1a | 0x1b | 0x22 | 0x23 | 0x1f01 | 0x1f02 => Step::Leb,
        0x08 => Step::Text,
        0x0a => Step::Block(1),
        0x03 => Step::Block(2),
        0x04 => Step::Block(4),
        0x09 => Step::Block(0),
        0x18 => Step::Expression,
        0x0e => Step::Offset(Part::DebugStrings),
        0x1f => Step::Offset(Part::DebugLineStrings),
        0x10 if version > 2 => Step::Offset(Part::DebugEntries),
        0x10 => Step::Skip(8),
        0x13 => Step::Entry,
        0x17 => Step::Offset(part(attribute, version)),
        _ => return None,
    })
}

/// Returns whether it is the file where something is declared, or called.
fn is_file(attribute: u64) -> bool {
    matches!(attribute, 0x3a | 0x58)
}

/// Returns what an attribute's offset counts from.
fn part(attribute: u64, version: u16) -> Part {
    match attribute {
        0x10 => Part::Lines,
        0x55 if version < 5 => Part::Ranges,
        0x55 | 0x74 => Part::RangeLists,
        0x72 => Part::StringOffsets,
        0x73 | 0x2133 => Part::Addresses,
        0x43 | 0x79 | 0x2119 => Part::Macros,
        _ if version < 5 => Part::Locations,
        _ => Part::LocationLists,
    }
}
