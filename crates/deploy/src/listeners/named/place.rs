//! Where a socket lies in the file system: a directory that nobody else can change, and what is found in it.

use crate::claim::{self, ClaimError};
use crate::launch::Ids;
use df_core::{Endpoint, SocketPath};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::fs::{chmod, chownat, fstat, linkat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::getsockname;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// How long who listens may take to let us in; that it does is all that is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bits of a directory's mode that let others than its owner put things in it, and the one that keeps them from taking things away.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A socket cannot be where it shall.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The path leads through something that is not a directory of ours or of root.
    #[error("the directory {path} of a socket {why}")]
    Directory { path: String, why: &'static str },
    /// Something lies there.
    #[error("{path} is there and is not a socket; nothing is removed that df has not made")]
    NotSocket { path: String },
    /// The system refused.
    #[error("the socket {path}")]
    System {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Somebody listens there.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// What tells a file from every other.
pub type FileId = (u64, u64);

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The file that was asked about.
    This,
    /// Nothing, or something else.
    Other,
}

/// The directory of a socket.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// Refuses a path at which somebody listens, or where anything but a socket lies. A socket that nobody listens on may be replaced.
pub fn check(path: &SocketPath) -> Result<(), PlaceError> {
    check_name(path, path.as_str())
}

/// Refuses a name in the directory of a path that somebody listens at, or where anything but a socket lies.
pub fn check_name(path: &SocketPath, name: &str) -> Result<(), PlaceError> {
    let whole = beside(path, file_name_of(name));
    let system = |source| PlaceError::System { path: whole.clone(), source };
    match statat(CWD, &whole, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(system(error.into())),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(PlaceError::NotSocket { path: whole });
        }
        Ok(_) => {}
    }
    match crate::dial::unix(&whole, PATIENCE) {
        Ok(stream) => Err(held(path, &stream).into()),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // Its queue is full, it speaks datagrams, or we may not: somebody is there.
        Err(_) => Err(ClaimError::HeldUnseen { at: Endpoint::Unix(path.clone()) }.into()),
    }
}

/// Returns the name of a generation's own socket.
pub fn own_name(path: &SocketPath, generation: u64) -> String {
    format!(".{}.df-{generation}", file_name(path))
}

/// Returns the path of a name in the directory of the socket.
pub fn beside(path: &SocketPath, name: &str) -> String {
    format!("{}{name}", directory_of(path))
}

/// Returns the last part of the path.
pub fn file_name(path: &SocketPath) -> &str {
    file_name_of(path.as_str())
}

fn file_name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Tells whether a socket listens under a name of ours beside the path.
pub fn is_beside(socket: &OwnedFd, path: &SocketPath) -> bool {
    let bound = getsockname(socket).ok().and_then(|address| rustix::net::SocketAddrUnix::try_from(address).ok());
    let bound = bound.and_then(|address| Some(address.path()?.to_string_lossy().into_owned()));
    let listens = rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    let prefix = beside(path, &format!(".{}.df-", file_name(path)));
    listens && bound.is_some_and(|bound| bound.starts_with(&prefix))
}

/// Returns what tells a file from others.
pub fn id(file: &OwnedFd) -> Option<FileId> {
    fstat(file).ok().map(|stat| id_of(&stat))
}

/// Gives a socket to a user.
pub fn give(file: &OwnedFd, owner: &Ids) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    Ok(chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Sets the permissions of the very file, whatever lies at its names by now.
pub fn open_to(file: &OwnedFd, mode: u16) -> io::Result<()> {
    Ok(chmod(itself(file), Mode::from_raw_mode(mode.into()))?)
}

impl Directory {
    /// Opens the directory of a path, which is made if only the last one is missing; refuses one in which others could move what is ours.
    pub fn open(path: &SocketPath) -> Result<Self, PlaceError> {
        let whole = directory_of(path);
        let mut at = String::from("/");
        let mut directory = enter(None, "/", &at)?;
        let parts: Vec<&str> = whole.split('/').filter(|part| !part.is_empty()).collect();
        for (n, part) in parts.iter().enumerate() {
            at = if n == 0 { format!("/{part}") } else { format!("{at}/{part}") };
            if n + 1 == parts.len() {
                match mkdirat(&directory, *part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(PlaceError::System { path: at, source: error.into() }),
                }
            }
            directory = enter(Some(&directory), part, &at)?;
        }
        Ok(Self(directory))
    }

    /// Opens what lies at a name, to speak of it whatever becomes of the name.
    pub fn file(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Returns what lies at a name.
    pub fn lies(&self, name: &str) -> io::Result<Option<FileId>> {
        match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(id_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells whether this file lies at the path.
    pub fn found(&self, path: &SocketPath, file: &OwnedFd) -> Result<Found, PlaceError> {
        let lies = self.lies(file_name(path)).map_err(|source| PlaceError::System { path: path.to_string(), source })?;
        Ok(if lies.is_some() && lies == id(file) { Found::This } else { Found::Other })
    }

    /// Puts a file at the path, in place of what lies there, in one step.
    pub fn link_over(&self, file: &OwnedFd, path: &SocketPath) -> io::Result<()> {
        let fresh = format!(".{}.df-next", file_name(path));
        self.remove(&fresh)?;
        linkat(CWD, itself(file), &self.0, fresh.as_str(), AtFlags::SYMLINK_FOLLOW)?;
        self.rename(&fresh, file_name(path))
    }

    /// Removes names of ours at which nobody listens: of versions that were killed together with everybody who knew of them.
    pub fn sweep(&self, path: &SocketPath) {
        let prefix = format!(".{}.df-", file_name(path));
        let entries = std::fs::read_dir(directory_of(path)).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.strip_prefix(&prefix).is_some_and(is_number)) {
            if check_name(path, &name).is_ok() {
                // What stays is in nobody's way.
                let _ = self.remove(&name);
            }
        }
    }

    /// Renames within the directory.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a name, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Steps into a directory that belongs to us or to root, and that others cannot change.
fn enter(parent: Option<&OwnedFd>, name: &str, at: &str) -> Result<OwnedFd, PlaceError> {
    let refused = |why| PlaceError::Directory { path: at.to_owned(), why };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match parent {
        None => openat(CWD, name, flags, Mode::empty()),
        Some(parent) => openat(parent, name, flags, Mode::empty()),
    };
    let directory = match opened {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(refused("is a link or no directory")),
        Err(Errno::NOENT) => return Err(refused("is not there")),
        other => other.map_err(|error| PlaceError::System { path: at.to_owned(), source: error.into() })?,
    };
    let stat = fstat(&directory).map_err(|error| PlaceError::System { path: at.to_owned(), source: error.into() })?;
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refused("belongs to another user"));
    }
    if stat.st_mode & OTHERS_WRITE != 0 && stat.st_mode & STICKY == 0 {
        return Err(refused("can be changed by other users"));
    }
    Ok(directory)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Returns the part of the path up to the last slash, with it.
fn directory_of(path: &SocketPath) -> &str {
    let text = path.as_str();
    &text[..=text.rfind('/').expect("a path begins with one")]
}

fn id_of(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// Returns a path that leads to an open file itself.
fn itself(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn held(path: &SocketPath, stream: &TcpStream) -> ClaimError {
    let at = Endpoint::Unix(path.clone());
    let pid = rustix::net::sockopt::socket_peercred(stream).ok().map(|peer| peer.pid.as_raw_nonzero().get().cast_unsigned());
    match pid.and_then(claim::Holder::of) {
        Some(holder) => ClaimError::Held { at, holder },
        None => ClaimError::HeldUnseen { at },
    }
}
