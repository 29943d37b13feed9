//! Many small blobs in one file, so that 100,000 of them cost a few syncs.
//!
//! # Format, version 1
//!
//! ```text
//! pack    = "dfp\x01", record*, footer, trailer
//! record  = "dfr\x01", codec, 0 0 0, length, stored length, digest, stored bytes     codec 0: as they are; 1: one zstd frame
//! footer  = "dff\x01", count, slot*                                                  slots in ascending order of digest
//! slot    = digest, offset, record length, length                                    offset from the start of the file
//! trailer = offset of the footer, BLAKE3 of all before the trailer, "dfpack01"       48 bytes
//! ```
//!
//! `offset` has 8 bytes, other numbers 4, little-endian; digests 32. A blob is at most 1 MiB, a pack at most 64 MiB. The pack's id is the digest in
//! its trailer. Records stand by themselves: from a pack with a damaged footer, whole records are still found by scanning. A reader refuses a version it does
//! not know; a new version gets new magic bytes.
//!
//! Example, the blob `hi\n`: the record begins `64 66 72 01  00 00 00 00  03 00 00 00  03 00 00 00`, then 32 bytes of digest, then `68 69 0a`.
//! `testdata/pack-v1.bin` is a whole pack.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use df_core::Digest;

use crate::blobs::damaged;

const PACK: &[u8; 4] = b"dfp\x01";
const RECORD: &[u8; 4] = b"dfr\x01";
const FOOTER: &[u8; 4] = b"dff\x01";
const END: &[u8; 8] = b"dfpack01";
const HEADER_LEN: usize = 16 + Digest::LEN;
const SLOT_LEN: usize = Digest::LEN + 16;
const TRAILER_LEN: usize = 8 + Digest::LEN + END.len();
const BLOB_LEN: u32 = 1 << 20;
/// No pack is longer: what a reader may have to hold in memory.
const PACK_LEN: u64 = 64 << 20;
const LEVEL: i32 = 3;

/// Where a blob lies in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
    pub(crate) record_len: u32,
    pub(crate) len: u32,
}

/// A pack that is not in order, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Disorder(&'static str);

/// Returns the record of a blob, compressed when that makes it smaller.
pub(crate) fn record(digest: Digest, bytes: &[u8]) -> Vec<u8> {
    let compressed = zstd::bulk::compress(bytes, LEVEL).ok().filter(|c| c.len() < bytes.len());
    let (codec, stored) = compressed.as_deref().map_or((0, bytes), |c| (1, c));
    let mut out = Vec::with_capacity(HEADER_LEN + stored.len());
    out.extend_from_slice(RECORD);
    out.extend_from_slice(&[codec, 0, 0, 0]);
    out.extend_from_slice(&small(bytes.len()).to_le_bytes());
    out.extend_from_slice(&small(stored.len()).to_le_bytes());
    out.extend_from_slice(digest.as_bytes());
    out.extend_from_slice(stored);
    out
}

/// Returns the whole pack of some records, its id and its slots.
pub(crate) fn pack(records: &[Vec<u8>]) -> (Vec<u8>, Digest, Vec<Slot>) {
    let mut out = Vec::with_capacity(64 + records.iter().map(|r| r.len() + SLOT_LEN).sum::<usize>());
    out.extend_from_slice(PACK);
    let mut slots = Vec::with_capacity(records.len());
    for record in records {
        let header = Header::parse(record).expect("made by `record`");
        slots.push(Slot { digest: header.digest, offset: out.len() as u64, record_len: small(record.len()), len: header.len });
        out.extend_from_slice(record);
    }
    slots.sort_unstable_by_key(|slot| slot.digest);
    let footer = out.len() as u64;
    out.extend_from_slice(FOOTER);
    out.extend_from_slice(&small(slots.len()).to_le_bytes());
    for slot in &slots {
        out.extend_from_slice(slot.digest.as_bytes());
        out.extend_from_slice(&slot.offset.to_le_bytes());
        out.extend_from_slice(&slot.record_len.to_le_bytes());
        out.extend_from_slice(&slot.len.to_le_bytes());
    }
    let id = Digest::of(&out);
    out.extend_from_slice(&footer.to_le_bytes());
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(END);
    (out, id, slots)
}

/// Reads the record of a blob and checks it.
///
/// # Errors
/// `InvalidData` when it is not that blob.
pub(crate) fn read(file: &File, slot: &Slot) -> io::Result<Vec<u8>> {
    if slot.record_len as usize > HEADER_LEN + BLOB_LEN as usize {
        return Err(damaged(slot.digest));
    }
    let mut record = vec![0; slot.record_len as usize];
    match file.read_exact_at(&mut record, slot.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged(slot.digest)),
        result => result?,
    }
    match Header::parse(&record) {
        Some(header) if header.digest == slot.digest && header.len == slot.len => {
            header.decode(&record).ok_or_else(|| damaged(slot.digest))
        }
        _ => Err(damaged(slot.digest)),
    }
}

/// Reads the slots of a pack from its footer, without reading its records.
///
/// # Errors
/// `InvalidData` when it has no footer in order.
pub(crate) fn slots(file: &File) -> io::Result<(Digest, Vec<Slot>)> {
    let bad = |why| io::Error::new(io::ErrorKind::InvalidData, Disorder(why));
    let len = file.metadata()?.len();
    if len > PACK_LEN || len < (PACK.len() + 8 + TRAILER_LEN) as u64 {
        return Err(bad("not the length of a pack"));
    }
    let mut trailer = [0; TRAILER_LEN];
    file.read_exact_at(&mut trailer, len - TRAILER_LEN as u64)?;
    let (footer, id) = parse_trailer(&trailer).map_err(|e| bad(e.0))?;
    let end = len - TRAILER_LEN as u64;
    if footer < PACK.len() as u64 || footer > end {
        return Err(bad("the footer lies outside the pack"));
    }
    let mut bytes = vec![0; usize::try_from(end - footer).expect("bounded by PACK_LEN")];
    file.read_exact_at(&mut bytes, footer)?;
    parse_footer(&bytes, footer).map(|slots| (id, slots)).map_err(|e| bad(e.0))
}

/// What reading a whole pack found.
pub(crate) struct Reading {
    /// Each blob that is whole, and its record.
    pub(crate) good: Vec<(Digest, Vec<u8>)>,
    /// Each blob that the footer lists and that is not whole.
    pub(crate) bad: Vec<Digest>,
    /// What is wrong with the pack itself.
    pub(crate) disorder: Option<Disorder>,
}

/// Reads a whole pack: its frame, its footer and each record; decodes and hashes everything.
pub(crate) fn examine(bytes: &[u8], expected: Option<Digest>) -> Reading {
    let framed = frame(bytes, expected);
    let listed = listed(bytes).unwrap_or_default();
    let disorder = framed.err();
    // A damaged footer may name the wrong places, so its word is taken only for a pack in order; else every byte may begin a record.
    let records: Vec<(Digest, Vec<u8>)> =
        if disorder.is_none() { listed.iter().filter_map(|slot| whole(bytes, slot)).collect() } else { scan(bytes) };
    let good: std::collections::HashSet<Digest> = records.iter().map(|(digest, _)| *digest).collect();
    let bad = listed.iter().map(|slot| slot.digest).filter(|digest| !good.contains(digest)).collect();
    Reading { good: records, bad, disorder }
}

fn frame(bytes: &[u8], expected: Option<Digest>) -> Result<(), Disorder> {
    if bytes.len() < PACK.len() + 8 + TRAILER_LEN || !bytes.starts_with(PACK) {
        return Err(Disorder("it does not begin as a pack, or is cut"));
    }
    let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_LEN);
    let (_, id) = parse_trailer(trailer.try_into().expect("split at that length"))?;
    if Digest::of(body) != id {
        return Err(Disorder("its bytes are not what its trailer says"));
    }
    if expected.is_some_and(|expected| expected != id) {
        return Err(Disorder("it is another pack than its name says"));
    }
    listed(bytes).map(drop).ok_or(Disorder("its footer is not in order"))
}

fn listed(bytes: &[u8]) -> Option<Vec<Slot>> {
    let (body, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_LEN)?)?;
    let (footer, _) = parse_trailer(trailer.try_into().ok()?).ok()?;
    parse_footer(body.get(usize::try_from(footer).ok()?..)?, footer).ok()
}

fn whole(bytes: &[u8], slot: &Slot) -> Option<(Digest, Vec<u8>)> {
    let start = usize::try_from(slot.offset).ok()?;
    let record = bytes.get(start..start.checked_add(slot.record_len as usize)?)?;
    let header = Header::parse(record)?;
    header.decode(record)?;
    (header.digest == slot.digest && header.len == slot.len).then(|| (header.digest, record.to_vec()))
}

/// Finds every whole record, wherever it begins.
fn scan(bytes: &[u8]) -> Vec<(Digest, Vec<u8>)> {
    let mut found = vec![];
    let mut at = 0;
    while at + HEADER_LEN <= bytes.len() {
        let record = Header::parse_prefix(&bytes[at..]).and_then(|header| {
            let record = &bytes[at..at + HEADER_LEN + header.stored as usize];
            header.decode(record).map(|_| (header.digest, record.to_vec()))
        });
        match record {
            Some((digest, record)) => {
                at += record.len();
                found.push((digest, record));
            }
            None => at += 1,
        }
    }
    found
}

fn parse_trailer(trailer: &[u8; TRAILER_LEN]) -> Result<(u64, Digest), Disorder> {
    let (footer, rest) = trailer.split_at(8);
    let (id, end) = rest.split_at(Digest::LEN);
    if end != END {
        return Err(Disorder("it does not end as a pack, or is cut"));
    }
    Ok((u64::from_le_bytes(footer.try_into().expect("8 bytes")), Digest::from_bytes(id.try_into().expect("32 bytes"))))
}

fn parse_footer(bytes: &[u8], footer: u64) -> Result<Vec<Slot>, Disorder> {
    let bad = Disorder("its footer is not in order");
    let slots = bytes.strip_prefix(FOOTER).and_then(|rest| rest.split_at_checked(4)).ok_or(bad)?;
    let count = u32::from_le_bytes(slots.0.try_into().expect("4 bytes")) as usize;
    if Some(slots.1.len()) != count.checked_mul(SLOT_LEN) {
        return Err(bad);
    }
    let slots: Vec<Slot> = slots.1.chunks_exact(SLOT_LEN).map(parse_slot).collect();
    let inside = |s: &Slot| {
        s.offset >= PACK.len() as u64 && s.offset.checked_add(u64::from(s.record_len)).is_some_and(|end| end <= footer)
    };
    let sorted = slots.is_sorted_by(|a, b| a.digest < b.digest);
    if sorted && slots.iter().all(inside) { Ok(slots) } else { Err(bad) }
}

fn parse_slot(bytes: &[u8]) -> Slot {
    Slot {
        digest: Digest::from_bytes(bytes[..32].try_into().expect("32 bytes")),
        offset: u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")),
        record_len: u32::from_le_bytes(bytes[40..44].try_into().expect("4 bytes")),
        len: u32::from_le_bytes(bytes[44..48].try_into().expect("4 bytes")),
    }
}

struct Header {
    codec: u8,
    len: u32,
    stored: u32,
    digest: Digest,
}

impl Header {
    /// Reads the header of a record that is exactly as long as it says.
    fn parse(record: &[u8]) -> Option<Self> {
        Self::parse_prefix(record).filter(|header| record.len() == HEADER_LEN + header.stored as usize)
    }

    /// Reads the header of a record at the start of `bytes`, which hold all of it.
    fn parse_prefix(bytes: &[u8]) -> Option<Self> {
        let header = bytes.strip_prefix(RECORD)?.get(..HEADER_LEN - RECORD.len())?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let codec = header[0];
        let (len, stored) = (word(4), word(8));
        // Compressed only when that makes it smaller: one blob has one codec.
        let sized = if codec == 0 { stored == len } else { codec == 1 && stored < len };
        let sane = sized && header[1..4] == [0, 0, 0] && len <= BLOB_LEN;
        let digest = Digest::from_bytes(header[12..].try_into().expect("32 bytes"));
        (sane && bytes.len() - HEADER_LEN >= stored as usize).then_some(Self { codec, len, stored, digest })
    }

    /// Returns the blob, checked; memory is bounded by the length in the header.
    fn decode(&self, record: &[u8]) -> Option<Vec<u8>> {
        let stored = &record[HEADER_LEN..];
        let bytes = match self.codec {
            0 => stored.to_vec(),
            _ => zstd::bulk::decompress(stored, self.len as usize).ok()?,
        };
        (bytes.len() == self.len as usize && Digest::of(&bytes) == self.digest).then_some(bytes)
    }
}

fn small(len: usize) -> u32 {
    u32::try_from(len).expect("blobs below 1 MiB, packs below 64 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn example() -> (Vec<u8>, Digest, Vec<Slot>) {
        // Bytes that zstd cannot shrink: the golden file must not depend on the encoder's version.
        pack(&[&b"hi\n"[..], b"", b"another"].map(|bytes| record(Digest::of(bytes), bytes)))
    }

    fn on_disk(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(example().0, include_bytes!("../testdata/pack-v1.bin"));
    }

    #[test]
    fn what_is_packed_is_read_and_long_text_is_compressed() {
        let text = b"to be or not to be ".repeat(1000);
        let (bytes, id, slots) = pack(&[record(Digest::of(&text), &text), record(Digest::of(b"x"), b"x")]);
        assert!(bytes.len() < 1000);
        let file = on_disk(&bytes);
        assert_eq!(super::slots(&file).expect("a footer"), (id, slots.clone()));
        for slot in slots {
            assert_eq!(Digest::of(&read(&file, &slot).expect("a blob")), slot.digest);
        }
    }

    #[test]
    fn every_flipped_byte_is_found_and_costs_one_blob_at_most() {
        let (bytes, id, slots) = example();
        for at in 0..bytes.len() {
            for bit in [0, 7] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let reading = examine(&flipped, Some(id));
                assert!(reading.disorder.is_some(), "byte {at}");
                assert!(reading.good.len() >= slots.len() - 1, "byte {at}");
                let file = on_disk(&flipped);
                for slot in &slots {
                    let in_record = (slot.offset..slot.offset + u64::from(slot.record_len)).contains(&(at as u64));
                    assert_eq!(read(&file, slot).is_err(), in_record, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let (bytes, id, _) = example();
        for len in 0..bytes.len() {
            assert!(examine(&bytes[..len], Some(id)).disorder.is_some());
            assert!(super::slots(&on_disk(&bytes[..len])).is_err(), "{len} bytes");
        }
        assert!(examine(&bytes, Some(id)).disorder.is_none());
        assert!(examine(&bytes, Some(Digest::of(b"other"))).disorder.is_some(), "a name is checked too");
    }
}
