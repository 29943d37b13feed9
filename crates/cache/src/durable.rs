//! What is still there after a power cut: the one place that knows when a file, a name or a tree is on disk.
//!
//! First, in any order, file data and the directories of a tree are synced, which have no name yet that counts; then comes the rename, and then the directories that hold the new name and the
//! old one are synced, in any order too. After an error of a sync the kernel may have dropped the bytes and forgotten the error, so a file that failed once is thrown away and never synced again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::beneath::{self, Beneath};
use crate::place::At as _;

/// From so many files on (an image costs four to six syncs, never one a blob), one sync of the whole file system is cheaper than one of each (100,000 small files: seconds, not minutes).
const SYNC_ALL_FROM: usize = 3;

/// Threads that wait for a disk at once: they take no core meanwhile.
const WAITING: usize = 32;

/// How temporary names begin: one that is found while nobody writes is a leftover of a killed process, and may be removed.
pub const TEMPORARY: &str = ".df-new-";

/// A new file beside its future name: written, then committed by a rename, or gone when this is dropped.
pub struct Pending {
    file: File,
    path: PathBuf,
    committed: bool,
}

impl Pending {
    /// Makes a file (0600) with a temporary name in a directory.
    ///
    /// # Errors
    /// Those of making a file.
    pub fn beside(directory: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{TEMPORARY}{}-{n}", std::process::id()));
            // `create_new` follows no link that somebody planted under this name.
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("create", &path),
                Ok(file) => return Ok(Self { file, path, committed: false }),
            }
        }
    }

    /// Returns the file, for writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file, gives it its mode and its name, and syncs the directory. What had that name before is replaced.
    ///
    /// # Errors
    /// Whatever fails, the file is thrown away, unless only the last sync failed: then the new name is there and may not survive a power cut.
    pub fn replace(self, to: &Path, mode: u32) -> io::Result<()> {
        self.commit(to, mode, RenameFlags::empty())
    }

    /// Like [`Pending::replace`], but refuses when the name is taken.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub fn create(self, to: &Path, mode: u32) -> io::Result<()> {
        self.commit(to, mode, RenameFlags::NOREPLACE)
    }

    /// Gives the file its mode and syncs it; a name is given by [`Pending::rename_unsynced`].
    ///
    /// # Errors
    /// The file is of no use then.
    pub fn sync(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(mode)).at("set mode of", &self.path)?;
        self.file.sync_all().at("sync", &self.path)
    }

    /// Gives the file its name without syncing anything: for what may vanish, and for who synced it and syncs the directory together with others.
    ///
    /// # Errors
    /// The file is thrown away.
    pub fn rename_unsynced(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to).at("rename to", to)?;
        self.committed = true;
        Ok(())
    }

    fn commit(mut self, to: &Path, mode: u32, flags: RenameFlags) -> io::Result<()> {
        self.sync(mode)?;
        rustix::fs::renameat_with(CWD, &self.path, CWD, to, flags).at("rename to", to)?;
        self.committed = true;
        sync_dir(parent(to))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            // Leftovers of a killed process are swept by name; one of our own is removed here, and a failure leaves only a stray file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file whole or not at all, replacing what had the name; afterwards it survives a power cut.
///
/// # Errors
/// The old file is untouched, unless only the sync of the directory failed.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut pending = Pending::beside(parent(path))?;
    pending.file().write_all(bytes).at("write", path)?;
    pending.replace(path, mode)
}

/// Syncs a directory: the names in it survive a power cut.
///
/// # Errors
/// Those of opening and syncing.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).at("open directory", path)?;
    rustix::fs::fsync(fd).at("sync", path)
}

/// Does with each of these what waits for a disk, all at once: a journal that is written for one of them is written for all, and who comes a moment later waits
/// for the next time.
///
/// # Errors
/// The first of them.
pub fn at_once<T: Sync>(all: &[T], sync: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || std::iter::from_fn(|| all.get(next.fetch_add(1, Ordering::Relaxed))).try_for_each(&sync);
    thread::scope(|scope| {
        // Where no thread is to be had, this one does it all.
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..all.len().min(WAITING)).map_while(start).collect();
        let ours = work();
        let join = |other: thread::ScopedJoinHandle<'_, io::Result<()>>| {
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        others.into_iter().map(join).fold(ours, |first, other| first.and(other))
    })
}

/// Renames within one file system, replacing what had the name, and syncs both directories.
///
/// # Errors
/// Those of the rename and the syncs.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, RenameFlags::empty())
}

/// Renames to a name that must be free, and syncs both directories.
///
/// # Errors
/// `AlreadyExists` when the name is taken.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, RenameFlags::NOREPLACE)
}

/// Lets two names change places in one step, and syncs both directories: neither name is ever missing.
///
/// # Errors
/// Those of the rename and the syncs; both must exist.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    rename_with(a, b, RenameFlags::EXCHANGE)
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags).at("rename to", to)?;
    sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_dir(parent(from)) }
}

/// Gives a finished and synced tree its final name, which must be free, and syncs both directories.
///
/// A read-only directory cannot move to another parent unless root moves it, so where it must, its own mode is widened for that moment. A crash in between
/// leaves the top directory writable for its owner; nothing else.
///
/// # Errors
/// `AlreadyExists` when the name is taken.
pub fn publish(tree: &Path, to: &Path) -> io::Result<()> {
    match rename_new(tree, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        done => return done,
    }
    let mode = fs::symlink_metadata(tree).at("look at", tree)?.permissions().mode() & 0o777;
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("set mode of", path)?;
        sync_dir(path)
    };
    set(tree, mode | 0o700)?;
    let renamed = rename_new(tree, to);
    set(if renamed.is_ok() { to } else { tree }, mode)?;
    renamed
}

/// Gives a file and a finished tree, both synced, their names, the file first, and syncs the directories that hold them. What had the file's name is replaced, the
/// tree's must be free.
///
/// After a power cut in between, each of the two is there or is not, whichever was named first: some file systems log each directory by itself. Who finds the tree alone removes it, or
/// names it again.
///
/// # Errors
/// `AlreadyExists` when the tree's name is taken; the file has its name then, durably.
pub fn publish_beside(file: Pending, file_to: &Path, tree: &Path, to: &Path) -> io::Result<()> {
    file.rename_unsynced(file_to)?;
    if let Err(errno) = rustix::fs::renameat_with(CWD, tree, CWD, to, RenameFlags::NOREPLACE) {
        sync_dir(parent(file_to))?;
        // Only root may move a read-only directory; any other failure is told from there.
        return if errno == Errno::EXIST { Err(errno).at("rename to", to) } else { publish(tree, to) };
    }
    at_once(&[parent(to), parent(tree), parent(file_to)], |directory| sync_dir(directory))
}

/// Remembers a file system from before the first write, to sync it after the last.
///
/// The kernel reports an error of an earlier writeback only to descriptors that were open when it happened.
pub struct FileSystem {
    fd: OwnedFd,
    path: PathBuf,
}

impl FileSystem {
    /// Remembers the file system that holds a directory.
    ///
    /// # Errors
    /// Those of opening the directory.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory, flags, Mode::empty()).at("open directory", directory)?;
        Ok(Self { fd, path: directory.to_owned() })
    }

    /// Syncs everything on it. Linux 5.8 and newer report write errors here.
    ///
    /// # Errors
    /// What was written since this was made may be lost; throw it away.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.fd).at("sync the file system of", &self.path)
    }

    /// Syncs these files, one by one when they are few, else everything.
    ///
    /// # Errors
    /// What was written since this was made may be lost; throw it away.
    pub fn sync_files(&self, files: &[PathBuf]) -> io::Result<()> {
        if files.len() >= SYNC_ALL_FROM {
            return self.sync();
        }
        files.par_iter().try_for_each(|path| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty()).at("open", path)?;
            rustix::fs::fsync(fd).at("sync", path)
        })
    }
}

impl FileSystem {
    /// Syncs these directories, one by one when they are few, else everything.
    ///
    /// # Errors
    /// The names made in them may be lost.
    pub fn sync_dirs(&self, directories: &std::collections::BTreeSet<PathBuf>) -> io::Result<()> {
        if directories.len() >= SYNC_ALL_FROM {
            return self.sync();
        }
        directories.iter().try_for_each(|path| sync_dir(path))
    }
}

/// Removes a tree of any depth, read-only directories included. Not durable by itself and not in one step: rename it out of the way first.
///
/// Follows no symbolic link. A tree that is not there is no error.
///
/// # Errors
/// What could not be removed, named.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at("look at", path),
        Ok(metadata) if !metadata.is_dir() => return fs::remove_file(path).at("remove", path),
        Ok(_) => {}
    }
    // The name itself is judged once more by O_NOFOLLOW, then all work happens one level below a held descriptor: every directory found is moved up
    // beside its parent, so neither depth nor the length of a path matters.
    widen(CWD, path.as_os_str().as_encoded_bytes()).at("open", path)?;
    let top = Beneath::hold(path)?;
    let mut moved = 0_u64;
    loop {
        let listing = top.directory(b"").at("open", path)?;
        let names = beneath::names(&listing).at("read directory", path)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            remove_child(&top, &name, &mut moved).at("remove", &top.join(&name))?;
        }
    }
    fs::remove_dir(path).at("remove", path)
}

/// Removes a name in `top`; what is below it is removed too, or moved up into `top`.
fn remove_child(top: &Beneath, name: &[u8], moved: &mut u64) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    let directory = widen(top.as_fd(), name)?;
    for child in beneath::names(&directory)? {
        match rustix::fs::unlinkat(&directory, &child, AtFlags::empty()) {
            Ok(()) => continue,
            Err(Errno::ISDIR | Errno::PERM) => drop(widen(directory.as_fd(), &child)?),
            Err(error) => return Err(error),
        }
        loop {
            *moved += 1;
            let up = format!(".df-remove-{moved}");
            match rustix::fs::renameat_with(&directory, &child, top, &up, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => break result?,
            }
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Opens a directory, following no link, after giving its owner all rights on it.
fn widen(at: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&at, name, flags | OFlags::RDONLY, Mode::empty()) {
        Ok(fd) => rustix::fs::fchmod(&fd, Mode::RWXU).map(|()| fd),
        Err(Errno::ACCESS) => {
            // An unreadable directory: a descriptor without rights names it, so that no other file can be hit by the change of mode.
            let held = rustix::fs::openat(&at, name, flags | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
            rustix::fs::chmodat(CWD, path.as_str(), Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(&at, name, flags | OFlags::RDONLY, Mode::empty())
        }
        Err(error) => Err(error),
    }
}

/// Returns the directory that holds a path.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns whether a path is a directory that only its owner (this user or root) can write, and no symbolic link.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path).at("look at", path)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() || metadata.uid() == 0;
    Ok(metadata.is_dir() && ours && metadata.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_whole_or_refused_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        let create = |bytes: &[u8]| {
            let mut pending = Pending::beside(dir.path())?;
            pending.file().write_all(bytes)?;
            pending.create(&path, 0o444)
        };
        create(b"one").expect("written");
        assert_eq!(create(b"two").expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("a file"), b"one");
        write(&path, b"three", 0o600).expect("replaced");
        assert_eq!((fs::read(&path).expect("a file"), names(dir.path())), (b"three".to_vec(), vec!["a".to_owned()]));
    }

    #[test]
    fn a_link_under_the_name_is_replaced_never_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, victim) = (dir.path().join("a"), dir.path().join("victim"));
        fs::write(&victim, "safe").expect("written");
        std::os::unix::fs::symlink(&victim, &path).expect("a link");
        write(&path, b"new", 0o600).expect("written");
        assert_eq!(fs::read(&victim).expect("a file"), b"safe");
        assert!(fs::symlink_metadata(&path).expect("there").is_file());
    }

    #[test]
    fn exchange_swaps_and_rename_new_refuses() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").expect("written");
        fs::write(&b, "b").expect("written");
        assert!(rename_new(&a, &b).is_err());
        exchange(&a, &b).expect("swapped");
        assert_eq!((fs::read(&a).expect("a"), fs::read(&b).expect("b")), (b"b".to_vec(), b"a".to_vec()));
        rename(&a, &b).expect("renamed");
        assert_eq!(names(dir.path()), ["b"]);
    }

    #[test]
    fn a_deep_read_only_tree_is_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "x").expect("written");
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("made");
        // Longer than any path can be: built by descriptors.
        let mut at: OwnedFd = File::open(&top).expect("open").into();
        let name = "d".repeat(200);
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("made");
            let next = rustix::fs::openat(&at, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open");
            rustix::fs::symlinkat(&outside, &at, "link").expect("a link");
            rustix::fs::fchmod(&at, Mode::RUSR | Mode::XUSR).expect("read-only");
            at = next;
        }
        drop(at);
        remove_tree(&top).expect("removed");
        remove_tree(&top).expect("not there is no error");
        assert_eq!((names(dir.path()), names(&outside)), (vec!["outside".to_owned()], vec!["kept".to_owned()]));
    }

    #[test]
    fn a_tree_is_published_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("x"), dir.path().join("to"));
        fs::create_dir(&from).expect("made");
        fs::create_dir(&to).expect("made");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o555)).expect("read-only");
        publish(&from, &to.join("y")).expect("published");
        assert_eq!(fs::metadata(to.join("y")).expect("there").permissions().mode() & 0o777, 0o555);
        fs::create_dir(&from).expect("made");
        assert_eq!(publish(&from, &to.join("y")).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
    }
}
