//! `.debug_line`: programs that make tables of lines.

use super::form::{Step, step};
use super::{Found, Unit, byte, is_code, units, version};
use crate::elf::bytes::{skip_string, u16_at, u32_at, u64_at, uleb};
use crate::elf::image::Section;
use crate::elf::reference::NUMBERS;
use crate::elf::{Image, Kind};

/// The most directories and files a table is believed to have.
const MOST: u64 = 1 << 16;

/// Finds the names, the addresses and the numbers of files of the programs.
pub(super) fn scan(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    let mut of_units = std::mem::take(&mut found.lines);
    of_units.sort_unstable();
    units(bytes, section, found, |unit, found| {
        let offset = unit.at - 4 - section.at;
        // What no entry names has its numbers apart from all others.
        let numbers = of_units.binary_search_by_key(&offset, |line| line.0).map_or(!offset << 11, |k| of_units[k].1);
        let _ = program(image, &bytes[..unit.end as usize], unit, numbers, found);
    });
}

/// Finds what a program refers to, as far as it is understood.
fn program(image: &Image, bytes: &[u8], unit: Unit, numbers: u32, found: &mut Found) -> Option<()> {
    let version = version(bytes, unit.at)?;
    let mut at = unit.at as usize + if version == 5 { 4 } else { 2 };
    let start = (at + 4).checked_add(u32_at(bytes, at)? as usize)?;
    at += if version >= 4 { 9 } else { 8 };
    let lens = bytes.get(at..at + usize::from(byte(bytes, at as u32 - 1)?.max(1)) - 1)?;
    if version == 5 {
        at += lens.len();
        names(bytes, &mut at, found);
    }
    let mut at = start;
    loop {
        let op = byte(bytes, at as u32)?;
        at += 1;
        match op {
            op if usize::from(op) > lens.len() => {}
            0 => {
                let len = usize::try_from(uleb(bytes, &mut at)?).ok()?;
                if len == 9
                    && byte(bytes, at as u32)? == 2
                    && u64_at(bytes, at + 1).is_some_and(|address| is_code(image.layout(), address))
                {
                    found.address(at as u32 + 1);
                }
                at = at.checked_add(len)?;
            }
            4 => {
                let before = at;
                uleb(bytes, &mut at)?;
                if at == before + 1 {
                    found.push(before as u32, numbers.wrapping_add(NUMBERS), Kind::Number, 1, 0);
                }
            }
            2 | 3 | 5 | 12 => {
                uleb(bytes, &mut at)?;
            }
            9 => at += 2,
            1 | 6 | 7 | 8 | 10 | 11 => {}
            op => {
                for _ in 0..lens[usize::from(op) - 1] {
                    uleb(bytes, &mut at)?;
                }
            }
        }
    }
}

/// Finds the names of directories and files of version 5; leaves `at` behind what was understood.
fn names(bytes: &[u8], at: &mut usize, found: &mut Found) -> Option<()> {
    for _ in 0..2 {
        let mut steps = Vec::new();
        let n_formats = byte(bytes, *at as u32)?;
        *at += 1;
        for _ in 0..n_formats {
            let (_, form) = (uleb(bytes, at)?, uleb(bytes, at)?);
            steps.push(step(0, form, 5)?);
        }
        let n_names = uleb(bytes, at)?.min(MOST);
        for _ in 0..n_names {
            let before = *at;
            for step in &steps {
                pass(bytes, at, *step, found)?;
            }
            // Names of no length could go on for ever.
            if *at == before {
                return None;
            }
        }
    }
    Some(())
}

fn pass(bytes: &[u8], at: &mut usize, step: Step, found: &mut Found) -> Option<()> {
    match step {
        Step::Skip(n) => *at += usize::from(n),
        Step::Leb => {
            uleb(bytes, at)?;
        }
        Step::Text => skip_string(bytes, at)?,
        Step::Offset(part) => {
            found.offset(*at as u32, part, 4);
            *at += 4;
        }
        Step::Block(width) => {
            let len = match width {
                1 => usize::from(byte(bytes, *at as u32)?),
                2 => usize::from(u16_at(bytes, *at)?),
                4 => u32_at(bytes, *at)? as usize,
                _ => usize::try_from(uleb(bytes, at)?).ok()?,
            };
            *at = at.checked_add(usize::from(width))?.checked_add(len)?;
        }
        _ => return None,
    }
    (*at <= bytes.len()).then_some(())
}
