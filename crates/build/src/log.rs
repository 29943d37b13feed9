//! The log of a build: everything it said, in a file; its end, for an error.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use df_core::text::{escape_lines, shorten};

/// Bytes of one log; what a build says beyond is dropped, and that is said.
const LEN: u64 = 64 << 20;
/// Lines that an error carries.
const N_LAST: usize = 50;
/// Bytes that those lines are looked for in.
const LAST_LEN: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    len: u64,
    /// Why lines are missing.
    lost: Option<io::Error>,
}

impl Log {
    /// Begins a new log.
    pub fn create(path: &Path) -> io::Result<Self> {
        // An earlier log of the same commit may be open in someone's pager.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, path: path.into(), len: 0, lost: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds bytes. A full disk loses lines of the log, not the build; the last lines say so then.
    pub fn add(&mut self, bytes: &[u8]) {
        let before = self.len;
        self.len = before.saturating_add(bytes.len() as u64);
        let written = if self.len <= LEN {
            self.file.write_all(bytes)
        } else if before <= LEN {
            self.file.write_all(b"\n[the log is longer than 64 MiB; the rest was dropped]\n")
        } else {
            Ok(())
        };
        if let Err(error) = written {
            self.lost.get_or_insert(error);
        }
    }

    /// Returns the last 50 lines, fit for a terminal.
    pub fn last_lines(&mut self) -> Vec<String> {
        let mut bytes = vec![];
        let end = self.file.seek(SeekFrom::End(0)).unwrap_or(0);
        let start = end.saturating_sub(LAST_LEN);
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| (&self.file).take(LAST_LEN).read_to_end(&mut bytes));
        self.file.seek(SeekFrom::End(0)).ok();
        if read.is_err() {
            return vec![];
        }
        let text = escape_lines(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let lost = self.lost.as_ref().map(|error| format!("[lines of the log are lost: {error}]"));
        let n_kept = N_LAST - usize::from(lost.is_some());
        let last = lines[lines.len().saturating_sub(n_kept)..].iter().map(|line| shorten(line, df_core::limits::TEXT_LEN));
        last.chain(lost).collect()
    }
}
