//! Where a reading in slices stopped: one file on this machine, which may vanish; then it begins anew.

use std::fs;
use std::path::PathBuf;

use crate::s3::format::name::{Name, Owner, Space, owner};
use crate::s3::local::Local;
use crate::s3::objects::Key;

/// Where a reading in slices stopped.
pub(crate) struct Cursor {
    path: PathBuf,
    after: Option<Name>,
}

impl Cursor {
    /// Finds it.
    pub(crate) fn open(local: &Local, cache: [u8; 16]) -> Self {
        let path = local.of(cache).join("verified");
        let name = |text: String| match owner(&Key::new(text).ok()?)? {
            Owner::Named(Space::Pack, name) => Some(name),
            _ => None,
        };
        let after = fs::read_to_string(&path).ok().and_then(name);
        Self { path, after }
    }

    /// Returns the last pack that was read; nothing before the first slice.
    pub(crate) fn after(&self) -> Option<Name> {
        self.after
    }

    /// Remembers the last pack that was read, or that all were. Failing to costs reading again.
    pub(crate) fn set(&self, after: Option<Name>) {
        let Some(name) = after else {
            let _ = fs::remove_file(&self.path);
            return;
        };
        let temporary = self.path.with_extension(std::process::id().to_string());
        let written = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let _ = written
            .and_then(|()| fs::write(&temporary, name.key(Space::Pack).as_str()))
            .and_then(|()| fs::rename(&temporary, &self.path));
    }
}
