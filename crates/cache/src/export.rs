//! A manifest becomes a directory: new, path-safe, read-only, checked byte by byte and synced.
//!
//! Every file is hashed as it lands, whatever its source says; equal files of one executable bit share an inode. The directory is only ours (0700) until it
//! is complete, so its last mode says that it is. Giving it its name is the caller's: [`crate::durable::publish`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use df_core::{Digest, Entry, Hasher, Kind, Manifest, TreePath};
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::beneath::{self, Beneath};
use crate::blobs::{Blobs, Bytes, hash, open_file};
use crate::durable;

mod growing;

pub use growing::Growing;

/// A tree cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ExportError {
    #[error("make directory {}", path.display())]
    Destination {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("get the bytes of {path}")]
    Source {
        path: TreePath,
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("the source has other bytes for {path} than {}", digest.short())]
    Damaged { path: TreePath, digest: Digest },
    #[error("write {path}")]
    Write {
        path: TreePath,
        #[source]
        source: io::Error,
    },
    #[error("make the tree durable")]
    Sync(#[source] io::Error),
}

/// What an export did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Bytes that were written or cloned.
    pub written: u64,
    /// Bytes of files that are hard links to a twin in the same store.
    pub linked: u64,
}

/// Writes the tree into a directory that does not exist yet. Afterwards it survives a power cut.
///
/// # Errors
/// Nothing of the directory is left.
pub fn tree(manifest: &Manifest, source: &dyn Blobs, destination: &Path) -> Result<Exported, ExportError> {
    let failed = |source| ExportError::Destination { path: destination.to_owned(), source };
    rustix::fs::mkdirat(CWD, destination, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
    let done = Growing::at(manifest, destination, false).and_then(|growing| growing.finish(source));
    if done.is_err() {
        // The first error is the one worth telling; what cannot be removed now is unnamed and swept later.
        let _ = durable::remove_tree(destination);
    }
    done
}

/// What was brought to its names, and is not on disk yet.
#[derive(Default)]
struct Placed<'a> {
    exported: Exported,
    /// One name of each file that a power cut could take.
    unsynced: Vec<&'a TreePath>,
}

impl<'a> Placed<'a> {
    fn and(mut self, other: Self) -> Result<Self, ExportError> {
        self.exported.written += other.exported.written;
        self.exported.linked += other.exported.linked;
        self.unsynced.extend(other.unsynced);
        Ok(self)
    }

    fn write(&mut self, path: &'a TreePath, len: u64) {
        self.exported.written += len;
        self.unsynced.push(path);
    }
}

fn write_error<E: Into<io::Error>>(path: &TreePath) -> impl FnOnce(E) -> ExportError {
    let path = path.clone();
    move |source| ExportError::Write { path, source: source.into() }
}

/// One content and all its names, by executable bit.
struct Content<'a> {
    digest: Digest,
    len: u64,
    names: [Vec<&'a TreePath>; 2],
}

/// Groups files by content, the longest first: what takes longest starts first.
fn group(manifest: &Manifest) -> Vec<Content<'_>> {
    let mut places: HashMap<Digest, usize> = HashMap::new();
    let mut contents: Vec<Content<'_>> = vec![];
    for Entry { path, kind } in manifest.entries() {
        if let Kind::File { executable, len, digest } = *kind {
            let at = *places.entry(digest).or_insert(contents.len());
            if at == contents.len() {
                contents.push(Content { digest, len, names: [vec![], vec![]] });
            }
            contents[at].names[usize::from(executable)].push(path);
        }
    }
    contents.sort_by_key(|content| std::cmp::Reverse(content.len));
    contents
}

impl<'a> Content<'a> {
    /// Brings the content to all its names; to the first one only if it does not lie there already.
    fn place(&self, top: &Beneath, source: &dyn Blobs, lies_there: bool) -> Result<Placed<'a>, ExportError> {
        let mut placed = Placed::default();
        let mut bytes_at: Option<&TreePath> = None;
        for executable in [false, true] {
            let Some((&first, others)) = self.names[usize::from(executable)].split_first() else { continue };
            if lies_there && bytes_at.is_none() {
                placed.write(first, self.len);
            } else if self.link_twin(top, source, first, executable) {
                placed.exported.linked += self.len;
                placed.unsynced.extend((!source.twins_are_durable()).then_some(first));
            } else if let Some(from) = bytes_at {
                let from = Bytes::File(top.join(from.as_bytes()));
                self.write(top, from, first, executable)?;
                placed.write(first, self.len);
            } else {
                let failed = |source| ExportError::Source { path: first.clone(), digest: self.digest, source };
                let bytes = source.blob(self.digest).map_err(failed)?;
                self.write(top, bytes, first, executable)?;
                placed.write(first, self.len);
            }
            bytes_at = Some(first);
            for &other in others {
                let is_new = self.repeat(top, first, other, executable)?;
                placed.unsynced.extend(is_new.then_some(other));
            }
        }
        Ok(placed)
    }

    /// Hard-links a file of another image in the store, if there is one whose bytes and mode are right.
    fn link_twin(&self, top: &Beneath, source: &dyn Blobs, to: &TreePath, executable: bool) -> bool {
        let Some(twin) = source.twin(self.digest, executable) else { return false };
        let link = || -> io::Result<bool> {
            rustix::fs::linkat(CWD, &twin, top.parent(to.as_bytes())?, to.file_name(), AtFlags::empty())?;
            // Looked at under its new name, so that nobody can exchange it in between.
            let file = top.file(to.as_bytes())?;
            let metadata = file.metadata()?;
            let sealed = metadata.is_file() && metadata.permissions().mode() & 0o7777 == mode(executable);
            Ok(sealed && metadata.len() == self.len && hash(&file)?.0 == self.digest)
        };
        match link() {
            Ok(true) => true,
            Ok(false) | Err(_) => {
                // A damaged or missing twin, another file system, too many links: the bytes come from the source then.
                if let Ok(parent) = top.parent(to.as_bytes()) {
                    let _ = rustix::fs::unlinkat(parent, to.file_name(), AtFlags::empty());
                }
                false
            }
        }
    }

    /// Gives a file one more name; returns whether that took a file of its own.
    fn repeat(&self, top: &Beneath, first: &TreePath, to: &TreePath, executable: bool) -> Result<bool, ExportError> {
        let parent = top.parent(to.as_bytes()).map_err(write_error(to))?;
        match rustix::fs::linkat(top, first.as_bytes(), parent, to.file_name(), AtFlags::empty()) {
            Ok(()) => Ok(false),
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => {
                self.write(top, Bytes::File(top.join(first.as_bytes())), to, executable).map(|()| true)
            }
            Err(errno) => Err(write_error(to)(errno)),
        }
    }

    /// Brings the bytes to a path, checks them and gives the file its last mode and time.
    fn write(&self, top: &Beneath, bytes: Bytes, to: &TreePath, executable: bool) -> Result<(), ExportError> {
        let failed = |source| ExportError::Source { path: to.clone(), digest: self.digest, source };
        let (file, found) = match bytes {
            Bytes::Take(from) => match take(top, &from, to) {
                Ok(file) => {
                    let found = hash(&file).map_err(failed)?;
                    (file, found)
                }
                Err(_) => self.copy(top, Bytes::File(from), to)?,
            },
            other => self.copy(top, other, to)?,
        };
        if found != (self.digest, self.len) {
            return Err(ExportError::Damaged { path: to.clone(), digest: self.digest });
        }
        seal(&file, executable).map_err(write_error(to))
    }

    fn copy(&self, top: &Beneath, bytes: Bytes, to: &TreePath) -> Result<(File, (Digest, u64)), ExportError> {
        let failed = |source| ExportError::Source { path: to.clone(), digest: self.digest, source };
        let mut file = top.create(to.as_bytes()).map_err(write_error(to))?;
        if let Bytes::File(path) = &bytes {
            let from = open_file(path).map_err(failed)?;
            // Shared extents where the file system has them. Anything else is copied.
            if self.len > 0 && rustix::fs::ioctl_ficlone(&file, &from).is_ok() {
                file.rewind().map_err(write_error(to))?;
                let found = hash(&file).map_err(failed)?;
                return Ok((file, found));
            }
        }
        let reader = bytes.reader().map_err(failed)?;
        let found = copy_hashed(reader, &mut file, self.len, to, self.digest)?;
        Ok((file, found))
    }
}

/// Copies and hashes, stopping after one byte too many: a source that never ends fills no disk.
fn copy_hashed(
    reader: impl Read,
    file: &mut File,
    len: u64,
    to: &TreePath,
    digest: Digest,
) -> Result<(Digest, u64), ExportError> {
    let mut reader = reader.take(len.saturating_add(1));
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; usize::try_from(len.clamp(1, 128 << 10)).expect("at most 128 KiB")];
    let mut written = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), written)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ExportError::Source { path: to.clone(), digest, source }),
        };
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(write_error(to))?;
        written += n as u64;
    }
}

/// Moves a file that nobody else needs into the tree.
fn take(top: &Beneath, from: &Path, to: &TreePath) -> io::Result<File> {
    open_file(from)?;
    let parent = top.parent(to.as_bytes())?;
    rustix::fs::renameat_with(CWD, from, parent, to.file_name(), RenameFlags::NOREPLACE)?;
    Ok(top.file(to.as_bytes())?)
}

/// The mode of files of an image.
pub(crate) const fn mode(executable: bool) -> u32 {
    if executable { 0o555 } else { 0o444 }
}

/// Gives a file the mode and the time that files of images have.
pub(crate) fn seal(file: &File, executable: bool) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode(executable)))?;
    Ok(rustix::fs::futimens(file, &long_ago())?)
}

/// 1970-01-01T00:00:01Z: some programs take 0 for "no time".
fn long_ago() -> Timestamps {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    Timestamps { last_access: second, last_modification: second }
}

fn seal_directories(top: &Beneath, manifest: &Manifest) -> Result<(), ExportError> {
    let seal = |path: &[u8]| -> rustix::io::Result<()> {
        let fd = top.directory(path)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o555))?;
        rustix::fs::futimens(&fd, &long_ago())
    };
    directories(manifest).try_for_each(|path| seal(path.as_bytes()).map_err(write_error(path)))?;
    let top_error = |errno: Errno| ExportError::Destination { path: top.join(b""), source: errno.into() };
    seal(b"").map_err(top_error)
}

fn directories(manifest: &Manifest) -> impl Iterator<Item = &TreePath> {
    manifest.entries().iter().filter(|entry| entry.kind == Kind::Directory).map(|entry| &entry.path)
}

fn make_link(top: &Beneath, path: &TreePath, target: &[u8]) -> io::Result<()> {
    let parent = top.parent(path.as_bytes())?;
    Ok(rustix::fs::symlinkat(target, parent, beneath::name(path.as_bytes()))?)
}

/// Syncs what was written, and a file beside it: a few by themselves, more at once with the whole file system, which waits for what other programs wrote, too.
///
/// Nothing of it has a name that counts, so files need not be there before the directories that name them.
fn sync(
    top: &Beneath,
    file_system: &durable::FileSystem,
    manifest: &Manifest,
    files: &[&TreePath],
    beside: &(dyn Fn() -> io::Result<()> + Sync),
) -> io::Result<()> {
    const FEW: usize = 128;
    enum One<'a> {
        File(&'a TreePath),
        Directory(&'a [u8]),
        Beside,
    }
    let directories = directories(manifest).map(|path| One::Directory(path.as_bytes())).chain([One::Directory(b"")]);
    // What takes longest begins first.
    let all: Vec<One<'_>> = files.iter().map(|path| One::File(path)).chain([One::Beside]).chain(directories).collect();
    if all.len() > FEW {
        file_system.sync()?;
        return beside();
    }
    durable::at_once(&all, |one| match one {
        One::File(path) => Ok(rustix::fs::fsync(top.file(path.as_bytes())?)?),
        One::Directory(path) => Ok(rustix::fs::fsync(top.directory(path)?)?),
        One::Beside => beside(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;
    use crate::import::{self, ImportOptions};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    fn file(path: &str, bytes: &[u8], executable: bool) -> Entry {
        Entry {
            path: path.parse().expect("a path"),
            kind: Kind::File { executable, len: bytes.len() as u64, digest: Digest::of(bytes) },
        }
    }

    fn example() -> (Manifest, HashMap<Digest, Vec<u8>>) {
        let link = Kind::Symlink { target: b"../a"[..].into() };
        let manifest = Manifest::new(vec![
            file("a", b"same", false),
            file("b", b"same", false),
            file("c", b"same", true),
            Entry { path: "d".parse().expect("a path"), kind: Kind::Directory },
            file("d/empty", b"", false),
            Entry { path: "d/link".parse().expect("a path"), kind: link },
        ]);
        (manifest.expect("a tree"), [&b"same"[..], b""].iter().map(|b| (Digest::of(b), b.to_vec())).collect())
    }

    #[test]
    fn what_is_exported_imports_as_the_same_image_and_checks() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, source) = example();
        let out = dir.path().join("out");
        tree(&manifest, &source, &out).expect("exported");
        assert_eq!(import::tree(&out, ImportOptions::default()).expect("an image"), manifest);
        assert_eq!(check::tree(&out, &manifest).expect("read"), []);
        let look = |name: &str| fs::symlink_metadata(out.join(name)).expect("there");
        let facts = ["a", "b", "c", "d"].map(|name| (look(name).mode() & 0o7777, look(name).mtime()));
        assert_eq!(facts, [(0o444, 1), (0o444, 1), (0o555, 1), (0o555, 1)]);
        assert_eq!((look("a").ino() == look("b").ino(), look("a").ino() == look("c").ino()), (true, false));
        assert!(matches!(tree(&manifest, &source, &out), Err(ExportError::Destination { .. })), "only into a new directory");
        durable::remove_tree(&out).expect("removed");
    }

    #[test]
    fn wrong_missing_and_endless_bytes_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, good) = example();
        let out = dir.path().join("out");
        let mut wrong = good.clone();
        wrong.insert(Digest::of(b"same"), b"sama".to_vec());
        let endless = |_: Digest| -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::repeat(b's'))) };
        let lost: HashMap<Digest, Vec<u8>> = HashMap::new();
        for source in [&wrong as &dyn Blobs, &lost, &endless] {
            let error = tree(&manifest, source, &out).expect_err("refused");
            assert!(matches!(error, ExportError::Damaged { .. } | ExportError::Source { .. }), "{error}");
            assert!(!out.exists());
        }
    }

    struct Twins(PathBuf, HashMap<Digest, Vec<u8>>);

    impl Blobs for Twins {
        fn blob(&self, digest: Digest) -> io::Result<Bytes> {
            self.1.blob(digest)
        }
        fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
            (digest == Digest::of(b"same")).then(|| self.0.join(if executable { "c" } else { "a" }))
        }
    }

    #[test]
    fn twins_are_linked_when_they_are_whole_and_replaced_when_they_are_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, source) = example();
        let (one, two, three) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
        tree(&manifest, &source, &one).expect("exported");
        let twins = Twins(one.clone(), source);
        assert_eq!(tree(&manifest, &twins, &two).expect("exported"), Exported { written: 0, linked: 8 });
        let inode = |dir: &Path| fs::metadata(dir.join("a")).expect("there").ino();
        assert_eq!(inode(&one), inode(&two));
        fs::set_permissions(one.join("a"), fs::Permissions::from_mode(0o644)).expect("mode");
        fs::write(one.join("a"), "sama").expect("damaged");
        fs::set_permissions(one.join("a"), fs::Permissions::from_mode(0o444)).expect("mode");
        assert_eq!(tree(&manifest, &twins, &three).expect("exported"), Exported { written: 4, linked: 4 });
        assert_eq!(check::tree(&three, &manifest).expect("read"), []);
        for dir in [one, two, three] {
            durable::remove_tree(&dir).expect("removed");
        }
    }

    #[test]
    fn a_file_that_may_be_taken_is_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = dir.path().join("spool");
        fs::write(&spool, "same").expect("written");
        struct Spool(PathBuf);
        impl Blobs for Spool {
            fn blob(&self, _: Digest) -> io::Result<Bytes> {
                Ok(Bytes::Take(self.0.clone()))
            }
        }
        let manifest = Manifest::new(vec![file("a", b"same", false), file("b", b"same", true)]).expect("a tree");
        let out = dir.path().join("out");
        tree(&manifest, &Spool(spool.clone()), &out).expect("exported");
        assert!(!spool.exists());
        assert_eq!(check::tree(&out, &manifest).expect("read"), []);
        durable::remove_tree(&out).expect("removed");
    }
}
