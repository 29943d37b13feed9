//! What debuggers read.

use super::Found;
use crate::elf::Image;
use crate::elf::image::Section;

/// Finds the addresses and offsets of a section that is not loaded.
pub(super) fn scan(_image: &Image, _bytes: &[u8], _section: &Section, _found: &mut Found) {}
