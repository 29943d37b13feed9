//! Small streams to the fewest bytes.
//!
//! A packed stream is one byte that names its coder and its [`Shape`], and then what that coder made. How many bytes it unpacks to, and where it ends, its
//! holder knows. Pure functions of bytes, in integers only: the same on every machine.
//!
//! | bits of the first byte | |
//! |---|---|
//! | 0-3 | coder: 0 stored, 1 zstd, 2 mixed contexts, 3 few contexts |
//! | 4-5 | shape |
//! | 6   | 1: the context was referred to |
//! | 7   | 0 |
//!
//! An empty stream packs to nothing. After the first byte:
//!
//! - stored: the bytes;
//! - zstd: one frame without its first five bytes, which are always `28 b5 2f fd 00` (no checksum, no content size, no dictionary; a window of at most 2^27), with
//!   the context as its prefix when bit 6 says so;
//! - mixed contexts: the bits of the bytes, the highest first, each coded arithmetically (`range`) with the probability that the model has for it (`mix`). The
//!   model's arithmetic is the format: a change of any constant in it is another coder;
//! - few contexts: the same by a model of a tenth of the work (`mix::light`).
//!
//! What all streams and the corrections of one part mix together is bounded by [`Room`]: a MiB by the whole model, eight by the light one.
//!
//! With [`Shape::Text`] and no context, `a small stream, a small stream` is
//!
//! ```text
//! 22                                          coder 2, shape 2
//! a6 b4 1d 5f 0e 88 a3 94 34 9e cb d7 7b df   240 bits
//! ```
//!
//! Unpacking takes time linear in the bytes and the context (two or three microseconds for each byte of mixed contexts), and besides them at most 32 MiB of tables, fewer
//! for shorter streams; it reads what lies beyond the end as zeros, and refuses what is not the one packing of what it found.
//!
//! Corrections of a prediction ([`pack_corrections`], [`correct`]) are coded by the same means where they belong, see `corrections`.

mod corrections;
mod frame;
mod mix;
mod range;
mod room;

pub use corrections::{correct, pack_corrections};
pub use room::Room;

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
    /// Corrections that do not fit what they are to correct.
    #[error("damaged corrections")]
    Corrections,
    /// A part would take too long to unpack.
    #[error("more mixed bytes than a part may hold")]
    Room,
    /// Not exactly one frame of the form that is allowed.
    #[error("not one plain zstd frame with a bounded window")]
    Frame,
    /// zstd refused the frame.
    #[error("damaged zstd frame: {0}")]
    Zstd(&'static str),
}

const STORED: u8 = 0;
const ZSTD: u8 = 1;
const MIX: u8 = 2;
const LIGHT: u8 = 3;
const CONTEXT: u8 = 0x40;

/// At [`Level::Fast`] a stream is mixed that takes no more than this part of the room that is left.
const FAST_SHARE: usize = 4;

/// At [`Level::Fast`] no longer context is referred to: measured with 10 and 19 MB of it, it took ten times as long and saved nothing.
const READABLE: usize = 4 << 20;
/// At [`Level::Fast`] a stream of so many bytes that may refer to a context is not packed without it, too.
const LONG: usize = 1 << 14;

/// Packs `bytes`, of which some may resemble stretches of `context`, within the room there is; appends to `out`.
pub fn pack(bytes: &[u8], context: &[u8], shape: Shape, level: Level, room: &mut Room, out: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let (mut coder, mut best) = (STORED, bytes.to_vec());
    for (candidate, context) in candidates(bytes.len(), context, shape, level, room) {
        let packed = match candidate & 0x0f {
            ZSTD => frame::compress(bytes, context, level),
            LIGHT => mix::quick::encode(bytes, shape, best.len()),
            _ => mix::encode(bytes, context, shape, best.len()),
        };
        if let Some(packed) = packed.filter(|packed| packed.len() < best.len()) {
            (coder, best) = (candidate, packed);
        }
    }
    let fits = room.take(cost(coder, bytes.len()));
    debug_assert!(fits, "only coders that fit are tried");
    out.push(coder | (shape as u8) << 4);
    out.extend_from_slice(&best);
}

/// Unpacks exactly `len` bytes of what [`pack`] made with the same context, if there is room for that; in time linear in `len` and that of the context, without
/// allocating more than `len` and fixed tables.
pub fn unpack(packed: &[u8], context: &[u8], len: usize, room: &mut Room) -> Result<Vec<u8>, EntropyError> {
    let (first, body) = match packed.split_first() {
        None if len == 0 => return Ok(Vec::new()),
        Some((first, body)) if len > 0 => (*first, body),
        _ => return Err(EntropyError::Length { expected: len }),
    };
    let context = if first & CONTEXT == 0 { &[] } else { context };
    if !room.take(cost(first, len)) {
        return Err(EntropyError::Room);
    }
    match first & 0x8f {
        STORED if body.len() == len => Ok(body.to_vec()),
        STORED => Err(EntropyError::Length { expected: len }),
        ZSTD => frame::decompress(body, context, len),
        LIGHT => mix::quick::decode(body, shape(first), len),
        MIX => mix::decode(body, context, shape(first), len),
        _ => Err(EntropyError::Coder(first)),
    }
}

/// The coders that are worth trying, and what each may refer to.
fn candidates<'a>(len: usize, context: &'a [u8], shape: Shape, level: Level, room: &Room) -> Vec<(u8, &'a [u8])> {
    let is_worth_reading = level == Level::Small || context.len() <= READABLE;
    let refers = !context.is_empty() && matches!(shape, Shape::Text | Shape::Code) && is_worth_reading;
    let is_mixed = match level {
        Level::Small => room.has(cost(MIX, len)),
        Level::Fast => room.has(cost(MIX, len) * FAST_SHARE),
    };
    let mut candidates: Vec<(u8, &[u8])> = Vec::new();
    // What is long hardly ever resembles nothing that it may refer to.
    if !(refers && level == Level::Fast && len >= LONG) {
        candidates.push((ZSTD, &[]));
    }
    if refers && !(is_mixed && level == Level::Small) {
        candidates.push((ZSTD | CONTEXT, context));
    }
    if is_mixed {
        candidates.push((MIX, &[]));
        if refers && level == Level::Small {
            candidates.push((MIX | CONTEXT, context));
        }
    } else if room.has(cost(LIGHT, len)) {
        candidates.push((LIGHT, &[]));
    }
    candidates
}

/// Returns whether a packed stream refers to its context.
fn refers(packed: &[u8]) -> bool {
    packed.first().is_some_and(|first| first & CONTEXT > 0)
}

/// How much room a coder takes.
fn cost(coder: u8, len: usize) -> usize {
    match coder & 0x0f {
        MIX => len.saturating_mul(room::MIXED),
        LIGHT => len,
        _ => 0,
    }
}

fn shape(first: u8) -> Shape {
    match first >> 4 & 3 {
        0 => Shape::Numbers,
        1 => Shape::Bytes,
        2 => Shape::Text,
        _ => Shape::Code,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPES: [Shape; 4] = [Shape::Numbers, Shape::Bytes, Shape::Text, Shape::Code];

    fn packed(bytes: &[u8], context: &[u8], shape: Shape, level: Level) -> Vec<u8> {
        let mut out = Vec::new();
        pack(bytes, context, shape, level, &mut Room::to_unpack(), &mut out);
        out
    }

    fn unpacked(packed: &[u8], context: &[u8], len: usize) -> Result<Vec<u8>, EntropyError> {
        unpack(packed, context, len, &mut Room::to_unpack())
    }

    /// Bytes that a coder finds something in: runs, repetitions and noise.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let stretch = (prop::collection::vec(any::<u8>(), 1..20), 1..12usize).prop_map(|(bytes, n)| bytes.repeat(n));
        prop::collection::vec(stretch, 0..12).prop_map(|stretches| stretches.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_was_packed_unpacks(bytes in stream(), context in stream()) {
            for shape in SHAPES {
                for level in [Level::Fast, Level::Small] {
                    for context in [&[][..], &context] {
                        let packed = packed(&bytes, context, shape, level);
                        prop_assert!(packed.len() <= bytes.len() + 1);
                        prop_assert_eq!(unpacked(&packed, context, bytes.len()), Ok(bytes.clone()));
                    }
                }
            }
        }

        #[test]
        fn anything_unpacks_to_its_length_or_not(packed in prop::collection::vec(any::<u8>(), 0..200), context in stream(), len in 0..3000usize) {
            for coder in 0..4 {
                let packed = [vec![coder | packed.first().copied().unwrap_or(0) & 0xf0], packed.clone()].concat();
                if let Ok(bytes) = unpacked(&packed, &context, len) {
                    prop_assert_eq!(bytes.len(), len);
                }
            }
        }

        #[test]
        fn bytes_have_one_packing(
            bytes in stream(),
            level in prop::sample::select(vec![Level::Fast, Level::Small]),
            shape in prop::sample::select(SHAPES.to_vec()),
            cut in any::<prop::sample::Index>(),
        ) {
            let packed = packed(&bytes, &[], shape, level);
            let len = cut.index(packed.len() + 1);
            prop_assert!(len == packed.len() || unpacked(&packed[..len], &[], bytes.len()) != Ok(bytes.clone()));
            for more in [0, 7] {
                prop_assert_ne!(unpacked(&[&packed[..], &[more]].concat(), &[], bytes.len()), Ok(bytes.clone()));
            }
        }
    }

    #[test]
    fn nothing_costs_nothing() {
        assert_eq!(packed(b"", b"context", Shape::Text, Level::Small), b"");
        assert_eq!(unpacked(b"", b"context", 0), Ok(vec![]));
        assert_eq!(unpacked(b"", b"context", 1), Err(EntropyError::Length { expected: 1 }));
    }

    /// What a part may cost is counted in bytes, not in time: no stream, and no sum of streams, is mixed beyond it.
    #[test]
    fn a_part_mixes_no_more_than_there_is_room_for() {
        let whole = 1 << 20;
        let of = |coder: u8, len: usize, room: &mut Room| unpack(&[coder, 1], b"", len, room).err();
        assert_eq!(of(MIX, whole + 1, &mut Room::to_unpack()), Some(EntropyError::Room));
        assert_eq!(of(LIGHT, 8 * whole + 1, &mut Room::to_unpack()), Some(EntropyError::Room));
        let mut room = Room::to_unpack();
        let packed = packed(&[b'x'; 1000], b"", Shape::Text, Level::Small);
        assert_eq!(packed[0] & 0x0f, MIX);
        assert!(unpack(&packed, b"", 1000, &mut room).is_ok());
        assert_eq!(of(MIX, whole - 999, &mut room), Some(EntropyError::Room));
        assert_eq!(of(LIGHT, 8 * whole - 7999, &mut room), Some(EntropyError::Room));
        let mut target = vec![0; whole];
        for form in [1, 2, 3] {
            let corrections = [&[form][..], &[0x80, 0x80, 0x40]].concat();
            let wrong = correct(&corrections, &mut target, &[], || b"".into(), &mut room);
            assert_eq!(wrong.err(), (form < 3).then_some(EntropyError::Room).or(Some(EntropyError::Corrections)), "{form}");
        }
    }

    #[test]
    fn streams_without_room_are_packed_by_others() {
        let (mut random, mut byte) = (1u32, 0u8);
        let step = |_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            byte = (byte + (random >> 30) as u8) & 15;
            byte
        };
        let bytes: Vec<u8> = (0..3_000).map(step).collect();
        let mut room = Room::to_pack(0, Level::Fast);
        let mut coders = Vec::new();
        for _ in 0..2 {
            let mut out = Vec::new();
            pack(&bytes, b"", Shape::Code, Level::Fast, &mut room, &mut out);
            assert_eq!(unpacked(&out, b"", bytes.len()).as_ref(), Ok(&bytes));
            coders.push(out[0] & 0x0f);
        }
        assert_eq!(coders, [LIGHT, ZSTD]);
    }

    fn hex(text: &str) -> Vec<u8> {
        text.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect()
    }

    /// The coder's arithmetic is the format: when this fails, deltas that were sent before can't be read any more.
    #[test]
    fn the_format_stands() {
        let numbers: Vec<u8> =
            (0..200u32).flat_map(|i| if i % 3 == 0 { vec![0x80 | (i % 7) as u8, 1] } else { vec![(i % 5) as u8] }).collect();
        let text = b"what was said before is said again: what was said before is said again, once more".repeat(3);
        let context = b"once more, with feeling: what was said before";
        let code: Vec<u8> = (0..60u8).flat_map(|i| [0x48, 0x8b, 0x45, i.wrapping_mul(8), 0xe8, i, i / 4, 0, 0]).collect();
        let bytes: Vec<u8> = (0..90u8).map(|i| if i % 9 == 4 { i } else { 0xf0 }).collect();
        let inputs = [(numbers, Shape::Numbers), (bytes, Shape::Bytes), (text, Shape::Text), (code, Shape::Code)];
        let digests = inputs.map(|(bytes, shape)| {
            let packed = packed(&bytes, context, shape, Level::Small);
            assert_eq!(packed[0] & 0x0f, MIX, "{shape:?}");
            blake3::hash(&packed).to_hex()[..16].to_owned()
        });
        assert_eq!(digests, ["5c421ab366f92f7c", "ccb8108cfd19ff31", "d7af96c2c3d3b06e", "50d167b98c72a12f"]);
        assert_eq!(
            packed(b"a small stream, a small stream", b"", Shape::Text, Level::Small),
            hex("22 a6 b4 1d 5f 0e 88 a3 94 34 9e cb d7 7b df")
        );
        assert_eq!(unpacked(&hex("01 58 49 00 00 61 62 63 64 65 66 67 68 69"), b"", 9), Ok(b"abcdefghi".to_vec()));
    }
}
