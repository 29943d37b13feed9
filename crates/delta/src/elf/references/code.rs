//! Operands of instructions that count from where they are.

use super::Found;
use super::instruction::{Form, WINDOW, measure};
use super::jump_tables::Candidates;
use crate::elf::layout::Load;
use crate::elf::{Image, Kind};

/// Finds the operands of the code in every load that holds some.
pub(super) fn scan_loads(image: &Image, bytes: &[u8], found: &mut Found, tables: &mut Candidates) {
    let mut end = 0;
    let mut loads: Vec<&Load> = image.layout().loads.iter().filter(|l| l.code).collect();
    loads.sort_by_key(|l| l.offset);
    for load in loads {
        let from = load.offset.max(end);
        end = end.max(load.offset + load.len);
        scan(image, bytes, (from, end), found, tables);
    }
}

/// Finds the operands of the code in a stretch of the file. One instruction after the other: where none is, it goes on with the next byte, and is in step again
/// after a few.
pub(super) fn scan(image: &Image, bytes: &[u8], (from, end): (u32, u32), found: &mut Found, tables: &mut Candidates) {
    let layout = image.layout();
    let Some(load) = layout.loads.iter().find(|l| from.wrapping_sub(l.offset) < l.len) else { return };
    let (Some(first), Some(last)) = (layout.loads.first(), layout.loads.last()) else { return };
    let end = end.min(load.offset + load.len);
    let memory = (first.address, last.address + u64::from(last.len) + u64::from(last.beyond) - first.address);
    // Which address each register was last seen to get.
    let mut taken = [0u64; 16];
    let mut at = from;
    while at < end {
        let Some(window) = bytes.get(at as usize..).and_then(|rest| rest.first_chunk::<WINDOW>()) else { return };
        let Some(instruction) = measure(window) else {
            at += 1;
            continue;
        };
        let next = at + u32::from(instruction.len);
        let operand = usize::from(instruction.operand);
        let target = |step: i64| (load.address + u64::from(next - load.offset)).wrapping_add(step as u64);
        let far = || target(i64::from(i32::from_le_bytes(std::array::from_fn(|k| window[(operand + k) & (WINDOW - 1)]))));
        let place = at + u32::from(instruction.operand);
        match instruction.form {
            Form::Other => {}
            Form::Short => found.push(place, place, Kind::Near, 1, 1),
            Form::Branch => {
                if far().wrapping_sub(load.address) < u64::from(load.len) {
                    found.push(place, place, Kind::Operand, 4, 4);
                }
            }
            Form::Memory | Form::Take(_) => {
                let address = far();
                if address.wrapping_sub(memory.0) < memory.1 {
                    found.push(place, place, Kind::Operand, 4, (next - place) as i8);
                    if let Form::Take(register) = instruction.form {
                        taken[usize::from(register & 15)] = address;
                        tables.take(address, false);
                    }
                }
            }
            Form::Entry(register) => tables.take(taken[usize::from(register & 15)], true),
        }
        at = next;
    }
}
