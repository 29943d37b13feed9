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
        Ok(Self { file, path: path.into(), len: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds bytes. A full disk loses lines of the log, not the build.
    pub fn add(&mut self, bytes: &[u8]) {
        let before = self.len;
        self.len = before.saturating_add(bytes.len() as u64);
        if self.len <= LEN {
            self.file.write_all(bytes).ok();
        } else if before <= LEN {
            self.file.write_all(b"\n[the log is longer than 64 MiB; the rest was dropped]\n").ok();
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
        lines[lines.len().saturating_sub(N_LAST)..].iter().map(|line| shorten(line, df_core::limits::TEXT_LEN)).collect()
    }
}
