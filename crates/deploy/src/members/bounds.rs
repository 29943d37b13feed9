//! What all processes of a run may use together, kept by control groups that count.
//!
//! The first version of control groups has a tree for each controller, and a group of ours can be made below the one that we are in, if we are root. In the second version there is one
//! tree, and a group counts what the group above it hands on. One with processes of its own can hand nothing on, so that works in two places: below a unit of systemd whose
//! supervisor sits in a group of its own (see [`super::cgroup`]), and below the root of a machine without systemd, which is nobody else's.
//!
//! Elsewhere nothing is kept, and whoever starts a program has to limit each process, or refuse.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::{self, Trees};

/// What all processes of a run may use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of memory, swapped out or not.
    pub memory: Option<u64>,
    /// Processes and threads at once.
    pub pids: Option<u64>,
}

/// The bounds of a run that the kernel keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    #[serde(default)]
    memory: Option<Bound>,
    #[serde(default)]
    pids: Option<Bound>,
}

/// A bound, and the group that counts for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    group: PathBuf,
    limit: u64,
}

/// What a run ran into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// Bytes that it may use, and how many of its processes the kernel killed because it wanted more.
    memory: Option<(u64, u64)>,
    /// How many processes it may have, where it wanted more.
    pids: Option<u64>,
}

/// A controller: its name, and the files in which a group says and is told of it.
struct Controller {
    name: &'static str,
    /// The limit, in the second version and in the first.
    limit: [&'static str; 2],
    /// What is written besides, where there is such a file: its name, and what, unless the limit itself.
    besides: &'static [(&'static str, Option<&'static str>)],
    /// Where a word says how often it was exceeded.
    exceeded: [&'static str; 2],
    word: &'static str,
    /// Whether a group may have run into this limit of its own, and not into that of another.
    is_own: fn(&Path, u64) -> bool,
}

/// The kernel counts so many bytes at once (64 pages): whoever ran into a limit was as near to it.
const AT_ONCE: u64 = 64 * 4096;

/// Swapped out is used too. Who is killed for memory is so with all others where the kernel knows how: a program without some of its processes may be neither well nor gone.
const MEMORY: Controller = Controller {
    name: "memory",
    limit: ["memory.max", "memory.limit_in_bytes"],
    besides: &[("memory.swap.max", Some("0")), ("memory.oom.group", Some("1")), ("memory.memsw.limit_in_bytes", None)],
    exceeded: ["memory.events", "memory.oom_control"],
    word: "oom_kill",
    is_own: was_out_of_memory,
};

const PIDS: Controller = Controller {
    name: "pids",
    limit: ["pids.max"; 2],
    besides: &[],
    exceeded: ["pids.events"; 2],
    word: "max",
    is_own: |_, _| true,
};

/// The controllers that count.
pub const CONTROLLERS: [&str; 2] = [MEMORY.name, PIDS.name];

/// Returns whether the number of a run's processes can be kept within a bound here.
pub fn counts_pids() -> bool {
    Trees::read().is_some_and(|trees| PIDS.is_counted(&trees))
}

/// Has the kernel keep a run within its bounds, as far as it can. `group` is the run's own group in the tree of the second version, if it has one; `mark` names others.
pub fn keep(bounds: Bounds, mark: &str, group: Option<&Path>) -> Kept {
    if bounds == Bounds::default() {
        return Kept::default();
    }
    let Some(trees) = Trees::read() else { return Kept::default() };
    let kept = |controller: &Controller, limit: Option<u64>| controller.keep(&trees, limit?, mark, group);
    Kept { memory: kept(&MEMORY, bounds.memory), pids: kept(&PIDS, bounds.pids) }
}

impl Kept {
    /// Returns whether its memory is kept within a bound.
    pub fn memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Returns whether the number of its processes is.
    pub fn pids(&self) -> bool {
        self.pids.is_some()
    }

    /// Returns the groups that count.
    pub fn groups(&self) -> impl Iterator<Item = &Path> {
        [&self.memory, &self.pids].into_iter().flatten().map(|bound| bound.group.as_path())
    }

    /// Returns what the run ran into, for as long as the groups are there.
    pub fn exceeded(&self) -> Option<Exceeded> {
        let memory = self.memory.as_ref().and_then(|bound| Some((bound.limit, MEMORY.n_exceeded(bound)?)));
        let pids = self.pids.as_ref().filter(|bound| PIDS.n_exceeded(bound).is_some()).map(|bound| bound.limit);
        (memory.is_some() || pids.is_some()).then_some(Exceeded { memory, pids })
    }

    /// Removes the groups if nobody is in them.
    pub fn remove(&self) {
        self.groups().for_each(cgroup::remove);
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((limit, n_killed)) = self.memory {
            let size = size(limit);
            write!(
                f,
                "out of memory: run.limits.memory is {size} for all its processes together, and the kernel killed {n_killed}"
            )?;
        }
        let Some(limit) = self.pids else { return Ok(()) };
        let and = if self.memory.is_some() { "; " } else { "" };
        // The first version, and the second before Linux 6.11, count here whom a group above refused, too.
        write!(f, "{and}out of processes: run.limits.pids is {limit}, or a group above it allows fewer")
    }
}

/// Returns bytes as df.yaml has them: `512M`.
pub fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift && bytes > 0);
    whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

impl Controller {
    /// Returns whether runs can be counted here.
    fn is_counted(&self, trees: &Trees) -> bool {
        let is_ours = |place: &PathBuf| rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_ok();
        // What `keep` would do for the first run anyway is done here: whether the kernel lets us depends on who else is in the group, too.
        let is_second = |place: PathBuf| self.is_named(&place, "cgroup.subtree_control") || self.is_handed_on(trees, &place);
        trees.ours().filter(is_ours).is_some_and(is_second) || trees.ours_with(self.name).is_some_and(|place| is_ours(&place))
    }

    fn keep(&self, trees: &Trees, limit: u64, mark: &str, group: Option<&Path>) -> Option<Bound> {
        if let Some(group) = group.filter(|group| self.is_had(group) || self.is_got(trees, group)) {
            // It tells who belongs to the run, whether it counts or not.
            return self.limit(group, limit).is_ok().then(|| Bound { group: group.to_owned(), limit });
        }
        let group = cgroup::make_in(&trees.ours_with(self.name)?, mark)?;
        if self.limit(&group, limit).is_err() {
            cgroup::remove(&group);
            return None;
        }
        Some(Bound { group, limit })
    }

    fn limit(&self, group: &Path, limit: u64) -> io::Result<()> {
        let [second, first] = self.limit.map(|file| group.join(file));
        let limit = limit.to_string();
        fs::write(if second.exists() { second } else { first }, &limit)?;
        for (file, what) in self.besides {
            // Not every kernel has each of them, or counts what is swapped out.
            let opened = fs::OpenOptions::new().write(true).open(group.join(file));
            let _ = opened.and_then(|mut file| file.write_all(what.unwrap_or(&limit).as_bytes()));
        }
        Ok(())
    }

    /// Returns whether a group of the second version counts.
    fn is_had(&self, group: &Path) -> bool {
        group.join(self.limit[0]).exists()
    }

    /// Has a group of the second version count, if what is above it may be told to; returns whether it does.
    fn is_got(&self, trees: &Trees, group: &Path) -> bool {
        group.parent().is_some_and(|above| self.is_handed_on(trees, above)) && self.is_had(group)
    }

    /// Has a group of the second version hand it on, if it may be told to; returns whether it does.
    fn is_handed_on(&self, trees: &Trees, group: &Path) -> bool {
        may_hand_on(trees, group) && fs::write(group.join("cgroup.subtree_control"), format!("+{}", self.name)).is_ok()
    }

    /// Returns whether a file of a group that lists controllers names it.
    fn is_named(&self, group: &Path, file: &str) -> bool {
        let named = fs::read_to_string(group.join(file)).unwrap_or_default();
        named.split_whitespace().any(|name| name == self.name)
    }

    /// Returns how often it was exceeded, if it was.
    fn n_exceeded(&self, Bound { group, limit }: &Bound) -> Option<u64> {
        let n_exceeded = self.exceeded.iter().find_map(|file| count(&group.join(file), self.word));
        n_exceeded.filter(|n_exceeded| *n_exceeded > 0 && (self.is_own)(group, *limit))
    }
}

/// Returns whether a group has used up its own memory. Whom the kernel kills because the whole machine, or a group above, has none left is counted in the same place.
fn was_out_of_memory(group: &Path, limit: u64) -> bool {
    // The first version says how often by `memory.failcnt`, but not on every kernel: on Linux 6.18 that stays 0.
    let most = ["memory.max_usage_in_bytes", "memory.memsw.max_usage_in_bytes"];
    let is_reached = |file: &str| count(&group.join(file), "").is_some_and(|most| most.saturating_add(AT_ONCE) >= limit);
    count(&group.join("memory.events.local"), "oom").is_some_and(|n_times| n_times > 0) || most.into_iter().any(is_reached)
}

/// Returns the number behind a word at the beginning of a line, or the only one in a file.
fn count(file: &Path, word: &str) -> Option<u64> {
    let said = fs::read_to_string(file).ok()?;
    if word.is_empty() {
        return said.trim().parse().ok();
    }
    said.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Returns whether it is ours to decide what a group hands on: that of our own unit, with none of its processes in it, or the root of a tree that nobody looks after.
fn may_hand_on(trees: &Trees, group: &Path) -> bool {
    // Only the root has no type.
    let is_root = || group.join("cgroup.procs").exists() && !group.join("cgroup.type").exists();
    trees.is_our_unit(group) || (is_root() && !Path::new("/run/systemd/system").is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes files of a group, and returns what a run in it ran into.
    fn exceeded(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).expect("written"));
        let bound = |limit| Some(Bound { group: dir.path().to_owned(), limit });
        let kept = Kept { memory: bound(48 << 20), pids: bound(3) };
        kept.exceeded().map(|exceeded| exceeded.to_string())
    }

    #[test]
    fn who_is_killed_because_the_machine_has_no_memory_left_did_not_run_into_its_own_limit() {
        let memory = "out of memory: run.limits.memory is 48M for all its processes together, and the kernel killed 2";
        let pids = "out of processes: run.limits.pids is 3, or a group above it allows fewer";
        let killed = ("memory.events", "low 0\nhigh 0\nmax 0\noom 1\noom_kill 2\noom_group_kill 0\n");
        let control = ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        for (files, expected) in [
            (vec![killed, ("memory.events.local", "max 0\noom 0\noom_kill 2\n")], None),
            (vec![killed, ("memory.events.local", "max 9\noom 1\noom_kill 2\n")], Some(memory.to_owned())),
            (vec![control, ("memory.max_usage_in_bytes", "40000000\n"), ("memory.memsw.max_usage_in_bytes", "48000000\n")], None),
            (vec![control, ("memory.max_usage_in_bytes", "50331648\n")], Some(memory.to_owned())),
            (
                vec![control, ("memory.max_usage_in_bytes", "9\n"), ("memory.memsw.max_usage_in_bytes", "50300000\n")],
                Some(memory.to_owned()),
            ),
            (vec![("memory.events", "oom 1\noom_kill 0\n"), ("memory.events.local", "oom 1\n")], None),
            (vec![("pids.events", "max 0\n")], None),
            (vec![("pids.events", "max 4\n")], Some(pids.to_owned())),
            (
                vec![control, ("memory.max_usage_in_bytes", "50331648\n"), ("pids.events", "max 4\n")],
                Some(format!("{memory}; {pids}")),
            ),
        ] {
            assert_eq!(exceeded(&files), expected, "{files:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_to_hand_on_is_not_said_to_be_counted() {
        for (is_refused, is_counted) in [(true, false), (false, true)] {
            let dir = tempfile::tempdir().expect("a directory");
            fs::write(dir.path().join("cgroup.controllers"), "memory pids\n").expect("written");
            let control = dir.path().join("cgroup.subtree_control");
            // A write to it fails, as where a process is in the unit's own group.
            if is_refused { fs::create_dir(&control) } else { fs::write(&control, "") }.expect("made");
            let mounts = format!("30 24 0:28 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
            let trees = Trees { mounts, own: format!("0::/{}\n", cgroup::OWN) };
            assert_eq!(PIDS.is_counted(&trees), is_counted);
        }
    }

    #[test]
    fn the_group_of_a_run_stays_although_it_cannot_count() {
        let (dir, trees) = (tempfile::tempdir().expect("a directory"), Trees::read().expect("there are some"));
        // Where a limit is written there is no file.
        fs::create_dir(dir.path().join(PIDS.limit[0])).expect("made");
        assert!(PIDS.keep(&trees, 3, "m", Some(dir.path())).is_none());
        assert!(dir.path().join(PIDS.limit[0]).exists(), "who belongs to the run is told by it");
    }
}
