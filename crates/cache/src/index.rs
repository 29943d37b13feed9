//! Which pack holds a blob? Sorted segments, each for some packs; a cache that is made again from the packs' footers.
//!
//! # Format of a segment, version 1
//!
//! ```text
//! segment = "dfi\x01", packs, entries, pack id*, entry*, BLAKE3 of all before it       both counts of 4 bytes, ids of 32
//! entry   = digest, number of the pack, record length, length, 0 0 0 0, offset         56 bytes, ascending by digest, then pack
//! ```
//!
//! Numbers are little-endian. A segment of another version, or with another checksum, counts as absent: it is only a cache.
//! `testdata/index-v1.bin` is a worked example.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use df_core::Digest;
use rayon::prelude::*;

use crate::blobs::open_file;
use crate::layout::Layout;
use crate::pack::{self, Slot};
use crate::place::At as _;

const MAGIC: &[u8; 4] = b"dfi\x01";
const HEAD_LEN: usize = 12;
const ENTRY_LEN: usize = 56;
/// More segments than this are made one: a lookup asks each.
const SEGMENTS: usize = 12;

/// All blobs in packs.
#[derive(Default)]
pub(crate) struct Index {
    packs: BTreeSet<Digest>,
    segments: Vec<Segment>,
}

impl Index {
    /// Reads what is there: the segments whose packs exist, and the footers of packs that no segment covers.
    ///
    /// A pack whose footer is not in order is left out, so that its blobs count as missing; scrub names it.
    pub(crate) fn load(layout: &Layout) -> io::Result<Self> {
        let packs = list_packs(layout)?;
        let mut segments = vec![];
        let mut covered: BTreeSet<Digest> = BTreeSet::new();
        for path in list(&layout.dir("idx"))? {
            let Some(segment) = fs::read(&path).ok().and_then(Segment::parse) else { continue };
            if !segment.packs().all(|id| covered.contains(&id)) {
                covered.extend(segment.packs());
                segments.push(segment);
            }
        }
        let uncovered: Vec<Digest> = packs.difference(&covered).copied().collect();
        let read: Vec<(Digest, Vec<Slot>)> = uncovered
            .par_iter()
            .filter_map(|&id| {
                let (found, slots) = pack::slots(&open_file(&layout.pack(id)).ok()?).ok()?;
                (found == id).then_some((id, slots))
            })
            .collect();
        if !read.is_empty() {
            segments.push(Segment::new(&read));
        }
        Ok(Self { packs, segments })
    }

    /// Returns whether the packs on disk are still those that were there when this was read.
    pub(crate) fn is_current(&self, layout: &Layout) -> io::Result<bool> {
        Ok(list_packs(layout)? == self.packs)
    }

    /// Returns the same index with some more packs.
    pub(crate) fn with(&self, packs: &[(Digest, Vec<Slot>)]) -> Self {
        let mut all = self.packs.clone();
        all.extend(packs.iter().map(|(id, _)| *id));
        let mut segments = self.segments.clone();
        segments.push(Segment::new(packs));
        Self { packs: all, segments }
    }

    /// Returns each place where a blob lies: usually one, none when it is missing.
    pub(crate) fn find(&self, digest: Digest) -> impl Iterator<Item = (Digest, Slot)> {
        self.segments.iter().flat_map(move |segment| segment.find(digest)).filter(|(pack, _)| self.packs.contains(pack))
    }

    /// Returns all blobs in packs, with the pack of each; one that lies in two packs twice.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Digest, Slot)> {
        self.segments.iter().flat_map(Segment::entries).filter(|(pack, _)| self.packs.contains(pack))
    }

    /// Returns the packs that are there.
    pub(crate) fn packs(&self) -> &BTreeSet<Digest> {
        &self.packs
    }

    /// Writes the newest segment, or all as one when they are many. Not synced: it is a cache.
    pub(crate) fn save(&self, layout: &Layout, workspace: &Path) -> io::Result<()> {
        if self.segments.len() <= SEGMENTS {
            return self.segments.last().map_or(Ok(()), |segment| segment.save(layout, workspace));
        }
        self.save_as_one(layout, workspace)
    }

    /// Writes one segment in place of all others.
    pub(crate) fn save_as_one(&self, layout: &Layout, workspace: &Path) -> io::Result<()> {
        let mut packs: std::collections::BTreeMap<Digest, Vec<Slot>> = self.packs.iter().map(|&id| (id, vec![])).collect();
        let mut seen = std::collections::HashSet::new();
        for (pack, slot) in self.entries() {
            if seen.insert((pack, slot.offset)) {
                packs.entry(pack).or_default().push(slot);
            }
        }
        let old = list(&layout.dir("idx"))?;
        let one = Segment::new(&packs.into_iter().filter(|(_, slots)| !slots.is_empty()).collect::<Vec<_>>());
        one.save(layout, workspace)?;
        let kept = one.path(layout);
        // Others may remove the same old segments at this moment.
        old.iter().filter(|path| **path != kept).for_each(|path| drop(fs::remove_file(path)));
        Ok(())
    }
}

/// Lists the packs by their names.
pub(crate) fn list_packs(layout: &Layout) -> io::Result<BTreeSet<Digest>> {
    let fans = list(&layout.dir("packs"))?;
    let mut packs = BTreeSet::new();
    for fan in fans {
        for path in list(&fan)? {
            let id: Option<Digest> =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".pack")).and_then(|n| n.parse().ok());
            packs.extend(id);
        }
    }
    Ok(packs)
}

/// Lists a directory by whole paths; a missing one holds nothing.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error).at("read directory", directory),
        Ok(entries) => entries.map(|entry| Ok(entry.at("read directory", directory)?.path())).collect(),
    }
}

/// A segment's bytes, known to be in order.
#[derive(Clone)]
struct Segment {
    bytes: std::sync::Arc<[u8]>,
    n_packs: usize,
    n_entries: usize,
}

impl Segment {
    fn new(packs: &[(Digest, Vec<Slot>)]) -> Self {
        let mut ids: Vec<Digest> = packs.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let number =
            |id: &Digest| u32::try_from(ids.binary_search(id).expect("listed two lines above")).expect("fewer packs than 2^32");
        let mut entries: Vec<(Digest, u32, Slot)> = packs
            .iter()
            .flat_map(|(id, slots)| slots.iter().map(move |slot| (id, slot)))
            .map(|(id, slot)| (slot.digest, number(id), *slot))
            .collect();
        entries.sort_unstable_by_key(|(digest, pack, slot)| (*digest, *pack, slot.offset));
        let mut bytes = Vec::with_capacity(HEAD_LEN + 32 * (ids.len() + 1) + ENTRY_LEN * entries.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&u32::try_from(ids.len()).expect("fewer packs than 2^32").to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(entries.len()).expect("fewer blobs than 2^32").to_le_bytes());
        ids.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        for (digest, pack, slot) in &entries {
            bytes.extend_from_slice(digest.as_bytes());
            for word in [*pack, slot.record_len, slot.len, 0] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(&slot.offset.to_le_bytes());
        }
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        Self { bytes: bytes.into(), n_packs: ids.len(), n_entries: entries.len() }
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(Digest::LEN)?)?;
        if !body.starts_with(MAGIC) || body.len() < HEAD_LEN || Digest::of(body).as_bytes() != check {
            return None;
        }
        let count = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("4 bytes")) as usize;
        let (n_packs, n_entries) = (count(4), count(8));
        let expected = n_packs.checked_mul(Digest::LEN)?.checked_add(n_entries.checked_mul(ENTRY_LEN)?)?.checked_add(HEAD_LEN)?;
        let segment = Self { n_packs, n_entries, bytes: bytes.as_slice().into() };
        let in_order = body.len() == expected && (0..n_entries).all(|i| segment.pack_number(i) < n_packs);
        in_order.then_some(segment)
    }

    fn save(&self, layout: &Layout, workspace: &Path) -> io::Result<()> {
        let (temporary, path) = (workspace.join("segment.idx"), self.path(layout));
        fs::write(&temporary, &self.bytes).at("write", &temporary)?;
        fs::rename(&temporary, &path).at("rename to", &path)
    }

    fn path(&self, layout: &Layout) -> PathBuf {
        layout.dir("idx").join(format!("{}.idx", Digest::of(&self.bytes)))
    }

    fn packs(&self) -> impl Iterator<Item = Digest> {
        (0..self.n_packs).map(|i| self.digest_at(HEAD_LEN + 32 * i))
    }

    fn entries(&self) -> impl Iterator<Item = (Digest, Slot)> {
        (0..self.n_entries).map(|i| self.entry(i))
    }

    fn find(&self, digest: Digest) -> impl Iterator<Item = (Digest, Slot)> {
        let (mut low, mut high) = (0, self.n_entries);
        while low < high {
            let middle = low.midpoint(high);
            if self.digest_at(self.at(middle)) < digest { low = middle + 1 } else { high = middle }
        }
        (low..self.n_entries).map(|i| self.entry(i)).take_while(move |(_, slot)| slot.digest == digest)
    }

    fn at(&self, i: usize) -> usize {
        HEAD_LEN + 32 * self.n_packs + ENTRY_LEN * i
    }

    fn digest_at(&self, at: usize) -> Digest {
        Digest::from_bytes(self.bytes[at..at + 32].try_into().expect("32 bytes"))
    }

    fn pack_number(&self, i: usize) -> usize {
        let at = self.at(i) + 32;
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes")) as usize
    }

    fn entry(&self, i: usize) -> (Digest, Slot) {
        let at = self.at(i);
        let word = |at: usize| u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"));
        let offset = u64::from_le_bytes(self.bytes[at + 48..at + 56].try_into().expect("8 bytes"));
        let slot = Slot { digest: self.digest_at(at), offset, record_len: word(at + 36), len: word(at + 40) };
        (self.digest_at(HEAD_LEN + 32 * self.pack_number(i)), slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Segment {
        let slot = |text: &[u8], offset| Slot { digest: Digest::of(text), offset, record_len: 60, len: 12 };
        let (one, two) = (Digest::of(b"pack one"), Digest::of(b"pack two"));
        Segment::new(&[(one, vec![slot(b"a", 4), slot(b"b", 64)]), (two, vec![slot(b"a", 4)])])
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(&example().bytes[..], include_bytes!("../testdata/index-v1.bin"));
    }

    #[test]
    fn every_place_of_a_blob_is_found() {
        let segment = example();
        let places = |text: &[u8]| segment.find(Digest::of(text)).count();
        assert_eq!((places(b"a"), places(b"b"), places(b"c")), (2, 1, 0));
    }

    #[test]
    fn a_segment_with_a_flipped_byte_or_cut_short_counts_as_absent() {
        let bytes = example().bytes.to_vec();
        assert!(Segment::parse(bytes.clone()).is_some());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(Segment::parse(flipped).is_none(), "byte {at}");
            assert!(Segment::parse(bytes[..at].to_vec()).is_none(), "{at} bytes");
        }
    }
}
