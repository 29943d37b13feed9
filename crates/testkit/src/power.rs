//! A disk whose power can be cut: a file system of its own, in a file, on a loop device.
//!
//! The cut is the ioctl by which ext4 and xfs stop at once without writing their journal: what was not on the disk by then is gone, and the next mount replays what was. It is
//! made on a descriptor of the mounted directory, and only after the kernel has said that this descriptor is on a loop device over that very file, so that it can hit no other
//! file system of the machine. What the hardware may lose besides, bytes that a disk said it had written, is not shown by this.
//!
//! Mounts are made in a mount namespace of one thread ([`alone`]) and of what it starts. Nobody else can hold such a file system, so that unmounting it really ends it. When the
//! thread ends, also by a panic, what it started is killed, and the kernel unmounts and detaches what is left. Nobody does the former when the process is killed: then what it
//! started, the supervisor of a node for one, goes on, and its disks stay until it has ended.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Run, wait_until};
use crate::survivors;

/// What can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its journal is written every second.
    Ext4,
    /// Its log is written when somebody asks, or half a minute later.
    Xfs,
}

/// A file that holds a file system, mounted or not.
#[derive(Debug)]
pub struct Image {
    kind: Kind,
    file: PathBuf,
}

/// A file system that is mounted; it is unmounted when this goes out of scope.
#[derive(Debug)]
pub struct Disk {
    kind: Kind,
    file: PathBuf,
    dir: PathBuf,
    /// What a cut is made on, until the disk is unmounted.
    held: Option<File>,
}

/// Nothing that is waited for here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A file of nobody's, by which a journal is made to be written.
const STRANGER: &str = "stranger";

/// Runs a function on a thread with mounts of its own, which start as those of this one; an error says why that cannot be.
///
/// Needs root. Processes that the function starts see these mounts, and nobody else does; none of them outlives it, also when it panics.
pub fn alone<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<T> {
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "mounts of its own need root"));
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: a number; what is no longer shared is the namespace, the working directory and the umask of this thread alone.
            done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            // SAFETY: NUL-terminated strings; from here on nothing that is mounted on either side is seen on the other.
            done(unsafe {
                libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null())
            })?;
            let _nobody_stays = NobodyStays;
            Ok(run())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Kills every process that lives among the mounts of this thread, and waits until it is gone: whatever was started by what [`alone`] runs.
#[track_caller]
pub fn kill_all_alone() {
    try_to_kill_all_alone().unwrap_or_else(|error| panic!("kill what lives among the mounts of a test: {error}"));
}

/// The same, for who must not panic.
fn try_to_kill_all_alone() -> io::Result<()> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt"));
    let ours = namespace("thread-self")?;
    if ours == namespace("self")? {
        return Err(io::Error::other("that would be everybody"));
    }
    let mine = std::process::id();
    let gone = wait_until(PATIENCE, || {
        let entries = fs::read_dir("/proc").ok()?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // One that has ended and is not waited for has no namespace any more.
        let is_here = |pid: &u32| *pid != mine && namespace(&pid.to_string()).is_ok_and(|its| its == ours);
        let here: Vec<u32> = pids.filter(is_here).collect();
        here.iter().for_each(|pid| survivors::send(*pid, libc::SIGKILL));
        here.is_empty().then_some(())
    });
    gone.ok_or_else(|| io::Error::other("they do not die"))
}

/// Kills what was started among the mounts of this thread when it goes out of scope.
struct NobodyStays;

impl Drop for NobodyStays {
    fn drop(&mut self) {
        // A panic may be on its way: what it says is worth more than what this would.
        let _ = try_to_kill_all_alone();
    }
}

impl Kind {
    /// The name by which it is mounted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn make(self, file: &Path) -> Run {
        match self {
            // Nothing is left to be initialised by a thread of the kernel while a test runs.
            Self::Ext4 => Run::new("mkfs.ext4")
                .args(["-q", "-F", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
                .arg(file),
            Self::Xfs => Run::new("mkfs.xfs").args(["-q", "-f"]).arg(file),
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=1",
            // Copies of one image are still told apart by their loop devices.
            Self::Xfs => "loop,nouuid",
        }
    }
}

impl Image {
    /// Makes a file of this length with an empty file system; an error says why this machine cannot.
    pub fn make(kind: Kind, file: &Path, len: u64) -> io::Result<Image> {
        File::create(file)?.set_len(len)?;
        let program = format!("mkfs.{}", kind.name());
        if !["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(&program).exists()) && !is_on_path(&program) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {program}")));
        }
        kind.make(file).ok();
        Ok(Image::at(kind, file))
    }

    /// Takes a file that holds one already.
    #[track_caller]
    pub fn at(kind: Kind, file: &Path) -> Image {
        Image { kind, file: fs::canonicalize(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())) }
    }

    /// Makes another file with the same content, in the place of one that is there.
    #[track_caller]
    pub fn copy(&self, file: &Path) -> Image {
        Run::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.file).arg(file).ok();
        Image::at(self.kind, file)
    }

    /// Mounts it; an error says why this machine cannot. Only in what [`alone`] runs.
    pub fn mount(&self, dir: &Path) -> io::Result<Disk> {
        let of = |thread: &str| fs::read_link(format!("/proc/{thread}/ns/mnt"));
        assert_ne!(of("thread-self")?, of("self")?, "everybody would see this mount");
        let mounted =
            Run::new("mount").args(["-t", self.kind.name(), "-o", self.kind.options()]).arg(&self.file).arg(dir).output();
        if mounted.code != Some(0) {
            return Err(io::Error::other(mounted.stderr));
        }
        let mut disk = Disk { kind: self.kind, file: self.file.clone(), dir: dir.to_owned(), held: None };
        disk.held = Some(disk.hold()?);
        Ok(disk)
    }
}

impl Disk {
    /// Returns where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Cuts its power: nothing that is in memory only gets to the disk any more, not even the journal of what is done.
    #[track_caller]
    pub fn cut(&self) {
        const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let without_the_journal: u32 = 2;
        let held = self.held.as_ref().expect("it is mounted");
        self.is_ours(held).unwrap_or_else(|error| panic!("the power of {} is not cut: {error}", self.dir.display()));
        // SAFETY: the request reads one number, which lives until the call returns; the descriptor is on a file system of this test's own.
        let result = unsafe { libc::ioctl(held.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const without_the_journal) };
        done(result).unwrap_or_else(|error| panic!("cut the power of {}: {error}", self.dir.display()));
    }

    /// Lets the journal be written, and no more than that: somebody syncs a file that nobody else has anything to do with. The journal holds what everybody did
    /// until then, the names among it, and not the bytes of files.
    #[track_caller]
    pub fn write_journal(&self) {
        let before = self.n_transactions();
        self.touch().sync_all().expect("a stranger's file is synced");
        // The kernel wakes who waits for a transaction before it counts it.
        let is_counted = |before: u64| wait_until(PATIENCE, || self.n_transactions().filter(|n| *n > before)).is_some();
        assert!(before.is_none_or(is_counted), "a sync of a stranger's file wrote no journal");
    }

    /// Waits until the kernel has written the journal by itself, as it does every second.
    #[track_caller]
    pub fn wait_for_journal(&self) {
        let Some(before) = self.n_transactions() else { return self.write_journal() };
        // When nobody does anything, there is nothing to write.
        self.touch();
        let written = wait_until(PATIENCE, || self.n_transactions().filter(|n| *n > before));
        assert!(written.is_some(), "the journal is never written");
    }

    /// Unmounts it, as soon as nobody has anything open there: after this only a file is left.
    #[track_caller]
    pub fn unmount(mut self) {
        self.held = None;
        let mut last = None;
        let gone = wait_until(PATIENCE, || self.try_unmount(0).map_err(|error| last = Some(error)).ok());
        assert!(gone.is_some(), "unmount {}: {last:?}", self.dir.display());
        std::mem::forget(self);
    }

    fn touch(&self) -> File {
        let mut file = File::create(self.dir.join(STRANGER)).expect("a stranger's file");
        file.write_all(b"nothing to do with it").expect("written");
        file
    }

    /// Counts how often ext4's journal was written.
    fn n_transactions(&self) -> Option<u64> {
        if self.kind != Kind::Ext4 {
            return None;
        }
        let device = self.loop_name(self.held.as_ref()?).ok()?;
        let info = fs::read_to_string(format!("/proc/fs/jbd2/{device}-8/info")).ok()?;
        info.split(' ').next()?.parse().ok()
    }

    fn hold(&self) -> io::Result<File> {
        let held = File::open(&self.dir)?;
        self.is_ours(&held)?;
        Ok(held)
    }

    /// Says why this descriptor is not on the file system of this disk.
    fn is_ours(&self, held: &File) -> io::Result<()> {
        let above = self.dir.parent().ok_or_else(|| io::Error::other("it is the root"))?;
        if held.metadata()?.dev() == fs::metadata(above)?.dev() || held.metadata()?.dev() == fs::metadata("/")?.dev() {
            return Err(io::Error::other("nothing is mounted there"));
        }
        let device = self.loop_name(held)?;
        let backing = fs::read_to_string(format!("/sys/block/{device}/loop/backing_file"))?;
        if Path::new(backing.trim_end()) == self.file { Ok(()) } else { Err(io::Error::other(format!("it is on {backing}"))) }
    }

    /// Returns the name of the loop device that a descriptor is on.
    fn loop_name(&self, held: &File) -> io::Result<String> {
        const LOOP: u32 = 7;
        let device = held.metadata()?.dev();
        match (libc::major(device), libc::minor(device)) {
            (LOOP, minor) => Ok(format!("loop{minor}")),
            (major, minor) => Err(io::Error::other(format!("device {major}:{minor} is no loop device"))),
        }
    }

    fn try_unmount(&self, flags: libc::c_int) -> io::Result<()> {
        let dir = CString::new(self.dir.as_os_str().as_bytes())?;
        // SAFETY: the pointer is a NUL-terminated string that lives until the call returns.
        done(unsafe { libc::umount2(dir.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.held = None;
        // Detached: a process of a failed test may still hold a file in it. The loop device goes with the file system.
        let _ = self.try_unmount(libc::MNT_DETACH);
    }
}

fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::sync::Mutex;

    use super::*;

    /// Runs a test with a disk, or says why it cannot.
    fn with_disk(kind: Kind, test: impl Fn(&Image, &Path) + Sync) {
        let dir = tempfile::tempdir().expect("a directory");
        let run = || -> io::Result<()> {
            let at = dir.path().join("disk");
            fs::create_dir(&at)?;
            let image = Image::make(kind, &dir.path().join("file"), 320 << 20)?;
            image.mount(&at)?.unmount();
            test(&image, &at);
            Ok(())
        };
        match alone(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => eprintln!("not run: {error}"),
        }
    }

    /// What is there after a cut of files that were written: one synced, one not, with the journal written or not.
    fn after_a_cut(image: &Image, at: &Path, is_written: bool) -> [Option<usize>; 2] {
        let disk = image.mount(at).expect("mounted");
        let write = |name: &str| {
            let mut file = File::create(at.join(name)).expect("made");
            file.write_all(&[b'x'; 5000]).expect("written");
            file
        };
        write("synced").sync_all().expect("synced");
        drop(write("unsynced"));
        if is_written {
            disk.write_journal();
        }
        disk.cut();
        assert!(fs::write(at.join("late"), "x").is_err(), "it still works");
        disk.unmount();
        let disk = image.mount(at).expect("mounted again");
        let bytes = |name: &str| fs::read(at.join(name)).ok().map(|bytes| bytes.iter().filter(|byte| **byte == b'x').count());
        let found = [bytes("synced"), bytes("unsynced")];
        ["synced", "unsynced"].iter().for_each(|name| drop(fs::remove_file(at.join(name))));
        disk.unmount();
        found
    }

    /// Cuts until what was not synced is as expected, three times at most: the kernel writes by itself every few seconds, as it may do between the write and the cut.
    #[track_caller]
    fn is_lost(image: &Image, at: &Path, is_written: bool, expected: &[Option<usize>]) {
        let mut found = vec![];
        let is_as_expected = |_| {
            let [synced, unsynced] = after_a_cut(image, at, is_written);
            assert_eq!(synced, Some(5000), "{:?}: what was synced", image.kind);
            found.push(unsynced);
            expected.contains(&unsynced)
        };
        assert!((0..3).any(is_as_expected), "{:?}: {found:?}", image.kind);
    }

    fn a_cut_takes_what_was_not_synced(kind: Kind) {
        with_disk(kind, |image, at| {
            // The name may be in a journal that the kernel wrote by itself.
            is_lost(image, at, false, &[None, Some(0)]);
            // Its name is in the journal, and its bytes were in memory only.
            is_lost(image, at, true, &[Some(0)]);
        });
    }

    #[test]
    fn a_cut_takes_what_was_not_synced_from_ext4() {
        a_cut_takes_what_was_not_synced(Kind::Ext4);
    }

    #[test]
    fn a_cut_takes_what_was_not_synced_from_xfs() {
        a_cut_takes_what_was_not_synced(Kind::Xfs);
    }

    #[test]
    fn the_journal_is_written_by_itself_after_a_second() {
        with_disk(Kind::Ext4, |image, at| {
            let disk = image.mount(at).expect("mounted");
            drop(File::create(at.join("name")).expect("made"));
            disk.wait_for_journal();
            disk.cut();
            disk.unmount();
            let disk = image.mount(at).expect("mounted again");
            assert!(at.join("name").exists());
            disk.unmount();
        });
    }

    #[test]
    fn only_its_own_disk_is_cut_and_nobody_else_sees_it() {
        with_disk(Kind::Ext4, |image, at| {
            let disk = image.mount(at).expect("mounted");
            // This process as others see it has other mounts.
            let mounts = |of: &str| fs::read_to_string(format!("/proc/{of}/mounts")).expect("a mounted /proc");
            let line = format!(" {} ", at.display());
            assert!(mounts("thread-self").contains(&line) && !mounts("self").contains(&line));
            let elsewhere = Disk {
                dir: at.parent().expect("a directory").to_owned(),
                held: None,
                file: image.file.clone(),
                kind: image.kind,
            };
            assert!(elsewhere.hold().is_err());
            let other = Disk { file: "/other".into(), held: None, dir: at.to_owned(), kind: image.kind };
            assert!(other.hold().is_err());
            std::mem::forget((elsewhere, other));
            let sleeper = Run::new("sleep").arg("1000").dir(at).spawn();
            kill_all_alone();
            assert_eq!(sleeper.finish(PATIENCE).signal, Some(libc::SIGKILL));
            disk.unmount();
            assert!(fs::read_dir(at).expect("listed").next().is_none(), "nothing is mounted there");
        });
    }

    #[test]
    fn nobody_who_was_started_outlives_a_test_that_panics() {
        let started = Mutex::new(None);
        let run = || {
            // The shell ends, so that nobody here waits for the sleeper.
            let sleeper = Run::new("sh").args(["-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]).ok().stdout;
            *started.lock().expect("no panic while locked") = sleeper.trim().parse().ok();
            panic!("as a test does that fails");
        };
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| alone::<()>(run)));
        if let Ok(Err(error)) = ended {
            return eprintln!("not run: {error}");
        }
        let sleeper: u32 = started.into_inner().expect("no panic while locked").expect("a sleeper");
        assert!(survivors::has_ended(sleeper), "{sleeper} is still there");
    }

    #[test]
    fn everybody_is_never_killed_and_no_mount_is_made_for_them() {
        assert!(std::panic::catch_unwind(kill_all_alone).is_err());
        let image = Image { kind: Kind::Ext4, file: "/nowhere".into() };
        assert!(std::panic::catch_unwind(|| image.mount(Path::new("/mnt")).is_ok()).is_err());
    }
}
