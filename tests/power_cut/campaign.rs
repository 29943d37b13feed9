//! One operation on one disk, whose power is cut over and over, each time at another moment.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use df_testkit::calls::{Call, Meddling, What};
use df_testkit::power::{Disk, Image, Kind, kill_all_alone};

/// Something that is done to what lies on a disk.
pub trait Operation: Sync {
    /// What it is called.
    fn name(&self) -> &str;
    /// Writes what lies on the disk before.
    fn lay_out(&self, disk: &Path);
    /// Does it.
    fn run(&self, disk: &Path, meddling: &Meddling<'_>) -> Ran;
    /// Lists what is not as it has to be after a cut: whatever has a name is whole, and what was said to be done is.
    fn torn(&self, disk: &Path, ran: &Ran) -> Vec<String>;
    /// Does it once more, and expects it to succeed.
    fn again(&self, disk: &Path);
}

/// How far it came.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// How many changes it began to make.
    pub n_calls: usize,
    /// Whether it was killed.
    pub is_killed: bool,
    /// Whether it said that it succeeded.
    pub is_done: bool,
}

/// When the power goes, once the program stands before the change that it does not live to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Now.
    AtOnce,
    /// After somebody else had the journal written.
    JournalWritten,
    /// After the kernel has written it.
    JournalByItself,
}

/// Which of its syncs a program makes; it believes that it made the others too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// All.
    All,
    /// Those of directories and of the whole file system.
    NotThoseOfFiles,
    /// None.
    None,
}

impl Syncs {
    fn are_made(self, call: &Call, file: Option<&File>) -> bool {
        match (self, call.what) {
            (Self::All, _) => true,
            (Self::NotThoseOfFiles, What::Sync) => !file.and_then(|file| file.metadata().ok()).is_some_and(|it| it.is_file()),
            (Self::None, What::Sync | What::SyncAll) => false,
            _ => true,
        }
    }
}

impl Moment {
    fn pass(self, disk: &Disk) {
        match self {
            Self::AtOnce => {}
            Self::JournalWritten => disk.write_journal(),
            Self::JournalByItself => disk.wait_for_journal(),
        }
    }
}

/// Xfs takes no less.
const DISK_LEN: u64 = 320 << 20;
/// So many bytes must be free for disks to lie in memory: those of two operations at once, each full and beside what it was copied from.
const ROOM: u64 = 4 * DISK_LEN;

/// Makes a directory, in memory where there is that and room: what counts is what a file system gave to its disk, not where the disk is.
pub fn memory() -> io::Result<tempfile::TempDir> {
    directory_in(Path::new("/dev/shm"), ROOM)
}

/// Makes a directory in another where so much is free, else where temporary files are.
fn directory_in(dir: &Path, least: u64) -> io::Result<tempfile::TempDir> {
    let has_room = rustix::fs::statvfs(dir).is_ok_and(|space| space.f_bavail.saturating_mul(space.f_frsize) >= least);
    let parent = if has_room { dir.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("df-power").tempdir_in(parent)
}

/// Makes a disk and mounts it; an error says why this machine cannot.
pub fn try_to_mount(kind: Kind) -> io::Result<()> {
    let dir = memory()?;
    let at = dir.path().join("disk");
    std::fs::create_dir(&at)?;
    Image::make(kind, &dir.path().join("file"), DISK_LEN)?.mount(&at)?.unmount();
    Ok(())
}

/// Where an operation is cut.
pub struct Bench<'a> {
    operation: &'a dyn Operation,
    kind: Kind,
    _dir: tempfile::TempDir,
    /// What every cut begins with.
    template: Image,
    /// The disk of the cut under way.
    file: PathBuf,
    /// Where it is mounted.
    at: PathBuf,
}

impl<'a> Bench<'a> {
    /// Makes the disk that every cut begins with; an error says why this machine cannot.
    pub fn new(operation: &'a dyn Operation, kind: Kind) -> io::Result<Self> {
        let dir = memory()?;
        let at = dir.path().join("disk");
        std::fs::create_dir(&at)?;
        let template = Image::make(kind, &dir.path().join("template"), DISK_LEN)?;
        let disk = template.mount(&at)?;
        operation.lay_out(disk.dir());
        kill_all_alone();
        disk.unmount();
        Ok(Self { operation, kind, file: dir.path().join("file"), _dir: dir, template, at })
    }

    /// Runs the operation to its end, and returns how many changes it makes.
    #[track_caller]
    pub fn count(&self) -> usize {
        let disk = self.template.copy(&self.file).mount(&self.at).expect("it was mounted before");
        let counts = |call: &Call| self.counts(call);
        let ran = self.operation.run(&self.at, &Meddling { counts: &counts, ..Meddling::NONE });
        assert!(ran.is_done && ran.n_calls > 5, "{}: {ran:?}", self.operation.name());
        // As before every look: nobody who was started goes on writing meanwhile.
        kill_all_alone();
        assert_eq!(self.operation.torn(&self.at, &ran), [""; 0], "{} without a cut", self.operation.name());
        kill_all_alone();
        disk.unmount();
        ran.n_calls
    }

    /// Cuts the power when the operation stands before a change, or has come to its end, and returns what is torn after that.
    #[track_caller]
    pub fn cut(&self, before: usize, moment: Moment, syncs: Syncs) -> Vec<String> {
        let image = self.template.copy(&self.file);
        let disk = image.mount(&self.at).expect("it was mounted before");
        let cut = || {
            moment.pass(&disk);
            disk.cut();
            // Nobody goes on after it, or begins something that takes its time to fail.
            kill_all_alone();
        };
        let answers = |call: &Call, file: Option<File>| (!syncs.are_made(call, file.as_ref())).then_some(0);
        let counts = |call: &Call| self.counts(call);
        let meddling = Meddling { counts: &counts, kill_before: Some(before), at_the_kill: &cut, answers: &answers };
        let ran = self.operation.run(&self.at, &meddling);
        if !ran.is_killed {
            cut();
        }
        disk.unmount();
        let disk = image.mount(&self.at).expect("what was cut can be mounted");
        let torn = self.operation.torn(&self.at, &ran);
        kill_all_alone();
        disk.unmount();
        torn
    }

    /// Does the operation once more on the disk that was cut last, and expects it to succeed and everything to be whole.
    #[track_caller]
    pub fn again(&self) {
        let disk = Image::at(self.kind, &self.file).mount(&self.at).expect("it was mounted before");
        self.operation.again(&self.at);
        kill_all_alone();
        let done = Ran { n_calls: 0, is_killed: false, is_done: true };
        assert_eq!(self.operation.torn(&self.at, &done), [""; 0], "{} after it was done again", self.operation.name());
        kill_all_alone();
        disk.unmount();
    }

    fn counts(&self, call: &Call) -> bool {
        call.what == What::Say || call.path.starts_with(&self.at)
    }
}

/// What became of the cuts.
#[derive(Debug)]
pub struct Tally {
    of: String,
    n_changes: usize,
    started: Instant,
    /// How often the power was cut.
    pub n_cuts: usize,
    /// How often something was torn.
    pub n_torn: usize,
}

impl Tally {
    /// Begins to count.
    pub fn new(name: &str, kind: Kind, n_changes: usize) -> Self {
        Self { of: format!("{name} on {}", kind.name()), n_changes, started: Instant::now(), n_cuts: 0, n_torn: 0 }
    }

    /// Counts a cut and what was torn by it.
    pub fn add(&mut self, torn: &[String]) {
        self.n_cuts += 1;
        self.n_torn += usize::from(!torn.is_empty());
    }

    /// Says what it came to.
    pub fn tell(&self) {
        let text = format!(
            "{}: {} changes, {} cuts, {} torn, {:.1} s\n",
            self.of,
            self.n_changes,
            self.n_cuts,
            self.n_torn,
            self.started.elapsed().as_secs_f64()
        );
        print!("{text}");
        if let Some(path) = std::env::var_os("DF_POWER_REPORT") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the report is written");
        }
    }
}

#[test]
fn disks_lie_in_memory_only_where_there_is_room() {
    let memory = tempfile::tempdir().expect("a directory");
    let lies_there = |dir: &Path, least| directory_in(dir, least).expect("a directory").path().starts_with(dir);
    assert!(lies_there(memory.path(), 1));
    assert!(!lies_there(memory.path(), u64::MAX));
    assert!(!lies_there(&memory.path().join("not-there"), 1));
}
