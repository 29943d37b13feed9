//! Which processes belong to one run of a version, and their end: those too that left its process group, its session and their parents.
//!
//! Where one can be made below our own, a cgroup knows them all: who is born in it stays in it, and an ordinary user cannot leave. It needs no controllers, so it works
//! beside other processes, in a unit of systemd that was delegated and in a tree that is root's; where there are some, it keeps the run within its [`Bounds`] too. Elsewhere they are
//! found by what they inherit: a variable with a number that only df and the run know, and their descent. What hides from that has cleared its environment *and* lost its parents. [`end`](Members::end) then stops whoever it finds
//! until nobody new is found, since who is stopped starts nobody, and only then kills.
//!
//! A number that the kernel gives to another process meanwhile is nobody's death: each process is held by a pidfd, and looked at again behind it.

mod bounds;
mod cgroup;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub use bounds::{Bounds, Exceeded, counts_pids, size};
pub use cgroup::OWN;

use bounds::Kept;

/// The variable that marks a run's processes.
pub const MARK: &str = "DF_RUN";

/// How the processes of a run are known; written down with the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The value of [`MARK`]; empty where an older supervisor started it: then only descent tells.
    #[serde(default)]
    mark: String,
    /// Their cgroup, if they have one.
    #[serde(default)]
    cgroup: Option<PathBuf>,
    /// What the kernel keeps it within.
    #[serde(default)]
    kept: Kept,
}

/// Tells the number of a run's first process, for as long as it lives.
pub type First<'a> = &'a dyn Fn() -> Option<u32>;

/// Processes, each held, so that its number cannot become another's unnoticed.
type Held = BTreeMap<u32, OwnedFd>;

/// What is to be done with what was found.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// These may still start others.
    Stop(Vec<u32>),
    /// All are stopped: nobody is born any more.
    Kill,
    /// Nobody is left.
    Done,
}

/// Returns the processes that one started, itself among them, with all that carry a mark.
pub fn of(mark: &str, first: u32) -> Vec<u32> {
    table::members(&table::read(mark), Some(first))
}

/// Removes what is left of runs that have ended without a supervisor to see it.
pub fn sweep() {
    cgroup::sweep(&bounds::CONTROLLERS);
}

impl Members {
    /// Draws the mark of a new run, and makes a cgroup for it where that is possible. What it may use is kept as far as the kernel can do that here.
    pub fn new(bounds: Bounds) -> io::Result<Self> {
        let mut members = Self::marked()?;
        members.cgroup = cgroup::make(&members.mark);
        members.kept = bounds::keep(bounds, &members.mark, members.cgroup());
        Ok(members)
    }

    /// Draws the mark of a new run that gets no cgroup.
    fn marked() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self { mark: bytes.iter().map(|byte| format!("{byte:02x}")).collect(), ..Self::default() })
    }

    /// Returns the value of [`MARK`] for the run.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Returns the cgroup that the run's first process has to enter by itself.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// Returns the groups that the first process must have entered, or it may use what it likes.
    pub fn counting(&self) -> impl Iterator<Item = &Path> {
        self.kept.groups()
    }

    /// Returns whether the kernel keeps the memory of all its processes within a bound.
    pub fn memory_is_kept(&self) -> bool {
        self.kept.memory()
    }

    /// Returns whether the kernel keeps the number of its processes within a bound.
    pub fn pids_are_kept(&self) -> bool {
        self.kept.pids()
    }

    /// Returns what the run ran into; to be asked before it is ended or forgotten.
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.kept.exceeded()
    }

    /// Gives up the cgroup if the first process has not entered it: who is born elsewhere would not be found there. If it has, and has ended already, who is left behind is in it. One
    /// that counts was entered, or nothing was started; what was run into stands there.
    pub fn settle(&mut self) {
        let counts = |cgroup: &Path| self.kept.groups().any(|group| group == cgroup);
        if let Some(cgroup) = self.cgroup.take_if(|cgroup| cgroup::pids(cgroup).is_empty() && !counts(cgroup)) {
            cgroup::remove(&cgroup);
        }
    }

    /// Returns whether a process is where what it uses is counted; so it was when it started, and somebody may have moved it.
    pub fn is_counted(&self, pid: u32) -> bool {
        self.kept.groups().all(|group| cgroup::pids(group).contains(&pid))
    }

    /// Returns whether a process was started by the run, as far as that can be told from its environment.
    pub fn carries(&self, pid: u32) -> bool {
        !self.mark.is_empty() && table::is_marked(pid, &self.mark)
    }

    /// Kills every process of the run and waits until they are gone; false if some are there when the time is over. `first` tells the number of the run's first process for as
    /// long as it lives: all descend from it.
    ///
    /// We ourselves never belong to it, even if it started us.
    pub fn end(&self, first: First<'_>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.cgroup.iter().for_each(|cgroup| cgroup::kill(cgroup));
        let mut stopped = Held::new();
        loop {
            let mut found = self.find(first);
            stopped.retain(|_, pidfd| is_alive(pidfd));
            match next(&keys(&found), &keys(&stopped)) {
                Next::Done => break,
                Next::Stop(fresh) => {
                    let fresh: Held = fresh.into_iter().filter_map(|pid| Some((pid, found.remove(&pid)?))).collect();
                    fresh.values().for_each(|pidfd| send(pidfd, Signal::STOP));
                    stopped.extend(fresh);
                }
                Next::Kill => {
                    stopped.values().for_each(|pidfd| send(pidfd, Signal::KILL));
                    stopped.values().for_each(|pidfd| await_end(pidfd, deadline));
                }
            }
            if Instant::now() >= deadline {
                // Better killed one by one than stopped for ever.
                stopped.values().for_each(|pidfd| send(pidfd, Signal::KILL));
                return false;
            }
        }
        self.forget();
        true
    }

    /// Returns the numbers of the run's processes, as far as they can be told.
    pub fn pids(&self, first: First<'_>) -> Vec<u32> {
        self.find(first).into_keys().collect()
    }

    /// Forgets the run's cgroups if nobody is in them.
    pub fn forget(&self) {
        self.cgroup.iter().for_each(|cgroup| cgroup::remove(cgroup));
        self.kept.remove();
    }

    fn find(&self, first: First<'_>) -> Held {
        let within = |cgroup: &Path| confirmed(&cgroup::pids(cgroup), |pid, _| cgroup::pids(cgroup).contains(&pid));
        match &self.cgroup {
            Some(cgroup) => within(cgroup),
            None => self.kept.groups().flat_map(within).chain(self.find_marked(first)).collect(),
        }
    }

    fn find_marked(&self, first: First<'_>) -> Held {
        let rows = table::read(&self.mark);
        let ours = table::members(&rows, first());
        confirmed(&ours, |pid, held| {
            let Some(row) = table::row(pid, &self.mark) else { return false };
            // Asked after the look: a parent that lives now is the one that was seen then.
            row.is_marked || [pid, row.parent].map(Some).contains(&first()) || held.get(&row.parent).is_some_and(is_alive)
        })
    }
}

/// Decides what comes next, from who was found and who is stopped and lives.
fn next(found: &BTreeSet<u32>, stopped: &BTreeSet<u32>) -> Next {
    let fresh: Vec<u32> = found.difference(stopped).copied().collect();
    match (fresh.is_empty(), stopped.is_empty()) {
        (false, _) => Next::Stop(fresh),
        (true, false) => Next::Kill,
        (true, true) => Next::Done,
    }
}

/// Holds those of whom the same is still true behind the pidfd, in order; `is_one` sees who is held already.
fn confirmed(pids: &[u32], is_one: impl Fn(u32, &Held) -> bool) -> Held {
    let mut held = Held::new();
    for &pid in pids.iter().filter(|&&pid| pid > 1 && pid != std::process::id()) {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        if is_one(pid, &held) && is_alive(&pidfd) {
            held.insert(pid, pidfd);
        }
    }
    held
}

fn keys(held: &Held) -> BTreeSet<u32> {
    held.keys().copied().collect()
}

/// A zombie has ended, whoever has to wait for it.
fn is_alive(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

fn await_end(pidfd: &OwnedFd, deadline: Instant) {
    while let Ok(left) = Timespec::try_from(deadline.saturating_duration_since(Instant::now())) {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Who has ended hears nothing; of a process of another user we could not have read what makes it a member.
fn send(pidfd: &OwnedFd, signal: Signal) {
    let _ = pidfd_send_signal(pidfd, signal);
}

#[cfg(test)]
pub mod tests;
