//! What the names of files have in common, and how much it says.

use std::collections::HashMap;

use df_core::{Digest, Kind, Manifest, TreePath};

/// A file of a manifest.
pub(super) struct File<'a> {
    pub path: &'a TreePath,
    pub executable: bool,
    pub digest: Digest,
    pub len: u64,
}

impl File<'_> {
    /// Returns whether it looks like a program or a library: executable and without an extension, or with one that libraries and objects have.
    pub fn is_program(&self) -> bool {
        let name = self.path.file_name();
        let mut words = name.split(|&b| b == b'.').skip(1).peekable();
        if words.peek().is_none() {
            return self.executable;
        }
        words.any(|word| [&b"so"[..], b"node", b"pyd", b"o", b"a", b"ko", b"exe", b"debug"].contains(&word))
    }
}

/// Returns the files of a manifest, in its order.
pub(super) fn files(manifest: &Manifest) -> impl Iterator<Item = File<'_>> {
    manifest.entries().iter().filter_map(|entry| match entry.kind {
        Kind::File { executable, len, digest } => Some(File { path: &entry.path, executable, digest, len }),
        _ => None,
    })
}

/// Which part of a file is new when the old one has the same path: one in so many.
pub(super) const SAME_FILE: u64 = 8;

/// Files of the base by what their names have in common with those that look for one, each group sorted by length.
pub(super) struct Index(HashMap<Key, Vec<(u64, Digest)>>);

impl Index {
    /// Lists the base's files that any of `seekers` may resemble. A base of a million files of which three changed takes no room.
    pub fn new<'a>(base: Option<&Manifest>, seekers: impl Iterator<Item = &'a File<'a>>) -> Self {
        let mut groups: HashMap<Key, Vec<(u64, Digest)>> =
            seekers.flat_map(|file| Key::all(file.path)).map(|key| (key, Vec::new())).collect();
        if groups.is_empty() {
            return Self(groups);
        }
        for File { path, digest, len, .. } in base.into_iter().flat_map(files).filter(|file| file.len > 0) {
            for key in Key::all(path) {
                if let Some(group) = groups.get_mut(&key) {
                    group.push((len, digest));
                }
            }
        }
        groups.values_mut().for_each(|group| group.sort_unstable());
        Self(groups)
    }

    /// Returns the blob of the base that a new file resembles most, by name and length, and how much new bytes are to be expected then: a part in so many.
    pub fn resembling(&self, file: &File<'_>) -> Option<((Digest, u64), u64)> {
        Key::all(file.path).filter(|_| file.len > 0).find_map(|key| {
            let group = self.0.get(&key)?;
            let at = group.partition_point(|(found, _)| *found < file.len);
            let around = &group[at.saturating_sub(1)..group.len().min(at + 1)];
            let &(found, digest) = around.iter().min_by_key(|(found, _)| found.abs_diff(file.len))?;
            key.allows(file.len, found).then_some(((digest, found), key.part_new()))
        })
    }
}

/// What names have in common, the strongest resemblance first.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    PathWithoutDigits(Vec<u8>),
    Name(Vec<u8>),
    /// The name without the words that hold a digit: version numbers and content hashes go.
    Words(Vec<u8>),
    Extension(Vec<u8>),
}

impl Key {
    fn all(path: &TreePath) -> impl Iterator<Item = Self> {
        let name = path.file_name();
        let words = words_without_digits(name);
        let extension = name.iter().rposition(|&b| b == b'.').map(|dot| name[dot..].to_vec());
        [
            Some(Self::PathWithoutDigits(path.as_bytes().iter().copied().filter(|b| !b.is_ascii_digit()).collect())),
            Some(Self::Name(name.to_vec())),
            words.iter().any(u8::is_ascii_alphabetic).then_some(Self::Words(words)),
            extension.map(Self::Extension),
        ]
        .into_iter()
        .flatten()
    }

    /// Returns which part of a file is new when it has this in common with an old one: one in so many. Only for comparing bases.
    fn part_new(&self) -> u64 {
        match self {
            Self::PathWithoutDigits(_) => SAME_FILE,
            Self::Name(_) | Self::Words(_) => 4,
            Self::Extension(_) => 2,
        }
    }

    /// Returns whether a file of one length is near enough to one of another, given what their names have in common.
    fn allows(&self, len: u64, other: u64) -> bool {
        let (apart, longer) = (len.abs_diff(other), len.max(other));
        match self {
            Self::PathWithoutDigits(_) => true,
            Self::Name(_) | Self::Words(_) => apart <= longer / 2,
            Self::Extension(_) => apart <= longer / 10,
        }
    }
}

fn words_without_digits(name: &[u8]) -> Vec<u8> {
    let words = name.split(|b| b"-_.".contains(b)).filter(|word| !word.iter().any(u8::is_ascii_digit));
    words.collect::<Vec<_>>().join(&b'.')
}
