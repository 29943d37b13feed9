//! A control group around a room, where this machine gives us one: it bounds the memory and the processes of the room together.
//!
//! It is more than a room needs, so without one nothing is refused. Of version 2 a group below our own is tried, then one at the top, because a group that
//! has processes of its own cannot hand its controllers down; of version 1 a group below our own in each hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are on every machine that has them.
const TOP: &str = "/sys/fs/cgroup";
/// What the name of a room's group begins with; the number of its first process follows.
const NAME: &str = "df-room-";
/// Processes and threads of a room, twice what its user may have.
const N_PROCESSES: u64 = 8192;

/// The groups of one room; they go with the value, which has to outlive the room.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    groups: Vec<PathBuf>,
}

impl Cgroup {
    /// Puts a process, and with it all that it will start, into groups of its own, as far as they can be had.
    pub fn around(pid: i32) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let is_unified = Path::new(TOP).join("cgroup.controllers").exists();
        let memory = memory_bound(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        Self { groups: wanted(&own, is_unified, memory).iter().filter_map(|wanted| wanted.make(pid)).collect() }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for group in &self.groups {
            fs::remove_dir(group).ok();
        }
    }
}

/// A group that would be good to have.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Below which group, the best first.
    below: Vec<PathBuf>,
    /// Files of the group and what to write to them; one of them is enough.
    bounds: Vec<(&'static str, u64)>,
}

impl Wanted {
    fn make(&self, pid: i32) -> Option<PathBuf> {
        self.below.iter().find_map(|below| {
            sweep(below);
            let group = below.join(format!("{NAME}{pid}"));
            fs::create_dir(&group).ok()?;
            let n_bounds =
                self.bounds.iter().filter(|(file, value)| fs::write(group.join(file), value.to_string()).is_ok()).count();
            if n_bounds > 0 && fs::write(group.join("cgroup.procs"), pid.to_string()).is_ok() {
                return Some(group);
            }
            fs::remove_dir(&group).ok();
            None
        })
    }
}

/// Decides by the lines of /proc/self/cgroup (`0::/path` of version 2, `4:memory:/path` of version 1).
fn wanted(own: &str, is_unified: bool, memory: Option<u64>) -> Vec<Wanted> {
    let top = Path::new(TOP);
    let group = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        // A group above the root of our own namespace has no name that we could reach.
        let path = path.strip_prefix('/').filter(|path| !path.split('/').any(|part| part == ".."))?;
        let (below, bounds) = match controllers {
            "" => {
                let top = if is_unified { top.to_owned() } else { top.join("unified") };
                (vec![top.join(path), top], vec![("memory.max", memory), ("pids.max", Some(N_PROCESSES))])
            }
            "memory" => (vec![top.join("memory").join(path)], vec![("memory.limit_in_bytes", memory)]),
            "pids" => (vec![top.join("pids").join(path)], vec![("pids.max", Some(N_PROCESSES))]),
            _ => return None,
        };
        Some(Wanted { below, bounds: bounds.into_iter().filter_map(|(file, value)| Some((file, value?))).collect() })
    };
    own.lines().filter_map(group).collect()
}

/// Returns nine tenths of the memory, in bytes: what is left lets df and the machine go on.
fn memory_bound(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024 / 10 * 9)
}

/// Removes the groups of rooms whose df was killed; one that is in use cannot be removed.
fn sweep(below: &Path) {
    let groups = fs::read_dir(below).into_iter().flatten().flatten();
    for group in groups.filter(|group| group.file_name().to_str().is_some_and(is_of_the_dead)) {
        fs::remove_dir(group.path()).ok();
    }
}

fn is_of_the_dead(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_where_each_version_has_them() {
        let below = |wanted: Vec<Wanted>| -> Vec<String> {
            wanted.iter().flat_map(|wanted| &wanted.below).map(|path| path.display().to_string()).collect()
        };
        let new = wanted("0::/user.slice/a\n", true, Some(1));
        assert_eq!(new[0].bounds, [("memory.max", 1), ("pids.max", N_PROCESSES)]);
        assert_eq!(below(new), ["/sys/fs/cgroup/user.slice/a", "/sys/fs/cgroup"]);
        let old = "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n1:cpu:/\n";
        assert_eq!(below(wanted(old, false, Some(1))), ["/sys/fs/cgroup/pids/", "/sys/fs/cgroup/memory/a/b"]);
        assert!(wanted("0::/../..\n4:memory\n\n", true, Some(1)).is_empty());
        assert_eq!(wanted("4:memory:/", false, None)[0].bounds, []);
    }

    #[test]
    fn a_tenth_of_the_memory_is_left() {
        assert_eq!(memory_bound("MemTotal:       1000 kB\nMemFree: 1 kB\n"), Some(1000 * 1024 / 10 * 9));
        assert_eq!(memory_bound(""), None);
    }
}
