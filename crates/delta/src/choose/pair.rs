//! Which files of the base a new file may resemble.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use df_core::{Digest, Kind, Manifest, TreePath};

/// A blob that the base lacks, and those of the base that it may resemble.
pub(super) struct Wanted {
    pub digest: Digest,
    pub len: u64,
    pub bases: Vec<(Digest, u64)>,
}

/// How many of the blobs that nothing else wants one new blob may be packed against.
const LEFTOVERS: usize = 16;

/// Pairs each blob of the target that is not held with blobs of the base, in the order of the target's manifest.
pub(super) fn pair(base: Option<&Manifest>, target: &Manifest, held: &HashSet<Digest>) -> Vec<Wanted> {
    let index = Index::new(base);
    let mut seen = HashSet::new();
    let mut wanted: Vec<Wanted> = files(target)
        .filter(|(_, digest, _)| !held.contains(digest) && seen.insert(*digest))
        .map(|(path, digest, len)| Wanted { digest, len, bases: index.resembling(path, len).into_iter().collect() })
        .collect();
    if let Some(base) = base {
        hand_out_leftovers(&mut wanted, base, target);
    }
    wanted
}

/// Gives blobs of the base that are neither in the target nor paired yet to new blobs that resemble nothing, the longest first.
fn hand_out_leftovers(wanted: &mut [Wanted], base: &Manifest, target: &Manifest) {
    let mut taken: HashSet<Digest> = target.blobs().into_iter().map(|(digest, _)| digest).collect();
    taken.extend(wanted.iter().flat_map(|wanted| &wanted.bases).map(|(digest, _)| *digest));
    let blobs = base.blobs();
    let mut left: BTreeSet<(u64, usize)> = blobs
        .iter()
        .enumerate()
        .filter(|(_, (digest, len))| *len > 0 && !taken.contains(digest))
        .map(|(at, (_, len))| (*len, at))
        .collect();
    let mut hungry: Vec<&mut Wanted> = wanted.iter_mut().filter(|wanted| wanted.bases.is_empty() && wanted.len > 0).collect();
    hungry.sort_by_key(|wanted| Reverse(wanted.len));
    for wanted in hungry {
        let mut missing = wanted.len;
        while missing > 0 && wanted.bases.len() < LEFTOVERS {
            let Some(found) = nearest(&left, missing).filter(|(len, _)| *len <= 4 * wanted.len) else { break };
            left.remove(&found);
            wanted.bases.push(blobs[found.1]);
            missing = missing.saturating_sub(found.0);
        }
    }
}

fn nearest(lens: &BTreeSet<(u64, usize)>, len: u64) -> Option<(u64, usize)> {
    let below = lens.range(..(len, 0)).next_back();
    let above = lens.range((len, 0)..).next();
    below.into_iter().chain(above).min_by_key(|(found, _)| found.abs_diff(len)).copied()
}

fn files(manifest: &Manifest) -> impl Iterator<Item = (&TreePath, Digest, u64)> {
    manifest.entries().iter().filter_map(|entry| match entry.kind {
        Kind::File { len, digest, .. } => Some((&entry.path, digest, len)),
        _ => None,
    })
}

/// Files of the base by what their names have in common with others, each group sorted by length.
struct Index<'a> {
    base: Option<&'a Manifest>,
    groups: HashMap<Key, Vec<(u64, Digest)>>,
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

impl<'a> Index<'a> {
    fn new(base: Option<&'a Manifest>) -> Self {
        let mut groups: HashMap<Key, Vec<(u64, Digest)>> = HashMap::new();
        for (path, digest, len) in base.into_iter().flat_map(files).filter(|(_, _, len)| *len > 0) {
            for key in Key::all(path) {
                groups.entry(key).or_default().push((len, digest));
            }
        }
        groups.values_mut().for_each(|group| group.sort_unstable());
        Self { base, groups }
    }

    /// Returns the blob of the base that a new file resembles most, by path, name and length.
    fn resembling(&self, path: &TreePath, len: u64) -> Option<(Digest, u64)> {
        if len == 0 {
            return None;
        }
        let same_path = self.base.and_then(|base| base.get(path.as_bytes())).and_then(|entry| match entry.kind {
            Kind::File { len, digest, .. } if len > 0 => Some((digest, len)),
            _ => None,
        });
        same_path.or_else(|| {
            Key::all(path).find_map(|key| {
                let group = self.groups.get(&key)?;
                let at = group.partition_point(|(found, _)| *found < len);
                let around = &group[at.saturating_sub(1)..group.len().min(at + 1)];
                let &(found, digest) = around.iter().min_by_key(|(found, _)| found.abs_diff(len))?;
                key.allows(len, found).then_some((digest, found))
            })
        })
    }
}
