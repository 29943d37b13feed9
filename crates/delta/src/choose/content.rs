//! Which files resemble each other by what is in them, where their names do not say so: renamed ones, and those whose names hold versions or hashes.
//!
//! Only the sender can look at both contents, so a delta carries what is found here.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use df_core::{Digest, Manifest};
use rayon::prelude::*;

use super::pair::{Pair, new_files, same_path};
use super::resemble::Index;
use super::sketch::Sketch;
use crate::read::ReadBlob;

/// Files that are shorter share a piece with many others, their old contents too: a pair gains nothing.
const SHORT: u64 = 256;
/// So many bytes of each side are looked at, at most: half a second on one core.
const LOOKED_AT: u64 = 512 << 20;
/// A file is compared with old ones of up to so many times its length, or a part of it in so many.
const APART: u64 = 4;
/// Hashes that more old files have say nothing: a licence, a table that every program holds.
const COMMON: usize = 64;
/// What an old file must have in common with a new one to be its base, in thousandths.
const RESEMBLES: u32 = 100;
/// What it must have more in common than the file whose name is alike.
const BETTER: u32 = 100;
/// A file is read in stretches of so many bytes.
const STRETCH: u64 = 16 << 20;

/// Finds the old file that each new one resembles by content, where no old file has the same path and the name alone would choose worse or nothing.
///
/// Reads both sides' files, at most 512 MiB of each; the same arguments give the same pairs. What cannot be read is in no pair: this only makes a
/// delta smaller.
pub fn pairs(base: (&Manifest, ReadBlob<'_>), target: (&Manifest, ReadBlob<'_>)) -> Vec<Pair> {
    let held = super::held(Some(base.0));
    let new = new_files(target.0, &held);
    let is_seeker = |file: &&super::resemble::File<'_>| file.len >= SHORT && same_path(Some(base.0), file).is_none();
    let seekers: Vec<_> = within(new.iter().filter(is_seeker).collect(), |file| file.len);
    if seekers.is_empty() {
        return Vec::new();
    }
    let candidates = candidates(base.0, target.0, &seekers.iter().map(|file| file.len).collect::<Vec<_>>());
    let old = Sketches::of(&candidates, base.1);
    let by_name = Index::new(Some(base.0), seekers.iter().copied());
    let (old_numbers, new_numbers) = (numbers(base.0), numbers(target.0));
    let found = seekers.par_iter().filter_map(|file| {
        let sketch = sketch((file.digest, file.len), target.1)?;
        let (best, resemblance) = old.nearest(&sketch)?;
        let named = by_name.resembling(file).map(|((digest, _), _)| digest);
        let bound = named.map_or(RESEMBLES, |named| old.resemblance(named, &sketch).map_or(RESEMBLES, |named| named + BETTER));
        let is_better = resemblance >= bound.max(RESEMBLES) && named != Some(best);
        is_better.then(|| Pair { target: new_numbers[&file.digest], base: old_numbers[&best] })
    });
    let mut found: Vec<Pair> = found.collect();
    found.sort_unstable_by_key(|pair| pair.target);
    found
}

/// Returns the old files worth a look: of about the length of one that seeks; those that the target lacks first, as a renamed file is gone.
fn candidates(base: &Manifest, target: &Manifest, seekers: &[u64]) -> Vec<(Digest, u64)> {
    let mut lens = seekers.to_vec();
    lens.sort_unstable();
    let is_near = |len: u64| {
        let at = lens.partition_point(|&seeker| seeker < len / APART);
        lens.get(at).is_some_and(|&seeker| seeker <= len.saturating_mul(APART))
    };
    let kept: HashSet<Digest> = target.blobs().into_iter().map(|(digest, _)| digest).collect();
    let mut near: Vec<(Digest, u64)> = base.blobs().into_iter().filter(|&(_, len)| len >= SHORT && is_near(len)).collect();
    near.sort_by_key(|(digest, _)| kept.contains(digest));
    // What is looked at stays in proportion to what it is for.
    let sought = lens.iter().fold(0_u64, |sum, len| sum.saturating_add(*len));
    let mut left = LOOKED_AT.min(sought.saturating_mul(16).saturating_add(4 << 20));
    near.retain(|(_, len)| take(&mut left, *len));
    near
}

/// Returns the longest of what fits into the bytes that are looked at.
fn within<T>(mut all: Vec<T>, len: impl Fn(&T) -> u64) -> Vec<T> {
    all.sort_by_key(|one| Reverse(len(one)));
    let mut left = LOOKED_AT;
    all.retain(|one| take(&mut left, len(one)));
    all
}

fn take(left: &mut u64, len: u64) -> bool {
    let fits = len <= *left;
    *left -= if fits { len } else { 0 };
    fits
}

/// Returns the number of each blob.
fn numbers(manifest: &Manifest) -> HashMap<Digest, u32> {
    (0..).zip(manifest.blobs()).map(|(number, (digest, _))| (digest, number)).collect()
}

/// Reads a file and makes its sketch; stretch by stretch, so that memory does not depend on its length.
fn sketch((digest, len): (Digest, u64), read: ReadBlob<'_>) -> Option<Sketch> {
    let mut whole = Sketch::default();
    for offset in (0..len).step_by(STRETCH as usize) {
        let bytes = read(digest, offset, STRETCH.min(len - offset) as usize).ok()?;
        whole = whole.with(Sketch::of(&bytes));
    }
    Some(whole)
}

/// The sketches of old files, and which of them has a hash.
struct Sketches {
    all: Vec<(Digest, Sketch)>,
    places: HashMap<Digest, usize>,
    by_hash: HashMap<u64, Vec<u32>>,
}

impl Sketches {
    fn of(files: &[(Digest, u64)], read: ReadBlob<'_>) -> Self {
        let all: Vec<(Digest, Sketch)> =
            files.par_iter().filter_map(|&(digest, len)| Some((digest, sketch((digest, len), read)?))).collect();
        let mut by_hash: HashMap<u64, Vec<u32>> = HashMap::new();
        for (number, (_, sketch)) in (0..).zip(&all) {
            for &hash in sketch.hashes() {
                by_hash.entry(hash).or_default().push(number);
            }
        }
        by_hash.retain(|_, numbers| numbers.len() <= COMMON);
        let places = all.iter().enumerate().map(|(place, (digest, _))| (*digest, place)).collect();
        Self { all, places, by_hash }
    }

    /// Returns the old file with the most in common.
    fn nearest(&self, sketch: &Sketch) -> Option<(Digest, u32)> {
        let numbers: HashSet<u32> = sketch.hashes().iter().filter_map(|hash| self.by_hash.get(hash)).flatten().copied().collect();
        let judged = numbers.into_iter().map(|number| (self.all[number as usize].1.resemblance(sketch), Reverse(number)));
        let (resemblance, Reverse(best)) = judged.max()?;
        Some((self.all[best as usize].0, resemblance))
    }

    /// Returns what an old file has in common with a sketch; `None` when it was not looked at.
    fn resemblance(&self, old: Digest, sketch: &Sketch) -> Option<u32> {
        self.places.get(&old).map(|&place| self.all[place].1.resemblance(sketch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::{Entry, Kind};
    use std::io;

    type Files = Vec<(&'static str, Vec<u8>)>;

    /// Words of a language that only this file speaks.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut words = (0..).flat_map(|at: u64| {
            let digest = Digest::of(&[seed.to_le_bytes(), at.to_le_bytes()].concat()).to_string();
            [&digest.as_bytes()[..7], b" "].concat()
        });
        words.by_ref().take(len).collect()
    }

    fn changed(mut bytes: Vec<u8>) -> Vec<u8> {
        let middle = bytes.len() / 2;
        bytes.splice(middle..middle + 20, *b"something else is here now");
        bytes
    }

    /// Shows the pairs as `new < old`, by path.
    #[track_caller]
    fn check(base: &Files, target: &Files, expected: &[&str]) {
        let manifest = |files: &Files| {
            let entry = |(path, bytes): &(&str, Vec<u8>)| {
                let kind = Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(bytes) };
                Entry { path: path.parse().expect("a path"), kind }
            };
            Manifest::new(files.iter().map(entry).collect()).expect("a tree")
        };
        let read = |files: &Files, digest, offset: u64, len: usize| {
            let found = files.iter().find(|(_, bytes)| Digest::of(bytes) == digest).ok_or(io::ErrorKind::NotFound)?;
            Ok(found.1[offset as usize..][..len].to_vec())
        };
        let (old, new) = (manifest(base), manifest(target));
        let (read_old, read_new) =
            (|digest, offset, len| read(base, digest, offset, len), |digest, offset, len| read(target, digest, offset, len));
        let name = |manifest: &Manifest, files: &Files, number: u32| {
            let digest = manifest.blobs()[number as usize].0;
            files.iter().find(|(_, bytes)| Digest::of(bytes) == digest).expect("of this tree").0
        };
        let pairs = pairs((&old, &read_old), (&new, &read_new));
        let shown: Vec<String> =
            pairs.iter().map(|pair| format!("{} < {}", name(&new, target, pair.target), name(&old, base, pair.base))).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_renamed_file_is_found_by_what_is_in_it() {
        let base = vec![("alpha", text(1, 5000)), ("beta", text(2, 5000)), ("gamma", text(3, 5000))];
        let target = vec![("alpha", text(1, 5000)), ("gamma", text(3, 5000)), ("zeta.txt", changed(text(2, 5000)))];
        check(&base, &target, &["zeta.txt < beta"]);
    }

    #[test]
    fn of_names_that_differ_in_a_hash_the_right_one_is_found() {
        let base = vec![("app.1a2b.js", text(1, 5000)), ("app.3c4d.js", text(2, 5000)), ("app.5e6f.js", text(3, 5000))];
        let new = |path, seed| (path, changed(text(seed, 5000)));
        let target = vec![new("app.0f9e.js", 2), new("app.1b2c.js", 3), new("app.8d7c.js", 1)];
        // By name and length all three look like the last one; one of them is right.
        check(&base, &target, &["app.0f9e.js < app.3c4d.js", "app.8d7c.js < app.1a2b.js"]);
    }

    #[test]
    fn the_same_path_is_never_asked_and_a_good_name_is_believed() {
        let base = vec![("a", text(1, 5000)), ("b", text(2, 5000)), ("lib-1.js", text(3, 5000))];
        check(&base, &vec![("a", text(2, 5001)), ("b", text(1, 5001)), ("lib-2.js", changed(text(3, 5000)))], &[]);
    }

    #[test]
    fn a_file_that_stays_can_be_the_base_of_its_copy() {
        let base = vec![("a.rs", text(1, 5000)), ("b.rs", text(2, 5000))];
        check(&base, &vec![("a.rs", text(1, 5000)), ("c", changed(text(1, 5000))), ("b.rs", text(2, 5000))], &["c < a.rs"]);
    }

    #[test]
    fn what_resembles_nothing_or_is_short_is_in_no_pair() {
        let base = vec![("a", text(1, 5000)), ("b", text(2, 200)), ("c", vec![0; 5000])];
        check(&base, &vec![("x", text(9, 5000)), ("y", changed(text(2, 200))), ("z", vec![1; 5000])], &[]);
        check(&vec![], &vec![("x", text(9, 5000))], &[]);
    }

    #[test]
    fn what_cannot_be_read_is_in_no_pair() {
        let entry = |path: &str, content: &[u8]| Entry {
            path: path.parse().expect("a path"),
            kind: Kind::File { executable: false, len: 5000, digest: Digest::of(content) },
        };
        let (old, new) =
            (Manifest::new(vec![entry("a", b"a")]).expect("a tree"), Manifest::new(vec![entry("b", b"b")]).expect("a tree"));
        let read = |_, _, _| Err(io::ErrorKind::NotFound.into());
        assert_eq!(pairs((&old, &read), (&new, &read)), []);
    }
}
