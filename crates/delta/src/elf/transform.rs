//! Moves away, in place, what a linker derived from elsewhere.
//!
//! - The addends of relative relocations move into the words that they are for, so that a pointer lies where the things around it lie, and moves as they do. Two bytes
//!   of each such word are set to a mark: where the relocations are follows from that, and their table becomes nothing.
//! - The entries of `.eh_frame` name their common entry by number instead of by distance.
//! - The strings of `.debug_str` are sorted ([`strings`]).
//! - The search table of `.eh_frame_hdr` follows from `.eh_frame`, and becomes zeros.

mod hash;
mod strings;

use super::Reference;
use super::bytes::{put_u32, put_u64, u32_at, u64_at};
use super::frames::{self, NEAR, Naming};
use super::layout::Part;
use super::references::{self, Debug};
use strings::Uses;

use super::image::{ALLOC, CODE, Image, RELA, Section, WRITE};

/// What was done to a file, in what [`inverse`] must undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(pub u8);

/// What [`forward`] did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transformed {
    /// What [`inverse`] needs.
    pub flags: Flags,
    /// Where the addends of relocations were moved to, sorted: file offsets of eight bytes, of which the lower six hold an address.
    pub pointers: Vec<u32>,
    /// The references of the sections that debuggers read, found on the way.
    pub debug: Option<Vec<Reference>>,
}

/// `.eh_frame_hdr` is derived.
const SEARCH_TABLE: u8 = 1;
/// As [`SEARCH_TABLE`]; of functions with the same start only the first is in it.
const SEARCH_TABLE_UNIQUE: u8 = 2;
/// Common entries have numbers.
const NUMBERED: u8 = 4;
/// The addends of relative relocations are in their words, which are marked.
const MARKED: u8 = 8;
/// The strings of `.debug_str` are sorted; how far from the expected order they were is in the table of relocations.
const SORTED: u8 = 16;
/// What the two highest bytes of a marked word hold: no address does, and hardly any number.
const MARK: u64 = 0x5dfe;
const MARK_SHIFT: u32 = 48;
/// Where in the first relocation's type the number of them is.
const COUNT_SHIFT: u32 = 8;
/// The length of a relocation with an addend.
const RELOCATION: usize = 24;
/// Adds the address at which the file was loaded.
const RELATIVE: u64 = 8;

impl Flags {
    /// Returns whether the entries of `.eh_frame` name their common entry by number.
    pub(super) fn numbered(self) -> bool {
        self.0 & NUMBERED != 0
    }

    /// Returns whether addends are in their words.
    pub(super) fn marked(self) -> bool {
        self.0 & MARKED != 0
    }

    /// Returns whether the search table of `.eh_frame_hdr` is zeros.
    pub(super) fn derived_search_table(self) -> bool {
        self.0 & (SEARCH_TABLE | SEARCH_TABLE_UNIQUE) != 0
    }
}

/// Transforms a file in place; `None`, and the bytes are as they were, if it is not understood.
pub(crate) fn forward(bytes: &mut [u8]) -> Option<Transformed> {
    let image = Image::read(bytes)?;
    let mut flags = 0;
    if let Some(header) = image.section(".eh_frame_hdr") {
        flags |= [SEARCH_TABLE, SEARCH_TABLE_UNIQUE]
            .into_iter()
            .find(|flag| drop_search_table(bytes, &image, header, *flag))
            .unwrap_or(0);
    }
    if let Some(section) = image.section(".eh_frame") {
        let (commons, frames) = frames::walk(bytes, section, Naming::Distance);
        flags |= NUMBERED;
        for frame in &frames {
            put_u32(bytes, frame.at as usize + 4, frame.common + 1);
        }
        // The walk by number must go the same way: what lies behind the last entry that was understood may not look like one.
        if frames::walk(bytes, section, Naming::Number).1.len() != frames.len() {
            flags &= !NUMBERED;
            for frame in &frames {
                let back = (frame.at + 4).wrapping_sub(commons.get(frame.common as usize).map_or(0, |c| c.at));
                put_u32(bytes, frame.at as usize + 4, back);
            }
        }
    }
    let mut pointers = Vec::new();
    if can_mark(bytes, &image) {
        flags |= MARKED;
        for section in relocations(&image) {
            move_addends(bytes, &image, section, &mut pointers);
            difference(bytes, section);
        }
    }
    let Debug { references, sequence } = references::in_debug_sections(&image, bytes, None);
    if let Some(section) = image.section(".debug_str").filter(|_| flags & MARKED != 0) {
        let uses = Uses { references: references.iter().filter(|r| references::is_debug_string(r)).copied().collect(), sequence };
        flags |= if strings::sort(bytes, section, &uses, room(bytes, &image)) { SORTED } else { 0 };
    }
    Some(Transformed { flags: Flags(flags), pointers, debug: Some(references) })
}

/// Undoes [`forward`]. Whatever the bytes are, it ends; `None` if they cannot have come from it.
pub(crate) fn inverse(bytes: &mut [u8], how: Flags) -> Option<()> {
    let image = Image::read(bytes)?;
    if how.0 & SORTED != 0 {
        let Debug { references, sequence } = references::in_debug_sections(&image, bytes, Some(Part::DebugStrings));
        let room = room(bytes, &image);
        strings::unsort(bytes, image.section(".debug_str")?, &Uses { references, sequence }, room)?;
    }
    if how.0 & MARKED != 0 {
        relocations(&image).for_each(|section| sum(bytes, section));
        restore_addends(bytes, &image)?;
    }
    if how.numbered() {
        let (commons, frames) = frames::walk(bytes, image.section(".eh_frame")?, Naming::Number);
        for frame in frames {
            put_u32(bytes, frame.at as usize + 4, frame.at + 4 - commons.get(frame.common as usize)?.at);
        }
    }
    if how.derived_search_table() {
        let header = image.section(".eh_frame_hdr")?;
        let table = search_table(bytes, &image, header, how.0 & SEARCH_TABLE_UNIQUE != 0)?;
        let at = header.at as usize + 8;
        bytes.get_mut(at..at + table.len())?.copy_from_slice(&table);
    }
    Some(())
}

fn relocations(image: &Image) -> impl Iterator<Item = &Section> {
    image.sections().iter().filter(|s| s.kind == RELA && s.flags & ALLOC != 0)
}

/// Returns where the word is that a relocation is for, if it is in the file and not in the table itself, and at no other address.
fn word(image: &Image, section: &Section, address: u64) -> Option<u32> {
    let place = image.layout().place(address).filter(|place| image.layout().address(*place) == Some(address))?;
    let end = place.checked_add(8)?;
    (end <= image.layout().len && (end <= section.at || place >= section.end())).then_some(place)
}

/// Moves the addends of the relative relocations of a table into their words, and marks these. What is left is how many there were, in the first one's type.
fn move_addends(bytes: &mut [u8], image: &Image, section: &Section, pointers: &mut Vec<u32>) {
    let Some((first, n)) = relative(bytes, section) else { return };
    for at in (0..n).map(|k| first + k * RELOCATION) {
        let Some(place) = u64_at(bytes, at).and_then(|address| word(image, section, address)) else { continue };
        exchange(bytes, at + 16, place as usize);
        mark(bytes, place as usize);
        pointers.push(place);
        bytes[at..at + RELOCATION].fill(0);
    }
    put_u64(bytes, first + 8, RELATIVE | (n as u64) << COUNT_SHIFT);
}

/// Returns the longest stretch that [`move_addends`] leaves empty.
fn room(bytes: &[u8], image: &Image) -> std::ops::Range<usize> {
    let runs = relocations(image).filter_map(|section| run(bytes, section)).map(|run| run.start + 16..run.end);
    runs.max_by_key(|run| run.len()).unwrap_or_default()
}

/// Undoes [`move_addends`] for all tables.
fn restore_addends(bytes: &mut [u8], image: &Image) -> Option<()> {
    let mut marked = marked_words(bytes, image).into_iter();
    for section in relocations(image) {
        let Some(run) = run(bytes, section) else { continue };
        for at in (run.start..run.end).step_by(RELOCATION) {
            let place = marked.next()?;
            mark(bytes, place as usize);
            put_u64(bytes, at, image.layout().address(place)?);
            put_u64(bytes, at + 8, RELATIVE);
            exchange(bytes, at + 16, place as usize);
        }
    }
    marked.next().is_none().then_some(())
}

/// Returns whether the relative relocations of all tables can be told from what their words will hold: they are in order, one after the other, and nothing else
/// looks like their words.
fn can_mark(bytes: &[u8], image: &Image) -> bool {
    let mut last = None;
    let words: Vec<(u32, u32)> = writable(image).map(|s| (s.at.next_multiple_of(8), s.end())).collect();
    let may_be_marked = |place: u32| {
        let k = words.partition_point(|range| range.0 <= place);
        k > 0 && place + 8 <= words[k - 1].1 && (place - words[k - 1].0).is_multiple_of(8)
    };
    let in_order = |section: &Section| {
        let kinds =
            || (0..section.len as usize / RELOCATION).filter_map(|k| u64_at(bytes, section.at as usize + k * RELOCATION + 8));
        // What reads as a count of them already would be taken for it on the way back.
        if kinds().any(|kind| counted(kind).is_some()) {
            return false;
        }
        let Some((first, n)) = relative(bytes, section) else { return true };
        let n_all = kinds().filter(|kind| *kind == RELATIVE).count();
        let mut run = (0..n).map(|k| first + k * RELOCATION);
        n == n_all
            && n < 1 << 24
            && run.all(|at| {
                let place = u64_at(bytes, at).and_then(|address| word(image, section, address));
                let small = u64_at(bytes, at + 16).is_some_and(|addend| addend >> MARK_SHIFT == 0);
                let fits = small
                    && place > last
                    && place.is_some_and(|place| u64_at(bytes, place as usize) == Some(0) && may_be_marked(place));
                last = place;
                fits
            })
    };
    relocations(image).all(in_order) && marked_words(bytes, image).is_empty()
}

/// Returns where the first relative relocation of a table is, and how many follow each other from there.
fn relative(bytes: &[u8], section: &Section) -> Option<(usize, usize)> {
    let kind = |k: usize| u64_at(bytes, section.at as usize + k * RELOCATION + 8);
    let n = section.len as usize / RELOCATION;
    let first = (0..n).find(|k| kind(*k) == Some(RELATIVE))?;
    Some((section.at as usize + first * RELOCATION, (first..n).take_while(|k| kind(*k) == Some(RELATIVE)).count()))
}

/// Returns where the relative relocations of a table were, after [`move_addends`].
pub(super) fn run(bytes: &[u8], section: &Section) -> Option<std::ops::Range<usize>> {
    for k in 0..section.len as usize / RELOCATION {
        let at = section.at as usize + k * RELOCATION;
        if let Some(n) = counted(u64_at(bytes, at + 8)?) {
            let end = at + n * RELOCATION;
            return (end <= section.end() as usize).then_some(at..end);
        }
    }
    None
}

/// Returns how many relative relocations a type counts, if it does.
fn counted(kind: u64) -> Option<usize> {
    (kind & 0xff == RELATIVE && kind >> 32 == 0 && kind >> COUNT_SHIFT > 0).then_some((kind >> COUNT_SHIFT) as usize)
}

/// Returns the sections whose words may be marked, in order of the file: what is written, if only once, and is no table.
fn writable(image: &Image) -> impl Iterator<Item = &Section> {
    image.sections().iter().filter(|s| s.flags & (ALLOC | WRITE | CODE) == ALLOC | WRITE && s.kind != RELA)
}

/// Returns where the marked words are.
fn marked_words(bytes: &[u8], image: &Image) -> Vec<u32> {
    let places = writable(image).flat_map(|s| (s.at.next_multiple_of(8)..s.end()).step_by(8).take_while(|at| at + 8 <= s.end()));
    places.filter(|at| u64_at(bytes, *at as usize).is_some_and(|word| word >> MARK_SHIFT == MARK)).collect()
}

/// Marks a word, or takes the mark away.
fn mark(bytes: &mut [u8], at: usize) {
    if let Some(word) = u64_at(bytes, at) {
        put_u64(bytes, at, word ^ MARK << MARK_SHIFT);
    }
}

/// Makes the offsets of the other relocations differences to the one before.
fn difference(bytes: &mut [u8], section: &Section) {
    let mut previous = 0;
    for at in others(bytes, section) {
        let offset = u64_at(bytes, at).unwrap_or(0);
        put_u64(bytes, at, offset.wrapping_sub(previous));
        previous = offset;
    }
}

/// Undoes [`difference`].
fn sum(bytes: &mut [u8], section: &Section) {
    let mut offset = 0u64;
    for at in others(bytes, section) {
        offset = offset.wrapping_add(u64_at(bytes, at).unwrap_or(0));
        put_u64(bytes, at, offset);
    }
}

/// Returns where the relocations of a table are that are not relative.
fn others(bytes: &[u8], section: &Section) -> Vec<usize> {
    let (from, n) = (section.at as usize, section.len as usize / RELOCATION);
    let run = run(bytes, section).unwrap_or_default();
    (0..n).map(|k| from + k * RELOCATION).filter(|at| u64_at(bytes, at + 8) != Some(RELATIVE) && !run.contains(at)).collect()
}

/// Exchanges two stretches of eight bytes, if they are there.
fn exchange(bytes: &mut [u8], a: usize, b: usize) {
    if let (Some(x), Some(y)) = (u64_at(bytes, a), u64_at(bytes, b)) {
        put_u64(bytes, a, y);
        put_u64(bytes, b, x);
    }
}

/// Zeroes the search table if it is what [`search_table`] makes.
fn drop_search_table(bytes: &mut [u8], image: &Image, header: &Section, flag: u8) -> bool {
    let Some(table) = search_table(bytes, image, header, flag == SEARCH_TABLE_UNIQUE) else { return false };
    let at = header.at as usize + 8;
    match bytes.get_mut(at..at + table.len()) {
        Some(found) if *found == table => {
            found.fill(0);
            true
        }
        _ => false,
    }
}

/// Makes the search table with its count before it: for each function, sorted, where it starts and where its entry is, counted from the header.
fn search_table(bytes: &[u8], image: &Image, header: &Section, unique: bool) -> Option<Vec<u8>> {
    let section = image.section(".eh_frame")?;
    let (commons, frames) = frames::walk(bytes, section, Naming::Distance);
    let mut functions = Vec::with_capacity(frames.len());
    for frame in &frames {
        if commons.get(frame.common as usize)?.function != NEAR {
            return None;
        }
        let entry = section.address.wrapping_add(u64::from(frame.at - section.at));
        let near = u32_at(bytes, frame.at as usize + 8)? as i32;
        functions.push((
            entry.wrapping_add(8).wrapping_add(near as i64 as u64).wrapping_sub(header.address) as i64,
            entry.wrapping_sub(header.address) as u32,
        ));
    }
    functions.sort_by_key(|f| f.0);
    if unique {
        functions.dedup_by_key(|f| f.0);
    }
    let mut table = Vec::with_capacity(4 + functions.len() * 8);
    table.extend((functions.len() as u32).to_le_bytes());
    for (start, entry) in functions {
        table.extend((start as u32).to_le_bytes());
        table.extend(entry.to_le_bytes());
    }
    (table.len() <= (header.len as usize).checked_sub(8)?).then_some(table)
}
