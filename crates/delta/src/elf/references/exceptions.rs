//! What unwinding a stack reads.

use super::Found;
use crate::elf::bytes::{u32_at, uleb};
use crate::elf::frames::{self, Common, Frame, NEAR, Naming};
use crate::elf::image::Section;
use crate::elf::{Flags, Image};

/// Finds the functions, their lengths and their exception tables in `.eh_frame`.
pub(super) fn frames(image: &Image, bytes: &[u8], section: &Section, flags: Flags, found: &mut Found) {
    let naming = if flags.numbered() { Naming::Number } else { Naming::Distance };
    let (commons, frames) = frames::walk(bytes, section, naming);
    for at in commons.iter().filter_map(|c| c.personality) {
        found.near(at);
    }
    for frame in frames {
        if let Some(common) = commons.get(frame.common as usize) {
            function(image, bytes, common, frame, found);
        }
    }
}

fn function(image: &Image, bytes: &[u8], common: &Common, frame: Frame, found: &mut Found) -> Option<()> {
    if common.function != NEAR || frame.end < frame.at + 16 {
        return None;
    }
    found.near(frame.at + 8);
    let near = u32_at(bytes, frame.at as usize + 8)? as i32;
    let start = image.layout().address(frame.at + 8)?.wrapping_add(near as i64 as u64);
    if let Some(start) = image.layout().place(start) {
        found.length(frame.at + 12, start, 4);
    }
    let mut at = frame.at as usize + 16;
    if common.augmented
        && uleb(bytes, &mut at)? >= 4
        && common.exceptions == NEAR
        && u32_at(bytes, at)? != 0
        && at + 4 <= frame.end as usize
    {
        found.near(at as u32);
    }
    Some(())
}

/// Finds the addresses of `.eh_frame_hdr`, if they are not derived.
pub(super) fn search_table(bytes: &[u8], section: &Section, flags: Flags, found: &mut Found) {
    // Version 1; the start of the frames near, the count plain, the table counted from here.
    if bytes.get(section.at as usize..section.at as usize + 4) != Some(&[1, NEAR, 3, 0x3b]) || section.len < 12 {
        return;
    }
    found.near(section.at + 4);
    if flags.derived_search_table() {
        return;
    }
    for at in (section.at + 12..section.end()).step_by(4) {
        found.push(at, section.at, crate::elf::Kind::From, 4, 0);
    }
}
