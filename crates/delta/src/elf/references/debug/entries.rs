//! `.debug_info`: entries, written as the tables of `.debug_abbrev` say.

use super::form::{Step, step};
use super::{Found, Unit, byte, is_code, units, version};
use crate::elf::bytes::{skip_string, u16_at, u32_at, u64_at, uleb};
use crate::elf::image::Section;
use crate::elf::layout::Part;
use crate::elf::reference::NUMBERS;
use crate::elf::{Image, Kind};

/// Finds what the entries refer to.
pub(super) fn scan(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    let Some(tables) = image.section(".debug_abbrev") else { return };
    // Each unit may name the same long table: together they read it a few times and no more.
    let mut budget = u64::from(tables.len) * 4 + u64::from(section.len);
    let mut table = Table::default();
    let mut n_units = 0;
    units(bytes, section, found, |unit, found| {
        let Some(header) = header(bytes, unit, section.name == b".debug_types") else { return };
        found.offset(header.tables_at, Part::Abbreviations, 4);
        if table.key != Some((header.tables, header.version)) {
            let only = found.only.is_some();
            table = Table { key: Some((header.tables, header.version)), only_strings: only, ..Table::default() };
            let start = u64::from(tables.at) + u64::from(header.tables);
            let read = table.read(bytes, start, tables.end(), header.version, budget);
            budget = budget.saturating_sub(read);
        }
        entries(image, bytes, unit, header.entries, (&table, n_units), found);
        n_units += 1;
    });
}

/// The start of a unit.
struct Header {
    version: u16,
    /// Where its offset in `.debug_abbrev` is, and what it is.
    tables_at: u32,
    tables: u32,
    /// Where its entries start.
    entries: u32,
}

fn header(bytes: &[u8], unit: Unit, types: bool) -> Option<Header> {
    let version = version(bytes, unit.at)?;
    let (tables_at, size_at, mut entries) =
        if version == 5 { (unit.at + 4, unit.at + 3, unit.at + 8) } else { (unit.at + 2, unit.at + 6, unit.at + 7) };
    if version == 5 {
        entries += match byte(bytes, unit.at + 2)? {
            1 | 3 => 0,
            4 | 5 => 8,
            _ => 12,
        };
    } else if types {
        entries += 12;
    }
    let whole = byte(bytes, size_at)? == 8 && entries <= unit.end;
    whole.then_some(Header { version, tables_at, tables: u32_at(bytes, tables_at as usize)?, entries })
}

/// How the entries of a unit are written, by their number.
#[derive(Default)]
struct Table {
    /// Which it is: its offset, and the version it was read for.
    key: Option<(u32, u16)>,
    /// For each number the steps from and to, empty for none.
    ranges: Vec<(u32, u32)>,
    n_declarations: usize,
    steps: Vec<Step>,
    /// Whether nothing is wanted but offsets of strings: all else of fixed length is skipped, as much as there is at once.
    only_strings: bool,
}

impl Table {
    /// Reads it as far as it goes and is understood; returns how many bytes it looked at.
    fn read(&mut self, bytes: &[u8], start: u64, end: u32, version: u16, budget: u64) -> u64 {
        let Ok(start) = u32::try_from(start) else { return 0 };
        let end = u64::from(end).min(u64::from(start).saturating_add(budget)) as usize;
        let mut at = start as usize;
        while self.declaration(&bytes[..end], &mut at, version).is_some() {}
        (at as u64).saturating_sub(u64::from(start)) + 1
    }

    fn declaration(&mut self, bytes: &[u8], at: &mut usize, version: u16) -> Option<()> {
        let number = usize::try_from(uleb(bytes, at)?).ok()?;
        uleb(bytes, at)?;
        *at += 1;
        let from = self.steps.len();
        loop {
            let (attribute, form) = (uleb(bytes, at)?, uleb(bytes, at)?);
            if (attribute, form) == (0, 0) {
                break;
            }
            if form == 0x21 {
                uleb(bytes, at)?;
            }
            let step = step(attribute, form, version)?;
            self.add(from, if self.only_strings { step.for_strings() } else { step });
        }
        // Numbers are given in order; a gap or two is no reason for a table as long as the largest.
        self.n_declarations += 1;
        if number == 0 || number > 4 * self.n_declarations + 64 {
            return None;
        }
        if self.ranges.len() < number {
            self.ranges.resize(number, (u32::MAX, 0));
        }
        self.ranges[number - 1] = (from as u32, self.steps.len() as u32);
        Some(())
    }

    /// Appends a step to those from `from`; what is only skipped becomes one.
    fn add(&mut self, from: usize, step: Step) {
        match (self.steps[from..].last_mut(), step) {
            (_, Step::Skip(0)) => {}
            (Some(Step::Skip(n)), Step::Skip(more)) if *n < 1000 => *n += more,
            _ => self.steps.push(step),
        }
    }

    fn steps(&self, number: u64) -> Option<&[Step]> {
        let (from, to) = *self.ranges.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
        self.steps.get(from as usize..to as usize)
    }
}

fn entries(image: &Image, bytes: &[u8], unit: Unit, at: u32, (table, number): (&Table, u32), found: &mut Found) {
    let bytes = &bytes[..unit.end as usize];
    let mut reader = Reader { image, bytes, numbers: number.wrapping_mul(2 * NUMBERS), at: at as usize, start: None };
    while let Some(number) = reader.number(0, found) {
        if number == 0 {
            continue;
        }
        let Some(steps) = table.steps(number) else { return };
        reader.start = None;
        for step in steps {
            if reader.take(*step, found).is_none() || reader.at > bytes.len() {
                return;
            }
        }
    }
}

/// Reads the entries of one unit.
struct Reader<'a> {
    image: &'a Image,
    /// The file up to the end of the unit.
    bytes: &'a [u8],
    /// The place of its first number.
    numbers: u32,
    at: usize,
    /// Where the code of the present entry starts.
    start: Option<u32>,
}

impl Reader<'_> {
    #[inline]
    fn take(&mut self, step: Step, found: &mut Found) -> Option<()> {
        let at = self.at as u32;
        match step {
            Step::Skip(n) => self.at += usize::from(n),
            Step::Leb => {
                uleb(self.bytes, &mut self.at)?;
            }
            Step::Text => skip_string(self.bytes, &mut self.at)?,
            Step::Block(width) => {
                let len = match width {
                    1 => u64::from(byte(self.bytes, at)?),
                    2 => u64::from(u16_at(self.bytes, self.at)?),
                    4 => u64::from(u32_at(self.bytes, self.at)?),
                    _ => uleb(self.bytes, &mut self.at)?,
                };
                self.block(usize::from(width), len)?;
            }
            Step::Expression => {
                let len = uleb(self.bytes, &mut self.at)?;
                // One that is nothing but an address.
                if len == 9 && byte(self.bytes, self.at as u32) == Some(3) {
                    self.address(self.at as u32 + 1, found);
                }
                self.block(0, len)?;
            }
            Step::Offset(Part::DebugStrings) => {
                // The names of a function that is there itself come last; its code stands before them.
                found.debug_string(at, self.start.is_some());
                self.at += 4;
            }
            Step::Offset(Part::Lines) => {
                found.lines.push((u32_at(self.bytes, self.at)?, self.numbers));
                found.offset(at, Part::Lines, 4);
                self.at += 4;
            }
            Step::Offset(part) => {
                found.offset(at, part, 4);
                self.at += 4;
            }
            Step::Entry => {
                found.push(at, at, Kind::Entry, 4, 0);
                self.at += 4;
            }
            Step::Address => {
                self.address(at, found);
                self.at += 8;
            }
            Step::File(0) => {
                self.number(1, found)?;
            }
            Step::File(width) => {
                found.push(at, self.numbers + NUMBERS, Kind::Number, width, 0);
                self.at += usize::from(width);
            }
            Step::Start => {
                let address = u64_at(self.bytes, self.at)?;
                if is_code(self.image.layout(), address) {
                    found.address(at);
                    self.start = self.image.layout().place(address);
                }
                self.at += 8;
            }
            Step::Length => {
                self.length(at, 4, found);
                self.at += 4;
            }
            Step::Length8 => {
                self.length(at, 8, found);
                self.at += 8;
            }
        }
        Some(())
    }

    /// Reads a number of seven bits a byte, of one of two sorts.
    #[inline]
    fn number(&mut self, sort: u32, found: &mut Found) -> Option<u64> {
        let at = self.at;
        let number = uleb(self.bytes, &mut self.at)?;
        if self.at == at + 1 && number != 0 {
            found.push(at as u32, self.numbers + sort * NUMBERS, Kind::Number, 1, 0);
        }
        Some(number)
    }

    fn block(&mut self, width: usize, len: u64) -> Option<()> {
        self.at = self.at.checked_add(width)?.checked_add(usize::try_from(len).ok()?)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn address(&self, at: u32, found: &mut Found) {
        let address = u64_at(self.bytes, at as usize);
        if address.is_some_and(|address| address > 1 && self.image.layout().place(address).is_some()) {
            found.address(at);
        }
    }

    fn length(&self, at: u32, width: u8, found: &mut Found) {
        if let Some(start) = self.start {
            found.length(at, start, width);
        }
    }
}
