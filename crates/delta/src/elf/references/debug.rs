//! What debuggers read: DWARF versions 2 to 5, in units of 32 bits.

mod entries;
mod form;
mod lines;

use super::Found;
use crate::elf::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::elf::image::Section;
use crate::elf::layout::{Layout, Part};
use crate::elf::{Image, Kind};

/// Finds the addresses and offsets of a section that is not loaded. What is not understood is left alone.
pub(super) fn scan(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    match section.name.as_slice() {
        b".debug_info" | b".debug_types" => entries::scan(image, bytes, section, found),
        b".debug_line" => lines::scan(image, bytes, section, found),
        b".debug_ranges" => pairs(image.layout(), bytes, section, found),
        b".debug_aranges" => units(bytes, section, found, |unit, found| by_address(image.layout(), bytes, unit, found)),
        b".debug_addr" => units(bytes, section, found, |unit, found| addresses(image.layout(), bytes, unit, found)),
        b".debug_str_offsets" => units(bytes, section, found, strings),
        b".debug_loc" => locations(image.layout(), bytes, section, found),
        _ => {}
    }
}

/// A stretch that says how long it is: what follows its length, and where it ends.
#[derive(Debug, Clone, Copy)]
struct Unit {
    at: u32,
    end: u32,
}

/// Visits the units of a section, and notes their lengths as references to their ends.
fn units(bytes: &[u8], section: &Section, found: &mut Found, mut visit: impl FnMut(Unit, &mut Found)) {
    let mut at = section.at;
    while let Some(len) = u32_at(bytes, at as usize) {
        let Some(end) = (at + 4).checked_add(len).filter(|end| *end <= section.end() && len > 0) else { return };
        found.push(at, at + 4, Kind::Within, 4, -1);
        visit(Unit { at: at + 4, end }, found);
        found.end_of_unit();
        at = end;
    }
}

/// Returns whether it is an address of code.
fn is_code(layout: &Layout, address: u64) -> bool {
    layout.loads.iter().any(|l| l.code && address.wrapping_sub(l.address) < u64::from(l.len))
}

/// Adds where a stretch of code starts and where it ends.
fn range(layout: &Layout, bytes: &[u8], at: u32, found: &mut Found) {
    let (Some(start), Some(end)) = (u64_at(bytes, at as usize), u64_at(bytes, at as usize + 8)) else { return };
    if is_code(layout, start) {
        found.address(at);
        if end > start {
            found.end_address(at + 8);
        }
    } else if start == u64::MAX && is_code(layout, end) {
        found.address(at + 8);
    }
}

/// `.debug_ranges`: lists of pairs.
fn pairs(layout: &Layout, bytes: &[u8], section: &Section, found: &mut Found) {
    for at in (section.at..section.end()).step_by(16).take_while(|at| at + 16 <= section.end()) {
        range(layout, bytes, at, found);
    }
}

/// `.debug_loc`: lists of pairs, each with an expression.
fn locations(layout: &Layout, bytes: &[u8], section: &Section, found: &mut Found) {
    let mut at = section.at;
    while at < section.end() && at + 16 <= section.end() {
        let (start, end) = (u64_at(bytes, at as usize).unwrap_or(0), u64_at(bytes, at as usize + 8).unwrap_or(0));
        range(layout, bytes, at, found);
        at += 16;
        if start != u64::MAX && (start, end) != (0, 0) {
            at += 2 + u32::from(u16_at(bytes, at as usize).unwrap_or(0));
        }
    }
}

/// `.debug_aranges`: for each unit of entries the code it is about.
fn by_address(layout: &Layout, bytes: &[u8], unit: Unit, found: &mut Found) {
    found.offset(unit.at + 2, Part::DebugEntries, 4);
    // Pairs of an address and a length, aligned to their own length.
    for at in (unit.at + 12..unit.end).step_by(16).take_while(|at| at + 16 <= unit.end) {
        if let Some(start) = u64_at(bytes, at as usize).filter(|start| is_code(layout, *start)) {
            found.address(at);
            if let Some(start) = layout.place(start) {
                found.length(at + 8, start, 8);
            }
        }
    }
}

/// `.debug_addr`: addresses that entries name by number.
fn addresses(layout: &Layout, bytes: &[u8], unit: Unit, found: &mut Found) {
    for at in (unit.at + 4..unit.end).step_by(8).take_while(|at| at + 8 <= unit.end) {
        if u64_at(bytes, at as usize).is_some_and(|address| address > 1 && layout.place(address).is_some()) {
            found.address(at);
        }
    }
}

/// `.debug_str_offsets`: strings that entries name by number.
fn strings(unit: Unit, found: &mut Found) {
    for at in (unit.at + 4..unit.end).step_by(4).take_while(|at| at + 4 <= unit.end) {
        found.debug_string(at, false);
    }
}

/// Returns the version of a unit and how long an address is in it, if both are known here.
fn version(bytes: &[u8], at: u32) -> Option<u16> {
    u16_at(bytes, at as usize).filter(|version| (2..=5).contains(version))
}

/// Returns a byte.
fn byte(bytes: &[u8], at: u32) -> Option<u8> {
    u8_at(bytes, at as usize)
}
