//! Paths below one held directory, opened so that no symbolic link and no `..` is ever followed.
//!
//! Every open is one `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` (Linux 5.6) from the held descriptor: checking a path first and opening it
//! later can be raced by anyone who may write in the tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, openat2};
use rustix::io::Errno;

use crate::place::At as _;

/// Room for what one call tells of a directory: some thousand names.
const LISTING_LEN: usize = 32 << 10;

/// A directory held open, and the paths below it.
pub(crate) struct Beneath {
    fd: OwnedFd,
    path: PathBuf,
    resolve: ResolveFlags,
}

impl Beneath {
    /// Holds a directory; the last component of its path may not be a symbolic link.
    pub(crate) fn hold(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).at("open directory", path)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(Self { fd, path: path.to_owned(), resolve })
    }

    /// Refuses to cross into a file system that is mounted inside the directory.
    pub(crate) fn without_mounts(mut self) -> Self {
        self.resolve |= ResolveFlags::NO_XDEV;
        self
    }

    /// Returns the whole path of one below, for messages.
    pub(crate) fn join(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(Path::new(std::ffi::OsStr::from_bytes(path))) }
    }

    /// Opens a directory below; the empty path is the held one.
    pub(crate) fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens a file below for reading. A fifo does not block; the caller looks at what it got.
    pub(crate) fn file(&self, path: &[u8]) -> rustix::io::Result<File> {
        self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map(File::from)
    }

    /// Makes a file below that is not there yet.
    pub(crate) fn create(&self, path: &[u8]) -> rustix::io::Result<File> {
        self.open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    /// Opens a file below for writing.
    pub(crate) fn writable(&self, path: &[u8]) -> rustix::io::Result<File> {
        self.open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map(File::from)
    }

    /// Opens the directory that holds a path below, for calls that take a directory and a name.
    pub(crate) fn parent(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => self.directory(&path[..slash]),
            None => self.directory(b""),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The kernel answers EAGAIN when a rename elsewhere made it unsure; a few tries are its documented remedy.
        let mut tries = 0;
        loop {
            match openat2(&self.fd, path, flags, mode, self.resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
                result => return result,
            }
        }
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the last component of a path below.
pub(crate) fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// Returns the path of a name in a directory below; the empty path is the held one.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_owned() } else { [directory, b"/", name].concat() }
}

/// Returns the names in an open directory, without `.` and `..`, in no order.
pub(crate) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    Ok(listing(directory)?.into_iter().map(|(name, _)| name).collect())
}

/// Returns the names in an open directory and what each is as far as the file system tells for nothing: some know no kinds. The descriptor is read to its end.
pub(crate) fn listing(directory: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let (mut buffer, mut found) = (vec![], vec![]);
    buffer.reserve(LISTING_LEN);
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}
