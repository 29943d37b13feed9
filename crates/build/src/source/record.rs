//! What a tree's manifest said, kept by the tree's git id, so that an unchanged commit costs one small file.
//!
//! `source/<git tree id>[-<digest of the path left out>].json` holds the digest, the named parts and the links that leave the tree; `source/<digest>.manifest` the manifest, from which
//! "which source files changed" is counted;
//! `source/<repository>.blobs` the digests of the last tree's blobs by git id (20 bytes, length as 8 little-endian bytes, 32 bytes), so that only new ones are read. All are only ever a saving: a file that does not read back is made anew.

use std::collections::BTreeMap;
use std::path::Path;

use df_core::{Digest, Kind, Manifest, TreePath};
use serde::{Deserialize, Serialize};

use git2::Oid;

use super::tree::Blobs;
use super::{Commit, Repository, TreeError, WriteError};
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
    /// Returns what is known of the commit's tree without one file, reading its objects only the first time.
    pub fn of(repository: &Repository, commit: &Commit, keep: &Keep, left_out: Option<&TreePath>) -> Result<Self, TreeError> {
        let without = left_out.map_or_else(String::new, |path| format!("-{}", Digest::of(path.as_bytes()).short()));
        let name = format!("{}{without}.json", commit.tree);
        if let Some(source) = keep.read::<Self>("source", &name).filter(|source| source.version == VERSION) {
            return Ok(source);
        }
        let blobs_name = format!("{}.blobs", Digest::of(repository.git.path().as_os_str().as_encoded_bytes()).short());
        let known = keep.read_bytes("source", &blobs_name).map(|bytes| decode_blobs(&bytes)).unwrap_or_default();
        let (manifest, blobs) = repository.manifest_knowing(commit, &known)?;
        keep.write("source", &blobs_name, &encode_blobs(&blobs), N_KEPT);
        let manifest = without_file(manifest, left_out)?;
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
        let outside = |(path, target): (&TreePath, &[u8])| OutsideLink {
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

/// Makes a directory hold exactly what a build sees of a commit: the source of this digest, which is the commit's tree without one file.
pub(crate) fn write_source(
    repository: &Repository,
    commit: &Commit,
    keep: &Keep,
    digest: Digest,
    left_out: Option<&TreePath>,
    dest: &Path,
) -> Result<Manifest, WriteError> {
    let manifest = match manifest_kept(keep, digest) {
        Some(manifest) => manifest,
        None => without_file(repository.manifest(commit)?, left_out)?,
    };
    repository.write_listed(commit, &manifest, dest)?;
    Ok(manifest)
}

fn without_file(manifest: Manifest, left_out: Option<&TreePath>) -> Result<Manifest, TreeError> {
    match left_out {
        Some(path) if manifest.get(path.as_bytes()).is_some() => {
            Ok(Manifest::new(manifest.entries().iter().filter(|entry| entry.path != *path).cloned().collect())?)
        }
        _ => Ok(manifest),
    }
}

/// Returns the manifest of a source if it is kept whole.
fn manifest_kept(keep: &Keep, digest: Digest) -> Option<Manifest> {
    let bytes = keep.read_bytes("source", &format!("{digest}.manifest"))?;
    if Digest::of(&bytes) == digest { Manifest::decode(&bytes).ok() } else { None }
}

/// Returns how many files differ between two kept manifests, the named parts left out; `None` when one is not kept.
pub(crate) fn n_changed(keep: &Keep, old: Digest, new: Digest) -> Option<usize> {
    let (old, new) = (manifest_kept(keep, old)?, manifest_kept(keep, new)?);
    let counts =
        |path: &TreePath, kind: &Kind| *kind != Kind::Directory && !PARTS.iter().any(|part| part.as_bytes() == path.as_bytes());
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

fn encode_blobs(blobs: &Blobs) -> Vec<u8> {
    let row = |(id, (len, digest)): (&Oid, &(u64, Digest))| [id.as_bytes(), &len.to_le_bytes(), digest.as_bytes()].concat();
    blobs.iter().flat_map(row).collect()
}

fn decode_blobs(bytes: &[u8]) -> Blobs {
    let row = |row: &[u8]| {
        let (id, rest) = row.split_first_chunk::<20>()?;
        let (len, digest) = rest.split_first_chunk::<8>()?;
        Some((Oid::from_bytes(id).ok()?, (u64::from_le_bytes(*len), Digest::from_bytes(digest.try_into().ok()?))))
    };
    bytes.chunks_exact(60).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_blobs_read_back() {
        let id = |byte| Oid::from_bytes(&[byte; 20]).expect("20 bytes");
        let blobs: Blobs = [(id(1), (7, Digest::of(b"a"))), (id(2), (u64::MAX, Digest::of(b"b")))].into();
        assert_eq!(decode_blobs(&encode_blobs(&blobs)), blobs);
        assert_eq!(decode_blobs(b"short"), Blobs::new());
    }
}
