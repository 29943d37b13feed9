//! A store in a directory of this machine; see `layout` for where things lie.
//!
//! Blobs below 1 MiB lie in packs, larger ones are files of their own. An image costs four to six syncs, however many blobs it has, and its release two: files, their
//! directories, the manifest and its directory, the release and its directory, in this order; each name appears only when all it stands for is on disk. Whatever dies in
//! between leaves only files that nothing names; they are swept.

mod documents;
mod lock;
mod put;
mod read;
mod repair;
mod sweep;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use df_core::{AppName, Digest, ImageId, Manifest, Release, ReleaseId, Timestamp, text};

use crate::blobs::{Blobs, Bytes};
use crate::derived::Deltas;
use crate::document::Document;
use crate::durable;
use crate::gc;
use crate::index::Index;
use crate::layout::{DIRECTORIES, FORMAT, Layout};
use crate::place::At as _;
use crate::scrub::{Damage, Repaired};
use crate::store::{Added, Contents, PutError, ReadError, Stats, Store};

/// A store in a directory.
pub struct DiskStore {
    layout: Layout,
    /// What was last known to be in packs; read again when the packs on disk are others.
    index: Mutex<Option<Arc<Index>>>,
    /// Large blobs that were hashed, and the very file that was: a part is then read without hashing all again.
    hashed: Mutex<HashMap<Digest, read::FileIdentity>>,
}

/// A directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("{} holds something that is no store of df; name an empty or a new directory", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is a store of another format ({}); this program knows only its own", path.display(), text::escape(found))]
    Format { path: PathBuf, found: Box<[u8]> },
    #[error("{} is a link, or others may write in it; a store is a directory that only its owner can write", path.display())]
    Exposed { path: PathBuf },
    #[error("open the store")]
    Io(#[from] io::Error),
}

impl DiskStore {
    /// Opens a store, or makes one where nothing is.
    ///
    /// # Errors
    /// Says why the directory is none, and changes nothing then.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let layout = Layout::new(root);
        match fs::symlink_metadata(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(root).at("make directory", root)?;
            }
            Err(error) => return Err(error).at("look at", root)?,
            Ok(_) => {}
        }
        if !durable::is_private(root)? {
            return Err(OpenError::Exposed { path: root.to_owned() });
        }
        let format = root.join("FORMAT");
        match fs::read(&format) {
            Ok(found) if found == FORMAT.as_bytes() => {}
            Ok(found) => return Err(OpenError::Format { path: root.to_owned(), found: found.into_iter().take(80).collect() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&layout)?,
            Err(error) => return Err(error).at("read", &format)?,
        }
        Ok(Self { layout, index: Mutex::new(None), hashed: Mutex::new(HashMap::new()) })
    }

    /// Returns where the store lies.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// Returns the derived deltas that are kept beside the store.
    pub fn deltas(&self) -> Deltas {
        Deltas::new(self.layout.dir("d"))
    }

    /// Makes a directory in the store's file system that is removed with the returned value, or by the next put when this process is killed.
    ///
    /// # Errors
    /// Those of making it.
    pub fn workspace(&self) -> io::Result<Workspace> {
        let _shared = lock::shared(&self.layout)?;
        lock::Workspace::make(&self.layout).map(Workspace)
    }

    /// Returns the index of what is in packs now. Needs the lock, shared or exclusive.
    fn index(&self) -> io::Result<Arc<Index>> {
        let mut known = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*known
            && index.is_current(&self.layout)?
        {
            return Ok(index.clone());
        }
        let index = Arc::new(Index::load(&self.layout)?);
        *known = Some(index.clone());
        Ok(index)
    }

    fn set_index(&self, index: Option<Index>) {
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = index.map(Arc::new);
    }
}

/// A directory for work under way, removed when this is dropped.
pub struct Workspace(lock::Workspace);

impl Workspace {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn create(layout: &Layout) -> Result<(), OpenError> {
    let ours = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        DIRECTORIES.contains(&&*name) || name == "lock" || name.starts_with(durable::TEMPORARY)
    };
    for entry in fs::read_dir(&layout.root).at("read directory", &layout.root)? {
        if !ours(&entry.at("read directory", &layout.root)?.file_name()) {
            return Err(OpenError::Foreign { path: layout.root.clone() });
        }
    }
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("make directory", path);
    for name in DIRECTORIES {
        make(&layout.dir(name))?;
    }
    // All at once, so that no later commit has to sync the directory above the one that it writes to.
    for fan in 0..=0xff_u8 {
        make(&layout.dir("packs").join(format!("{fan:02x}")))?;
        make(&layout.dir("big").join(format!("{fan:02x}")))?;
    }
    let lock = layout.root.join("lock");
    fs::OpenOptions::new().append(true).create(true).open(&lock).at("create", &lock)?;
    durable::FileSystem::of(&layout.root)?.sync()?;
    // FORMAT comes last: a directory without it was not finished, and is finished by the next open.
    durable::write(&layout.root.join("FORMAT"), FORMAT.as_bytes(), 0o444)?;
    Ok(durable::sync_dir(durable::parent(&layout.root))?)
}

impl Blobs for DiskStore {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        Ok(self.hand_out(digest)?)
    }

    fn release(&self, id: ReleaseId) -> io::Result<Option<Release>> {
        let _shared = lock::shared(&self.layout)?;
        self.find_release(id)
    }

    fn document(&self, app: &AppName, release: ReleaseId, document: Document) -> io::Result<Option<Vec<u8>>> {
        match self.attached(app, release, document) {
            Err(ReadError::Damaged { .. }) => Ok(None),
            result => Ok(result?),
        }
    }
}

impl Store for DiskStore {
    fn put_image(&self, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        self.add_image(manifest, blobs, now)
    }

    fn put_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError> {
        self.add_release(release, now)
    }

    fn contents(&self) -> Result<Contents, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        Ok(self.list()?)
    }

    fn manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        self.read_manifest(image)
    }

    fn has(&self, image: ImageId) -> Result<bool, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        self.is_complete(image)
    }

    fn lacking(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        let index = self.index()?;
        let (mut big, small): (Vec<_>, Vec<_>) = manifest
            .blobs()
            .into_iter()
            .filter(|&(digest, len)| !self.holds(&index, digest, len))
            .partition(|(_, len)| *len >= crate::layout::BIG_FROM);
        // In the order in which a put takes them.
        big.sort_by_key(|&(_, len)| std::cmp::Reverse(len));
        Ok(big.into_iter().chain(small).collect())
    }

    fn read(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        self.read_whole(digest, len)
    }

    fn read_blob(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        self.read_part(digest, offset, len)
    }

    fn attach(&self, app: &AppName, release: ReleaseId, document: Document, bytes: &[u8]) -> Result<bool, PutError> {
        self.add_document(app, release, document, bytes)
    }

    fn attached(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<Vec<u8>>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        self.read_document(app, release, document)
    }

    fn pin(&self, image: ImageId, why: &str) -> Result<(), PutError> {
        self.add_pin(image, why)
    }

    fn unpin(&self, image: ImageId) -> Result<bool, PutError> {
        self.remove_pin(image)
    }

    fn collect(&self, plan: &gc::Plan) -> Result<gc::Collected, PutError> {
        self.sweep(plan)
    }

    fn verify(&self) -> Result<Vec<Damage>, ReadError> {
        self.scrub()
    }

    fn repair(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        self.heal(source)
    }

    fn flush(&self) -> Result<(), PutError> {
        Ok(self.empty()?)
    }

    fn stats(&self) -> Result<Stats, ReadError> {
        self.count()
    }
}

#[cfg(test)]
mod tests;
