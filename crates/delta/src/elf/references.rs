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
///
/// Takes those that were found on the way to the transform, which may be most of them, rather than having them twice; without them it finds the same again.
pub(crate) fn references(image: &Image, bytes: &[u8], transformed: &mut Transformed) -> Vec<Reference> {
    let mut found = Found::new(bytes.len());
    headers::scan(image, bytes, &mut found);
    let mut tables = jump_tables::Candidates::default();
    for section in image.sections() {
        in_section(image, bytes, section, transformed, &mut found, &mut tables);
    }
    let debug = transformed.debug.take();
    if debug.is_none() {
        scan_debug(image, bytes, &mut found);
    }
    if image.sections().is_empty() {
        code::scan_loads(image, bytes, &mut found, &mut tables);
    }
    jump_tables::scan(image, bytes, tables, &mut found);
    pointers::relocated(transformed, &mut found);
    match debug {
        Some(debug) => found.sorted_with(debug, bytes.len()),
        None => found.sorted(bytes.len()),
    }
}

/// Returns the same once more, of a file whose transform found those of the sections that debuggers read.
pub(crate) fn references_again(image: &Image, bytes: &[u8], transformed: &mut Transformed) -> Vec<Reference> {
    transformed.debug = Some(in_debug_sections(image, bytes, None).references);
    references(image, bytes, transformed)
}

/// What the sections that debuggers read refer to.
pub(super) struct Debug {
    /// Sorted and disjoint. No transform changes them, but for offsets of strings.
    pub references: Vec<Reference>,
    /// Where offsets in `.debug_str` are, in the order in which a compiler most likely came to the strings.
    pub sequence: Vec<u32>,
}

/// Returns what the sections that debuggers read refer to, all of it or only offsets in one part.
pub(super) fn in_debug_sections(image: &Image, bytes: &[u8], only: Option<Part>) -> Debug {
    let mut found = Found { only, ..Found::new(bytes.len()) };
    scan_debug(image, bytes, &mut found);
    let sequence = std::mem::take(&mut found.sequence);
    Debug { references: found.sorted(bytes.len()), sequence }
}

/// Returns whether it is an offset in `.debug_str`.
pub(super) fn is_debug_string(reference: &Reference) -> bool {
    reference.kind == Kind::Part && reference.base == Part::DebugStrings as u32 && reference.width == 4
}

fn scan_debug(image: &Image, bytes: &[u8], found: &mut Found) {
    let sections = image.sections().iter().filter(|s| s.flags & ALLOC == 0 && s.kind != SYMTAB);
    sections.for_each(|section| debug::scan(image, bytes, section, found));
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
        if section.kind == SYMTAB {
            symbols::scan(image, bytes, section, Part::Strings, found);
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
    /// Of offsets in parts, only those in this one, and nothing else.
    only: Option<Part>,
    /// Where offsets in `.debug_str` are, in the order in which a compiler most likely came to the strings.
    sequence: Vec<u32>,
    /// Those that it comes to when the unit ends.
    late: Vec<u32>,
    /// Which program of lines belongs to which unit of entries: its offset, and the unit's numbers.
    lines: Vec<(u32, u32)>,
}

impl Found {
    fn new(len: usize) -> Found {
        // Twelve bytes each: together at most twice the file. Most programs have one for 16 to 24 bytes; what grows is copied.
        let (limit, references) = (len / 6, Vec::with_capacity(len / 24));
        Found { references, limit, only: None, sequence: Vec::new(), late: Vec::new(), lines: Vec::new() }
    }

    #[inline]
    fn push(&mut self, at: u32, base: u32, kind: Kind, width: u8, bias: i8) {
        let wanted = self.only.is_none_or(|part| kind == Kind::Part && base == part as u32);
        if wanted && self.references.len() < self.limit {
            if self.references.len() == self.references.capacity() {
                self.grow();
            }
            self.references.push(Reference { at, base, kind, width, bias });
        }
    }

    /// Makes room by less than twice: that would be as much again as they take, which is as much as the file.
    #[cold]
    fn grow(&mut self) {
        self.references.reserve_exact(self.references.len() / 3 + 1024);
    }

    /// Puts sorted references where they belong, which is between two of the others nearly always.
    fn sorted_with(self, mut more: Vec<Reference>, len: usize) -> Vec<Reference> {
        more.truncate(self.limit.saturating_sub(self.references.len()));
        let others = self.sorted(len);
        let (Some(first), Some(last)) = (more.first(), more.last()) else { return others };
        let (before, after) = others.split_at(others.partition_point(|r| r.at < first.at));
        let ends = |r: &Reference| r.at + u32::from(r.width);
        let fits = before.last().is_none_or(|r| ends(r) <= first.at) && after.first().is_none_or(|r| ends(last) <= r.at);
        more.reserve_exact(others.len());
        more.splice(0..0, before.iter().copied());
        more.extend_from_slice(after);
        if fits { more } else { Found { references: more, ..Found::new(0) }.sorted(len) }
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

    /// Adds an offset in `.debug_str`: that of a name that a compiler writes at once, or only when the unit ends.
    fn debug_string(&mut self, at: u32, late: bool) {
        if self.references.len() < self.limit {
            if late { &mut self.late } else { &mut self.sequence }.push(at);
        }
        self.offset(at, Part::DebugStrings, 4);
    }

    fn end_of_unit(&mut self) {
        self.sequence.append(&mut self.late);
    }

    /// Adds an offset from the start of a part.
    fn offset(&mut self, at: u32, part: Part, width: u8) {
        self.push(at, part as u32, Kind::Part, width, 0);
    }

    fn sorted(mut self, len: usize) -> Vec<Reference> {
        // Stable: of two at one place the first found stays. A sort takes memory, and most of them are found in order.
        if !self.references.is_sorted_by_key(|r| r.at) {
            self.references.sort_by_key(|r| r.at);
        }
        let mut end = 0;
        self.references.retain(|r| {
            let fits = r.at >= end && r.at as usize + usize::from(r.width) <= len;
            if fits {
                end = r.at + u32::from(r.width);
            }
            fits
        });
        self.references.shrink_to_fit();
        self.references
    }
}
