//! The output of a program, read back for the operator.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use df_wire::{Event, Reply};

use crate::conversation::{Conversation, TalkError};

/// How much of the end of a log is searched for lines.
const TAIL_LEN: u64 = 4 << 20;
/// How often a log that is followed is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// An open log.
pub struct Log(File);

impl Log {
    /// Opens a log; one that does not exist yet is empty.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open("/dev/null").map(Self),
            other => other.map(Self),
        }
    }

    /// Returns the last lines and leaves the place behind them.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tail(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let len = self.0.metadata()?.len();
        self.0.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN)))?;
        let mut bytes = vec![];
        (&mut self.0).take(TAIL_LEN).read_to_end(&mut bytes)?;
        let start = last_lines(&bytes, lines);
        Ok(bytes.split_off(start))
    }

    /// Returns what was written since, at most 1 MiB.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        (&mut self.0).take(1 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Sends the last lines of a log and, when it is followed, what is written later, until the operator goes away.
///
/// # Errors
/// The connection broke: the usual end of following.
pub fn send<R: Read, W: Write>(mut log: Log, lines: usize, follow: bool, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    let tail = log.tail(lines).map_err(TalkError::Io)?;
    if !follow {
        talk.reply(&Reply::Bytes { len: tail.len() as u64 })?;
        return talk.bytes(&tail);
    }
    let mut bytes = tail;
    loop {
        // An empty event now and then finds out that the operator is gone.
        talk.event(&Event::Log { len: bytes.len() as u64 })?;
        talk.bytes(&bytes)?;
        std::thread::sleep(FOLLOW_EVERY);
        bytes = log.more().map_err(TalkError::Io)?;
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
