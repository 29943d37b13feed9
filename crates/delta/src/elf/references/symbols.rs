//! The tables of symbols.

use super::Found;
use crate::elf::Image;
use crate::elf::bytes::{u16_at, u32_at, u64_at};
use crate::elf::image::Section;
use crate::elf::layout::Part;

/// The length of a symbol.
const SYMBOL: u32 = 24;

/// Finds the names, the addresses and the lengths of a table's symbols.
pub(super) fn scan(image: &Image, bytes: &[u8], section: &Section, names: Part, found: &mut Found) {
    for at in (0..section.len / SYMBOL).map(|k| section.at + k * SYMBOL) {
        let i = at as usize;
        let (Some(name), Some(index), Some(value), Some(len)) =
            (u32_at(bytes, i), u16_at(bytes, i + 6), u64_at(bytes, i + 8), u64_at(bytes, i + 16))
        else {
            return;
        };
        if name != 0 {
            found.offset(at, names, 4);
        }
        // Undefined, or a number that is no address.
        if index == 0 || index >= 0xff00 || bytes.get(i + 4).is_some_and(|kind| kind & 15 == 6) {
            continue;
        }
        found.address(at + 8);
        if len > 0
            && let Some(start) = image.layout().place(value)
        {
            found.length(at + 16, start, 8);
        }
    }
}
