//! Tables that a `switch` or `match` jumps through: distances of four bytes from the table's start to code.

use super::Found;
use crate::elf::bytes::u32_at;
use crate::elf::layout::Layout;
use crate::elf::{Image, Kind};

/// The most entries a table may have.
const MOST: u32 = 4096;

/// The fewest entries of a table that no instruction was seen to read.
const FEWEST: u32 = 3;

/// What instructions say about tables, collected while the code is scanned.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Addresses that an instruction took, in order of the code; the lowest bit says that it was seen to be used as a table.
    taken: Vec<u64>,
}

impl Candidates {
    /// Notes that an instruction took an address, and whether another then read a table there.
    pub fn take(&mut self, address: u64, table: bool) {
        // Addresses of this program are far below the highest bit.
        if address & 3 == 0 && address != 0 {
            self.taken.push(address << 1 | u64::from(table));
        }
    }
}

/// Finds the entries of the tables.
pub(super) fn scan(image: &Image, bytes: &[u8], candidates: Candidates, found: &mut Found) {
    let layout = image.layout();
    let mut places: Vec<(u32, bool)> = candidates
        .taken
        .iter()
        .filter_map(|taken| Some((layout.place(taken >> 1)?, taken & 1 != 0)))
        .filter(|(place, _)| place % 4 == 0 && *place < layout.len && !in_code(layout, *place))
        .collect();
    places.sort_unstable();
    for (k, &(start, sure)) in places.iter().enumerate() {
        // Each table is judged once, by the better witness, which sorts last.
        let next = places.get(k + 1).map_or(layout.len, |p| p.0);
        let end = next.min(start.saturating_add(4 * MOST)).min(layout.len);
        let n = entries(layout, bytes, start, end);
        if n >= if sure { 1 } else { FEWEST } {
            for at in (0..n).map(|k| start + 4 * k) {
                found.push(at, start, Kind::From, 4, 0);
            }
        }
    }
}

/// Returns how many entries in `[start, end)` lead to code.
fn entries(layout: &Layout, bytes: &[u8], start: u32, end: u32) -> u32 {
    let Some(base) = layout.address(start) else { return 0 };
    let leads =
        |at: u32| u32_at(bytes, at as usize).is_some_and(|step| to_code(layout, base.wrapping_add(step as i32 as i64 as u64)));
    (start..end).step_by(4).take_while(|at| at + 4 <= end && leads(*at)).count() as u32
}

fn to_code(layout: &Layout, address: u64) -> bool {
    layout.loads.iter().any(|l| l.code && address.wrapping_sub(l.address) < u64::from(l.len))
}

fn in_code(layout: &Layout, place: u32) -> bool {
    layout.loads.iter().any(|l| l.code && place.wrapping_sub(l.offset) < l.len)
}
