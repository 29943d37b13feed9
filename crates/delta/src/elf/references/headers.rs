//! Addresses and offsets in the headers themselves.

use super::Found;
use crate::elf::Image;
use crate::elf::bytes::{u32_at, u64_at};
use crate::elf::image::{PROGRAM_HEADER, SECTION_HEADER};
use crate::elf::{Kind, layout::Layout};

/// Finds what the file header, the program headers and the section headers refer to.
pub(super) fn scan(image: &Image, bytes: &[u8], found: &mut Found) {
    found.address(24);
    found.push(32, 32, Kind::Offset, 8, 0);
    found.push(40, 40, Kind::Offset, 8, 0);
    let (at, n) = image.programs;
    for at in (0..n).map(|k| at + k * PROGRAM_HEADER) {
        program(image.layout(), bytes, at, found);
    }
    let (at, n) = image.headers;
    for at in (0..n).map(|k| at + k * SECTION_HEADER) {
        section(bytes, at, found);
    }
}

fn program(layout: &Layout, bytes: &[u8], at: u32, found: &mut Found) {
    found.push(at + 8, at + 8, Kind::Offset, 8, 0);
    found.address(at + 16);
    found.address(at + 24);
    if let Some(start) = u64_at(bytes, at as usize + 16).and_then(|address| layout.place(address)) {
        found.length(at + 32, start, 8);
        found.length(at + 40, start, 8);
    }
}

fn section(bytes: &[u8], at: u32, found: &mut Found) {
    found.push(at, crate::elf::layout::Part::SectionNames as u32, Kind::Part, 4, 0);
    if u64_at(bytes, at as usize + 16) != Some(0) {
        found.address(at + 16);
    }
    // An empty one ends before it starts.
    let (kind, len) = (u32_at(bytes, at as usize + 4), u64_at(bytes, at as usize + 32));
    if let Some(start) = u64_at(bytes, at as usize + 24).and_then(|start| u32::try_from(start).ok()) {
        found.push(at + 24, at + 24, Kind::Offset, 8, 0);
        if kind != Some(8) && len != Some(0) {
            found.push(at + 32, start, Kind::Within, 8, -1);
        }
    }
}
