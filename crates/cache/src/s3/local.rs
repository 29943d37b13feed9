//! What was read from the bucket and never changes there, kept beside: root tables, segments, manifests. Anything of it may vanish; what is read is checked.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use df_core::{Digest, ImageId};

use super::format::name::{Reference, Space, hex};
use crate::durable::Pending;

/// A directory of this machine that remembers objects of one bucket.
pub(crate) struct Local {
    root: PathBuf,
}

impl Local {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the directory of one cache.
    pub(crate) fn of(&self, cache: [u8; 16]) -> PathBuf {
        self.root.join(hex(&cache))
    }

    /// Returns an object that is remembered, whole.
    pub(crate) fn object(&self, cache: [u8; 16], space: Space, reference: &Reference) -> Option<Vec<u8>> {
        let bytes = fs::read(self.of(cache).join(file_name(space, reference))).ok()?;
        (bytes.len() as u64 == u64::from(reference.len) && Digest::of(&bytes) == reference.digest).then_some(bytes)
    }

    /// Remembers an object; failing to costs a request later.
    pub(crate) fn keep_object(&self, cache: [u8; 16], space: Space, reference: &Reference, bytes: &[u8]) {
        let _ = self.write(cache, &file_name(space, reference), bytes);
    }

    /// Returns a manifest that is remembered, whole.
    pub(crate) fn manifest(&self, cache: [u8; 16], image: ImageId) -> Option<Vec<u8>> {
        let bytes = fs::read(self.of(cache).join(format!("m-{image}"))).ok()?;
        (Digest::of(&bytes) == image.0).then_some(bytes)
    }

    /// Remembers a manifest.
    pub(crate) fn keep_manifest(&self, cache: [u8; 16], image: ImageId, bytes: &[u8]) {
        let _ = self.write(cache, &format!("m-{image}"), bytes);
    }

    /// Forgets the tables and segments that are not among these, and the manifests of other images.
    pub(crate) fn forget_others(&self, cache: [u8; 16], kept: &[(Space, Reference)], images: impl Fn(ImageId) -> bool) {
        let names: HashSet<String> = kept.iter().map(|(space, reference)| file_name(*space, reference)).collect();
        let Ok(entries) = fs::read_dir(self.of(cache)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let stays = match name.split_once('-') {
                Some(("m", digest)) => digest.parse().is_ok_and(|digest| images(ImageId(digest))),
                Some(("i" | "t", _)) => names.contains(&name),
                // What the dead began to write. Should its writer live, it has it to read once more.
                _ if name.starts_with('.') => false,
                _ => true,
            };
            if !stays {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes a file that has no name any more, and goes with whoever holds it.
    pub(crate) fn nameless(&self, cache: [u8; 16]) -> io::Result<File> {
        let directory = self.of(cache);
        fs::create_dir_all(&directory)?;
        // Its name goes with it, or was swept by another process already; who is killed in between leaves nothing in it, and under a name that is swept.
        Pending::beside(&directory)?.file().try_clone()
    }

    fn write(&self, cache: [u8; 16], name: &str, bytes: &[u8]) -> io::Result<()> {
        let directory = self.of(cache);
        fs::create_dir_all(&directory)?;
        let temporary = directory.join(format!(".{}-{:?}-{name}", std::process::id(), std::thread::current().id()));
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, directory.join(name))
    }
}

fn file_name(space: Space, reference: &Reference) -> String {
    reference.name.key(space).as_str().replace('/', "-")
}

#[cfg(test)]
mod tests {
    use super::super::format::name::tests::reference;
    use super::*;

    #[test]
    fn what_is_named_no_more_goes_and_so_does_what_a_killed_process_began() {
        let directory = tempfile::tempdir().expect("a directory");
        let (local, cache) = (Local::new(directory.path()), [7; 16]);
        let bytes = b"a table";
        let old = Reference { len: 7, digest: Digest::of(bytes), ..reference(1) };
        let new = Reference { name: reference(2).name, ..old };
        [old, new].iter().for_each(|reference| local.keep_object(cache, Space::Table, reference, bytes));
        let begun = local.of(cache).join(".4711-ThreadId(1)-t-something");
        fs::write(&begun, b"half").expect("written");
        fs::create_dir(local.of(cache).join("upload")).expect("made");
        local.forget_others(cache, &[(Space::Table, new)], |_| false);
        assert_eq!(local.object(cache, Space::Table, &new).as_deref(), Some(bytes.as_slice()));
        assert_eq!(local.object(cache, Space::Table, &old), None);
        assert!(!begun.exists() && local.of(cache).join("upload").exists());
    }

    #[test]
    fn a_file_without_a_name_can_be_made_while_another_process_sweeps() {
        let directory = tempfile::tempdir().expect("a directory");
        let (local, cache) = (Local::new(directory.path()), [7; 16]);
        let done = std::sync::atomic::AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    local.forget_others(cache, &[], |_| true);
                }
            });
            let made = (0..3_000).try_for_each(|_| local.nameless(cache).map(drop));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            made
        });
        made.expect("made each time");
        assert_eq!(fs::read_dir(local.of(cache)).expect("read").count(), 0);
    }
}
