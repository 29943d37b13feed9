//! Which files of the base a new file may resemble.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use df_core::{Digest, Kind, Manifest, TreePath};

use super::resemble::{File, Index, SAME_FILE, files};

/// A blob of the target and the one of the base that it resembles, each by its number in [`Manifest::blobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// In the target.
    pub target: u32,
    /// In the base.
    pub base: u32,
}

/// A blob that the base lacks, and those of the base that it may resemble.
pub(super) struct Wanted {
    pub digest: Digest,
    pub len: u64,
    pub bases: Vec<(Digest, u64)>,
    /// Looks like a program or a library, by its name.
    pub is_program: bool,
}

impl Wanted {
    fn is_hungry(&self) -> bool {
        self.bases.is_empty() && self.len > 0
    }
}

/// How many of the blobs that nothing else wants one new blob may be packed against.
const LEFTOVERS: usize = 16;

/// Pairs each blob of the target that is not held with blobs of the base, in the order of the target's manifest.
pub(super) fn pair(base: Option<&Manifest>, target: &Manifest, held: &HashSet<Digest>, pairs: &[Pair]) -> Vec<Wanted> {
    let new = new_files(target, held);
    let told = base.map(|base| resolve(base, target, pairs)).unwrap_or_default();
    let known = |file: &File<'_>| told.get(&file.digest).copied().or_else(|| same_path(base, file)).filter(|_| file.len > 0);
    let index = Index::new(base, new.iter().filter(|file| file.len > 0 && known(file).is_none()));
    let paired = new.iter().map(|file| {
        let found = known(file).or_else(|| index.resembling(file).map(|(found, _)| found));
        Wanted { digest: file.digest, len: file.len, bases: found.into_iter().collect(), is_program: file.is_program() }
    });
    let mut wanted: Vec<Wanted> = paired.collect();
    if let Some(base) = base {
        hand_out_leftovers(&mut wanted, base, target);
    }
    wanted
}

/// Returns about how many bytes travel: of files that resemble nothing all, of the others a part.
pub(super) fn expected_new(base: &Manifest, target: &Manifest, held: &HashSet<Digest>) -> u64 {
    let new = new_files(target, held);
    let index = Index::new(Some(base), new.iter().filter(|file| same_path(Some(base), file).is_none()));
    let expected = |file: &File<'_>| {
        let same = same_path(Some(base), file).map(|found| (found, SAME_FILE));
        let Some(((_, base_len), part)) = same.or_else(|| index.resembling(file)) else { return file.len };
        // What it is longer by is new anyway.
        let longer = file.len.saturating_sub(base_len);
        longer + (file.len - longer).div_ceil(part)
    };
    new.iter().fold(0, |sum, file| sum.saturating_add(expected(file)))
}

/// Returns the first file of each blob that is not held.
pub(super) fn new_files<'a>(target: &'a Manifest, held: &HashSet<Digest>) -> Vec<File<'a>> {
    let mut seen = HashSet::new();
    files(target).filter(|file| !held.contains(&file.digest) && seen.insert(file.digest)).collect()
}

/// Returns what the base has at a file's path, when both hold something.
pub(super) fn same_path(base: Option<&Manifest>, file: &File<'_>) -> Option<(Digest, u64)> {
    base.filter(|_| file.len > 0).and_then(|base| file_at(base, file.path))
}

/// Looks up the blobs that pairs mean.
fn resolve(base: &Manifest, target: &Manifest, pairs: &[Pair]) -> HashMap<Digest, (Digest, u64)> {
    if pairs.is_empty() {
        return HashMap::new();
    }
    let (from, to) = (base.blobs(), target.blobs());
    let one = |pair: &Pair| Some((to.get(pair.target as usize)?.0, *from.get(pair.base as usize).filter(|(_, len)| *len > 0)?));
    pairs.iter().filter_map(one).collect()
}

/// Gives blobs of the base that are neither in the target nor paired yet to new blobs that resemble nothing, the longest first.
fn hand_out_leftovers(wanted: &mut [Wanted], base: &Manifest, target: &Manifest) {
    if wanted.iter().all(|wanted| !wanted.is_hungry()) {
        return;
    }
    let mut taken: HashSet<Digest> = target.blobs().into_iter().map(|(digest, _)| digest).collect();
    taken.extend(wanted.iter().flat_map(|wanted| &wanted.bases).map(|(digest, _)| *digest));
    let blobs = base.blobs();
    let mut left: BTreeSet<(u64, usize)> = blobs
        .iter()
        .enumerate()
        .filter(|(_, (digest, len))| *len > 0 && !taken.contains(digest))
        .map(|(at, (_, len))| (*len, at))
        .collect();
    let mut hungry: Vec<&mut Wanted> = wanted.iter_mut().filter(|wanted| wanted.is_hungry()).collect();
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

fn file_at(base: &Manifest, path: &TreePath) -> Option<(Digest, u64)> {
    match base.get(path.as_bytes())?.kind {
        Kind::File { len, digest, .. } if len > 0 => Some((digest, len)),
        _ => None,
    }
}
