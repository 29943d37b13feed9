//! Writing below a directory that is held open: no name is ever looked up twice, no link ever followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};

/// The one time of every source file: 1980-01-01, the earliest that a zip archive can say.
pub(crate) const EPOCH_S: i64 = 315_532_800;

/// The mode of a directory, and of an executable file.
pub(crate) const OPEN: Mode = Mode::from_raw_mode(0o755);
/// The mode of any other file.
pub(crate) const PLAIN: Mode = Mode::from_raw_mode(0o644);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory by its path; the last component may not be a link.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

/// Opens a directory by its name in another one.
pub(crate) fn open_in(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, &*c_name(name)?, DIRECTORY, Mode::empty())?)
}

/// Makes a directory (0755) if nothing has the name, and opens it.
pub(crate) fn make_in(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let c = c_name(name)?;
    match rustix::fs::mkdirat(dir, &*c, OPEN) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = open_in(dir, name)?;
    rustix::fs::fchmod(&made, OPEN)?;
    Ok(made)
}

/// Opens a regular file for reading, and nothing else of that name.
pub(crate) fn open_file(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, &*c_name(name)?, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Makes a new file of exactly this mode, whatever the umask is.
pub(crate) fn create_file(dir: BorrowedFd<'_>, name: &[u8], executable: bool) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, &*c_name(name)?, flags, Mode::RUSR | Mode::WUSR)?);
    rustix::fs::fchmod(&file, if executable { OPEN } else { PLAIN })?;
    Ok(file)
}

/// Makes a new file with these bytes.
pub(crate) fn write_file(dir: BorrowedFd<'_>, name: &[u8], executable: bool, bytes: &[u8]) -> io::Result<()> {
    create_file(dir, name, executable)?.write_all(bytes)
}

/// Makes a new symbolic link.
pub(crate) fn link(dir: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(&*c_text(target)?, dir, &*c_name(name)?)?)
}

/// Returns the bytes of a link's target.
pub(crate) fn read_link(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, &*c_name(name)?, Vec::new())?.into_bytes())
}

/// Returns what has a name, itself and not what it links to; `None` when nothing has.
pub(crate) fn look(dir: impl AsFd, name: &[u8]) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(dir, &*c_name(name)?, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the type in a stat.
pub(crate) fn type_of(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Returns the names in a directory, sorted.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![];
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes whatever has a name, a directory with all it holds, also when it was made unreadable.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let c = c_name(name)?;
    match rustix::fs::unlinkat(dir, &*c, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    // No recursion: what a build left may be deeper than the stack.
    let mut levels = vec![Level::open(dir, name)?];
    while let Some(level) = levels.last_mut() {
        if let Some(child) = level.directories.pop() {
            let inner = Level::open(level.fd.as_fd(), &child)?;
            levels.push(inner);
            continue;
        }
        let emptied = levels.pop().expect("the loop looked at it");
        let parent = levels.last().map_or(dir, |parent| parent.fd.as_fd());
        rustix::fs::unlinkat(parent, &*c_name(&emptied.name)?, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Sets the times of a name, itself, to 1980-01-01.
pub(crate) fn set_epoch(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::utimensat(dir, &*c_name(name)?, &epoch(), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the times of a directory that is open to 1980-01-01.
pub(crate) fn set_epoch_of(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::futimens(dir, &epoch())?)
}

/// The children of each directory of a sorted list, by position: what a walk by held descriptors needs.
pub(crate) struct Children(HashMap<Vec<u8>, Vec<usize>>);

impl Children {
    pub fn of<'a>(paths: impl Iterator<Item = &'a df_core::TreePath>) -> Self {
        let mut children: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (i, path) in paths.enumerate() {
            children.entry(path.parent().unwrap_or_default().to_vec()).or_default().push(i);
        }
        Self(children)
    }

    /// Returns the positions of what lies directly in a directory; the top is the empty path.
    pub fn in_directory(&self, path: &[u8]) -> &[usize] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }
}

/// A directory that is being removed: its files are gone, its directories are still to go.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    directories: Vec<Vec<u8>>,
}

impl Level {
    fn open(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let fd = open_writable(parent, name)?;
        let mut directories = vec![];
        for child in names(&fd)? {
            match rustix::fs::unlinkat(&fd, &*c_name(&child)?, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => directories.push(child),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { fd, name: name.to_vec(), directories })
    }
}

fn open_writable(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let is_directory = look(dir, name)?.is_some_and(|stat| type_of(&stat) == FileType::Directory);
    if is_directory {
        rustix::fs::chmodat(dir, &*c_name(name)?, Mode::RWXU, AtFlags::empty())?;
    }
    open_in(dir, name)
}

fn epoch() -> Timestamps {
    let time = Timespec { tv_sec: EPOCH_S, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Returns a name as the kernel wants it. What leads to anywhere but the directory itself is no name in it, whoever said it: `..` has no link to be caught by.
fn c_name(name: &[u8]) -> io::Result<CString> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no name in a directory"));
    }
    c_text(name)
}

fn c_text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name holds a NUL byte"))
}
