//! Which processes are still there? Found by what they descend from or where they run, ended by id.

use crate::process::wait_until;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Lists the processes whose program file or working directory lies below `dir`, also after their parent died.
///
/// A node's supervisor and services run from its directory, which is how a test finds what they left.
#[track_caller]
pub fn running_under(dir: &Path) -> Vec<u32> {
    let dir = fs::canonicalize(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let below = |pid: &u32| {
        let link = |name| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
        link("exe").starts_with(&dir) || link("cwd").starts_with(&dir)
    };
    let mine = std::process::id();
    processes().into_iter().filter(|pid| *pid != mine && below(pid)).collect()
}

/// Kills what [`running_under`] lists, until nothing is left; returns how many it were.
#[track_caller]
pub fn kill_under(dir: &Path) -> usize {
    let mut killed = BTreeSet::<u32>::new();
    // More than once: a supervisor may start a child between the look and the kill.
    let gone = wait_until(Duration::from_secs(10), || {
        let found = running_under(dir);
        let alive: Vec<u32> = found.into_iter().filter(|pid| state(*pid) != Some('Z')).collect();
        alive.iter().for_each(|pid| send(*pid, libc::SIGKILL));
        killed.extend(&alive);
        alive.is_empty().then_some(())
    });
    assert!(gone.is_some(), "processes below {} do not die: {:?}", dir.display(), running_under(dir));
    killed.len()
}

/// Lists all that descends from `pid`, children first; `pid` itself is not in it.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&next) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == next).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Sends a signal to one process; nothing happens when it is gone.
pub fn send(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process id");
    assert!(pid > 1, "a signal to everybody");
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// Sends this process a signal through this thread, which does nothing more before it has arrived. One that is sent to the process as a whole is taken by any of its threads, and this
/// one goes on for a moment.
pub fn raise(signal: i32) {
    // SAFETY: raise takes a number and touches no memory of ours.
    unsafe { libc::raise(signal) };
}

/// Whether a process has ended with all its threads, waited for or not: then its files are closed and its locks given back.
pub fn has_ended(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads == 0 || (threads == 1 && matches!(state(pid), Some('Z' | 'X')))
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("a mounted /proc");
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(|entry| number(entry.ok()?)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok()
}

/// Returns the state letter of `/proc/PID/stat`; `Z` is dead and not yet waited for.
pub(crate) fn state(pid: u32) -> Option<char> {
    stat(pid)?.chars().next()
}

/// Returns `/proc/PID/stat` from the state on: the name before it may hold spaces and parentheses.
fn stat(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Run;

    #[test]
    fn what_runs_from_a_directory_is_found_and_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        // The shell in between ends, so that the sleeper has no parent here.
        let script = "sleep 1000 >/dev/null 2>&1 &";
        Run::new("sh").args(["-c", script]).dir(dir.path()).ok();
        let found = wait_until(Duration::from_secs(10), || running_under(dir.path()).pop());
        assert!(found.is_some());
        assert_eq!(kill_under(dir.path()), 1);
        assert_eq!(kill_under(dir.path()), 0);
    }
}
