//! Many blobs in one object: one PUT.
//!
//! # Format, version 1
//!
//! ```text
//! pack    = "dfp\x02", pieces as they are stored, footer, trailer        the packs on disk are others
//! footer  = frame "dff\x02" of rows (see `slot`), whose packs are 0
//! trailer = offset of the footer u64, BLAKE3 of all before the trailer, "dfpack02"       48 bytes
//! ```
//!
//! A pack has at most 64 MiB; a writer closes one when the next piece might not fit, or when its pieces would be more than 256 MiB unpacked. Older programs closed theirs when its blobs had 32 MiB.
//! What an index loses is found again in the footers.

use df_core::Digest;

use super::slot::{self, Codec, More, Slot};
use super::{BODY_LEN, FormatError, Reader, Writer, open, seal};

/// No pack is longer.
pub(crate) const PACK_LEN: u64 = 64 << 20;
/// What a writer puts into one pack is no longer than that, unpacked: zeros would make one of a hundred gigabytes, and whoever is killed before it is there would send all of them again.
pub(crate) const UNPACKED_LEN: u64 = 256 << 20;
/// Blobs of so many bytes are compressed at once.
pub(crate) const FULL: u64 = 32 << 20;
const MAGIC: &[u8; 4] = b"dfp\x02";
const FOOTER: [u8; 4] = *b"dff\x02";
const END: &[u8; 8] = b"dfpack02";
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 8 + Digest::LEN + END.len();
const LEVEL: i32 = 3;

/// A piece as it will be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its row, without a place.
    pub(crate) slot: Slot,
    /// Its bytes.
    pub(crate) stored: Vec<u8>,
}

impl Piece {
    /// Makes the piece of a blob, compressed when that makes it smaller. `check` is the digest of `bytes`.
    pub(crate) fn new(digest: Digest, len: u64, part: u32, check: Digest, bytes: Vec<u8>) -> Self {
        let compressed = zstd::bulk::compress(&bytes, LEVEL).ok().filter(|c| c.len() < bytes.len());
        let (codec, stored) = compressed.map_or((Codec::Raw, bytes), |c| (Codec::Zstd, c));
        let more = (slot::n_parts(len) > 1).then(|| Box::new(More { check: Some(check), prefix: None }));
        let stored_len = u32::try_from(stored.len()).expect("pieces stay below 8 MiB");
        Self { slot: Slot { digest, len, part, pack: 0, offset: 0, stored: stored_len, codec, more }, stored }
    }
}

/// Returns the whole pack of some pieces, and their rows.
pub(crate) fn pack(pieces: Vec<Piece>) -> (Vec<u8>, Vec<Slot>) {
    let mut out = Vec::with_capacity(4096 + pieces.iter().map(|piece| piece.stored.len() + 80).sum::<usize>());
    out.extend_from_slice(MAGIC);
    let mut slots = Vec::with_capacity(pieces.len());
    for Piece { slot, stored } in pieces {
        slots.push(Slot { offset: u32::try_from(out.len()).expect("packs stay below 64 MiB"), pack: 0, ..slot });
        out.extend_from_slice(&stored);
    }
    slot::sort(&mut slots);
    let footer = out.len() as u64;
    let mut rows = Writer::default();
    slot::write(&slots, &mut rows);
    out.extend_from_slice(&seal(FOOTER, &rows.0));
    let check = Digest::of(&out);
    out.extend_from_slice(&footer.to_le_bytes());
    out.extend_from_slice(check.as_bytes());
    out.extend_from_slice(END);
    (out, slots)
}

/// Reads the rows of a whole pack, its digest checked.
pub(crate) fn rows(bytes: &[u8]) -> Result<Vec<Slot>, FormatError> {
    let (body, trailer) = split(bytes)?;
    let footer = footer(trailer, bytes.len() as u64)?;
    if !bytes.starts_with(MAGIC) || Digest::of(body).as_bytes() != &trailer[8..40] {
        return Err(FormatError("its bytes are not what its trailer says"));
    }
    footer_rows(&body[footer as usize..], footer)
}

/// Reads from a pack's trailer where its footer begins.
pub(crate) fn footer(trailer: &[u8], pack_len: u64) -> Result<u64, FormatError> {
    let bad = FormatError("it does not end as a pack, or is cut");
    if trailer.len() != TRAILER_LEN || !trailer.ends_with(END) || pack_len > PACK_LEN {
        return Err(bad);
    }
    let footer = u64::from_le_bytes(trailer[..8].try_into().expect("8 bytes"));
    let most = pack_len.checked_sub(TRAILER_LEN as u64).ok_or(bad)?;
    if (MAGIC.len() as u64..=most).contains(&footer) { Ok(footer) } else { Err(bad) }
}

/// Reads the rows of a footer that begins at `footer`.
pub(crate) fn footer_rows(bytes: &[u8], footer: u64) -> Result<Vec<Slot>, FormatError> {
    let body = open(FOOTER, bytes, BODY_LEN)?;
    let mut reader = Reader::new(&body);
    let slots = slot::read(&mut reader, 1)?;
    reader.end()?;
    let inside = |slot: &Slot| slot.offset >= MAGIC.len() as u32 && u64::from(slot.offset) + u64::from(slot.stored) <= footer;
    if slots.iter().all(inside) { Ok(slots) } else { Err(FormatError("its rows leave the pack")) }
}

/// Returns the bytes of a piece from what is stored, checked. `prefix` is the blob that its row names, or nothing.
pub(crate) fn decode(slot: &Slot, stored: &[u8], prefix: &[u8]) -> Result<Vec<u8>, FormatError> {
    let len = slot.part_len();
    let bytes = match slot.codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => zstd::bulk::decompress(stored, len).map_err(|_| FormatError("it is not compressed as it says"))?,
        Codec::Prefix => super::super::prefix::decompress(stored, prefix, len)?,
    };
    if bytes.len() == len && Digest::of(&bytes) == slot.check() {
        Ok(bytes)
    } else {
        Err(FormatError("it has other bytes than its digest says"))
    }
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let at = bytes.len().checked_sub(TRAILER_LEN).ok_or(FormatError("it is cut"))?;
    Ok(bytes.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;

    fn piece(bytes: &[u8]) -> Piece {
        Piece::new(Digest::of(bytes), bytes.len() as u64, 0, Digest::of(bytes), bytes.to_vec())
    }

    fn example() -> (Vec<u8>, Vec<Slot>) {
        // Bytes that zstd cannot shrink: the golden file must not depend on the encoder's version.
        pack([&b"hi\n"[..], b"", b"another"].map(piece).into())
    }

    #[test]
    fn golden_bytes() {
        let (bytes, slots) = example();
        assert_golden("s3-pack-v1.bin", &bytes);
        assert_eq!(rows(&bytes), Ok(slots));
        assert_guarded(&bytes, rows);
    }

    #[test]
    fn pieces_come_back_from_their_rows_and_from_the_end_of_the_pack_alone() {
        let texts = [b"to be or not to be ".repeat(1000), b"x".to_vec(), vec![]];
        let (bytes, slots) = pack(texts.iter().map(|text| piece(text)).collect());
        assert!(bytes.len() < 1000);
        let footer_at = footer(&bytes[bytes.len() - TRAILER_LEN..], bytes.len() as u64).expect("a trailer");
        let tail = &bytes[footer_at as usize..bytes.len() - TRAILER_LEN];
        assert_eq!(footer_rows(tail, footer_at), Ok(slots.clone()));
        for slot in slots {
            let stored = &bytes[slot.offset as usize..(slot.offset + slot.stored) as usize];
            let text = decode(&slot, stored, b"").expect("a blob");
            assert!(texts.contains(&text) && Digest::of(&text) == slot.digest);
            for at in 0..stored.len() {
                let mut flipped = stored.to_vec();
                flipped[at] ^= 1;
                // A frame has bits that mean nothing: what comes out is then the blob all the same.
                assert!(decode(&slot, &flipped, b"").is_ok_and(|found| found == text) || decode(&slot, &flipped, b"").is_err());
            }
        }
    }
}
