//! The table of processes, and who in it belongs to a run: by its mark, or by descent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};

use super::MARK;

/// As much of an environment is read: the kernel takes no longer one unless its limits were raised.
const ENVIRONMENT_LEN: u64 = 8 << 20;

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// It carries the mark.
    pub is_marked: bool,
}

/// Reads all processes.
pub fn read(mark: &str) -> Vec<Row> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| row(pid, mark)).collect()
}

/// Reads one process; nothing if it has gone.
pub fn row(pid: u32, mark: &str) -> Option<Row> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Some(Row { pid, parent: parse_parent(&stat)?, is_marked: !mark.is_empty() && is_marked(pid, mark) })
}

/// Returns whether a process carries the mark in its environment.
pub fn is_marked(pid: u32, mark: &str) -> bool {
    let Ok(environment) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let variables = BufReader::new(environment.take(ENVIRONMENT_LEN)).split(0);
    // One that ends, or is another user's, can't be read.
    let is_ours = |variable: Vec<u8>| {
        variable.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) == Some(mark.as_bytes())
    };
    variables.map_while(Result::ok).any(is_ours)
}

/// Returns the members of a run, parents before their children: who is marked, `first`, and all who descend from them. Not through us: whom we started are other runs.
pub fn members(rows: &[Row], first: Option<u32>) -> Vec<u32> {
    let me = std::process::id();
    let rows = || rows.iter().filter(|row| row.pid != me);
    let mut found: Vec<u32> = rows().filter(|row| row.is_marked || Some(row.pid) == first).map(|row| row.pid).collect();
    let mut known: BTreeSet<u32> = found.iter().copied().collect();
    loop {
        let born: Vec<u32> =
            rows().filter(|row| known.contains(&row.parent) && !known.contains(&row.pid)).map(|row| row.pid).collect();
        if born.is_empty() {
            return found;
        }
        known.extend(&born);
        found.extend(born);
    }
}

/// The second field is the command in brackets, and may hold anything, also `)`.
fn parse_parent(stat: &[u8]) -> Option<u32> {
    let behind_command = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    std::str::from_utf8(behind_command).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32, parent: u32, is_marked: bool) -> Row {
        Row { pid, parent, is_marked }
    }

    #[test]
    fn who_is_marked_and_who_descends_from_them_belongs_to_it_and_nobody_else() {
        let rows = [
            row(1, 0, false),
            row(10, 1, false), // the first process, which gave itself another environment
            row(11, 10, false),
            row(20, 1, true), // left its parents
            row(21, 20, false),
            row(22, 21, false),
            row(30, 1, false),
            row(31, 30, false),
        ];
        let mut found = members(&rows, Some(10));
        assert!(found.iter().position(|&pid| pid == 21) < found.iter().position(|&pid| pid == 22), "{found:?}");
        found.sort_unstable();
        assert_eq!(found, [10, 11, 20, 21, 22]);
        assert_eq!(members(&rows, None), [20, 21, 22]);
        assert_eq!(members(&rows[..2], None), [0; 0]);
    }

    #[test]
    fn we_do_not_belong_to_who_started_us_and_neither_do_those_that_we_start() {
        let me = std::process::id();
        let rows = [row(me, 1, true), row(me + 1, me, false), row(me + 2, me, true)];
        assert_eq!(members(&rows, None), [me + 2]);
        assert_eq!(members(&rows, Some(me)), [me + 2]);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        assert_eq!(members(&[row(5, 6, true), row(6, 5, false)], None), [5, 6]);
    }

    #[test]
    fn a_command_name_can_not_forge_a_parent() {
        assert_eq!(parse_parent(b"12 (a) S 1 (b) c) S 77 12 12 0"), Some(77));
        assert_eq!(parse_parent(b"12 (sh) S"), None);
        assert_eq!(parse_parent(b""), None);
    }
}
