//! The block table of a base that lies only with the receiver, as in rsync; and the strict rules for one that comes from there.
//!
//! One signature covers the base of one piece of the plan, all its slices one after the other. The layout is librsync's: magic `72 73 01 36` (MD4), the
//! block's length and the hash's length as big-endian u32, then four bytes of rolling sum and sixteen of MD4 for each block, the last one shorter.
//!
//! A signature is a hint from a stranger. fast_rsync divides by its block length and trusts its hash length: a length of 0 panics or never returns, and no hash
//! at all makes the wrong file. So anything but what [`signature`] itself would make of a base of the known length is refused before fast_rsync sees
//! it. Wrong sums inside cost little: what is hashed because of them is bounded (`blocks`), the receiver checks BLAKE3, and asks for a whole copy.

use std::ops::RangeInclusive;

use crate::choose::Piece;

/// Bytes of a block that are allowed.
pub const BLOCK_LEN: RangeInclusive<u32> = 256..=1 << 20;

const MAGIC: [u8; 4] = [0x72, 0x73, 0x01, 0x36];
const HASH_LEN: u32 = 16;
pub(crate) const HEADER: usize = 12;
pub(crate) const ENTRY: u64 = 4 + HASH_LEN as u64;

/// A signature breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Too short, or of another kind than MD4.
    #[error("not an MD4 signature")]
    Magic,
    /// A block length that is not allowed.
    #[error("blocks of {0} bytes; {min} to {max} are allowed", min = BLOCK_LEN.start(), max = BLOCK_LEN.end())]
    BlockLen(u32),
    /// Hashes that are not whole.
    #[error("hashes of {0} bytes; they must have {HASH_LEN}")]
    HashLen(u32),
    /// It does not have one entry for each block of the base.
    #[error("{found} bytes; a base of {base_len} bytes has {expected}")]
    Length {
        /// Bytes of the base.
        base_len: u64,
        /// What its signature has.
        expected: u64,
        /// What was received.
        found: u64,
    },
    /// There is not one for each piece that has a base.
    #[error("{found} signatures for {expected} pieces")]
    Count {
        /// Pieces with a base.
        expected: usize,
        /// What was received.
        found: usize,
    },
}

/// Returns the signature of a piece's base.
///
/// # Errors
/// [`SignatureError::BlockLen`] when the length is out of [`BLOCK_LEN`].
pub fn signature(bytes: &[u8], block_len: u32) -> Result<Vec<u8>, SignatureError> {
    if !BLOCK_LEN.contains(&block_len) {
        return Err(SignatureError::BlockLen(block_len));
    }
    let options = fast_rsync::SignatureOptions { block_size: block_len, crypto_hash_size: HASH_LEN };
    Ok(fast_rsync::Signature::calculate(bytes, options).into_serialized())
}

/// Returns the bytes of a base's signature: what a receiver of one may be asked to hold.
pub fn signature_len(base_len: u64, block_len: u32) -> u64 {
    HEADER as u64 + base_len.div_ceil(u64::from(block_len.max(1))) * ENTRY
}

/// Returns a good block length for the pieces of a plan: about the root of the largest base, as in rsync, where what signatures cost and what they save balance.
pub fn block_len(pieces: &[Piece]) -> u32 {
    let longest = pieces.iter().map(Piece::base_len).max().unwrap_or(0);
    let root = u32::try_from(longest.isqrt()).expect("the root of at most 64 MiB");
    (root / 8 * 8).clamp(704, 16 << 10)
}

/// Checks a foreign signature of a base whose length is known from its manifest.
pub(crate) fn parse(bytes: &[u8], base_len: u64) -> Result<fast_rsync::Signature, SignatureError> {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")));
    let (Some(block_len), Some(hash_len)) = (word(4), word(8)) else { return Err(SignatureError::Magic) };
    if bytes[..4] != MAGIC {
        return Err(SignatureError::Magic);
    }
    if !BLOCK_LEN.contains(&block_len) {
        return Err(SignatureError::BlockLen(block_len));
    }
    if hash_len != HASH_LEN {
        return Err(SignatureError::HashLen(hash_len));
    }
    let (expected, found) = (signature_len(base_len, block_len), bytes.len() as u64);
    if expected != found {
        return Err(SignatureError::Length { base_len, expected, found });
    }
    fast_rsync::Signature::deserialize(bytes.to_vec()).map_err(|_| SignatureError::Magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), expected: Result<(), SignatureError>) {
        let base = vec![7; 1000];
        let mut bytes = signature(&base, 256).expect("a good block length");
        assert_eq!(bytes.len() as u64, signature_len(1000, 256));
        change(&mut bytes);
        assert_eq!(parse(&bytes, 1000).map(drop), expected);
    }

    #[test]
    fn what_we_make_we_take() {
        check(|_| (), Ok(()));
        for len in [0_u64, 1, 255, 256, 257, 512] {
            let bytes = signature(&vec![1; len as usize], 256).expect("a good block length");
            assert!(parse(&bytes, len).is_ok(), "{len} bytes");
        }
    }

    #[test]
    fn hostile_block_lengths_are_refused() {
        for block_len in [0, 1, 255, (1 << 20) + 1, u32::MAX] {
            check(|bytes| bytes[4..8].copy_from_slice(&u32::to_be_bytes(block_len)), Err(SignatureError::BlockLen(block_len)));
            assert_eq!(signature(b"", block_len), Err(SignatureError::BlockLen(block_len)));
        }
    }

    #[test]
    fn hostile_hash_lengths_are_refused() {
        for hash_len in [0, 8, 15, 17, u32::MAX, u32::MAX - 3] {
            check(|bytes| bytes[8..12].copy_from_slice(&u32::to_be_bytes(hash_len)), Err(SignatureError::HashLen(hash_len)));
        }
    }

    #[test]
    fn other_kinds_and_torn_headers_are_refused() {
        check(|bytes| bytes[3] = 0x37, Err(SignatureError::Magic));
        check(|bytes| bytes[0] = 0, Err(SignatureError::Magic));
        for len in 0..HEADER {
            check(|bytes| bytes.truncate(len), Err(SignatureError::Magic));
        }
    }

    #[test]
    fn another_number_of_blocks_is_refused() {
        let wrong = |found| Err(SignatureError::Length { base_len: 1000, expected: 92, found });
        check(|bytes| bytes.truncate(12), wrong(12));
        check(|bytes| bytes.truncate(72), wrong(72));
        check(|bytes| bytes.push(0), wrong(93));
        check(|bytes| bytes.extend([0; 20]), wrong(112));
    }
}
