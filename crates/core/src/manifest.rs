//! The canonical list of a tree, and its bytes. Its digest names the image.
//!
//! # Format, version 1
//!
//! ```text
//! manifest = "dfm" 0x01, count, entry*            entries in ascending order of path bytes, count of them, nothing after the last
//! entry    = 0x00, path                           directory
//!          | 0x01, path, length, digest           file
//!          | 0x02, path, length, digest           executable file
//!          | 0x03, path, target                   symbolic link
//! path, target = length, bytes                    length as varint; path as in `TreePath`; target 1..=4095 bytes without NUL
//! count, length = varint                          LEB128, unsigned, at most 64 bits, in its shortest form
//! digest   = 32 bytes                             BLAKE3 of the file's bytes
//! ```
//!
//! A manifest is canonical: each tree has one encoding, and anything else is refused. Every directory is listed, the empty ones too, before what it
//! holds; only the root is not. Owners, times, other mode bits and extended attributes are not in it.
//!
//! Example: an executable `bin/hi` that holds `hi\n`, and a link `hi` to it:
//!
//! ```text
//! 64 66 6d 01  03                                 "dfm", version 1, three entries
//! 00  03 62 69 6e                                 directory "bin"
//! 02  06 62 69 6e 2f 68 69  03  <32 bytes>        executable "bin/hi", 3 bytes, its digest
//! 03  02 68 69  06 62 69 6e 2f 68 69              link "hi" to "bin/hi"
//! ```
//!
//! Limits: [`limits::MANIFEST_LEN`], [`limits::MANIFEST_ENTRIES`], [`limits::FILE_LEN`], [`limits::IMAGE_LEN`]. A new version gets a new fourth byte; a
//! reader refuses one it does not know.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::image::ImageId;
use crate::limits;
use crate::name::TreePath;

const MAGIC: &[u8; 4] = b"dfm\x01";

/// What an entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether it may be executed; nothing else of the mode is kept.
        executable: bool,
        /// Bytes.
        len: u64,
        /// The BLAKE3 of its bytes.
        digest: Digest,
    },
    /// A symbolic link, kept as bytes and never followed.
    Symlink {
        /// What it points to: 1..=4095 bytes without NUL. Whether it may leave the tree is decided by [`Manifest::outside_links`].
        target: Box<[u8]>,
    },
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where, below the root of the tree.
    pub path: TreePath,
    /// What.
    pub kind: Kind,
}

/// The sorted, complete and valid list of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// Entries do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ManifestError {
    #[error("two entries are named {0}")]
    Duplicate(TreePath),
    #[error("{0} lies in a directory that is not listed")]
    Orphan(TreePath),
    #[error("the link {0} has a target that is empty, too long or holds a NUL byte")]
    Target(TreePath),
    #[error("more than {} entries", limits::MANIFEST_ENTRIES)]
    TooMany,
    #[error("{0} or the whole image is too large")]
    TooLarge(TreePath),
}

/// Bytes are not a canonical manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DecodeError {
    #[error("not a manifest of a version this program knows")]
    Magic,
    #[error("the manifest ends in the middle of an entry")]
    Truncated,
    #[error("the manifest is not in canonical form at byte {0}")]
    NotCanonical(usize),
    #[error("the manifest holds a path that is not allowed")]
    Path(#[source] crate::name::NameError),
    #[error("the manifest lists no valid tree")]
    Tree(#[source] ManifestError),
}

impl Manifest {
    /// Makes a manifest of entries in any order.
    ///
    /// # Errors
    /// Says which entry makes this no tree.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Self::of_sorted(entries)
    }

    fn of_sorted(entries: Vec<Entry>) -> Result<Self, ManifestError> {
        if entries.len() > limits::MANIFEST_ENTRIES {
            return Err(ManifestError::TooMany);
        }
        let mut directories: HashSet<&[u8]> = HashSet::new();
        let mut total = 0;
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 && entries[i - 1].path >= entry.path {
                return Err(ManifestError::Duplicate(entry.path.clone()));
            }
            if entry.path.parent().is_some_and(|parent| !directories.contains(parent)) {
                return Err(ManifestError::Orphan(entry.path.clone()));
            }
            match &entry.kind {
                Kind::Directory => {
                    directories.insert(entry.path.as_bytes());
                }
                Kind::File { len, .. } => {
                    total = len.saturating_add(total);
                    if *len > limits::FILE_LEN || total > limits::IMAGE_LEN {
                        return Err(ManifestError::TooLarge(entry.path.clone()));
                    }
                }
                Kind::Symlink { target } => {
                    if target.is_empty() || target.len() >= limits::PATH_LEN || target.contains(&0) {
                        return Err(ManifestError::Target(entry.path.clone()));
                    }
                }
            }
        }
        Ok(Self { entries })
    }

    /// Returns the entries, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry at a path.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_bytes().cmp(path)).ok()?;
        Some(&self.entries[found])
    }

    /// Returns each distinct file content once, as (digest, length), in the order of first appearance.
    pub fn blobs(&self) -> Vec<(Digest, u64)> {
        let mut seen = HashSet::new();
        self.entries
            .iter()
            .filter_map(|entry| match entry.kind {
                Kind::File { len, digest, .. } if seen.insert(digest) => Some((digest, len)),
                _ => None,
            })
            .collect()
    }

    /// Returns the bytes of all files, equal ones counted each time.
    pub fn total_len(&self) -> u64 {
        self.entries.iter().map(|entry| if let Kind::File { len, .. } = entry.kind { len } else { 0 }).sum()
    }

    /// Returns the links whose target is absolute or leaves the tree, judged by its words alone.
    pub fn outside_links(&self) -> impl Iterator<Item = (&TreePath, &[u8])> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::Symlink { target } if leaves(&entry.path, target) => Some((&entry.path, &target[..])),
            _ => None,
        })
    }

    /// Returns the name of the image that this manifest lists.
    pub fn image(&self) -> ImageId {
        ImageId(Digest::of(&self.encode()))
    }

    /// Returns the canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 80 * self.entries.len());
        out.extend_from_slice(MAGIC);
        put_varint(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            let (tag, len_and_digest, target): (u8, _, Option<&[u8]>) = match &entry.kind {
                Kind::Directory => (0, None, None),
                Kind::File { executable, len, digest } => (1 + u8::from(*executable), Some((*len, digest)), None),
                Kind::Symlink { target } => (3, None, Some(target)),
            };
            out.push(tag);
            put_bytes(&mut out, entry.path.as_bytes());
            if let Some((len, digest)) = len_and_digest {
                put_varint(&mut out, len);
                out.extend_from_slice(digest.as_bytes());
            }
            if let Some(target) = target {
                put_bytes(&mut out, target);
            }
        }
        out
    }

    /// Reads canonical bytes.
    ///
    /// Memory stays within a small multiple of `bytes`, whatever they claim.
    ///
    /// # Errors
    /// Anything but the one encoding of a valid tree is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
            return Err(DecodeError::Magic);
        }
        let count = reader.varint()?;
        // The shortest entry has three bytes: a count that the bytes cannot hold allocates nothing.
        if count > (reader.bytes.len() / 3) as u64 {
            return Err(DecodeError::Truncated);
        }
        if count > limits::MANIFEST_ENTRIES as u64 {
            return Err(DecodeError::Tree(ManifestError::TooMany));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(usize::try_from(count).expect("bounded by a length in memory"));
        for _ in 0..count {
            let start = reader.at;
            let entry = reader.entry()?;
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err(DecodeError::NotCanonical(start));
            }
            entries.push(entry);
        }
        if reader.at != bytes.len() {
            return Err(DecodeError::NotCanonical(reader.at));
        }
        Self::of_sorted(entries).map_err(DecodeError::Tree)
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

/// Returns whether a link at `path` with this target points out of the tree.
///
/// Only words count: each `..` climbs from the directory that holds the link, and may never climb above the root, not even to come back.
pub fn leaves(path: &TreePath, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.depth() - 1;
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or(DecodeError::Truncated)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let last = byte & 0x80 == 0;
            let overflows = shift == 63 && bits > 1;
            let padded = last && bits == 0 && shift > 0;
            if overflows || padded {
                return Err(DecodeError::NotCanonical(start));
            }
            value |= bits << shift;
            if last {
                return Ok(value);
            }
        }
        Err(DecodeError::NotCanonical(start))
    }

    fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        let len = self.varint()?;
        if len >= limits::PATH_LEN as u64 {
            return Err(DecodeError::NotCanonical(start));
        }
        self.take(len as usize)
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let start = self.at;
        let tag = self.byte()?;
        let path = TreePath::new(self.text()?).map_err(DecodeError::Path)?;
        let kind = match tag {
            0 => Kind::Directory,
            1 | 2 => {
                let len = self.varint()?;
                let digest = self.take(Digest::LEN)?.try_into().expect("taken with that length");
                Kind::File { executable: tag == 2, len, digest: Digest::from_bytes(digest) }
            }
            3 => Kind::Symlink { target: self.text()?.into() },
            _ => return Err(DecodeError::NotCanonical(start)),
        };
        Ok(Entry { path, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> TreePath {
        text.parse().expect("a good path")
    }

    fn directory(at: &str) -> Entry {
        Entry { path: path(at), kind: Kind::Directory }
    }

    fn file(at: &str, bytes: &[u8], executable: bool) -> Entry {
        Entry { path: path(at), kind: Kind::File { executable, len: bytes.len() as u64, digest: Digest::of(bytes) } }
    }

    fn link(at: &str, target: &str) -> Entry {
        Entry { path: path(at), kind: Kind::Symlink { target: target.as_bytes().into() } }
    }

    fn example() -> Manifest {
        Manifest::new(vec![link("hi", "bin/hi"), file("bin/hi", b"hi\n", true), directory("bin")]).expect("a tree")
    }

    #[test]
    fn golden_bytes() {
        let golden = include_bytes!("../testdata/manifest-v1.bin");
        assert_eq!(example().encode(), golden);
        assert_eq!(Manifest::decode(golden), Ok(example()));
        assert_eq!(example().image().to_string(), include_str!("../testdata/manifest-v1.image").trim());
    }

    #[test]
    fn more_entries_than_allowed_are_refused_before_there_is_room_for_them() {
        let mut bytes = MAGIC.to_vec();
        let mut count = limits::MANIFEST_ENTRIES + 1;
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        // As many as so many entries need at least: zeros cost a sender nothing.
        bytes.resize(3 * (limits::MANIFEST_ENTRIES + 9), 0);
        assert_eq!(Manifest::decode(&bytes), Err(DecodeError::Tree(ManifestError::TooMany)));
    }

    #[test]
    fn an_empty_tree_has_a_name_too() {
        assert_eq!(Manifest::new(vec![]).expect("a tree").encode(), b"dfm\x01\x00");
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let cases = [
            (vec![directory("a"), file("a", b"", false)], "two entries are named a"),
            (vec![file("a/b", b"", false)], "a/b lies in a directory that is not listed"),
            (vec![file("a", b"", false), file("a/b", b"", false)], "a/b lies in a directory that is not listed"),
            (vec![link("a", "")], "the link a has a target that is empty, too long or holds a NUL byte"),
        ];
        for (entries, message) in cases {
            assert_eq!(Manifest::new(entries).expect_err("no tree").to_string(), message);
        }
    }

    #[test]
    fn a_link_leaves_the_tree_when_its_words_do() {
        for (at, target, expected) in [
            ("a", "b", false),
            ("a", "..", true),
            ("d/a", "..", false),
            ("d/a", "../x", false),
            ("d/a", "../../x", true),
            ("a", "/etc", true),
            ("d/a", "../../d/x", true),
            ("d/e/a", "./..//../x", false),
            ("d/a", "x/../../..", true),
        ] {
            assert_eq!(leaves(&path(at), target.as_bytes()), expected, "{at} -> {target}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = example().encode();
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn one_tree_has_one_encoding() {
        let bytes = example().encode();
        let mut longer = bytes.clone();
        longer.push(0);
        let mut padded = bytes.clone();
        padded.splice(4..5, [0x83, 0x00]);
        let huge = b"dfm\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec();
        let overflow = b"dfm\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02".to_vec();
        let unsorted = [&b"dfm\x01\x02"[..], b"\x00\x01b", b"\x00\x01a"].concat();
        let mut unknown = bytes.clone();
        unknown[5] = 9;
        for bad in [longer, padded, huge, overflow, unsorted, unknown] {
            assert!(Manifest::decode(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(mut bytes in Just(example().encode()), at in 0_usize..100, to: u8) {
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(manifest) = Manifest::decode(&bytes) {
                prop_assert_eq!(manifest.encode(), bytes);
            }
        }

        #[test]
        fn what_is_encoded_decodes(names in proptest::collection::btree_set("[a-c-]{1,3}", 0..20), content: Vec<u8>) {
            let entries = names.iter().flat_map(|n| [directory(n), file(&format!("{n}/f"), &content, n.len() > 1), link(&format!("{n}/l"), "f")]).collect();
            let manifest = Manifest::new(entries).expect("a tree");
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }
}
