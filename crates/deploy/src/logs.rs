//! The output of a program, read back for the operator.

mod bound;
mod follow;

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_wire::{Event, Reply};

use crate::conversation::{Conversation, TalkError};

pub use bound::{PIECE, bound};
pub use follow::Following;

/// How much of the end of a log is searched for lines.
const TAIL_LEN: u64 = 4 << 20;
/// How often a log that is followed is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// How much of a log is sent at once.
const CHUNK_LEN: u64 = 1 << 20;

/// An open log, and how far it was read.
pub struct Log {
    path: PathBuf,
    /// `None`: it does not exist yet.
    file: Option<File>,
    /// What comes next.
    at: u64,
    /// How long it was when it was looked at last.
    len: u64,
}

impl Log {
    /// Opens a log; one that does not exist yet is empty.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, at: 0, len: 0 })
    }

    /// Returns the last lines and leaves the place behind them. What was put aside when the log was emptied goes before it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tail(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        if let Some(file) = &self.file {
            bytes = end_of(file, TAIL_LEN)?;
            self.len = file.metadata()?.len();
            // Exactly behind what was read, whatever was written or taken away meanwhile.
            self.at = (&*file).stream_position()?;
        }
        let start = last_lines(&bytes, lines);
        if start > 0 || bytes.len() as u64 >= TAIL_LEN || lines == 0 {
            return Ok(bytes.split_off(start));
        }
        let mut before = match open(&bound::aside(&self.path))? {
            Some(file) => end_of(&file, TAIL_LEN - bytes.len() as u64)?,
            None => return Ok(bytes),
        };
        before.append(&mut bytes);
        let start = last_lines(&before, lines);
        Ok(before.split_off(start))
    }

    /// Returns what was written since, at most 1 MiB. Another file that has the log's name by now is read from its beginning, once all of this one was.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let bytes = self.rest()?;
        if !bytes.is_empty() || self.is_there()? {
            return Ok(bytes);
        }
        (self.file, self.at, self.len) = (open(&self.path)?, 0, 0);
        self.rest()
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let Some(mut file) = self.file.as_ref() else { return Ok(vec![]) };
        let len = file.metadata()?.len();
        if len < self.len {
            // Its front was taken away, in whole pieces; whoever writes a piece and more between two looks is too fast to be followed without a gap.
            self.at = self.at.saturating_sub((self.len - len).next_multiple_of(PIECE));
        }
        self.len = len;
        self.at = if self.at < len { bound::data_from(file, self.at) } else { self.at };
        let mut bytes = vec![];
        file.seek(SeekFrom::Start(self.at))?;
        file.take(CHUNK_LEN).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Returns whether the log's name still leads to the file that is open, or to none.
    fn is_there(&self) -> io::Result<bool> {
        let named = match fs::metadata(&self.path) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let Some(file) = &self.file else { return Ok(false) };
        let open = file.metadata()?;
        Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Returns the last bytes of a file, without the hole at its front, and leaves the place behind them.
fn end_of(mut file: &File, len: u64) -> io::Result<Vec<u8>> {
    let start = file.metadata()?.len().saturating_sub(len);
    file.seek(SeekFrom::Start(bound::data_from(file, start)))?;
    let mut bytes = vec![];
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sends the last lines of a log.
///
/// # Errors
/// The log cannot be read, or the connection broke.
pub fn send<R: Read, W: Write>(log: &mut Log, lines: usize, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    let tail = log.tail(lines).map_err(TalkError::Io)?;
    talk.reply(&Reply::Bytes { len: tail.len() as u64 })?;
    talk.bytes(&tail)
}

/// Sends what is followed, until the operator goes away.
///
/// # Errors
/// The connection broke: the usual end of following.
pub fn follow<R: Read, W: Write>(following: &mut Following<'_>, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    loop {
        let bytes = following.more().map_err(TalkError::Io)?;
        // An empty event now and then finds out that the operator is gone.
        talk.event(&Event::Log { len: bytes.len() as u64 })?;
        talk.bytes(&bytes)?;
        if (bytes.len() as u64) < CHUNK_LEN {
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
}

/// Returns where the last `lines` lines begin.
fn last_lines(bytes: &[u8], lines: usize) -> usize {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    if lines == 0 { bytes.len() } else { ends.nth(lines - 1).map_or(0, |(at, _)| at + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\n", 5, "a\n"),
            ("", 3, ""),
            ("a\nb\n", 0, ""),
            ("\n\n\n", 2, "\n\n"),
        ] {
            assert_eq!(&text[last_lines(text.as_bytes(), lines)..], expected, "{text:?} {lines}");
        }
    }
}
