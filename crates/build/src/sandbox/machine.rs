//! What is there of the machine that a room is made on: looked at before anything is decided.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::who::{Owners, Who};
use super::words::Lacking;
use super::{Mount, Room};

/// Directories and links of the root directory that hold the system's programs.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libexec"];
/// What of /etc the dynamic linker and the programs' names need.
const ETC: [&str; 4] = ["/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"];

/// What a plan depends on.
#[derive(Debug)]
pub(super) struct Machine {
    pub who: Who,
    /// Users and groups besides that own directories on the way to what is mounted; see [`Who::map`].
    pub owners: Owners,
    /// The version of Landlock.
    pub landlock: u32,
    /// What every room has of the host.
    pub system: Vec<Part>,
    /// What this one has, in the order of the room.
    pub mounts: Vec<Part>,
    /// How far df itself may raise a limit.
    pub hard: fn(u32) -> u64,
}

/// A place in the room and what is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Link { inside: CString, target: CString },
    Bind { inside: CString, host: CString, is_dir: bool, writable: bool },
    Layered { inside: CString, lower: PathBuf, upper: PathBuf, work: PathBuf },
    Private { inside: CString },
}

impl Machine {
    pub fn look(room: &Room) -> Result<Self, Lacking> {
        let landlock = landlock_version().map_err(|error| Lacking::landlock(&error))?;
        if landlock < 2 {
            return Err(Lacking::old_landlock(landlock));
        }
        let system = SYSTEM.iter().chain(&ETC).filter_map(|path| of_system(Path::new(path))).collect();
        let mounts = room.mounts.iter().map(of_room).collect::<Result<_, _>>()?;
        let mut owners = Owners::default();
        for path in room.mounts.iter().flat_map(paths) {
            owners.add_above(path);
        }
        owners.keep_known();
        Ok(Self { who: Who::here(), owners, landlock, system, mounts, hard: hard_limit })
    }
}

/// Returns a path for a system call.
pub(super) fn c_path(path: &Path) -> Result<CString, Lacking> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| Lacking::place(path, &error.into()))
}

fn of_system(path: &Path) -> Option<Part> {
    let inside = c_path(path).ok()?;
    let metadata = path.symlink_metadata().ok()?;
    // The links of a merged /usr stay links: their text is what compilers write down.
    if metadata.is_symlink() && path.parent() == Some(Path::new("/")) {
        return Some(Part::Link { inside, target: c_path(&fs::read_link(path).ok()?).ok()? });
    }
    let host = path.canonicalize().ok()?;
    Some(Part::Bind { inside, host: c_path(&host).ok()?, is_dir: host.is_dir(), writable: false })
}

fn of_room(mount: &Mount) -> Result<Part, Lacking> {
    // A link in a host path would be followed inside of the room, so there may be none left.
    let real = |path: &Path| path.canonicalize().map_err(|error| Lacking::place(path, &error));
    let bind = |host: &Path, inside: &Path, writable| {
        let host = real(host)?;
        Ok(Part::Bind { inside: c_path(inside)?, host: c_path(&host)?, is_dir: host.is_dir(), writable })
    };
    match mount {
        Mount::ReadOnly { host, inside } => bind(host, inside, false),
        Mount::Writable { host, inside } => bind(host, inside, true),
        Mount::Private { inside } => Ok(Part::Private { inside: c_path(inside)? }),
        Mount::Layered { lower, upper, work, inside } => {
            Ok(Part::Layered { inside: c_path(inside)?, lower: real(lower)?, upper: real(upper)?, work: real(work)? })
        }
    }
}

fn paths(mount: &Mount) -> Vec<&Path> {
    match mount {
        Mount::ReadOnly { host, .. } | Mount::Writable { host, .. } => vec![host],
        Mount::Layered { lower, upper, work, .. } => vec![lower, upper, work],
        Mount::Private { .. } => vec![],
    }
}

fn landlock_version() -> io::Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

fn hard_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit of our own; null asks for no change.
    let got = unsafe { libc::prlimit(0, resource as _, std::ptr::null(), &raw mut limit) };
    if got == 0 { limit.rlim_max } else { 0 }
}
