//! `.debug_line`: programs that make tables of lines.

use super::form::{Step, step};
use super::{Found, Unit, byte, is_code, units, version};
use crate::elf::Image;
use crate::elf::bytes::{skip_string, u16_at, u32_at, u64_at, uleb};
use crate::elf::image::Section;

/// The most directories and files a table is believed to have.
const MOST: u64 = 1 << 16;

/// Finds the names and addresses of the programs.
pub(super) fn scan(image: &Image, bytes: &[u8], section: &Section, found: &mut Found) {
    units(bytes, section, found, |unit, found| {
        let mut from = unit.at;
        if version(bytes, unit.at) == Some(5) {
            let mut at = unit.at as usize + 8;
            let _ = names(&bytes[..unit.end as usize], &mut at, found);
            from = at as u32;
        }
        addresses(image, bytes, Unit { at: from, end: unit.end }, found);
    });
}

/// Finds the instructions that set the address: zero, nine bytes, two, the address. Whatever looks so and holds an address of code is one.
fn addresses(image: &Image, bytes: &[u8], unit: Unit, found: &mut Found) {
    let (mut at, end) = (unit.at as usize, unit.end as usize);
    while at + 11 <= end {
        if bytes[at + 2] == 2
            && bytes[at + 1] == 9
            && bytes[at] == 0
            && u64_at(bytes, at + 3).is_some_and(|address| is_code(image.layout(), address))
        {
            found.address(at as u32 + 3);
            at += 11;
        } else {
            at += 1;
        }
    }
}

/// Finds the names of directories and files of version 5; leaves `at` behind what was understood.
fn names(bytes: &[u8], at: &mut usize, found: &mut Found) -> Option<()> {
    // Minimum length, operations, default, line base, line range; then the lengths of the standard opcodes.
    *at += 9;
    *at += usize::from(byte(bytes, *at as u32)?);
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
            for step in &steps {
                pass(bytes, at, *step, found)?;
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
