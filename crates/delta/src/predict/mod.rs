//! The new bytes as a prediction, and what was predicted wrong.
//!
//! A piece is made of *members*, the slices of its target. Those that are programs, and have one among the base's slices that they come from, are predicted on their
//! own: both are transformed ([`crate::elf`]), stretches of the old one are copied with their references moved, and what is wrong then is mended. All other
//! members, one after the other, are copied from stretches of all of the base and mended the same way, without references.
//!
//! ```text
//! body = the streams of `streams`, which hold, in this order:
//! 1. Head: number of programs, and for each: members since the last one, number of the base's slice, flags and one or 0 if it is not transformed,
//!    layout (`elf::Layout`)
//! 2. the segments of all other members together (`segments`), when there are any, then of each program
//! 3. which references are wrong, and by how much (`references`)
//! ```
//!
//! Behind them are the corrections: of all other bytes, and what no segment covers ([`crate::entropy`]), of all members in that order.
//!
//! A base's slice that is the base of a program is transformed in place, before anything refers to it, for other members too. The base of a body without programs is as
//! it is. Numbers are bounded by the lengths that both sides know; whatever the bytes are, decoding ends in time linear in them and the two lengths,
//! and takes, besides the two, about the length of the longest program, of which none may be longer than 48 MiB.
//!
//! Another machine's programs fit without a change here: see [`crate::elf`].

mod decode;
mod encode;
mod map;
mod order;
mod program;
mod references;
mod refine;
mod segments;
mod streams;

pub(crate) use decode::decode;
pub(crate) use encode::{copy, elf};
pub(crate) use streams::Body;
pub use streams::{SORTS, Sort, StreamLen};

use crate::diff::EncodeError;

/// Reads the two sides of a piece, as often as they are asked for: who writes over them keeps no second copy.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// Reads all old bytes.
    pub base: &'a dyn Fn() -> Result<Vec<u8>, EncodeError>,
    /// The lengths of its slices.
    pub base_lens: &'a [usize],
    /// Reads all new bytes.
    pub target: &'a dyn Fn() -> Result<Vec<u8>, EncodeError>,
    /// The lengths of its slices.
    pub target_lens: &'a [usize],
}

/// What a source reads.
pub(crate) struct Both {
    pub base: Vec<u8>,
    pub target: Vec<u8>,
}

impl<'a> Source<'a> {
    /// Reads both sides.
    pub fn read(&self) -> Result<Both, EncodeError> {
        Ok(Both { base: (self.base)()?, target: (self.target)()? })
    }

    /// Returns the sides of what was read.
    pub fn sides<'b>(&self, both: &'b Both) -> Sides<'b>
    where
        'a: 'b,
    {
        Sides { base: &both.base, base_lens: self.base_lens, target: &both.target, target_lens: self.target_lens }
    }

    /// Returns how long the new bytes are.
    pub fn target_len(&self) -> usize {
        self.target_lens.iter().sum()
    }
}

/// The two sides of a piece: bytes, and where one slice ends and the next begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sides<'a> {
    /// All old bytes.
    pub base: &'a [u8],
    /// The lengths of its slices.
    pub base_lens: &'a [usize],
    /// All new bytes.
    pub target: &'a [u8],
    /// The lengths of its slices.
    pub target_lens: &'a [usize],
}

/// Returns where the slices of these lengths are.
fn ranges(lens: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut end = 0;
    let range = |len: &usize| {
        end += len;
        end - len..end
    };
    lens.iter().map(range).collect()
}
