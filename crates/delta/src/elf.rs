//! What an x86-64 ELF file refers to, so that a rebuilt program is predicted from the one before.
//!
//! When one line of a program changes, nearly all of its bytes stay and nearly all of its addresses move. This module knows where a file holds addresses
//! ([`references`]), what each of them means ([`Reference::target`]: a *place* in the file, which an alignment can move) and what it reads after both
//! it and its target moved ([`Reference::write`]). [`forward`] first moves away what a linker derives from elsewhere, so that it need not be predicted at all.
//!
//! - A *place* is an offset in the file, or, from the file's length on, a byte that a load has only in memory (`.bss`). One number, one map.
//! - A [`Layout`] is all that is needed of a file to turn addresses into places and back. The decoder gets the new file's in a few bytes, before it has the file.
//!
//! Everything here runs on foreign bytes, on both sides, with the same result on every machine: integers only, bounded by the file's length, linear in it. A file
//! that is not understood is [`None`] and travels some other way; a reference that is no reference costs bytes and nothing else.
//!
//! Another machine (aarch64, WebAssembly) fits behind the same seam: a scanner that yields references, and a [`Kind`] where its operands are not whole bytes
//! (the 26-bit branches and the page pairs of aarch64, the padded LEB128 indexes of WebAssembly).

mod bytes;
mod frames;
mod image;
mod layout;
mod reference;
mod references;
mod transform;

#[cfg(test)]
mod tests;

pub(crate) use image::Image;
pub(crate) use layout::Layout;
pub(crate) use reference::{Kind, Reference, hide_operands, hide_targets};
pub(crate) use references::{references, references_again};
pub(crate) use transform::{Flags, Transformed, forward, inverse};
