//! How things come out of the store: looked up, read, checked.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use df_core::{Digest, ImageId, Manifest, Release, ReleaseId, limits};

use super::{DiskStore, lock};
use crate::blobs::{Bytes, hash, open_file, read_checked};
use crate::index::list;
use crate::layout::{self, BIG_FROM};
use crate::pack;
use crate::place::At as _;
use crate::store::{Contents, ReadError, Stats, StoredImage, StoredRelease};

/// A file as it was when it was hashed: device, inode, length, time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64, u64, i64, i64);

impl FileIdentity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
    }
}

impl DiskStore {
    pub(super) fn read_manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        let file = match open_file(&self.layout.image(image)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::NoImage { image }),
            result => result?,
        };
        let len = file.metadata()?.len();
        let damaged = ReadError::Damaged { digest: image.0 };
        if len > limits::MANIFEST_LEN {
            return Err(damaged);
        }
        let bytes = read_checked(&file, image.0, len).map_err(|error| of_blob(image.0, error))?;
        Manifest::decode(&bytes).map_err(|_| damaged)
    }

    /// Needs the lock, shared or exclusive.
    pub(super) fn is_complete(&self, image: ImageId) -> Result<bool, ReadError> {
        let manifest = match self.read_manifest(image) {
            Err(ReadError::NoImage { .. } | ReadError::Damaged { .. }) => return Ok(false),
            result => result?,
        };
        let index = self.index()?;
        Ok(manifest.blobs().into_iter().all(|(digest, len)| self.holds(&index, digest, len)))
    }

    pub(super) fn hand_out(&self, digest: Digest) -> Result<Bytes, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        match self.read_packed(digest) {
            Err(ReadError::NoBlob { .. }) => {}
            result => return Ok(Bytes::Read(Box::new(io::Cursor::new(result?)))),
        }
        let path = self.layout.big(digest);
        if path.is_file() { Ok(Bytes::File(path)) } else { Err(ReadError::NoBlob { digest }) }
    }

    pub(super) fn read_whole(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        if len < BIG_FROM {
            let bytes = self.read_packed(digest)?;
            return if bytes.len() as u64 == len { Ok(bytes) } else { Err(ReadError::Damaged { digest }) };
        }
        read_checked(self.open_big(digest)?, digest, len).map_err(|error| of_blob(digest, error))
    }

    pub(super) fn read_part(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        let outside = ReadError::Range { digest, offset, len };
        match self.read_packed(digest) {
            Err(ReadError::NoBlob { .. }) => {}
            result => {
                let bytes = result?;
                let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start.checked_add(len)?));
                return part.map(<[u8]>::to_vec).ok_or(outside);
            }
        }
        let file = self.open_big(digest)?;
        let total = self.check_big(&file, digest)?;
        if offset.checked_add(len as u64).is_none_or(|end| end > total) {
            return Err(outside);
        }
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, offset)?;
        Ok(part)
    }

    fn open_big(&self, digest: Digest) -> Result<File, ReadError> {
        match open_file(&self.layout.big(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadError::NoBlob { digest }),
            result => Ok(result?),
        }
    }

    /// Hashes a large blob, unless this very file was hashed before; returns its length.
    fn check_big(&self, file: &File, digest: Digest) -> Result<u64, ReadError> {
        let identity = FileIdentity::of(&file.metadata()?);
        let known = || self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        if known().get(&digest) != Some(&identity) {
            let (found, len) = hash(file)?;
            if found != digest || len != identity.2 {
                return Err(ReadError::Damaged { digest });
            }
            known().insert(digest, identity);
        }
        Ok(identity.2)
    }

    /// Reads a blob from whichever pack has a whole copy. Needs the lock.
    fn read_packed(&self, digest: Digest) -> Result<Vec<u8>, ReadError> {
        let mut error = ReadError::NoBlob { digest };
        // A second look, because another process may have packed anew what this one knows by old names.
        for again in [false, true] {
            let index = {
                let known = self.index.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match known {
                    Some(index) if !again => index,
                    _ => self.index()?,
                }
            };
            for (pack, slot) in index.find(digest) {
                match open_file(&self.layout.pack(pack)).and_then(|file| pack::read(&file, &slot)) {
                    Ok(bytes) => return Ok(bytes),
                    Err(found) if found.kind() == io::ErrorKind::NotFound => {}
                    Err(found) => error = of_blob(digest, found),
                }
            }
        }
        Err(error)
    }

    /// Lists what is there by name. Needs the lock, or the caller takes what it gets.
    pub(super) fn list(&self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        for path in self.release_files()? {
            contents.releases.extend(read_release(&path));
        }
        contents.releases.sort_by_key(|stored| (stored.sequence, stored.stored, stored.id));
        for path in list(&self.layout.dir("img"))? {
            let stored = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            contents.images.extend(name(&path).map(|image| StoredImage { image, stored: stored.into() }));
        }
        contents.images.sort();
        contents.pins = list(&self.layout.dir("pins"))?.iter().filter_map(name).collect();
        Ok(contents)
    }

    /// Finds a release by its id; one that is damaged is none. Needs the lock.
    pub(super) fn find_release(&self, id: ReleaseId) -> io::Result<Option<Release>> {
        for path in self.release_files()?.iter().filter(|path| name(path) == Some(id)) {
            let bytes = match fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // That it cannot be read now does not mean that it is gone.
                result => result.at("read", path)?,
            };
            if let Some(stored) = layout::decode_release(&bytes).filter(|stored| stored.id == id) {
                return Ok(Some(stored.release));
            }
        }
        Ok(None)
    }

    /// Lists the files of releases, whole or not.
    pub(super) fn release_files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = vec![];
        for app in list(&self.layout.dir("refs"))? {
            files.extend(list(&app)?);
        }
        Ok(files)
    }

    pub(super) fn count(&self) -> Result<Stats, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        let (contents, index) = (self.list()?, self.index()?);
        let mut stats = Stats {
            n_images: contents.images.len() as u64,
            n_releases: contents.releases.len() as u64,
            n_packs: index.packs().len() as u64,
            ..Stats::default()
        };
        let mut seen = HashSet::new();
        for (_, slot) in index.entries().filter(|(_, slot)| seen.insert(slot.digest)) {
            stats.n_blobs += 1;
            stats.blob_bytes += u64::from(slot.len);
        }
        let len = |path: &PathBuf| fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
        for path in self.big_files()? {
            stats.n_blobs += 1;
            stats.blob_bytes += len(&path);
            stats.stored_bytes += len(&path);
        }
        stats.stored_bytes += index.packs().iter().map(|&id| len(&self.layout.pack(id))).sum::<u64>();
        stats.stored_bytes += list(&self.layout.dir("img"))?.iter().map(len).sum::<u64>();
        stats.stored_bytes += self.document_files()?.iter().map(len).sum::<u64>();
        let space = rustix::fs::statvfs(&self.layout.root).map_err(io::Error::from)?;
        stats.free_bytes = Some(space.f_bavail.saturating_mul(space.f_frsize));
        Ok(stats)
    }

    pub(super) fn big_files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = vec![];
        for fan in list(&self.layout.dir("big"))? {
            files.extend(list(&fan)?);
        }
        Ok(files)
    }
}

/// Reads a digest from the name of a file.
pub(super) fn name<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    path.as_ref().file_name()?.to_str()?.parse().ok()
}

/// Reads a release's file; `None` when it is not whole, or not what its name says.
pub(super) fn read_release(path: &Path) -> Option<StoredRelease> {
    let stored = layout::decode_release(&fs::read(path).ok()?)?;
    let app = path.parent()?.file_name()?.to_str()?;
    (name(path) == Some(stored.id) && app == stored.release.app.as_str()).then_some(stored)
}

fn of_blob(digest: Digest, error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ReadError::Damaged { digest },
        _ => ReadError::Store(error),
    }
}
