//! Walks `.eh_frame`: common entries and the entries of functions.

use super::bytes::{skip_string, u8_at, u32_at, uleb};
use super::image::Section;

/// How an entry names its common entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// By the distance back to it, as the linker writes it.
    Distance,
    /// By its number, from 1.
    Number,
}

/// What a common entry says about the entries that name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common {
    /// Where it starts.
    pub at: u32,
    /// How a function's start is encoded.
    pub function: u8,
    /// How a pointer to exception tables is encoded.
    pub exceptions: u8,
    /// Whether the entries begin with data whose length they say.
    pub augmented: bool,
    /// Where it points to the routine that reads exception tables, if in four bytes from here.
    pub personality: Option<u32>,
}

/// An entry of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Where it starts.
    pub at: u32,
    /// The number of its common entry.
    pub common: u32,
    /// Where it ends.
    pub end: u32,
}

/// Four bytes, signed, counted from where they are: what every linker writes.
pub(super) const NEAR: u8 = 0x1b;

/// Returns the common entries and the entries of functions of the section. What is not understood ends the walk.
pub(super) fn walk(bytes: &[u8], section: &Section, naming: Naming) -> (Vec<Common>, Vec<Frame>) {
    let (mut commons, mut frames): (Vec<Common>, Vec<Frame>) = Default::default();
    let mut at = section.at;
    while let Some((next, id)) = entry(bytes, section, at) {
        if id == 0 {
            commons.push(common(bytes, at, next));
        } else if next > at + 4 {
            let number = match naming {
                Naming::Number => Some(id - 1).filter(|n| (*n as usize) < commons.len()),
                Naming::Distance => (at + 4)
                    .checked_sub(id)
                    .and_then(|place| commons.binary_search_by_key(&place, |c| c.at).ok())
                    .map(|n| n as u32),
            };
            let Some(number) = number else { break };
            frames.push(Frame { at, common: number, end: next });
        }
        at = next;
    }
    (commons, frames)
}

/// Returns where the next entry starts and what this one's second word is; one for a terminator.
fn entry(bytes: &[u8], section: &Section, at: u32) -> Option<(u32, u32)> {
    let len = u32_at(bytes, at as usize).filter(|_| at + 4 <= section.end())?;
    if len == 0 {
        return Some((at + 4, 1));
    }
    let next = at.checked_add(4)?.checked_add(len).filter(|next| *next <= section.end())?;
    Some((next, u32_at(bytes, at as usize + 4).filter(|_| len >= 4)?))
}

/// Reads a common entry; one that is not understood encodes nothing.
fn common(bytes: &[u8], at: u32, end: u32) -> Common {
    let nothing = Common { at, function: 0xff, exceptions: 0xff, augmented: false, personality: None };
    common_checked(&bytes[..end as usize], nothing).unwrap_or(nothing)
}

fn common_checked(bytes: &[u8], mut common: Common) -> Option<Common> {
    let start = common.at as usize + 9;
    let version = u8_at(bytes, start - 1)?;
    let mut at = start;
    skip_string(bytes, &mut at)?;
    let augmentation = &bytes[start..at - 1];
    uleb(bytes, &mut at)?;
    uleb(bytes, &mut at)?;
    if version == 1 {
        at += 1;
    } else {
        uleb(bytes, &mut at)?;
    }
    // Without augmentation a start is eight absolute bytes, which nobody writes here.
    let letters = augmentation.strip_prefix(b"z")?;
    common.augmented = true;
    uleb(bytes, &mut at)?;
    for letter in letters {
        match letter {
            b'R' => common.function = u8_at(bytes, at)?,
            b'L' => common.exceptions = u8_at(bytes, at)?,
            b'P' => {
                let encoding = u8_at(bytes, at)?;
                if encoding & 0x7f != NEAR {
                    return Some(common);
                }
                common.personality = Some(at as u32 + 1);
                at += 4;
            }
            b'S' | b'B' => continue,
            _ => return Some(common),
        }
        at += 1;
    }
    Some(common)
}
