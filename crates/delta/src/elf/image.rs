//! Reads the headers of an x86-64 ELF file.

use super::bytes::{u16_at, u32_at, u64_at};
use super::layout::{Layout, Load, PARTS, Part, Units};

/// What the headers of a file say, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    layout: Layout,
    sections: Vec<Section>,
    /// Where the program headers are, and how many.
    pub(super) programs: (u32, u32),
    /// Where the section headers are, and how many.
    pub(super) headers: (u32, u32),
    /// Whether the program runs at the addresses it was linked for, so that its pointers need no relocations.
    pub(super) fixed: bool,
}

/// A stretch of the file that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its name, cut after [`NAME`] bytes.
    pub name: Vec<u8>,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_flags`.
    pub flags: u64,
    /// Where the program finds it, 0 when it does not.
    pub address: u64,
    /// Where it is in the file.
    pub at: u32,
    /// Its length in the file.
    pub len: u32,
}

/// The longest name that matters.
const NAME: usize = 32;

pub(super) const PROGRAM_HEADER: u32 = 56;
pub(super) const SECTION_HEADER: u32 = 64;

pub(super) const SYMTAB: u32 = 2;
pub(super) const RELA: u32 = 4;
pub(super) const DYNAMIC: u32 = 6;
const NOBITS: u32 = 8;
pub(super) const DYNSYM: u32 = 11;
pub(super) const RELR: u32 = 19;

pub(super) const WRITE: u64 = 1;
pub(super) const ALLOC: u64 = 2;
pub(super) const CODE: u64 = 4;
const COMPRESSED: u64 = 0x800;

impl Section {
    /// Returns where it ends in the file.
    pub fn end(&self) -> u32 {
        self.at + self.len
    }
}

impl Image {
    /// Reads a file's headers; `None` if it is not a 64-bit little-endian ELF file for x86-64 under 2 GiB that can be loaded, or is damaged.
    pub fn read(bytes: &[u8]) -> Option<Image> {
        let len = u32::try_from(bytes.len()).ok().filter(|len| *len < 1 << 31)?;
        if !bytes.starts_with(b"\x7fELF\x02\x01") || u16_at(bytes, 18)? != 62 {
            return None;
        }
        let table = |at: usize, n: usize, size: u32| -> Option<(u32, u32)> {
            let (at, n) = (u64_at(bytes, at)?, u32::from(u16_at(bytes, n)?));
            let end = at.checked_add(u64::from(n * size))?;
            if end <= u64::from(len) { Some((at as u32, n)) } else { None }
        };
        let programs = table(32, 56, PROGRAM_HEADER).filter(|_| u16_at(bytes, 54) == Some(PROGRAM_HEADER as u16))?;
        // A stripped section table is no reason to give up.
        let headers = table(40, 60, SECTION_HEADER).unwrap_or_default();
        let names = u32::from(u16_at(bytes, 62)?);
        let sections = sections(bytes, headers, names);
        let entries = sections.iter().find(|s| s.name == b".debug_info");
        let layout = Layout { len, loads: loads(bytes, programs)?, parts: parts(&sections), units: Units::default() };
        let layout = layout.with_units(entries.into_iter().flat_map(|s| units(bytes, s))).checked()?;
        (!layout.loads.is_empty()).then_some(Image { layout, sections, programs, headers, fixed: u16_at(bytes, 16)? == 2 })
    }

    /// Returns where its loads and sections are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the sections that have bytes in the file, sorted and apart: each byte is in at most one.
    pub(crate) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Returns the section with a name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name.as_bytes())
    }
}

fn loads(bytes: &[u8], (at, n): (u32, u32)) -> Option<Vec<Load>> {
    let mut loads = Vec::new();
    for k in 0..n {
        let at = (at + k * PROGRAM_HEADER) as usize;
        if u32_at(bytes, at)? != 1 {
            continue;
        }
        let (len, memory) = (u64_at(bytes, at + 32)?, u64_at(bytes, at + 40)?);
        loads.push(Load {
            address: u64_at(bytes, at + 16)?,
            offset: u32::try_from(u64_at(bytes, at + 8)?).ok()?,
            len: u32::try_from(len).ok()?,
            beyond: u32::try_from(memory.checked_sub(len)?).ok()?,
            code: u32_at(bytes, at + 4)? & 1 != 0,
        });
    }
    loads.sort_by_key(|l| l.address);
    Some(loads)
}

fn sections(bytes: &[u8], (at, n): (u32, u32), names: u32) -> Vec<Section> {
    let header = |k: u32| (at + k * SECTION_HEADER) as usize;
    let names = (names < n).then(|| u64_at(bytes, header(names) + 24)).flatten().unwrap_or(u64::MAX);
    let mut sections: Vec<Section> = (0..n).filter_map(|k| section(bytes, header(k), names)).collect();
    sections.sort_by_key(|s| (s.at, s.len));
    // Each byte is looked at once, however many sections claim it.
    let mut end = 0;
    sections.retain(|s| {
        let apart = s.at >= end;
        if apart {
            end = s.end();
        }
        apart
    });
    sections
}

fn section(bytes: &[u8], at: usize, names: u64) -> Option<Section> {
    let (kind, flags) = (u32_at(bytes, at + 4)?, u64_at(bytes, at + 8)?);
    let (offset, len) = (u64_at(bytes, at + 24)?, u64_at(bytes, at + 32)?);
    let inside = offset.checked_add(len)? <= bytes.len() as u64;
    if kind == NOBITS || kind == 0 || flags & COMPRESSED != 0 || len == 0 || !inside {
        return None;
    }
    let name = usize::try_from(names.checked_add(u64::from(u32_at(bytes, at)?))?).ok()?;
    let name: Vec<u8> = bytes.get(name..).unwrap_or_default().iter().take(NAME).copied().take_while(|b| *b != 0).collect();
    Some(Section { name, kind, flags, address: u64_at(bytes, at + 16)?, at: offset as u32, len: len as u32 })
}

/// Returns where the units of `.debug_info` start.
fn units(bytes: &[u8], section: &Section) -> impl Iterator<Item = u32> {
    let next = |at: &u32| u32_at(bytes, *at as usize).and_then(|len| at.checked_add(4)?.checked_add(len));
    let (start, end) = (section.at, section.end());
    std::iter::successors(Some(start), move |at| next(at)).take_while(move |at| *at < end)
}

fn parts(sections: &[Section]) -> [u32; PARTS] {
    let mut parts = [0; PARTS];
    for section in sections {
        let part = match section.name.as_slice() {
            b".strtab" => Part::Strings,
            b".dynstr" => Part::DynamicStrings,
            b".shstrtab" => Part::SectionNames,
            b".debug_str" => Part::DebugStrings,
            b".debug_line_str" => Part::DebugLineStrings,
            b".debug_abbrev" => Part::Abbreviations,
            b".debug_info" => Part::DebugEntries,
            b".debug_line" => Part::Lines,
            b".debug_ranges" => Part::Ranges,
            b".debug_rnglists" => Part::RangeLists,
            b".debug_loc" => Part::Locations,
            b".debug_loclists" => Part::LocationLists,
            b".debug_str_offsets" => Part::StringOffsets,
            b".debug_addr" => Part::Addresses,
            b".debug_types" => Part::Types,
            b".debug_macro" => Part::Macros,
            _ => continue,
        };
        parts[part as usize] = section.at;
    }
    parts
}
