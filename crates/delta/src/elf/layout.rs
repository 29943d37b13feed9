//! Turns addresses into places and places into addresses.

use std::ops::Range;

/// The most loads a file may have to be understood.
const MAX_LOADS: usize = 32;

/// How far a unit of the base is looked for that is as long.
const FAR: i64 = 64;

/// The most units of debugging entries that are told apart.
const MAX_UNITS: usize = 1 << 16;

/// The shortest unit: one that says nothing but its length.
const LEAST_UNIT: u32 = 4;

/// A stretch of the file that the program finds at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Where it is in memory.
    pub address: u64,
    /// Where it is in the file.
    pub offset: u32,
    /// Its length in the file.
    pub len: u32,
    /// How much longer it is in memory.
    pub beyond: u32,
    /// Whether it holds code.
    pub code: bool,
}

/// The sections that offsets count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    /// `.strtab`
    Strings,
    /// `.dynstr`
    DynamicStrings,
    /// `.shstrtab`
    SectionNames,
    /// `.debug_str`
    DebugStrings,
    /// `.debug_line_str`
    DebugLineStrings,
    /// `.debug_abbrev`
    Abbreviations,
    /// `.debug_info`
    DebugEntries,
    /// `.debug_line`
    Lines,
    /// `.debug_ranges`
    Ranges,
    /// `.debug_rnglists`
    RangeLists,
    /// `.debug_loc`
    Locations,
    /// `.debug_loclists`
    LocationLists,
    /// `.debug_str_offsets`
    StringOffsets,
    /// `.debug_addr`
    Addresses,
    /// `.debug_types`
    Types,
    /// `.debug_macro`
    Macros,
}

/// How many [`Part`]s there are.
pub(crate) const PARTS: usize = 16;

/// Where a file's loads and the [`Part`]s are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// The length of the file.
    pub len: u32,
    /// Sorted by address, not overlapping in memory.
    pub loads: Vec<Load>,
    /// Where each [`Part`] starts in the file, 0 when there is none.
    pub parts: [u32; PARTS],
    /// Where the units of `.debug_info` start; all or none.
    pub units: Units,
}

/// Where units start, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Units {
    starts: Vec<u32>,
    /// For each page from the first start on, how many units start before it; a few pages for each unit, and at most one for 64 bytes of the file.
    pages: Vec<u32>,
    page_bits: u32,
}

impl Units {
    /// Takes where units start, which is in ascending order.
    pub fn new(starts: Vec<u32>) -> Self {
        let (Some(first), Some(last)) = (starts.first(), starts.last()) else { return Self::default() };
        let (first, span) = (*first, last - first);
        let page_bits = (span / (4 * starts.len() as u32)).max(1 << 6).ilog2();
        let mut n = 0;
        let n_before = |page: u32| {
            while starts.get(n).is_some_and(|start| u64::from(start - first) < u64::from(page) << page_bits) {
                n += 1;
            }
            n as u32
        };
        let pages = (0..(span >> page_bits) + 2).map(n_before).collect();
        Self { starts, pages, page_bits }
    }

    /// Returns the start of the unit that a place is in, or of the last one before it.
    #[inline]
    pub fn find(&self, place: u32) -> Option<u32> {
        let page = (place.checked_sub(*self.starts.first()?)? >> self.page_bits) as usize;
        let n_all = self.starts.len();
        let from = self.pages.get(page).map_or(n_all, |n| *n as usize);
        let to = self.pages.get(page + 1).map_or(n_all, |n| *n as usize);
        // The first starts at the first page's beginning, so there is one.
        let n = from + self.starts[from..to].partition_point(|start| *start <= place);
        Some(self.starts[n - 1])
    }
}

impl Layout {
    /// Returns the address of a place, if it is in a load.
    #[inline]
    pub fn address(&self, place: u32) -> Option<u64> {
        if place < self.len {
            let load = self.loads.iter().find(|l| place.wrapping_sub(l.offset) < l.len)?;
            return Some(load.address + u64::from(place - load.offset));
        }
        let mut rest = place - self.len;
        for load in &self.loads {
            if rest < load.beyond {
                return Some(load.address + u64::from(load.len) + u64::from(rest));
            }
            rest -= load.beyond;
        }
        None
    }

    /// Returns the place of an address, if a load holds it.
    #[inline]
    pub fn place(&self, address: u64) -> Option<u32> {
        let mut beyond = self.len;
        for load in &self.loads {
            let within = address.wrapping_sub(load.address);
            if within < u64::from(load.len) {
                return Some(load.offset + within as u32);
            }
            if within < u64::from(load.len) + u64::from(load.beyond) {
                return beyond.checked_add((within - u64::from(load.len)) as u32);
            }
            beyond = beyond.checked_add(load.beyond)?;
        }
        None
    }

    /// Appends what differs from the base's layout.
    pub fn encode(&self, base: &Layout, out: &mut Vec<u8>) {
        put(out, u64::from(self.len).wrapping_sub(u64::from(base.len)));
        put(out, self.loads.len() as u64);
        for (k, load) in self.loads.iter().enumerate() {
            let old = base.loads.get(k).copied().unwrap_or_default();
            put(out, load.address.wrapping_sub(old.address));
            put(out, u64::from(load.offset).wrapping_sub(u64::from(old.offset)));
            put(out, u64::from(load.len).wrapping_sub(u64::from(old.len)));
            put(out, u64::from(load.beyond).wrapping_sub(u64::from(old.beyond)));
            put(out, u64::from(load.code));
        }
        // Sections follow each other: what one moved by, the next did, too.
        let mut drift = 0u32;
        for (new, old) in self.parts.iter().zip(&base.parts) {
            let moved = new.wrapping_sub(*old);
            put(out, i64::from(moved.wrapping_sub(drift) as i32) as u64);
            drift = moved;
        }
        self.encode_units(base, out);
    }

    /// Returns the start of the unit that a place is in.
    #[inline]
    pub fn unit(&self, place: u32) -> Option<u32> {
        self.units.find(place)
    }

    /// Writes for each unit where in the base one is that is as long, counted from the one after the last such, or [`FAR`] and how much longer it is than that.
    fn encode_units(&self, base: &Layout, out: &mut Vec<u8>) {
        let (old, mut next) = (base.unit_lens(), 0);
        put(out, self.units.starts.len() as u64);
        for len in self.unit_lens() {
            let near = (0..FAR).flat_map(|step| [step, -step]).find(|step| old_len(&old, next, *step) == Some(len));
            put(out, near.unwrap_or(FAR) as u64);
            match near {
                Some(step) => next += step + 1,
                None => put(out, i64::from(len.wrapping_sub(old_len(&old, next, 0).unwrap_or(0)) as i32) as u64),
            }
        }
    }

    /// Reads what [`Layout::encode_units`] wrote, of units from `range.start` on.
    ///
    /// Refuses what is found in no file: a unit that begins beyond the end, or within the length of the one before. So the units of all programs of a body, which
    /// may be told in a few bytes of it, take no more memory than the programs.
    fn decode_units(base: &Layout, range: Range<u32>, bytes: &[u8], at: &mut usize) -> Option<Units> {
        let (old, mut next) = (base.unit_lens(), 0);
        let n = usize::try_from(get(bytes, at)?).ok().filter(|n| *n <= MAX_UNITS)?;
        let mut starts: Vec<u32> = Vec::with_capacity(n);
        let mut unit = range.start;
        for _ in 0..n {
            let is_apart = starts.last().is_none_or(|last| unit - last >= LEAST_UNIT);
            if !is_apart || unit >= range.end {
                return None;
            }
            starts.push(unit);
            let step = get(bytes, at)? as i64;
            let len = if step == FAR {
                old_len(&old, next, 0).unwrap_or(0).wrapping_add(get(bytes, at)? as u32)
            } else {
                let len = old_len(&old, next, step)?;
                next += step + 1;
                len
            };
            unit = unit.checked_add(len)?;
        }
        Some(Units::new(starts))
    }

    /// Returns the lengths of the units; the last one's is taken to be none.
    fn unit_lens(&self) -> Vec<u32> {
        let starts = &self.units.starts;
        let ends = starts.iter().skip(1).chain(starts.last());
        starts.iter().zip(ends).map(|(start, end)| end.wrapping_sub(*start)).collect()
    }

    /// Reads what [`Layout::encode`] wrote and moves `at` behind it. The result is checked: whatever the bytes are, its functions hold.
    pub fn decode(base: &Layout, bytes: &[u8], at: &mut usize) -> Option<Layout> {
        let narrow = |old: u32, moved: u64| u32::try_from(u64::from(old).wrapping_add(moved)).ok();
        let len = narrow(base.len, get(bytes, at)?)?;
        let n_loads = usize::try_from(get(bytes, at)?).ok().filter(|n| *n <= MAX_LOADS)?;
        let mut loads = Vec::with_capacity(n_loads);
        for k in 0..n_loads {
            let old = base.loads.get(k).copied().unwrap_or_default();
            loads.push(Load {
                address: old.address.wrapping_add(get(bytes, at)?),
                offset: narrow(old.offset, get(bytes, at)?)?,
                len: narrow(old.len, get(bytes, at)?)?,
                beyond: narrow(old.beyond, get(bytes, at)?)?,
                code: get(bytes, at)? != 0,
            });
        }
        let mut parts = [0; PARTS];
        let mut drift = 0u32;
        for (new, old) in parts.iter_mut().zip(&base.parts) {
            drift = drift.wrapping_add(get(bytes, at)? as u32);
            *new = old.wrapping_add(drift);
        }
        let units = Layout::decode_units(base, parts[Part::DebugEntries as usize]..len, bytes, at)?;
        Layout { len, loads, parts, units }.checked()
    }

    /// Returns itself if its loads are sorted, apart, inside the file and short of the end of memory.
    pub(super) fn checked(self) -> Option<Layout> {
        let mut end = 0u64;
        let mut beyond = self.len;
        for load in &self.loads {
            let inside = load.offset.checked_add(load.len)? <= self.len;
            if !inside || load.address < end {
                return None;
            }
            end = load.address.checked_add(u64::from(load.len) + u64::from(load.beyond))?;
            beyond = beyond.checked_add(load.beyond)?;
        }
        (self.loads.len() <= MAX_LOADS).then_some(self)
    }
}

impl Layout {
    /// Adds the units of `.debug_info`, in ascending order, if there are not too many and the first is where that part starts: what is encoded counts from there, and a damaged file may
    /// have two such sections.
    pub(super) fn with_units(mut self, units: impl Iterator<Item = u32>) -> Layout {
        let starts: Vec<u32> = units.take(MAX_UNITS + 1).collect();
        let start = self.parts[Part::DebugEntries as usize];
        let are_all = starts.len() <= MAX_UNITS && starts.first().is_none_or(|first| *first == start);
        self.units = if are_all { Units::new(starts) } else { Units::default() };
        self
    }
}

/// Returns the length of a unit, so many from the next.
fn old_len(old: &[u32], next: i64, step: i64) -> Option<u32> {
    old.get(usize::try_from(next.checked_add(step)?).ok()?).copied()
}

/// Writes a signed number, seven bits a byte, small ones short.
fn put(out: &mut Vec<u8>, value: u64) {
    let signed = value as i64;
    let mut rest = (signed.wrapping_shl(1) ^ (signed >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn get(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1) ^ (value & 1).wrapping_neg());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(starts: &[u32]) -> Units {
        Units::new(starts.to_vec())
    }

    fn layout() -> Layout {
        let load = |address, offset, len, beyond| Load { address, offset, len, beyond, code: false };
        Layout {
            len: 0x3000,
            loads: vec![load(0, 0, 0x1000, 0), load(0x2000, 0x1000, 0x800, 0x100)],
            parts: [7; PARTS],
            units: units(&[7, 20, 40, 50]),
        }
    }

    #[test]
    fn places_are_offsets_and_then_memory() {
        let layout = layout();
        for (address, place) in
            [(0, Some(0)), (0xfff, Some(0xfff)), (0x1000, None), (0x2001, Some(0x1001)), (0x2800, Some(0x3000)), (0x2900, None)]
        {
            assert_eq!(layout.place(address), place, "{address:x}");
            if let Some(place) = place {
                assert_eq!(layout.address(place), Some(address));
            }
        }
        assert_eq!(layout.address(0x2000), None);
        assert_eq!(layout.address(u32::MAX), None);
    }

    proptest::proptest! {
        #[test]
        fn a_place_is_in_the_last_unit_that_starts_before_it(
            first in 0_u32..9000,
            lens in proptest::collection::vec(proptest::prop_oneof![0_u32..50, 0_u32..20_000], 0..60),
        ) {
            let mut at = first;
            let starts: Vec<u32> = lens.iter().map(|len| { at += len; at }).collect();
            let found = units(&starts);
            for place in starts.iter().flat_map(|start| [start.saturating_sub(1), *start, start + 1]).chain([0, first, at + 100_000, u32::MAX]) {
                proptest::prop_assert_eq!(found.find(place), starts.iter().copied().filter(|start| *start <= place).max());
            }
        }
    }

    #[test]
    fn units_of_another_section_than_the_part_say_nothing() {
        assert_eq!(layout().with_units([7, 30].into_iter()).units, units(&[7, 30]));
        let other = layout().with_units([9, 30].into_iter());
        let mut bytes = Vec::new();
        other.encode(&layout(), &mut bytes);
        assert_eq!(Layout::decode(&layout(), &bytes, &mut 0), Some(other));
    }

    #[test]
    fn units_that_no_file_has_are_refused() {
        let decoded = |starts: &[u32]| {
            let (mut new, mut bytes) = (layout(), Vec::new());
            new.units = units(starts);
            new.encode(&layout(), &mut bytes);
            Layout::decode(&layout(), &bytes, &mut 0).map(|layout| layout.units)
        };
        for starts in [&[7, 11, 15][..], &[7, 0x2fff]] {
            assert_eq!(decoded(starts), Some(units(starts)));
        }
        for starts in [&[7, 10][..], &[7, 11, 11], &[7, 0x3000]] {
            assert_eq!(decoded(starts), None, "{starts:x?}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_and_nothing_shorter_does() {
        let mut new = layout();
        new.loads[1].address += 0x1000;
        new.parts[3] = 9;
        new.units = units(&[7, 20, 30, 45, 55]);
        let mut bytes = Vec::new();
        new.encode(&layout(), &mut bytes);
        let mut at = 0;
        assert_eq!(Layout::decode(&layout(), &bytes, &mut at), Some(new));
        assert_eq!(at, bytes.len());
        for len in 0..bytes.len() {
            assert_eq!(Layout::decode(&layout(), &bytes[..len], &mut 0), None);
        }
    }
}
