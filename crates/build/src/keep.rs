//! The small files that make a second question fast: all of them may vanish at any time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one kept file; a manifest may be large, anything larger is made anew.
const LEN: u64 = 1 << 30;

/// The directory of a builder: `<cache>/build`.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    pub dir: PathBuf,
}

impl Keep {
    /// Returns a value kept under a name, `None` when there is none that reads back.
    pub fn read<T: DeserializeOwned>(&self, room: &str, name: &str) -> Option<T> {
        serde_json::from_slice(&self.read_bytes(room, name)?).ok()
    }

    pub fn read_bytes(&self, room: &str, name: &str) -> Option<Vec<u8>> {
        let nofollow = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = fs::OpenOptions::new().read(true).custom_flags(nofollow).open(self.dir.join(room).join(name)).ok()?;
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.len() <= LEN)?;
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(LEN).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Keeps a value, whole or not at all, and lets the oldest beyond `n_kept` go. A failure is only a saving lost.
    pub fn write_json<T: Serialize>(&self, room: &str, name: &str, value: &T, n_kept: usize) {
        if let Ok(bytes) = serde_json::to_vec(value) {
            self.write(room, name, &bytes, n_kept);
        }
    }

    pub fn write(&self, room: &str, name: &str, bytes: &[u8], n_kept: usize) {
        let dir = self.dir.join(room);
        let written = make_dir(&dir).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(bytes)?;
            file.persist(dir.join(name)).map(drop).map_err(|error| error.error)
        });
        if written.is_ok() {
            drop_oldest(&dir, n_kept);
        }
    }
}

/// Makes a directory and its parents, for its owner alone.
pub(crate) fn make_dir(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the oldest files of a directory beyond a number.
pub(crate) fn drop_oldest(dir: &Path, n_kept: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok().filter(fs::Metadata::is_file)?.modified().ok()?, entry.path())))
        .collect();
    if files.len() <= n_kept {
        return;
    }
    files.sort();
    for (_, path) in &files[..files.len() - n_kept] {
        fs::remove_file(path).ok();
    }
}
