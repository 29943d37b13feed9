//! Small streams to the fewest bytes.
//!
//! A packed stream is one byte that names its coder and its [`Shape`], and then what that coder made. How many bytes it unpacks to, and where it ends, its
//! holder knows. Pure functions of bytes, in integers only: the same on every machine.
//!
//! | bits of the first byte | |
//! |---|---|
//! | 0-3 | coder: 0 stored, 1 zstd |
//! | 4-5 | shape |
//! | 6   | 1: the context was referred to |
//! | 7   | 0 |
//!
//! An empty stream packs to nothing.

mod frame;

use crate::diff::Level;

/// What is in a stream: it decides what the coder looks at to guess the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Varints: lengths, gaps, distances.
    Numbers = 0,
    /// Differences of mispredicted bytes.
    Bytes = 1,
    /// Text, and anything that is not known.
    Text = 2,
    /// x86-64 machine code and what lies beside it in a program.
    Code = 3,
}

/// A packed stream is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    /// No such coder or shape.
    #[error("unknown coder {0:#04x}")]
    Coder(u8),
    /// It does not hold as many bytes as are due, or more.
    #[error("a packed stream does not hold the {expected} bytes that are due")]
    Length {
        /// What is due.
        expected: usize,
    },
    /// Not exactly one frame of the form that is allowed.
    #[error("not one plain zstd frame with a bounded window")]
    Frame,
    /// zstd refused the frame.
    #[error("damaged zstd frame: {0}")]
    Zstd(&'static str),
}

const STORED: u8 = 0;
const ZSTD: u8 = 1;
const CONTEXT: u8 = 0x40;

/// Packs `bytes`, of which some may resemble stretches of `context`; appends to `out`.
pub fn pack(bytes: &[u8], context: &[u8], shape: Shape, level: Level, out: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let shape = (shape as u8) << 4;
    let mut best = (STORED | shape, bytes.to_vec());
    let mut offer = |coder: u8, packed: Option<Vec<u8>>| {
        if let Some(packed) = packed.filter(|packed| packed.len() < best.1.len()) {
            best = (coder | shape, packed);
        }
    };
    offer(ZSTD, frame::compress(bytes, &[], level));
    if !context.is_empty() {
        offer(ZSTD | CONTEXT, frame::compress(bytes, context, level));
    }
    out.push(best.0);
    out.extend_from_slice(&best.1);
}

/// Unpacks exactly `len` bytes of what [`pack`] made with the same context; in time linear in `len` and that of the context, without allocating more than `len`
/// and fixed tables.
pub fn unpack(packed: &[u8], context: &[u8], len: usize) -> Result<Vec<u8>, EntropyError> {
    let Some((&first, body)) = packed.split_first() else {
        return if len == 0 { Ok(Vec::new()) } else { Err(EntropyError::Length { expected: len }) };
    };
    let context = if first & CONTEXT == 0 { &[] } else { context };
    match first & 0x8f {
        STORED if body.len() == len => Ok(body.to_vec()),
        STORED => Err(EntropyError::Length { expected: len }),
        ZSTD => frame::decompress(body, context, len),
        _ => Err(EntropyError::Coder(first)),
    }
}
