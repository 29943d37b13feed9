//! The directories of one strict build, and the rooms that are made of them.
//!
//! All of them lie in one directory below `<keep>/rooms`, which goes with the value; what killed builds left there goes when the next one begins.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::keep::make_dir;
use crate::sandbox::{self, Mount, Room};

/// Where the source is inside.
pub(crate) const SOURCE: &str = "/df/src";
/// Where cargo's target directory is inside.
pub(crate) const TARGET_DIR: &str = "/df/target";
/// Where cargo's home is inside.
const CARGO_HOME: &str = "/df/cargo";
/// Where the compiler is inside, if it is not among the system's programs.
const TOOLCHAIN: &str = "/df/toolchain";
const HOME: &str = "/df/home";

/// The directories of one build.
#[derive(Debug)]
pub(crate) struct Rooms {
    dir: PathBuf,
    has_overlay: bool,
    host_name: String,
}

/// A directory that a build writes to, as it is in the room and on the host.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub mount: Mount,
    /// What the build wrote, and without layering also what was there.
    pub written: PathBuf,
}

impl Rooms {
    /// Begins a build; the lock is held.
    pub fn begin(keep: &Path, host_name: &str) -> io::Result<Self> {
        let all = keep.join("rooms");
        make_dir(&all)?;
        let dir = tempfile::Builder::new().prefix("build-").tempdir_in(&all)?.keep();
        Ok(Self { has_overlay: sandbox::has_overlay(&dir), dir, host_name: host_name.to_owned() })
    }

    /// Removes what killed builds left; the lock is held, and no build of its holder runs.
    pub fn sweep(keep: &Path) -> io::Result<()> {
        sandbox::remove(&keep.join("rooms"))
    }

    /// Returns a new directory for the build to write to.
    pub fn fresh(&self, name: &str, inside: &str) -> io::Result<Place> {
        let written = self.make(name)?;
        sandbox::give(&written)?;
        Ok(Place { mount: Mount::Writable { host: written.clone(), inside: inside.into() }, written })
    }

    /// Returns a directory that begins as `lower` and that the build may write to, without a copy where layering can be had.
    pub fn over(&self, lower: &Path, name: &str, inside: &str) -> io::Result<Place> {
        if !self.has_overlay {
            return self.copy_of(lower, name, inside);
        }
        let (upper, work) = (self.make(name)?, self.make(&format!("{name}-work"))?);
        sandbox::give(&upper)?;
        sandbox::give(&work)?;
        let mount = Mount::Layered { lower: lower.into(), upper: upper.clone(), work, inside: inside.into() };
        Ok(Place { mount, written: upper })
    }

    /// Puts what a build of ours has written already on top of `lower`.
    pub fn put_over(&self, lower: &Path, place: Place, name: &str) -> io::Result<Place> {
        let Mount::Writable { host, inside } = place.mount else { return Ok(place) };
        if !self.has_overlay {
            let copy = self.copy_of(lower, &format!("{name}-copy"), &inside.to_string_lossy())?;
            return Ok(copy);
        }
        let work = self.make(&format!("{name}-work"))?;
        sandbox::give(&work)?;
        let mount = Mount::Layered { lower: lower.into(), upper: host.clone(), work, inside };
        Ok(Place { mount, written: host })
    }

    /// Returns a copy of a directory that shares nothing with it.
    pub fn copy_of(&self, from: &Path, name: &str, inside: &str) -> io::Result<Place> {
        let written = self.make(name)?;
        copy(from, &written)?;
        sandbox::give(&written)?;
        Ok(Place { mount: Mount::Writable { host: written.clone(), inside: inside.into() }, written })
    }

    /// Returns a new directory that only df writes to.
    pub fn make(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Returns a room with these places in it and a home.
    pub fn room(&self, mounts: impl IntoIterator<Item = Mount>) -> Room {
        let home = Mount::Private { inside: HOME.into() };
        Room { mounts: std::iter::once(home).chain(mounts).collect(), host_name: self.host_name.clone() }
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        // What stays after a failure goes when the next build begins.
        sandbox::remove(&self.dir).ok();
    }
}

/// Returns the mount of a compiler's files; none when every room sees them anyway.
pub(crate) fn toolchain(sysroot: Option<&str>) -> Option<Mount> {
    let sysroot = sysroot.filter(|sysroot| !is_of_system(sysroot))?;
    Some(Mount::ReadOnly { host: sysroot.into(), inside: TOOLCHAIN.into() })
}

/// Returns where a compiler's files are inside.
pub(crate) fn sysroot_inside(sysroot: &str) -> &str {
    if is_of_system(sysroot) { sysroot } else { TOOLCHAIN }
}

/// Returns the mounts of cargo's home: what was fetched, and `config` as its configuration unless it is empty.
pub(crate) fn cargo_home(rooms: &Rooms, fetched: &Path, config: &str) -> io::Result<Vec<Mount>> {
    let inside = |name: &str| Path::new(CARGO_HOME).join(name);
    let mut mounts = vec![Mount::Private { inside: CARGO_HOME.into() }];
    for name in ["registry", "git"] {
        let host = fetched.join(name);
        if host.is_dir() {
            mounts.push(Mount::ReadOnly { host, inside: inside(name) });
        }
    }
    if !config.is_empty() {
        let host = rooms.dir.join("cargo-config.toml");
        fs::write(&host, config)?;
        fs::set_permissions(&host, Permissions::from_mode(0o644))?;
        mounts.push(Mount::ReadOnly { host, inside: inside("config.toml") });
    }
    Ok(mounts)
}

/// A distribution's own compiler is where it is on each such machine; one that somebody put below /usr/local may be anywhere on the next.
fn is_of_system(sysroot: &str) -> bool {
    sysroot == "/usr"
}

/// Copies a tree into an empty directory, times and modes too: cargo judges by times. Shares blocks where the file system can. Follows no link.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, dest, metadata) = (entry.path(), to.join(entry.file_name()), entry.metadata()?);
        if metadata.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &dest)?;
        } else if metadata.is_dir() {
            fs::create_dir(&dest)?;
            copy(&source, &dest)?;
            fs::set_permissions(&dest, metadata.permissions())?;
        } else if metadata.is_file() {
            fs::copy(&source, &dest)?;
            File::open(&dest)?.set_modified(metadata.modified()?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_testkit::Tree;

    #[test]
    fn a_copy_has_the_times_of_the_original() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("from");
        Tree::of_files(&[("a/b", "x"), ("c", "y")]).write(&from);
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        File::open(from.join("a/b")).and_then(|file| file.set_modified(old)).expect("set");
        let to = dir.path().join("to");
        fs::create_dir(&to).expect("made");
        copy(&from, &to).expect("copied");
        assert_eq!(Tree::read(&to).differences(&Tree::read(&from)), []);
        assert_eq!(fs::metadata(to.join("a/b")).and_then(|m| m.modified()).expect("a time"), old);
    }

    #[test]
    fn a_build_leaves_no_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        let rooms = Rooms::begin(dir.path(), "df").expect("rooms");
        rooms.fresh("target", TARGET_DIR).expect("a place");
        let place = rooms.dir.clone();
        drop(rooms);
        assert!(!place.exists());
        std::mem::forget(Rooms::begin(dir.path(), "df").expect("rooms"));
        Rooms::sweep(dir.path()).expect("swept");
        assert!(!dir.path().join("rooms").exists());
    }
}
