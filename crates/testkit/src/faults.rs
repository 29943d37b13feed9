//! What goes wrong on real machines: processes killed at any moment, disks that are full, bytes that rotted.

use crate::process::Child;
use crate::seed::Random;
use crate::survivors::send;
use std::ffi::CString;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Returns `n` moments between nothing and `longest`, one from each `n`-th part of it, in random order.
///
/// Plain random numbers leave gaps; one moment from each part makes sure that no step of what is interrupted is skipped.
pub fn kill_moments(random: &mut Random, n: usize, longest: Duration) -> Vec<Duration> {
    let part = longest.as_nanos() as u64 / n.max(1) as u64;
    let moment = |random: &mut Random, i: u64| Duration::from_nanos(i * part + random.below(part));
    let mut moments: Vec<Duration> = (0..n as u64).map(|i| moment(random, i)).collect();
    for i in (1..moments.len()).rev() {
        moments.swap(i, random.index(i + 1));
    }
    moments
}

/// Kills `child`, and only it, `moment` after now; false when it had ended by itself before.
pub fn kill_at(child: &mut Child, moment: Duration) -> bool {
    let end = Instant::now() + moment;
    while child.is_running() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill();
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(5)));
    }
    false
}

/// Kills a process that is not a child of this one, `moment` after now.
pub fn kill_pid_at(pid: u32, moment: Duration) {
    std::thread::sleep(moment);
    send(pid, libc::SIGKILL);
}

/// Turns over the lowest bit of the byte at `offset` and keeps mode and times, as a rotten disk does.
///
/// A file that has several names is damaged under all of them.
#[track_caller]
pub fn flip_byte(path: &Path, offset: u64) {
    if let Err(error) = try_flip(path, offset) {
        panic!("damage {} at {offset}: {error}", path.display());
    }
}

/// A file system of a fixed size in memory, unmounted when this goes out of scope.
#[derive(Debug)]
pub struct Tmpfs {
    dir: PathBuf,
}

impl Tmpfs {
    /// Mounts `len` bytes at `dir`, which is made; an error says why this process cannot.
    ///
    /// Needs root. The mount is a plain one, seen by all processes until it is gone: a mount namespace of the
    /// test's own is not to be had in a program that has started threads. A test that gets an error here says
    /// on stderr that it did not run and returns.
    pub fn mount(dir: &Path, len: u64) -> io::Result<Tmpfs> {
        if !rustix::process::geteuid().is_root() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a tmpfs of a fixed size needs root"));
        }
        fs::create_dir_all(dir)?;
        let dir = fs::canonicalize(dir)?;
        let target = CString::new(dir.as_os_str().as_bytes())?;
        let options = CString::new(format!("size={len},mode=755"))?;
        // SAFETY: the four pointers are NUL-terminated strings that live until the call returns.
        let result = unsafe {
            libc::mount(
                c"df-test".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV,
                options.as_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Tmpfs { dir })
    }

    /// Returns where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fills it up to the last byte with a file of this name; remove the file to have room again.
    #[track_caller]
    pub fn fill(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        let file = File::create(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        let block = [b'f'; 4096];
        let mut end = 0;
        while let Ok(n @ 1..) = file.write_at(&block, end) {
            end += n as u64;
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let Ok(target) = CString::new(self.dir.as_os_str().as_bytes()) else { return };
        // Detached: a process of a failed test may still hold a file in it.
        // SAFETY: the pointer is a NUL-terminated string that lives until the call returns.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    }
}

fn try_flip(path: &Path, offset: u64) -> io::Result<()> {
    let before = fs::symlink_metadata(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(before.mode() | 0o600))?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1], offset)?;
    file.set_times(FileTimes::new().set_modified(before.modified()?).set_accessed(before.accessed()?))?;
    fs::set_permissions(path, fs::Permissions::from_mode(before.mode() & 0o7777))
}

/// Runs a function under another umask, on a thread that shares its umask with no other.
pub fn with_umask<T: Send>(umask: u32, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: plain system calls; what is no longer shared is the working directory, the root and the umask of this thread alone.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FS), 0, "cannot have a umask of its own");
                libc::umask(umask);
            }
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Run;
    use crate::seed::Seed;

    #[test]
    fn moments_cover_the_whole_time() {
        let second = Duration::from_secs(1);
        let moments = kill_moments(&mut Seed(5).random(), 100, second);
        let mut sorted = moments.clone();
        sorted.sort();
        assert_ne!(moments, sorted, "in random order");
        for (i, moment) in sorted.iter().enumerate() {
            assert_eq!(moment.as_millis() as usize / 10, i);
        }
        assert_eq!(moments, kill_moments(&mut Seed(5).random(), 100, second));
    }

    #[test]
    fn a_process_is_killed_at_its_moment_or_was_done() {
        let mut child = Run::new("sleep").arg("1000").spawn();
        assert!(kill_at(&mut child, Duration::from_millis(30)));
        assert_eq!(child.finish(Duration::ZERO).signal, Some(libc::SIGKILL));
        let mut child = Run::new("true").spawn();
        assert!(!kill_at(&mut child, Duration::from_secs(20)));
    }

    #[test]
    fn a_flipped_byte_keeps_mode_and_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("blob");
        fs::write(&path, b"abc").expect("a new file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("a file of our own");
        let before = fs::metadata(&path).expect("its metadata");
        flip_byte(&path, 1);
        assert_eq!(fs::read(&path).expect("readable"), b"acc");
        let after = fs::metadata(&path).expect("its metadata");
        assert_eq!((after.mode(), after.mtime_nsec()), (before.mode(), before.mtime_nsec()));
        flip_byte(&path, 1);
        assert_eq!(fs::read(&path).expect("readable"), b"abc");
    }

    #[test]
    fn a_small_file_system_gets_full() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("small");
        let tmpfs = match Tmpfs::mount(&at, 1 << 20) {
            Ok(tmpfs) => tmpfs,
            Err(error) => return eprintln!("not run: {error}"),
        };
        let ballast = tmpfs.fill("ballast");
        assert_eq!(fs::metadata(&ballast).expect("its metadata").len(), 1 << 20);
        let error = fs::write(tmpfs.dir().join("more"), [0; 8192]).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        fs::remove_file(ballast).expect("a file of our own");
        fs::write(tmpfs.dir().join("more"), [0; 8192]).expect("room again");
        drop(tmpfs);
        assert!(!at.join("more").exists(), "unmounted");
    }
}
