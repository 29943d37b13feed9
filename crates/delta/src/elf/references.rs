//! Finds everything in a file that means a place.

mod code;
mod debug;
mod exceptions;
mod headers;
mod instruction;
mod jump_tables;
mod pointers;
mod symbols;

use super::image::{ALLOC, CODE, DYNAMIC, DYNSYM, RELA, RELR, SYMTAB, Section};
use super::layout::Part;
use super::{Image, Kind, Reference, Transformed};

/// Returns the references of a transformed file, sorted by place, disjoint, inside the file. Deterministic: both sides call it on the base.
pub(crate) fn references(image: &Image, bytes: &[u8], transformed: &Transformed) -> Vec<Reference> {
    let mut found = Found::new(bytes.len());
    headers::scan(image, bytes, &mut found);
    let mut tables = jump_tables::Candidates::default();
    for section in image.sections() {
        in_section(image, bytes, section, transformed, &mut found, &mut tables);
    }
    if image.sections().is_empty() {
        code::scan_loads(image, bytes, &mut found, &mut tables);
    }
    jump_tables::scan(image, bytes, tables, &mut found);
    pointers::relocated(transformed, &mut found);
    found.sorted(bytes.len())
}

fn in_section(
    image: &Image,
    bytes: &[u8],
    section: &Section,
    transformed: &Transformed,
    found: &mut Found,
    tables: &mut jump_tables::Candidates,
) {
    if section.flags & ALLOC == 0 {
        match section.kind {
            SYMTAB => symbols::scan(image, bytes, section, Part::Strings, found),
            _ => debug::scan(image, bytes, section, found),
        }
        return;
    }
    match section.kind {
        DYNSYM => return symbols::scan(image, bytes, section, Part::DynamicStrings, found),
        DYNAMIC => return pointers::dynamic(image, bytes, section, found),
        RELA => return pointers::relocations(bytes, section, transformed.flags.marked(), found),
        RELR => return pointers::packed(image, bytes, section, found),
        _ => {}
    }
    match section.name.as_slice() {
        b".eh_frame" => exceptions::frames(image, bytes, section, transformed.flags, found),
        b".eh_frame_hdr" => exceptions::search_table(bytes, section, transformed.flags, found),
        b".gcc_except_table" => {}
        _ if section.flags & CODE != 0 => code::scan(image, bytes, (section.at, section.end()), found, tables),
        _ if image.fixed => pointers::plain(image, bytes, section, found),
        _ => {}
    }
}

/// The references found so far: no more than memory allows, whatever the file is.
pub(super) struct Found {
    references: Vec<Reference>,
    limit: usize,
}

impl Found {
    fn new(len: usize) -> Found {
        // Twelve bytes each: together at most twice the file.
        Found { references: Vec::new(), limit: len / 6 }
    }

    fn push(&mut self, at: u32, base: u32, kind: Kind, width: u8, bias: i8) {
        if self.references.len() < self.limit {
            self.references.push(Reference { at, base, kind, width, bias });
        }
    }

    /// Adds eight bytes that hold an address.
    fn address(&mut self, at: u32) {
        self.push(at, at, Kind::Address, 8, 0);
    }

    /// Adds an address of an end: that of the last byte and one.
    fn end_address(&mut self, at: u32) {
        self.push(at, at, Kind::Address, 8, -1);
    }

    /// Adds four bytes that count from where they are.
    fn near(&mut self, at: u32) {
        self.push(at, at, Kind::Near, 4, 0);
    }

    /// Adds the length of what starts at a place.
    fn length(&mut self, at: u32, start: u32, width: u8) {
        self.push(at, start, Kind::From, width, -1);
    }

    /// Adds an offset from the start of a part.
    fn offset(&mut self, at: u32, part: Part, width: u8) {
        self.push(at, part as u32, Kind::Part, width, 0);
    }

    fn sorted(mut self, len: usize) -> Vec<Reference> {
        // Stable: of two at one place the first found stays.
        self.references.sort_by_key(|r| r.at);
        let mut end = 0;
        self.references.retain(|r| {
            let fits = r.at >= end && r.at as usize + usize::from(r.width) <= len;
            if fits {
                end = r.at + u32::from(r.width);
            }
            fits
        });
        self.references
    }
}
