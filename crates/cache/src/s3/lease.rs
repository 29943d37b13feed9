//! Leases: the images that nodes have in their generations, said by whoever changed a node, so that a collection keeps them that knows no node.
//!
//! A holder's text in the root table is the first half of its identity, a space, and what it is called: who it is does not change with what people call it. A text of one word is the
//! identity, and what it is called.

use std::collections::BTreeSet;

use df_core::{Digest, ImageId};

use super::S3Store;
use super::format::roots::{Roots, TEXT_LEN};
use super::swap::{Change, Plan};
use crate::store::PutError;

/// Digits of an identity in a holder's text.
const IDENTITY_LEN: usize = 32;

/// Who has images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which node it is.
    pub identity: Digest,
    /// What it is called, for people.
    pub name: String,
}

/// What a holder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub holder: Holder,
    /// All images that it has in generations. The cache keeps those that it holds.
    pub images: Vec<ImageId>,
}

impl S3Store {
    /// Keeps for each holder what it has of the images here, and nothing else any more, until it says otherwise: in one commit, and in none when all of that is known. Leases do not expire.
    ///
    /// # Errors
    /// The bucket cannot be read or written.
    pub fn lease(&self, leases: &[Lease]) -> Result<(), PutError> {
        self.change_leases(|roots| leases.iter().for_each(|lease| lease.set(roots)))
    }

    /// Ends the leases of all holders of whom `is_meant` says so, of their identity, as far as it is written down, and their name; returns their names.
    ///
    /// # Errors
    /// The bucket cannot be read or written.
    pub fn end_leases(&self, is_meant: impl Fn(&str, &str) -> bool) -> Result<BTreeSet<String>, PutError> {
        let mut ended = BTreeSet::new();
        self.change_leases(|roots| {
            ended.clear();
            roots.leases.retain(|(holder, _)| {
                let (identity, name) = parts(holder);
                let ends = is_meant(identity, name);
                if ends {
                    ended.insert(name.to_owned());
                }
                !ends
            });
        })?;
        Ok(ended)
    }

    fn change_leases(&self, mut change: impl FnMut(&mut Roots)) -> Result<(), PutError> {
        // Not over what the holder says after it was done.
        self.commit_once(|view, _| {
            let mut roots = (*view.roots).clone();
            change(&mut roots);
            if roots == *view.roots {
                return Ok(Plan::Leave(()));
            }
            Ok(Plan::Commit(Box::new(Change { roots: Some(roots), ..Change::default() }), ()))
        })
    }
}

impl Holder {
    /// Returns its identity as it is written down.
    pub fn word(&self) -> String {
        word(self.identity)
    }

    fn text(&self) -> String {
        let name = df_core::text::escape(self.name.as_bytes());
        format!("{} {}", self.word(), df_core::text::shorten(&name, TEXT_LEN / 4))
    }
}

impl Lease {
    /// Makes the holder have exactly these of the images that are there.
    fn set(&self, roots: &mut Roots) {
        let has: BTreeSet<ImageId> = self.images.iter().copied().filter(|image| roots.images.contains_key(image)).collect();
        let word = self.holder.word();
        let is_its = |(holder, _): &&(String, ImageId)| parts(holder).0 == word;
        if roots.leases.iter().filter(is_its).map(|(_, image)| *image).eq(has.iter().copied()) {
            return;
        }
        roots.leases.retain(|row| !is_its(&row));
        self.add(roots, has);
    }

    /// Makes the holder have those of its images that are among the new ones, besides what it has.
    pub(super) fn add_new(&self, roots: &mut Roots, new: &[ImageId]) {
        self.add(roots, self.images.iter().copied().filter(|image| new.contains(image)));
    }

    fn add(&self, roots: &mut Roots, images: impl IntoIterator<Item = ImageId>) {
        let text = self.holder.text();
        roots.leases.extend(images.into_iter().map(|image| (text.clone(), image)));
    }
}

/// Returns how the identity of a holder is written down.
pub fn word(identity: Digest) -> String {
    identity.to_string()[..IDENTITY_LEN].to_owned()
}

/// Returns the identity in a holder's text, and what it is called.
pub(super) fn parts(holder: &str) -> (&str, &str) {
    holder.split_once(' ').unwrap_or((holder, holder))
}
