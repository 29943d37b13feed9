//! The cache of this machine, as commands see it: releases found by the words people use, images handed to transfers.

use std::any::Any;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use df_cache::derived::{self, Key};
use df_cache::disk::DiskStore;
use df_cache::store::{Store, StoredRelease};
use df_core::{AppName, Digest, ImageId, Manifest, Release};
use df_fleet::deltas::Delta;
use df_fleet::{Codec, Images, Level};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// The word under which deltas are kept: another one for another format of them, or when less of it is taken.
const DELTA_KIND: &str = "v4";
/// The longest delta that is kept for the next time.
const KEPT_DELTA_LEN: u64 = 512 << 20;

/// The cache of this machine; clones share it.
#[derive(Clone)]
pub struct Shelf {
    store: Arc<DiskStore>,
}

impl Shelf {
    /// Opens the cache that df.yaml names, or makes it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(session: &Session) -> Result<Self, Failure> {
        Self::at(&session.cache_dir())
    }

    /// Opens the cache in a directory, or makes it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn at(cache_dir: &Path) -> Result<Self, Failure> {
        Self::rooted(&cache_dir.join("v1"))
    }

    /// Opens the store whose top a directory is, or makes it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn rooted(root: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::here("cache", error).next("df doctor");
        // Not as the umask has it: a store that others may write in is refused.
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(|error| {
            Failure::new(Exit::Failed, "cache", format!("make {}: {error}", root.display())).next("df doctor")
        })?;
        let store = DiskStore::open(root).map_err(|error| failed(&error))?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Returns the store itself.
    pub fn store(&self) -> &DiskStore {
        &self.store
    }

    fn deltas(&self) -> derived::Deltas {
        self.store.deltas()
    }

    /// Returns the releases of an application, the newest last.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn releases(&self, app: &AppName) -> Result<Vec<StoredRelease>, Failure> {
        releases_in(&*self.store, app)
    }

    /// Finds the version that a word names: the beginning of a commit's, an image's or a release's id.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn version(&self, app: &AppName, word: &str) -> Result<Release, Failure> {
        version_of(&self.releases(app)?, app, word, "cache")
    }
}

/// Returns the releases of an application in any store, the newest last.
///
/// # Errors
/// The store cannot be read.
pub fn releases_in(store: &dyn Store, app: &AppName) -> Result<Vec<StoredRelease>, Failure> {
    let mut releases = store.releases().map_err(|error| Failure::here("cache", &error))?;
    releases.retain(|stored| stored.release.app == *app);
    Ok(releases)
}

/// Finds among the releases of a place the version that a word names: the beginning of a commit's, an image's or a release's id.
///
/// # Errors
/// There is none, or several.
pub fn version_of(releases: &[StoredRelease], app: &AppName, word: &str, place: &str) -> Result<Release, Failure> {
    let (where_, list) = match place {
        "cache" => ("known here".to_owned(), "df ls versions".to_owned()),
        place => (format!("in {place}"), format!("df ls versions --address {place}")),
    };
    match find(releases, word) {
        Found::One(release) => Ok(*release),
        Found::None => {
            let message = format!("no version \"{word}\" of {app} is {where_}");
            Err(Failure::new(Exit::Usage, "versions", message).next(list))
        }
        Found::Several(several) => {
            let message = format!("\"{word}\" could be several versions: {}", several.join(", "));
            Err(Failure::new(Exit::Usage, "versions", message).next(list))
        }
    }
}

/// What a word names.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    One(Box<Release>),
    Several(Vec<String>),
}

/// Finds releases by the beginning of an id; several releases of one commit mean the newest.
fn find(releases: &[StoredRelease], word: &str) -> Found {
    let word = word.to_ascii_lowercase();
    if word.len() < 4 {
        return Found::None;
    }
    type Id = fn(&StoredRelease) -> String;
    let ids: [Id; 3] = [|s| s.release.commit.to_string(), |s| s.id.to_string(), |s| s.release.image.to_string()];
    for id in ids {
        let matching: Vec<&StoredRelease> = releases.iter().filter(|stored| id(stored).starts_with(&word)).collect();
        let mut distinct: Vec<String> = matching.iter().map(|stored| id(stored)).collect();
        distinct.sort_unstable();
        distinct.dedup();
        match (matching.last(), distinct.len()) {
            (Some(newest), 1) => return Found::One(Box::new(newest.release.clone())),
            (None, _) => {}
            _ => return Found::Several(distinct.iter().map(|id| id[..12.min(id.len())].to_owned()).collect()),
        }
    }
    Found::None
}

impl Images for Shelf {
    fn holds(&self, image: ImageId) -> bool {
        self.store.has(image).unwrap_or(false)
    }

    fn manifest(&self, image: ImageId) -> io::Result<Manifest> {
        Ok(self.store.manifest(image)?)
    }

    fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.store.read_blob(digest, offset, len)?)
    }

    fn kept_delta(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>) -> Option<Delta> {
        let kept = self.deltas().get(Key { from: base, to: target, level: &word(level, codec) })?;
        let (len, digest, note) = (kept.len, kept.digest, kept.note.clone());
        Delta::of_file(kept.into_file(), len, digest, &note).ok()
    }

    fn kept(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>) -> Option<(u64, Digest)> {
        self.deltas().glance(Key { from: base, to: target, level: &word(level, codec) })
    }

    fn forget_delta(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>) {
        self.deltas().remove(Key { from: base, to: target, level: &word(level, codec) });
    }

    fn await_delta(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>, patience: Duration) {
        self.deltas().await_made(Key { from: base, to: target, level: &word(level, codec) }, patience);
    }

    fn making(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(self.deltas().making(Key { from: base, to: target, level: &word(level, codec) })?))
    }

    fn keep_delta(&self, base: Option<ImageId>, target: ImageId, level: Level, codec: Option<Codec>, delta: &Delta) {
        if delta.len() > KEPT_DELTA_LEN {
            return;
        }
        // It saves time and nothing else: its errors are no errors.
        let keep = || {
            let key = word(level, codec);
            let mut kept = self.deltas().create(Key { from: base, to: target, level: &key }, delta.codec())?;
            io::copy(&mut delta.reader(), &mut kept)?;
            kept.finish()
        };
        let _ = keep();
    }
}

/// Returns the word under which deltas of a level are kept.
fn word(level: Level, codec: Option<Codec>) -> String {
    let level = match level {
        Level::Fast => "fast",
        Level::Small => "small",
    };
    format!("{DELTA_KIND}{}{level}", codec.map_or("", Codec::word))
}

#[cfg(test)]
mod tests;
