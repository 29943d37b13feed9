//! Where the pieces of blobs lie in packs: the rows of footers and of segments.
//!
//! A blob of up to 8 MiB is one piece; a longer one is cut into pieces of 8 MiB, the last one shorter. A piece is stored as it is (codec 0), as one zstd frame (1), or as one zstd
//! frame whose prefix is another whole blob of the same cache (2): the row names it, with the depth of what must be read before it. What a row stands for
//! is checked after reading: the piece by its own digest, which is the blob's when there is only one, and the blob by its digest.
//!
//! # Format, version 1: columns
//!
//! ```text
//! rows  = count, digest*, length of the blob u64 *, part u32 *, pack u32 *, offset u32 *, stored length u32 *, codec u8 *, check*, prefix*
//! check  = digest of the piece                     one for each row of a blob of more than one piece, in order
//! prefix = depth u8 (1 to 8), digest of a blob     one for each row of codec 2, in order
//! ```
//!
//! Rows ascend by digest, part, pack and offset, none twice. `pack` is the number of the pack in a segment's list, 0 in a footer.

use df_core::{Digest, limits};

use super::{FormatError, Reader, Writer};

/// What blobs are cut into.
pub(crate) const PIECE_LEN: u64 = 8 << 20;
/// No chain of prefixes is longer.
pub(crate) const DEPTH: u8 = 8;
/// The longest blob that may be a prefix, in bytes.
pub(crate) const PREFIX_LEN: u64 = 64 << 20;
/// The shortest row.
const ROW_LEN: usize = Digest::LEN + 8 + 4 * 4 + 1;

/// How a piece is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame that begins where another blob ends.
    Prefix,
}

/// What few rows have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct More {
    /// The digest of the piece, when the blob has others.
    pub(crate) check: Option<Digest>,
    /// The blob that must be read first, and how many before that, itself counted.
    pub(crate) prefix: Option<(Digest, u8)>,
}

/// Where one piece lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The blob's digest.
    pub(crate) digest: Digest,
    /// The blob's length, in bytes.
    pub(crate) len: u64,
    /// Which piece of it, from 0.
    pub(crate) part: u32,
    /// Number of the pack in the list that belongs to these rows.
    pub(crate) pack: u32,
    /// Where it begins in the pack.
    pub(crate) offset: u32,
    /// Bytes it takes there.
    pub(crate) stored: u32,
    pub(crate) codec: Codec,
    pub(crate) more: Option<Box<More>>,
}

/// Returns how many pieces a blob of this length has.
pub(crate) fn n_parts(len: u64) -> u32 {
    u32::try_from(len.div_ceil(PIECE_LEN).max(1)).expect("files stay below 2^40 bytes")
}

/// Returns the length of one piece.
pub(crate) fn part_len(len: u64, part: u32) -> usize {
    let start = u64::from(part) * PIECE_LEN;
    len.saturating_sub(start).min(PIECE_LEN) as usize
}

impl Slot {
    /// Returns the digest of the piece.
    pub(crate) fn check(&self) -> Digest {
        self.more.as_ref().and_then(|more| more.check).unwrap_or(self.digest)
    }

    /// Returns the blob that must be read before it, and the depth.
    pub(crate) fn prefix(&self) -> Option<(Digest, u8)> {
        self.more.as_ref().and_then(|more| more.prefix)
    }

    /// Returns the length of the piece.
    pub(crate) fn part_len(&self) -> usize {
        part_len(self.len, self.part)
    }

    fn order(&self) -> (Digest, u32, u32, u32) {
        (self.digest, self.part, self.pack, self.offset)
    }

    fn is_sane(&self) -> bool {
        let more = self.more.as_deref().copied().unwrap_or_default();
        let sized = match self.codec {
            Codec::Raw => self.stored as usize == self.part_len(),
            // Compressed only when that makes it smaller.
            Codec::Zstd | Codec::Prefix => (self.stored as usize) < self.part_len(),
        };
        sized
            && self.len <= limits::FILE_LEN.max(limits::MANIFEST_LEN)
            && self.part < n_parts(self.len)
            && more.check.is_some() == (n_parts(self.len) > 1)
            && more.prefix.is_some() == (self.codec == Codec::Prefix)
            && more.prefix.is_none_or(|(digest, depth)| (1..=DEPTH).contains(&depth) && digest != self.digest)
    }
}

/// Puts rows in their order.
pub(crate) fn sort(slots: &mut Vec<Slot>) {
    slots.sort_unstable_by_key(Slot::order);
    slots.dedup_by(|a, b| a.order() == b.order());
}

/// Writes rows that are in order.
pub(crate) fn write(slots: &[Slot], out: &mut Writer) {
    out.count(slots.len());
    slots.iter().for_each(|s| {
        out.digest(s.digest);
    });
    slots.iter().for_each(|s| {
        out.u64(s.len);
    });
    let columns: [fn(&Slot) -> u32; 4] = [|s| s.part, |s| s.pack, |s| s.offset, |s| s.stored];
    for column in columns {
        slots.iter().for_each(|s| {
            out.u32(column(s));
        });
    }
    slots.iter().for_each(|s| {
        out.u8(s.codec as u8);
    });
    slots.iter().filter(|s| n_parts(s.len) > 1).for_each(|s| {
        out.digest(s.check());
    });
    slots.iter().filter_map(Slot::prefix).for_each(|(digest, depth)| {
        out.u8(depth).digest(digest);
    });
}

/// Reads rows; their packs' numbers are below `packs`.
pub(crate) fn read(reader: &mut Reader<'_>, packs: usize) -> Result<Vec<Slot>, FormatError> {
    let count = reader.count(ROW_LEN)?;
    let mut slots: Vec<Slot> = reader.list(count, |reader| {
        let digest = reader.digest()?;
        Ok(Slot { digest, len: 0, part: 0, pack: 0, offset: 0, stored: 0, codec: Codec::Raw, more: None })
    })?;
    for slot in &mut slots {
        slot.len = reader.u64()?;
    }
    let columns: [fn(&mut Slot) -> &mut u32; 4] = [|s| &mut s.part, |s| &mut s.pack, |s| &mut s.offset, |s| &mut s.stored];
    for column in columns {
        for slot in &mut slots {
            *column(slot) = reader.u32()?;
        }
    }
    for slot in &mut slots {
        slot.codec = match reader.u8()? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            2 => Codec::Prefix,
            _ => return Err(FormatError("it has a codec that this program does not know")),
        };
    }
    for slot in slots.iter_mut().filter(|s| s.len > PIECE_LEN) {
        slot.more = Some(Box::new(More { check: Some(reader.digest()?), prefix: None }));
    }
    for slot in slots.iter_mut().filter(|s| s.codec == Codec::Prefix) {
        let depth = reader.u8()?;
        let prefix = Some((reader.digest()?, depth));
        slot.more.get_or_insert_default().prefix = prefix;
    }
    // Lengths first: what is judged after them divides by them.
    let sized = slots.iter().all(|slot| slot.len <= limits::FILE_LEN.max(limits::MANIFEST_LEN));
    let sane = sized && slots.iter().all(|slot| slot.is_sane() && (slot.pack as usize) < packs);
    let sorted = slots.is_sorted_by(|a, b| a.order() < b.order());
    if sane && sorted { Ok(slots) } else { Err(FormatError("its rows are not in order")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One row of each kind.
    pub(crate) fn examples() -> Vec<Slot> {
        let row = |text: &[u8], len, part, stored, codec, more: More| Slot {
            digest: Digest::of(text),
            len,
            part,
            pack: 0,
            offset: 4 + 1000 * part + len as u32 % 97,
            stored,
            codec,
            more: (more != More::default()).then(|| Box::new(more)),
        };
        let check = |text: &[u8]| Some(Digest::of(text));
        let mut slots = vec![
            row(b"raw", 3, 0, 3, Codec::Raw, More::default()),
            row(b"", 0, 0, 0, Codec::Raw, More::default()),
            row(b"text", 5000, 0, 70, Codec::Zstd, More::default()),
            row(b"new", 9000, 0, 40, Codec::Prefix, More { check: None, prefix: Some((Digest::of(b"text"), 1)) }),
            row(b"long", PIECE_LEN + 9, 0, 50, Codec::Zstd, More { check: check(b"one"), prefix: None }),
            row(
                b"long",
                PIECE_LEN + 9,
                1,
                5,
                Codec::Prefix,
                More { check: check(b"two"), prefix: Some((Digest::of(b"text"), 8)) },
            ),
        ];
        sort(&mut slots);
        slots
    }

    fn written(slots: &[Slot]) -> Vec<u8> {
        let mut out = Writer::default();
        write(slots, &mut out);
        out.0
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let bytes = written(&examples());
        let mut reader = Reader::new(&bytes);
        assert_eq!(read(&mut reader, 1), Ok(examples()));
        assert_eq!(reader.end(), Ok(()));
        for len in 0..bytes.len() {
            assert!(read(&mut Reader::new(&bytes[..len]), 1).is_err(), "{len}");
        }
    }

    #[test]
    fn rows_that_no_writer_makes_are_refused() {
        let refused = |change: &dyn Fn(&mut Vec<Slot>)| {
            let mut slots = examples();
            change(&mut slots);
            assert!(read(&mut Reader::new(&written(&slots)), 1).is_err(), "{slots:?}");
        };
        let at = |codec| examples().iter().position(|s| s.codec == codec && s.len > 0).expect("an example");
        refused(&|s| s.swap(0, 1));
        refused(&|s| s[1] = s[0].clone());
        refused(&|s| s[0].pack = 1);
        refused(&|s| s[at(Codec::Raw)].stored += 1);
        refused(&|s| s[at(Codec::Zstd)].stored = PIECE_LEN as u32);
        refused(&|s| s[at(Codec::Zstd)].len = 1 << 50);
        refused(&|s| s[at(Codec::Raw)].part = 1);
        refused(&|s| s[at(Codec::Prefix)].more.as_mut().expect("a prefix").prefix.as_mut().expect("a prefix").1 = 9);
        refused(&|s| s[at(Codec::Prefix)].more.as_mut().expect("a prefix").prefix.as_mut().expect("a prefix").1 = 0);
    }
}
