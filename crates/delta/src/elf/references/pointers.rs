//! Words of data that hold addresses, and the tables that say which do.

use super::Found;
use crate::elf::bytes::u64_at;
use crate::elf::image::{Section, WRITE};
use crate::elf::{Image, Kind, Transformed, transform};

/// The lowest address that a word of data is taken for: smaller ones are mostly numbers.
const LOWEST: u64 = 0x1000;

/// The tags of the dynamic section whose values are addresses.
const ADDRESSES: [u64; 17] = [3, 4, 5, 6, 7, 12, 13, 17, 23, 25, 26, 32, 36, 0x6fff_fef5, 0x6fff_fff0, 0x6fff_fffc, 0x6fff_fffe];

/// The tags whose values are lengths, each with the tag of what it is the length of.
const LENGTHS: [(u64, u64); 7] = [(2, 23), (8, 7), (10, 5), (27, 25), (28, 26), (33, 32), (35, 36)];

/// Adds the words that the addends of relocations were moved to.
pub(super) fn relocated(transformed: &Transformed, found: &mut Found) {
    for &at in &transformed.pointers {
        // The other two are the mark.
        found.push(at, at, Kind::Address, 6, 0);
    }
}

/// Finds what a table of relocations holds besides relative ones, whose offsets are differences if `marked`.
pub(super) fn relocations(bytes: &[u8], section: &Section, marked: bool, found: &mut Found) {
    let run = if marked { transform::run(bytes, section).unwrap_or_default() } else { 0..0 };
    let mut first = true;
    for at in (section.at..section.end()).step_by(24).take_while(|at| at + 24 <= section.end()) {
        if run.contains(&(at as usize)) {
            continue;
        }
        if !marked || first {
            found.address(at);
            first = false;
        }
        // A resolver of an indirect function; an addend that stayed.
        let kind = u64_at(bytes, at as usize + 8);
        if kind == Some(37) || kind == Some(8) {
            found.address(at + 16);
        }
    }
}

/// Finds the words that a packed table of relative relocations lists: an address, then bitmaps of the 63 words after the last one.
pub(super) fn packed(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    let layout = image.layout();
    let mut next = 0u64;
    let word = |address: u64, found: &mut Found| {
        if let Some(place) = layout.place(address).filter(|place| *place < layout.len) {
            found.address(place);
        }
    };
    for at in (section.at..section.end()).step_by(8) {
        let Some(entry) = u64_at(bytes, at as usize) else { return };
        if entry & 1 == 0 {
            found.address(at);
            word(entry, found);
            next = entry.wrapping_add(8);
        } else {
            for bit in (1..64).filter(|bit| entry >> bit & 1 != 0) {
                word(next.wrapping_add(8 * (bit - 1)), found);
            }
            next = next.wrapping_add(63 * 8);
        }
    }
}

/// Finds the addresses and lengths of the dynamic section.
pub(super) fn dynamic(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    let entries = || {
        let n = section.len / 16;
        (0..n)
            .map(|k| section.at + k * 16)
            .filter_map(|at| Some((at, u64_at(bytes, at as usize)?, u64_at(bytes, at as usize + 8)?)))
    };
    let value = |tag: u64| entries().take(256).find(|e| e.1 == tag).map(|e| e.2);
    for (at, tag, _) in entries() {
        if ADDRESSES.contains(&tag) {
            found.address(at + 8);
        } else if let Some((_, of)) = LENGTHS.iter().find(|l| l.0 == tag)
            && let Some(start) = value(*of).and_then(|address| image.layout().place(address))
        {
            found.length(at + 8, start, 8);
        }
    }
}

/// Finds words that look like addresses in a program that is never relocated.
pub(super) fn plain(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    let layout = image.layout();
    let loads = &layout.loads;
    let (low, high) =
        (loads.first().map_or(0, |l| l.address), loads.last().map_or(0, |l| l.address + u64::from(l.len) + u64::from(l.beyond)));
    // What is only read may hold anything; a word that is written and reads like an address is one.
    let low = if section.flags & WRITE != 0 { low } else { low + LOWEST };
    for at in (section.at.next_multiple_of(8)..section.end()).step_by(8) {
        let Some(value) = u64_at(bytes, at as usize) else { return };
        if value >= low.max(LOWEST) && value < high && layout.place(value).is_some() {
            found.address(at);
        }
    }
}
