//! Which files of the base a new file may resemble.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};

use df_core::{Digest, Kind, Manifest, TreePath};

use super::resemble::{File, Index, files};

/// A blob that the base lacks, and those of the base that it may resemble.
pub(super) struct Wanted {
    pub digest: Digest,
    pub len: u64,
    pub bases: Vec<(Digest, u64)>,
}

impl Wanted {
    fn is_hungry(&self) -> bool {
        self.bases.is_empty() && self.len > 0
    }
}

/// How many of the blobs that nothing else wants one new blob may be packed against.
const LEFTOVERS: usize = 16;

/// Pairs each blob of the target that is not held with blobs of the base, in the order of the target's manifest.
pub(super) fn pair(base: Option<&Manifest>, target: &Manifest, held: &HashSet<Digest>) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    let new: Vec<File<'_>> = files(target).filter(|file| !held.contains(&file.digest) && seen.insert(file.digest)).collect();
    let same_path = |file: &File<'_>| base.and_then(|base| file_at(base, file.path)).filter(|_| file.len > 0);
    let index = Index::new(base, new.iter().filter(|file| file.len > 0 && same_path(file).is_none()));
    let paired = new.iter().map(|file| {
        let found = same_path(file).or_else(|| index.resembling(file));
        Wanted { digest: file.digest, len: file.len, bases: found.into_iter().collect() }
    });
    let mut wanted: Vec<Wanted> = paired.collect();
    if let Some(base) = base {
        hand_out_leftovers(&mut wanted, base, target);
    }
    wanted
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
