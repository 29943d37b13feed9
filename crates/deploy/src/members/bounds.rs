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
}

/// Swapped out is used too. Who is killed for memory is so with all others where the kernel knows how: a program without some of its processes may be neither well nor gone.
const MEMORY: Controller = Controller {
    name: "memory",
    limit: ["memory.max", "memory.limit_in_bytes"],
    besides: &[("memory.swap.max", Some("0")), ("memory.oom.group", Some("1")), ("memory.memsw.limit_in_bytes", None)],
    exceeded: ["memory.events", "memory.oom_control"],
    word: "oom_kill",
};

const PIDS: Controller =
    Controller { name: "pids", limit: ["pids.max"; 2], besides: &[], exceeded: ["pids.events"; 2], word: "max" };

/// Returns whether the number of a run's processes can be kept within a bound here.
pub fn counts_pids() -> bool {
    let Some(trees) = Trees::read() else { return false };
    let is_ours = |place: &PathBuf| rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_ok();
    let second = trees.ours().filter(is_ours).is_some_and(|place| {
        PIDS.is_named(&place, "cgroup.subtree_control")
            || (may_hand_on(&trees, &place) && PIDS.is_named(&place, "cgroup.controllers"))
    });
    second || trees.ours_with(PIDS.name).is_some_and(|place| is_ours(&place))
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
        let memory = self.memory.as_ref().and_then(|bound| Some((bound.limit, MEMORY.n_exceeded(&bound.group)?)));
        let pids = self.pids.as_ref().filter(|bound| PIDS.n_exceeded(&bound.group).is_some()).map(|bound| bound.limit);
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
        match self.pids {
            Some(limit) if self.memory.is_some() => write!(f, "; it wanted more processes than run.limits.pids, {limit}"),
            Some(limit) => write!(f, "it wanted more processes than run.limits.pids, {limit}"),
            None => Ok(()),
        }
    }
}

/// Returns bytes as df.yaml has them: `512M`.
pub fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift && bytes > 0);
    whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

impl Controller {
    fn keep(&self, trees: &Trees, limit: u64, mark: &str, group: Option<&Path>) -> Option<Bound> {
        let group = match group.filter(|group| self.is_had(group) || self.is_got(trees, group)) {
            Some(group) => group.to_owned(),
            None => cgroup::make_in(&trees.ours_with(self.name)?, mark)?,
        };
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
        let Some(above) = group.parent().filter(|above| may_hand_on(trees, above)) else { return false };
        fs::write(above.join("cgroup.subtree_control"), format!("+{}", self.name)).is_ok() && self.is_had(group)
    }

    /// Returns whether a file of a group that lists controllers names it.
    fn is_named(&self, group: &Path, file: &str) -> bool {
        let named = fs::read_to_string(group.join(file)).unwrap_or_default();
        named.split_whitespace().any(|name| name == self.name)
    }

    /// Returns how often it was exceeded, if it was.
    fn n_exceeded(&self, group: &Path) -> Option<u64> {
        let said = self.exceeded.iter().find_map(|file| fs::read_to_string(group.join(file)).ok())?;
        let count = said.lines().find_map(|line| line.strip_prefix(self.word)?.strip_prefix(' '));
        count.and_then(|count| count.trim().parse().ok()).filter(|count| *count > 0)
    }
}

/// Returns whether it is ours to decide what a group hands on: that of our own unit, with none of its processes in it, or the root of a tree that nobody looks after.
fn may_hand_on(trees: &Trees, group: &Path) -> bool {
    // Only the root has no type.
    let is_root = || group.join("cgroup.procs").exists() && !group.join("cgroup.type").exists();
    trees.is_our_unit(group) || (is_root() && !Path::new("/run/systemd/system").is_dir())
}
