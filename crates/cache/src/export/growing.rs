//! A tree that grows blob by blob, in any order, by several threads, in more than one sitting; its last step makes it what [`super::tree`] makes.
//!
//! What comes lies in its place at once: nothing is written twice or moved. Until the end a content has one name, the first of those it will have; a file without write
//! permission has all its bytes, if the machine did not lose its power since. Whoever goes on with what an earlier process left hashes it first.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use df_core::{Digest, Entry, Hasher, Kind, Manifest, TreePath};
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::{ExportError, Exported, Placed, directories, group, make_link, mode, seal, seal_directories, sync, write_error};
use crate::beneath::Beneath;
use crate::blobs::Blobs;
use crate::durable;

/// A tree under way.
pub struct Growing {
    manifest: Manifest,
    top: Beneath,
    file_system: durable::FileSystem,
    /// Where each content comes to lie first.
    first: HashMap<Digest, First>,
    /// What was put here, or found to be right, in this sitting.
    there: Mutex<HashSet<Digest>>,
    /// Whether an earlier sitting may have left something.
    is_old: bool,
}

#[derive(Clone, Copy)]
struct First {
    entry: usize,
    executable: bool,
    len: u64,
}

impl Growing {
    /// Makes the directories of a tree; the destination must not exist.
    ///
    /// # Errors
    /// What was made stays.
    pub fn in_new(manifest: &Manifest, destination: &Path) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Destination { path: destination.to_owned(), source };
        rustix::fs::mkdirat(CWD, destination, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
        Self::at(manifest, destination, false)
    }

    /// Goes on with a tree that an earlier sitting began for the same manifest, or begins it.
    ///
    /// # Errors
    /// A directory cannot be made, or is none of ours.
    pub fn in_old(manifest: &Manifest, destination: &Path) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Destination { path: destination.to_owned(), source };
        match rustix::fs::mkdirat(CWD, destination, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => other.map_err(|errno| failed(errno.into()))?,
        }
        Self::at(manifest, destination, true)
    }

    /// Begins in a directory that exists.
    pub(super) fn at(manifest: &Manifest, destination: &Path, is_old: bool) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Destination { path: destination.to_owned(), source };
        let file_system = durable::FileSystem::of(destination).map_err(failed)?;
        let top = Beneath::hold(destination).map_err(failed)?;
        if is_old {
            // Sealed, when the earlier sitting was at its end.
            rustix::fs::fchmod(&top, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
        }
        // A manifest lists each directory before what it holds.
        for path in directories(manifest) {
            make_directory(&top, path, is_old).map_err(write_error(path))?;
        }
        let first = first_names(manifest);
        Ok(Self { manifest: manifest.clone(), top, file_system, first, there: Mutex::default(), is_old })
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Puts a content in its place; its bytes were checked. What an earlier sitting left there is replaced.
    ///
    /// # Errors
    /// It cannot be written, or the tree has no such content.
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let first = self.first(digest)?;
        let file = self.create(first)?;
        file.write_all_at(bytes, 0)?;
        seal(&file, first.executable)?;
        self.there().insert(digest);
        Ok(())
    }

    /// Puts a stretch of a long content in its place, after what is there of it already.
    ///
    /// # Errors
    /// It cannot be written, or the tree has no such content.
    pub fn put_stretch(&self, digest: Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let first = self.first(digest)?;
        let file = if offset == 0 { self.create(first)? } else { self.top.writable(self.path(first).as_bytes())? };
        // What came behind it before a cut comes again.
        file.set_len(offset)?;
        file.write_all_at(bytes, offset)
    }

    /// Says that a content that came in stretches is complete and was checked.
    ///
    /// # Errors
    /// Its mode or time cannot be set.
    pub fn seal(&self, digest: Digest) -> io::Result<()> {
        let first = self.first(digest)?;
        seal(&self.top.file(self.path(first).as_bytes())?, first.executable)?;
        self.there().insert(digest);
        Ok(())
    }

    /// Hashes the first `len` bytes of what lies in a content's place; `None` when there are fewer. A content that is found whole and right need not be put.
    pub fn hash(&self, digest: Digest, len: u64) -> Option<Hasher> {
        let first = self.first(digest).ok()?;
        let file = self.top.file(self.path(first).as_bytes()).ok()?;
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.len() >= len)?;
        let hasher = hash_first(&file, len).ok()?;
        if len == first.len && metadata.len() == len && hasher.finish() == digest {
            seal(&file, first.executable).ok()?;
            self.there().insert(digest);
        }
        Some(hasher)
    }

    /// Hashes everything that an earlier sitting left: what is right need not be put.
    pub fn look_over(&self) {
        self.first.par_iter().for_each(|(digest, first)| drop(self.hash(*digest, first.len)));
    }

    /// Returns whether a content was put, or found right, in this sitting.
    pub fn has(&self, digest: Digest) -> bool {
        self.there().contains(&digest)
    }

    /// Returns the contents that lie in their places as far as can be told without reading them: as an image of its own, of their first names.
    pub fn complete(manifest: &Manifest, destination: &Path) -> Manifest {
        let is_there = |entry: &Entry, first: &First| {
            let found = std::fs::symlink_metadata(destination.join(entry.path.as_path()));
            found.is_ok_and(|it| {
                it.is_file() && it.len() == first.len && it.permissions().mode() & 0o7777 == mode(first.executable)
            })
        };
        let mut keep = HashSet::new();
        for first in first_names(manifest).values() {
            let entry = &manifest.entries()[first.entry];
            if is_there(entry, first) {
                keep.insert(entry.path.as_bytes());
                // The directories above it.
                let path = entry.path.as_bytes();
                keep.extend(path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(slash, _)| &path[..slash]));
            }
        }
        let entries = manifest.entries().iter().filter(|entry| keep.contains(entry.path.as_bytes())).cloned().collect();
        Manifest::new(entries).expect("a part of a tree that keeps all directories above it")
    }

    /// Brings what is missing from a source, gives every file all its names, and seals the tree. Afterwards it survives a power cut.
    ///
    /// # Errors
    /// The tree is not complete, and can be gone on with.
    pub fn finish(self, source: &dyn Blobs) -> Result<Exported, ExportError> {
        self.finish_with(source, &|| Ok(()))
    }

    /// As [`Self::finish`]; `beside` syncs what the caller wrote elsewhere: in the same round, or right after it where so much is new that the whole file system is synced at once.
    ///
    /// # Errors
    /// As there.
    pub fn finish_with(self, source: &dyn Blobs, beside: &(dyn Fn() -> io::Result<()> + Sync)) -> Result<Exported, ExportError> {
        let files = group(&self.manifest);
        let there = self.there.into_inner().unwrap_or_else(PoisonError::into_inner);
        let top = &self.top;
        if self.is_old {
            clear(top, &self.manifest, &self.first, &there)?;
        }
        let placed = files.par_iter().map(|file| file.place(top, source, there.contains(&file.digest)));
        let placed = placed.try_reduce(Placed::default, Placed::and)?;
        self.manifest.entries().par_iter().try_for_each(|entry| match &entry.kind {
            Kind::Symlink { target } => make_link(top, &entry.path, target).map_err(write_error(&entry.path)),
            _ => Ok(()),
        })?;
        seal_directories(top, &self.manifest)?;
        sync(top, &self.file_system, &self.manifest, &placed.unsynced, beside).map_err(ExportError::Sync)?;
        Ok(placed.exported)
    }

    fn first(&self, digest: Digest) -> io::Result<First> {
        self.first.get(&digest).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn path(&self, first: First) -> &TreePath {
        &self.manifest.entries()[first.entry].path
    }

    fn there(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, first: First) -> io::Result<File> {
        let path = self.path(first);
        match self.top.create(path.as_bytes()) {
            Err(Errno::EXIST) => {
                unlink(&self.top, path)?;
                Ok(self.top.create(path.as_bytes())?)
            }
            other => Ok(other?),
        }
    }
}

/// Returns where each content comes to lie first: the place that [`super::Content::place`] begins with.
fn first_names(manifest: &Manifest) -> HashMap<Digest, First> {
    let mut first: HashMap<Digest, First> = HashMap::new();
    for (number, entry) in manifest.entries().iter().enumerate() {
        if let Kind::File { executable, len, digest } = entry.kind {
            let here = First { entry: number, executable, len };
            let known = first.entry(digest).or_insert(here);
            if known.executable && !executable {
                *known = here;
            }
        }
    }
    first
}

fn make_directory(top: &Beneath, path: &TreePath, is_old: bool) -> rustix::io::Result<()> {
    let parent = top.parent(path.as_bytes())?;
    match rustix::fs::mkdirat(parent, path.file_name(), Mode::RWXU) {
        Err(Errno::EXIST) if is_old => rustix::fs::fchmod(top.directory(path.as_bytes())?, Mode::RWXU),
        other => other,
    }
}

/// Removes every name that an earlier sitting made and that is not known to be right.
fn clear(top: &Beneath, manifest: &Manifest, first: &HashMap<Digest, First>, there: &HashSet<Digest>) -> Result<(), ExportError> {
    manifest.entries().par_iter().enumerate().try_for_each(|(number, entry)| {
        let stays = match entry.kind {
            Kind::Directory => true,
            Kind::Symlink { .. } => false,
            Kind::File { digest, .. } => first[&digest].entry == number && there.contains(&digest),
        };
        if stays { Ok(()) } else { unlink(top, &entry.path).map_err(write_error(&entry.path)) }
    })
}

fn unlink(top: &Beneath, path: &TreePath) -> io::Result<()> {
    match rustix::fs::unlinkat(top.parent(path.as_bytes())?, path.file_name(), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn hash_first(file: &File, len: u64) -> io::Result<Hasher> {
    let mut hasher = Hasher::new();
    let copied = io::copy(&mut file.take(len), &mut hasher)?;
    if copied == len { Ok(hasher) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

impl std::fmt::Debug for Growing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Growing").field("at", &self.top.join(b"")).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check, import};

    fn file(path: &str, bytes: &[u8], executable: bool) -> Entry {
        let kind = Kind::File { executable, len: bytes.len() as u64, digest: Digest::of(bytes) };
        Entry { path: path.parse().expect("a path"), kind }
    }

    fn directory(path: &str) -> Entry {
        Entry { path: path.parse().expect("a path"), kind: Kind::Directory }
    }

    fn example() -> Manifest {
        let link = Kind::Symlink { target: b"x"[..].into() };
        Manifest::new(vec![
            file("a", b"same", true),
            file("b", b"same", false),
            directory("d"),
            file("d/b", b"same", false),
            file("d/long", b"0123456789", false),
            Entry { path: "d/link".parse().expect("a path"), kind: link },
            directory("e"),
            file("e/empty", b"", false),
            file("e/old", b"held", false),
        ])
        .expect("a tree")
    }

    fn source() -> HashMap<Digest, Vec<u8>> {
        [(Digest::of(b"held"), b"held".to_vec())].into()
    }

    #[track_caller]
    fn is_right(manifest: &Manifest, at: &Path) {
        assert_eq!(check::tree(at, manifest).expect("read"), []);
        assert_eq!(import::tree(at, import::ImportOptions::default()).expect("an image"), *manifest);
    }

    #[test]
    fn what_came_blob_by_blob_is_the_tree() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, at) = (example(), dir.path().join("tree"));
        let growing = Growing::in_new(&manifest, &at).expect("begun");
        growing.put(Digest::of(b"same"), b"same").expect("put");
        growing.put(Digest::of(b""), b"").expect("put");
        let long = Digest::of(b"0123456789");
        growing.put_stretch(long, 0, b"01234").expect("put");
        growing.put_stretch(long, 5, b"56789").expect("put");
        growing.seal(long).expect("sealed");
        assert!(growing.put(Digest::of(b"stranger"), b"stranger").is_err());
        let exported = growing.finish(&source()).expect("finished");
        assert_eq!(exported.written, 4 + 4 + 10 + 4);
        is_right(&manifest, &at);
    }

    #[test]
    fn what_an_earlier_sitting_left_is_believed_only_when_it_is_right() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, at) = (example(), dir.path().join("tree"));
        let (same, long) = (Digest::of(b"same"), Digest::of(b"0123456789"));
        let growing = Growing::in_new(&manifest, &at).expect("begun");
        growing.put(same, b"same").expect("put");
        growing.put_stretch(long, 0, b"0123wrong").expect("put");
        drop(growing);
        let names = |manifest: &Manifest| manifest.entries().iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&Growing::complete(&manifest, &at)), ["b"]);
        // What the end of the earlier sitting may have left: links, names, sealed directories.
        std::fs::write(at.join("e/old"), "other").expect("written");
        std::fs::write(at.join("a"), "other").expect("written");
        std::os::unix::fs::symlink("elsewhere", at.join("d/link")).expect("a link");
        std::fs::set_permissions(at.join("e"), std::fs::Permissions::from_mode(0o555)).expect("sealed");

        let growing = Growing::in_old(&manifest, &at).expect("gone on");
        growing.look_over();
        assert!(growing.has(same) && !growing.has(long));
        assert_eq!(growing.hash(long, 4).map(|hasher| hasher.finish()), Some(Digest::of(b"0123")));
        assert!(growing.hash(long, 10).is_none() && growing.hash(Digest::of(b""), 0).is_none());
        growing.put(Digest::of(b""), b"").expect("put");
        growing.put_stretch(long, 4, b"456789").expect("put");
        growing.seal(long).expect("sealed");
        growing.finish(&source()).expect("finished");
        is_right(&manifest, &at);
    }

    #[test]
    fn what_is_complete_is_an_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, at) = (example(), dir.path().join("tree"));
        assert_eq!(Growing::complete(&manifest, &at).entries(), []);
        let growing = Growing::in_new(&manifest, &at).expect("begun");
        growing.put(Digest::of(b""), b"").expect("put");
        drop(growing);
        let complete = Growing::complete(&manifest, &at);
        assert_eq!(complete, Manifest::new(vec![directory("e"), file("e/empty", b"", false)]).expect("a tree"));
        std::fs::set_permissions(at.join("e/empty"), std::fs::Permissions::from_mode(0o644)).expect("opened");
        assert_eq!(Growing::complete(&manifest, &at).entries(), []);
    }
}
