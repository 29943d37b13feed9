//! The bytes of the objects that are written once, and of the one that changes.
//!
//! # Frame, version 1
//!
//! ```text
//! frame = magic, codec, 0 0 0, length, stored length, stored bytes, BLAKE3 of all before it
//! ```
//!
//! `magic` has 4 bytes, the last of them the version; both lengths have 4, little-endian as all numbers here. `codec` is 0 (the body as it is) or 1 (one zstd frame; only for bodies of
//! 4 KiB and more, only when that makes it smaller, and beyond 1 MiB never to less than a 256th). `head`, log records, root tables, lists of the condemned, index segments and the footers of packs are frames; what the
//! bodies hold is said in each module. A reader refuses a magic that it does not know, a length above its bound, and any byte that the digest does not fit; a new version gets a new
//! fourth byte. The worked examples are `testdata/s3-*.bin`.

pub(crate) mod condemned;
pub(crate) mod head;
pub(crate) mod log;
pub(crate) mod name;
pub(crate) mod pack;
pub(crate) mod roots;
pub(crate) mod segment;
pub(crate) mod slot;

mod bytes;

use df_core::Digest;

pub(crate) use bytes::{Reader, Writer};

/// What a body of a frame may have at most, when nothing says less.
pub(crate) const BODY_LEN: usize = 1 << 30;
/// No frame is longer.
pub(crate) const FRAME_LEN: usize = PREFIX_LEN + BODY_LEN + Digest::LEN;
/// A body that is longer than this stays as it is rather than become so many times shorter: a reader would make room for it on a stranger's word.
const TRUSTED_LEN: usize = 1 << 20;
const RATIO: usize = 256;
/// Below this a body stays as it is.
const COMPRESSED_FROM: usize = 4 << 10;
const LEVEL: i32 = 3;
const PREFIX_LEN: usize = 16;

/// Bytes are not what their name says, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub(crate) &'static str);

impl FormatError {
    /// Whole, but of a version that a later program writes: to be left as it is.
    pub(crate) const NEWER: Self = Self("it is of a version that this program does not know");
}

/// Returns the frame around a body.
pub(crate) fn seal(magic: [u8; 4], body: &[u8]) -> Vec<u8> {
    let compressed = (body.len() >= COMPRESSED_FROM).then(|| zstd::bulk::compress(body, LEVEL).ok()).flatten();
    let (codec, stored) =
        compressed.as_deref().filter(|c| c.len() < body.len() && !is_bomb(body.len(), c.len())).map_or((0, body), |c| (1, c));
    let mut out = Vec::with_capacity(PREFIX_LEN + stored.len() + Digest::LEN);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&[codec, 0, 0, 0]);
    for len in [body.len(), stored.len()] {
        out.extend_from_slice(&u32::try_from(len).expect("bodies stay below BODY_LEN").to_le_bytes());
    }
    out.extend_from_slice(stored);
    let check = Digest::of(&out);
    out.extend_from_slice(check.as_bytes());
    out
}

/// Returns the body of a frame, checked; it has at most `limit` bytes.
pub(crate) fn open(magic: [u8; 4], frame: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let split = frame.len().checked_sub(Digest::LEN).filter(|&at| at >= PREFIX_LEN).ok_or(FormatError("it is cut"))?;
    let (checked, check) = frame.split_at(split);
    let is_whole = Digest::of(checked).as_bytes() == check;
    if !checked.starts_with(&magic) {
        let is_newer = is_whole && checked.starts_with(&magic[..3]) && checked[3] > magic[3];
        return Err(if is_newer { FormatError::NEWER } else { FormatError("it is something else") });
    }
    if !is_whole {
        return Err(FormatError("its bytes are not what its digest says"));
    }
    let word = |at: usize| u32::from_le_bytes(checked[at..at + 4].try_into().expect("4 bytes")) as usize;
    let (codec, len, stored) = (checked[4], word(8), &checked[PREFIX_LEN..]);
    if checked[5..8] != [0, 0, 0] || word(12) != stored.len() {
        return Err(FormatError("its frame is not in order"));
    }
    if len > limit {
        return Err(FormatError("it is longer than it may be"));
    }
    if is_bomb(len, stored.len()) {
        return Err(FormatError("it unpacks to more than anything honest does"));
    }
    let body = match codec {
        0 => stored.to_vec(),
        1 => zstd::bulk::decompress(stored, len).map_err(|_| FormatError("it is not compressed as it says"))?,
        _ => return Err(FormatError("it has a codec that this program does not know")),
    };
    if body.len() == len { Ok(body) } else { Err(FormatError("it has another length than it says")) }
}

fn is_bomb(len: usize, stored: usize) -> bool {
    len > TRUSTED_LEN && len / RATIO > stored
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Checks that no byte can change and no end be missing without being noticed.
    #[track_caller]
    pub(crate) fn assert_guarded<T: std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, FormatError>) {
        decode(bytes).expect("whole");
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(decode(&flipped).is_err(), "byte {at}");
            }
            assert!(decode(&bytes[..at]).is_err(), "{at} bytes");
        }
        assert!(decode(&[bytes, b"x"].concat()).is_err());
    }

    /// Compares with a golden file; `DF_GOLDEN=write` makes it.
    #[track_caller]
    pub(crate) fn assert_golden(name: &str, bytes: &[u8]) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        if std::env::var_os("DF_GOLDEN").is_some_and(|word| word == "write") {
            std::fs::write(&path, bytes).expect("written");
        }
        assert!(std::fs::read(&path).expect("a golden file") == bytes, "{name} is not what is written now");
    }

    #[test]
    fn a_frame_holds_what_was_put_in_and_long_bodies_shrink() {
        for body in [vec![], b"short".to_vec(), b"long ".repeat(10_000)] {
            let frame = seal(*b"tst\x01", &body);
            assert!(frame.len() < 100);
            assert_eq!(open(*b"tst\x01", &frame, body.len()), Ok(body));
        }
    }

    #[test]
    fn a_frame_is_guarded_bounded_and_of_one_kind() {
        let frame = seal(*b"tst\x01", b"body");
        assert_guarded(&frame, |bytes| open(*b"tst\x01", bytes, 100));
        assert!(open(*b"tst\x02", &frame, 100).is_err());
        assert!(open(*b"tst\x01", &frame, 3).is_err());
    }

    #[test]
    fn kilobytes_that_unpack_to_gigabytes_are_refused_before_there_is_room_for_them() {
        let bomb = |blocks: u32| {
            // Blocks of 128 KiB that are one byte, repeated: four bytes each.
            let mut stored = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
            for n in 1..=blocks {
                stored.extend_from_slice(&(u32::from(n == blocks) | 1 << 1 | (128 << 10) << 3).to_le_bytes()[..3]);
                stored.push(0);
            }
            let mut frame = b"tst\x01\x01\0\0\0".to_vec();
            frame.extend_from_slice(&(blocks * (128 << 10)).to_le_bytes());
            frame.extend_from_slice(&u32::try_from(stored.len()).expect("kilobytes").to_le_bytes());
            frame.extend_from_slice(&stored);
            let check = Digest::of(&frame);
            [&frame, &check.as_bytes()[..]].concat()
        };
        let opened = open(*b"tst\x01", &bomb(8192), BODY_LEN).map(|body| body.len());
        assert_eq!(opened, Err(FormatError("it unpacks to more than anything honest does")));
        let zeros = vec![0; 8 << 20];
        assert_eq!(open(*b"tst\x01", &seal(*b"tst\x01", &zeros), BODY_LEN).as_ref(), Ok(&zeros), "so nobody writes one");
        // The control: it is a frame.
        assert_eq!(open(*b"tst\x01", &bomb(1), BODY_LEN), Ok(vec![0; 128 << 10]));
    }

    #[test]
    fn a_frame_that_claims_more_than_it_has_allocates_nothing() {
        let mut frame = seal(*b"tst\x01", &b"long ".repeat(10_000));
        for (len, limit) in [(u32::MAX, usize::MAX), (49_999, usize::MAX), (50_001, usize::MAX)] {
            frame[8..12].copy_from_slice(&len.to_le_bytes());
            let end = frame.len() - 32;
            let check = Digest::of(&frame[..end]);
            frame[end..].copy_from_slice(check.as_bytes());
            assert!(open(*b"tst\x01", &frame, limit.min(BODY_LEN)).is_err(), "{len}");
        }
    }
}
