//! Reading back: the structure, some packs, or everything; at once or slice by slice.
//!
//! What holds the cache together (the head, the newest records, tables, segments) is read from the bucket each time, never from what this machine remembers. What cannot be asked is an
//! error; what is gone, longer, shorter or other than its name says is damage. Should others commit meanwhile and something seem damaged, it is looked at once more.

mod cursor;
mod findings;
mod packs;
mod structure;

use std::sync::Arc;

use df_core::Digest;

use super::S3Store;
use super::format::name::{Name, Reference};
use super::swap::View;
use crate::scrub::Damage;
use crate::store::ReadError;
pub(super) use findings::{Findings, Lost};
pub(super) use structure::GONE;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What holds the cache together, and of each pack whether it is there and ends as it must: one request for each.
    Quick,
    /// That, and so many packs, drawn by a seed, byte by byte.
    Sample {
        /// How many.
        packs: usize,
        /// Draws them.
        seed: u64,
    },
    /// Every byte.
    Everything,
}

/// Part of a reading of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What was found in this part.
    pub damages: Vec<Damage>,
    /// Packs that were read since the beginning.
    pub done: u64,
    /// Packs there are.
    pub packs: u64,
    /// This was the last part: the next begins anew.
    pub is_last: bool,
}

/// The view that was looked at, what was found, and what a look there gave; nothing of a view that cannot be read.
type Looked<T> = (Option<Arc<View>>, Findings, Option<T>);

/// How far a slice came.
struct Next {
    done: u64,
    packs: u64,
    /// The pack that it read last.
    last: Option<Name>,
}

impl Next {
    fn is_last(&self) -> bool {
        self.done == self.packs
    }
}

/// So often others may commit in between before what was found counts.
const AGAIN: u32 = 3;

impl S3Store {
    /// Reads back so much and lists what is damaged or missing.
    ///
    /// # Errors
    /// The bucket could not be asked: then nothing is said.
    pub fn verify_by(&self, depth: &Depth) -> Result<Vec<Damage>, ReadError> {
        Ok(self.find_damage_by(depth)?.1.damages())
    }

    /// Reads the next packs, so many, and with the last of them the documents too; where it stopped is remembered on this machine.
    ///
    /// # Errors
    /// As [`S3Store::verify_by`]; the next slice is this one again.
    pub fn verify_slice(&self, packs: usize) -> Result<Slice, ReadError> {
        let (view, findings, read) = self.look_until_it_counts(|view, findings| self.read_next(view, packs, findings))?;
        let damages = findings.damages();
        let (Some(view), Some(read)) = (view, read) else { return Ok(Slice { damages, done: 0, packs: 0, is_last: true }) };
        cursor::Cursor::open(&self.local, view.head.cache).set(read.last.filter(|_| !read.is_last()));
        Ok(Slice { damages, done: read.done, packs: read.packs, is_last: read.is_last() })
    }

    /// Reads the next packs of a view, and with the last of them the documents too.
    fn read_next(&self, view: &View, packs: usize, findings: &mut Findings) -> Result<Next, ReadError> {
        let mut all: Vec<Reference> = self.index(view)?.packs().into_iter().collect();
        all.sort_unstable();
        let after = cursor::Cursor::open(&self.local, view.head.cache).after();
        let start = all.partition_point(|pack| Some(pack.name) <= after);
        let chosen: Vec<Reference> = all[start..].iter().copied().take(packs.max(1)).collect();
        let (done, last) = ((start + chosen.len()) as u64, chosen.last().map(|pack| pack.name));
        let read = Next { done, packs: all.len() as u64, last };
        self.read_packs(view, Some(&chosen), findings)?;
        if read.is_last() {
            self.read_documents(view, findings)?;
        }
        Ok(read)
    }

    pub(super) fn scrub(&self) -> Result<Vec<Damage>, ReadError> {
        self.verify_by(&Depth::Everything)
    }

    /// Finds what is damaged, and in which view; none when there is none that can be read.
    pub(super) fn find_damage_by(&self, depth: &Depth) -> Result<(Option<Arc<View>>, Findings), ReadError> {
        let (view, findings, _) = self.look_until_it_counts(|view, findings| self.find_damage_in(view, depth, findings))?;
        Ok((view, findings))
    }

    /// Looks at the structure and at what else is to be read in its view; once more when something seems damaged and others committed meanwhile.
    fn look_until_it_counts<T>(
        &self,
        look: impl Fn(&View, &mut Findings) -> Result<T, ReadError>,
    ) -> Result<Looked<T>, ReadError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut findings = self.check_structure()?;
            let view = self.readable_view(&mut findings)?;
            let looked = view.as_ref().map(|view| look(view, &mut findings)).transpose()?;
            // A collection may have taken what an older head names.
            let same = |view: &View| Ok::<_, ReadError>(self.read_head()?.is_some_and(|(head, _)| head == view.head));
            let counts = match &view {
                Some(view) if !findings.is_empty() && tries < AGAIN => same(view)?,
                _ => true,
            };
            if counts {
                return Ok((view, findings, looked));
            }
        }
    }

    fn find_damage_in(&self, view: &View, depth: &Depth, findings: &mut Findings) -> Result<(), ReadError> {
        match depth {
            Depth::Quick => self.look_at_packs(view, findings),
            Depth::Sample { packs, seed } => {
                self.look_at_packs(view, findings)?;
                let chosen = sample(self.index(view)?.packs().into_iter().collect(), *packs, *seed);
                self.read_packs(view, Some(&chosen), findings)?;
                self.read_documents(view, findings)
            }
            Depth::Everything => {
                self.read_packs(view, None, findings)?;
                self.read_documents(view, findings)
            }
        }
    }
}

/// Draws so many of some packs: the same for the same seed.
fn sample(mut packs: Vec<Reference>, n: usize, seed: u64) -> Vec<Reference> {
    packs.sort_by_key(|pack| {
        Digest::of(&[&seed.to_le_bytes()[..], pack.name.key(super::format::name::Space::Pack).as_str().as_bytes()].concat())
    });
    packs.truncate(n);
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::format::name::tests::reference;

    #[test]
    fn a_sample_follows_from_its_seed_and_different_seeds_reach_all() {
        let packs: Vec<Reference> = (0..40).map(reference).collect();
        let turned: Vec<Reference> = packs.iter().rev().copied().collect();
        assert_eq!(sample(packs.clone(), 5, 1), sample(turned, 5, 1));
        assert_eq!(sample(packs.clone(), 100, 1).len(), 40);
        let mut reached: Vec<Reference> = (0..60).flat_map(|seed| sample(packs.clone(), 5, seed)).collect();
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached.len(), 40);
    }
}
