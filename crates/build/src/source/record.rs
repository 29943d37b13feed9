//! What a tree's manifest said, kept by the tree's git id, so that an unchanged commit costs one small file.
//!
//! `source/<git tree id>.json` holds the digest, the named parts and the links that leave the tree; `source/<digest>.manifest` the manifest, from which
//! "which source files changed" is counted. Both are only ever a saving: a file that does not read back is made anew.

use std::collections::BTreeMap;

use df_core::{Digest, Kind, Manifest};
use serde::{Deserialize, Serialize};

use super::{Commit, Repository, TreeError};
use crate::keep::Keep;

/// The parts of the source whose change deserves a name of its own.
const PARTS: [&str; 7] =
    ["Cargo.lock", "Cargo.toml", "rust-toolchain", "rust-toolchain.toml", ".cargo/config.toml", ".cargo/config", "build.rs"];
/// Files kept; the oldest go.
const N_KEPT: usize = 200;

/// What the recipe needs to know about a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    version: u32,
    pub digest: Digest,
    pub parts: BTreeMap<String, Digest>,
    pub outside_links: Vec<OutsideLink>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutsideLink {
    path: String,
    /// `None` when it is not UTF-8, and so cannot be named in df.yaml.
    target: Option<String>,
    shown: String,
}

const VERSION: u32 = 1;

impl Source {
    /// Returns what is known of the commit's tree, reading its objects only the first time.
    pub fn of(repository: &Repository, commit: &Commit, keep: &Keep) -> Result<Self, TreeError> {
        let name = format!("{}.json", commit.tree);
        if let Some(source) = keep.read::<Self>("source", &name).filter(|source| source.version == VERSION) {
            return Ok(source);
        }
        let manifest = repository.manifest(commit)?;
        let bytes = manifest.encode();
        let source = Self::new(&manifest, Digest::of(&bytes));
        keep.write("source", &format!("{}.manifest", source.digest), &bytes, N_KEPT);
        keep.write_json("source", &name, &source, N_KEPT);
        Ok(source)
    }

    fn new(manifest: &Manifest, digest: Digest) -> Self {
        let part = |name: &&str| match manifest.get(name.as_bytes())?.kind {
            Kind::File { digest, .. } => Some(((*name).to_owned(), digest)),
            _ => None,
        };
        let outside = |(path, target): (&df_core::TreePath, &[u8])| OutsideLink {
            path: path.to_string(),
            target: std::str::from_utf8(target).ok().map(str::to_owned),
            shown: df_core::text::escape(target),
        };
        Self {
            version: VERSION,
            digest,
            parts: PARTS.iter().filter_map(part).collect(),
            outside_links: manifest.outside_links().map(outside).collect(),
        }
    }

    /// Refuses links that leave the tree, except to targets that the build section names.
    pub fn check_links(&self, allowed: &[String]) -> Result<(), TreeError> {
        let refused = self.outside_links.iter().find(|link| !link.target.as_ref().is_some_and(|target| allowed.contains(target)));
        match refused {
            Some(link) => Err(TreeError::OutsideLink { path: link.path.clone(), target: link.shown.clone() }),
            None => Ok(()),
        }
    }
}

/// Returns how many files differ between two kept manifests, the named parts left out; `None` when one is not kept.
pub(crate) fn n_changed(keep: &Keep, old: Digest, new: Digest) -> Option<usize> {
    let read = |digest: Digest| {
        let bytes = keep.read_bytes("source", &format!("{digest}.manifest"))?;
        if Digest::of(&bytes) == digest { Manifest::decode(&bytes).ok() } else { None }
    };
    let (old, new) = (read(old)?, read(new)?);
    let counts = |path: &df_core::TreePath, kind: &Kind| {
        *kind != Kind::Directory && !PARTS.iter().any(|part| part.as_bytes() == path.as_bytes())
    };
    let changed = |from: &Manifest, to: &Manifest, both: bool| {
        to.entries()
            .iter()
            .filter(|entry| counts(&entry.path, &entry.kind))
            .filter(|entry| match from.get(entry.path.as_bytes()) {
                Some(other) => both && other.kind != entry.kind,
                None => true,
            })
            .count()
    };
    Some(changed(&old, &new, true) + changed(&new, &old, false))
}
