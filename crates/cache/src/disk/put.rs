//! How things come into the store: written beside it, synced, named.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use df_core::{Digest, ImageId, Manifest, Release, Timestamp, text};
use rayon::prelude::*;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{DiskStore, lock};
use crate::blobs::{Blobs, Bytes, hash, open_file, read_checked};
use crate::durable::{self, FileSystem, Pending};
use crate::index::Index;
use crate::layout::{self, BIG_FROM};
use crate::pack::{self, Slot};
use crate::place::At as _;
use crate::store::{Added, PutError, StoredRelease};

/// Bytes of blobs that go into one pack; with compression it is 16 to 32 MiB on disk.
const PACK_BYTES: u64 = 32 << 20;

/// Packs that are written and not yet named.
pub(super) struct Batch {
    /// Temporary and last name.
    renames: Vec<(PathBuf, PathBuf)>,
    pub(super) packs: Vec<(Digest, Vec<Slot>)>,
    file_system: FileSystem,
    workspace: lock::Workspace,
}

impl DiskStore {
    pub(super) fn add_image(&self, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        let _shared = lock::shared(&self.layout)?;
        let index = self.index()?;
        let encoded = manifest.encode();
        let image = ImageId(Digest::of(&encoded));
        let missing: Vec<(Digest, u64)> =
            manifest.blobs().into_iter().filter(|&(digest, len)| !self.holds(&index, digest, len)).collect();
        let path = self.layout.image(image);
        if missing.is_empty() && fs::read(&path).is_ok_and(|found| found == encoded) {
            File::open(&path).and_then(|file| file.set_modified(time(now))).at("set time of", &path)?;
            return Ok(Added::default());
        }
        // Here, where something is written anyway, the leftovers of those who died are removed; failing to is no reason not to put.
        let _ = lock::sweep_workspaces(&self.layout);
        let mut batch = self.batch()?;
        batch.take_all(self, &missing, blobs)?;
        batch.publish()?;
        self.adopt(&index, &batch)?;
        let mut pending = Pending::beside(batch.workspace.path())?;
        pending.file().write_all(&encoded).at("write", &path)?;
        pending.file().set_modified(time(now)).at("set time of", &path)?;
        pending.replace(&path, 0o444)?;
        Ok(Added { n_blobs: missing.len() as u64, bytes: missing.iter().map(|(_, len)| len).sum() })
    }

    pub(super) fn add_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError> {
        let _shared = lock::shared(&self.layout)?;
        if !self.is_complete(release.image).map_err(io::Error::from)? {
            return Err(PutError::NoImage { image: release.image });
        }
        let sequence = 1 + self.list()?.releases.last().map_or(0, |stored| stored.sequence);
        let stored = StoredRelease::new(release.clone(), sequence, now);
        let app = self.layout.app(&release.app);
        match fs::DirBuilder::new().mode(0o700).create(&app) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => {
                result.at("make directory", &app)?;
                durable::sync_dir(durable::parent(&app))?;
            }
        }
        let workspace = lock::Workspace::make(&self.layout)?;
        let mut pending = Pending::beside(workspace.path())?;
        pending.file().write_all(&layout::encode_release(&stored)).at("write", &app)?;
        Ok(pending.replace(&self.layout.release(&release.app, stored.id), 0o444)?)
    }

    pub(super) fn add_pin(&self, image: ImageId, why: &str) -> Result<(), PutError> {
        let _shared = lock::shared(&self.layout)?;
        if !self.is_complete(image).map_err(io::Error::from)? {
            return Err(PutError::NoImage { image });
        }
        let line = format!("{}\n", text::shorten(&text::escape(why.as_bytes()), df_core::limits::TEXT_LEN));
        Ok(durable::write(&self.layout.pin(image), line.as_bytes(), 0o600)?)
    }

    pub(super) fn remove_pin(&self, image: ImageId) -> Result<bool, PutError> {
        let _shared = lock::shared(&self.layout)?;
        let path = self.layout.pin(image);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => {
                result.at("remove", &path)?;
                durable::sync_dir(durable::parent(&path))?;
                Ok(true)
            }
        }
    }

    /// Begins to write blobs. Needs the lock, shared or exclusive.
    pub(super) fn batch(&self) -> io::Result<Batch> {
        Ok(Batch {
            renames: vec![],
            packs: vec![],
            file_system: FileSystem::of(&self.layout.root)?,
            workspace: lock::Workspace::make(&self.layout)?,
        })
    }

    /// Makes the packs of a published batch known to this and later processes.
    pub(super) fn adopt(&self, index: &Index, batch: &Batch) -> io::Result<()> {
        if batch.packs.is_empty() {
            return Ok(());
        }
        let index = index.with(&batch.packs);
        index.save(&self.layout, batch.workspace.path())?;
        self.set_index(Some(index));
        Ok(())
    }

    /// Returns whether a blob of this length has a place. Reads nothing of it.
    pub(super) fn holds(&self, index: &Index, digest: Digest, len: u64) -> bool {
        if len < BIG_FROM {
            return index.find(digest).any(|(_, slot)| u64::from(slot.len) == len);
        }
        fs::symlink_metadata(self.layout.big(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == len)
    }
}

impl Batch {
    /// Writes these blobs: large ones as files, the others into packs.
    pub(super) fn take_all(&mut self, store: &DiskStore, blobs: &[(Digest, u64)], source: &dyn Blobs) -> Result<(), PutError> {
        let (mut big, small): (Vec<_>, Vec<_>) = blobs.iter().copied().partition(|(_, len)| *len >= BIG_FROM);
        big.sort_by_key(|&(_, len)| std::cmp::Reverse(len));
        let directory = self.workspace.path();
        let taken: Vec<(PathBuf, PathBuf)> = big
            .par_iter()
            .map(|&(digest, len)| {
                let temporary = directory.join(digest.to_string());
                take_big(&temporary, digest, len, source)?;
                Ok((temporary, store.layout.big(digest)))
            })
            .collect::<Result<_, PutError>>()?;
        self.renames.extend(taken);
        for group in groups(&small) {
            let records =
                group.par_iter().map(|&(digest, len)| take_small(digest, len, source)).collect::<Result<Vec<_>, PutError>>()?;
            self.add_pack(store, &records)?;
        }
        Ok(())
    }

    /// Writes records as one pack.
    pub(super) fn add_pack(&mut self, store: &DiskStore, records: &[Vec<u8>]) -> io::Result<()> {
        let (bytes, id, slots) = pack::pack(records);
        let temporary = self.workspace.path().join(format!("{id}.pack"));
        fs::write(&temporary, bytes).at("write", &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o444)).at("set mode of", &temporary)?;
        self.renames.push((temporary, store.layout.pack(id)));
        self.packs.push((id, slots));
        Ok(())
    }

    /// Syncs what was written, then names it, then syncs the names.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        self.sync_files()?;
        let mut directories = BTreeSet::new();
        for (from, to) in self.renames.drain(..) {
            match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                // Somebody else put the same bytes; the name says what they are.
                Err(Errno::EXIST) => {}
                result => result.at("rename to", &to)?,
            }
            directories.insert(durable::parent(&to).to_owned());
        }
        self.file_system.sync_dirs(&directories)
    }

    /// Syncs what was written.
    pub(super) fn sync_files(&self) -> io::Result<()> {
        let files: Vec<PathBuf> = self.renames.iter().map(|(from, _)| from.clone()).collect();
        self.file_system.sync_files(&files)
    }

    /// Hands out the temporary and last names, for a caller that names them in its own way after [`Batch::sync_files`].
    pub(super) fn take_renames(&mut self) -> Vec<(PathBuf, PathBuf)> {
        std::mem::take(&mut self.renames)
    }

    pub(super) fn path(&self) -> &Path {
        self.workspace.path()
    }
}

fn time(now: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(now.0).unwrap_or(0))
}

/// Cuts blobs into groups for one pack each, in their order.
pub(super) fn groups(blobs: &[(Digest, u64)]) -> Vec<&[(Digest, u64)]> {
    let mut groups = vec![];
    let (mut start, mut bytes) = (0, 0);
    for (i, (_, len)) in blobs.iter().enumerate() {
        // What a record and its slot take besides the blob.
        let cost = len + 96;
        if i > start && bytes + cost > PACK_BYTES {
            groups.push(&blobs[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += cost;
    }
    if start < blobs.len() {
        groups.push(&blobs[start..]);
    }
    groups
}

fn source_error(digest: Digest) -> impl FnOnce(io::Error) -> PutError {
    move |source| match source.kind() {
        io::ErrorKind::InvalidData => PutError::WrongBytes { digest },
        _ => PutError::Source { digest, source },
    }
}

pub(super) fn take_small(digest: Digest, len: u64, source: &dyn Blobs) -> Result<Vec<u8>, PutError> {
    let reader = source.blob(digest).and_then(Bytes::reader).map_err(source_error(digest))?;
    let bytes = read_checked(reader, digest, len).map_err(source_error(digest))?;
    Ok(pack::record(digest, &bytes))
}

fn take_big(to: &Path, digest: Digest, len: u64, source: &dyn Blobs) -> Result<(), PutError> {
    let bytes = source.blob(digest).map_err(source_error(digest))?;
    let mut file = File::options().read(true).write(true).create_new(true).open(to).at("create", to)?;
    if !cloned(&file, &bytes) {
        let mut reader = bytes.reader().map_err(source_error(digest))?.take(len + 1);
        copy(&mut *reader.by_ref(), &mut file, digest, to)?;
        file.rewind().at("read", to)?;
    }
    // Read back from the copy: it is what will be handed out.
    if hash(&file).at("read", to)? != (digest, len) {
        return Err(PutError::WrongBytes { digest });
    }
    Ok(file.set_permissions(fs::Permissions::from_mode(0o444)).at("set mode of", to)?)
}

/// Shares the extents of a file where the file system can.
fn cloned(file: &File, bytes: &Bytes) -> bool {
    match bytes {
        Bytes::File(path) | Bytes::Take(path) => open_file(path).is_ok_and(|from| rustix::fs::ioctl_ficlone(file, from).is_ok()),
        Bytes::Read(_) => false,
    }
}

/// Copies, and says whose fault an error is.
fn copy(reader: &mut dyn io::Read, file: &mut File, digest: Digest, to: &Path) -> Result<(), PutError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => file.write_all(&buffer[..n]).at("write", to)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(source_error(digest)(error)),
        }
    }
}
