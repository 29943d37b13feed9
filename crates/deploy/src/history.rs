//! Every attempt at an application, in a file that only grows.
//!
//! One JSON object a line, appended by one write and synced. A line that a power cut tore is passed over when it is read, and ended before the next is
//! written.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use df_wire::message::HistoryEntry;

/// How much of the end of a history is read.
const READ_LEN: u64 = 4 << 20;

/// What was done where a generation was given up: it crashed too often.
pub const GIVE_UP: &str = "give-up";

/// Returns why a generation was given up, if that is the last thing that was done.
///
/// # Errors
/// The file cannot be read.
pub fn given_up(path: &Path, generation: u64) -> io::Result<Option<String>> {
    let last = last(path, 1)?.pop();
    Ok(last.filter(|entry| entry.what == GIVE_UP && entry.generation == generation).map(|entry| entry.detail))
}

/// Adds an entry, durably.
///
/// # Errors
/// It cannot be written.
pub fn append(path: &Path, entry: &HistoryEntry) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut line = if ends_torn(&mut file)? { vec![b'\n'] } else { vec![] };
    serde_json::to_writer(&mut line, entry).expect("an entry is plain data");
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()?;
    match path.parent() {
        Some(dir) if is_new => df_cache::durable::sync_dir(dir),
        _ => Ok(()),
    }
}

/// Returns the last entries, newest last.
///
/// # Errors
/// The file cannot be read; one that does not exist is an empty history.
pub fn last(path: &Path, limit: usize) -> io::Result<Vec<HistoryEntry>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(READ_LEN)))?;
    let mut bytes = vec![];
    file.take(READ_LEN).read_to_end(&mut bytes)?;
    let entries: Vec<HistoryEntry> = bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    Ok(entries[entries.len().saturating_sub(limit)..].to_vec())
}

fn ends_torn(file: &mut fs::File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::Timestamp;

    fn entry(generation: u64) -> HistoryEntry {
        HistoryEntry {
            at: Timestamp(7),
            who: "me".into(),
            what: "activate".into(),
            generation,
            from: 0,
            commit: "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit"),
            ok: true,
            detail: String::new(),
        }
    }

    #[test]
    fn a_torn_line_costs_that_line_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        assert_eq!(last(&path, 10).expect("empty"), []);
        append(&path, &entry(1)).expect("written");
        append(&path, &entry(2)).expect("written");
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..whole.len() - 20]).expect("torn");
        append(&path, &entry(3)).expect("written");
        let numbers = |limit| last(&path, limit).expect("read").iter().map(|e| e.generation).collect::<Vec<_>>();
        assert_eq!(numbers(10), [1, 3]);
        assert_eq!(numbers(1), [3]);
    }
}
