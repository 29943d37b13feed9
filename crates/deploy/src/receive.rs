//! Bytes become an image: applied, checked, synced, and only then named.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use df_cache::blobs::{Blobs, Bytes};
use df_cache::durable;
use df_cache::export::{self, ExportError};
use df_core::{Digest, ImageId, Manifest};
use df_delta::{ApplyError, Sink, Slice};
use rustix::fs::{FlockOperation, flock};

use crate::layout::{Layout, make_dir};
use crate::store::{self, Contents, StoreError};

/// An image did not come about. Nothing has its name.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReceiveError {
    #[error("the same image is being received by another session")]
    Busy,
    #[error("the base cannot be used")]
    Base(#[source] StoreError),
    #[error("the bytes do not make the image")]
    Delta(#[source] ApplyError),
    #[error("the image cannot be put together")]
    Export(#[source] ExportError),
    #[error("no room: the image needs {needed} bytes, {free} are free")]
    NoRoom { needed: u64, free: u64 },
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the image that came from the base.
    pub reused: u64,
}

/// Receives an image from a stream, as a delta to `base` or whole.
///
/// Memory is bounded by `df_delta::apply`; unchanged files are hard links to the base's. Every file is hashed as it lands, the linked ones too, so a base
/// that was damaged on disk is found here, not when it runs.
///
/// # Errors
/// The image has no name then, and what was written is removed.
pub fn receive(layout: &Layout, image: ImageId, base: Option<ImageId>, input: &mut dyn Read) -> Result<Received, ReceiveError> {
    let work = Work::begin(layout, image)?;
    let base_manifest = base.map(|base| store::manifest(layout, base)).transpose().map_err(ReceiveError::Base)?;
    let contents = base.zip(base_manifest.as_ref()).map(|(base, manifest)| Contents::new(layout, base, manifest));
    let read = |digest, offset, len| contents.as_ref().ok_or(io::ErrorKind::NotFound)?.read(digest, offset, len);
    let sink = BlobFiles { dir: work.blobs() };
    let applied =
        df_delta::apply(base_manifest.as_ref().map(|manifest| (manifest, &read as df_delta::ReadBlob<'_>)), image, input, &sink);
    let applied = applied.map_err(ReceiveError::Delta)?;
    let tree = work.tree();
    let sources = Sources { blobs: work.blobs(), base: contents.as_ref() };
    export::tree(&applied.manifest, &sources, &tree).map_err(ReceiveError::Export)?;
    store::adopt(layout, image, &applied.manifest, &tree)
        .map_err(|source| ReceiveError::Io { path: layout.image(image), source })?;
    Ok(Received { reused: applied.reused_len })
}

/// Returns an error when there is certainly no room for an image.
///
/// # Errors
/// Fewer bytes are free than must be written, or the file system does not say.
pub fn check_room(layout: &Layout, needed: u64) -> Result<(), ReceiveError> {
    let stat = rustix::fs::statvfs(&layout.root)
        .map_err(|error| ReceiveError::Io { path: layout.root.clone(), source: error.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > free { Err(ReceiveError::NoRoom { needed, free }) } else { Ok(()) }
}

/// The directory of a receive under way; removed when dropped, swept by gc when its owner was killed.
struct Work {
    dir: PathBuf,
    _lock: File,
}

impl Work {
    fn begin(layout: &Layout, image: ImageId) -> Result<Self, ReceiveError> {
        let dir = layout.incoming().join(image.to_string());
        let io = |source| ReceiveError::Io { path: dir.clone(), source };
        make_dir(&dir).map_err(io)?;
        let lock = OpenOptions::new().create(true).append(true).open(dir.join("lock")).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| ReceiveError::Busy)?;
        let work = Self { dir: dir.clone(), _lock: lock };
        for left in [work.blobs(), work.tree()] {
            durable::remove_tree(&left).map_err(io)?;
        }
        make_dir(&work.blobs()).map_err(io)?;
        Ok(work)
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = durable::remove_tree(&self.dir);
    }
}

/// Takes the contents that the base lacks, one file each, named by digest.
struct BlobFiles {
    dir: PathBuf,
}

impl BlobFiles {
    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

impl Sink for BlobFiles {
    fn manifest(&self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }

    fn blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        File::create_new(self.path(digest))?.write_all(bytes)
    }

    fn stretch(&self, stretch: Slice, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(stretch.digest);
        let file = if stretch.offset == 0 { File::create_new(path) } else { OpenOptions::new().write(true).open(path) };
        file?.write_all_at(bytes, stretch.offset)
    }

    fn finish(&self, _: Digest) -> io::Result<()> {
        Ok(())
    }
}

/// Where the bytes of the new image lie: what came in the stream, and the base.
struct Sources<'a> {
    blobs: PathBuf,
    base: Option<&'a Contents>,
}

impl Blobs for Sources<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let came = self.blobs.join(digest.to_string());
        if came.exists() {
            return Ok(Bytes::Take(came));
        }
        let held = self.base.and_then(|base| base.any(digest)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Bytes::File(held))
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.base?.exact(digest, executable)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::fixture;
    use df_core::{Entry, Kind};
    use df_delta::Level;

    /// A tree of plain files, in memory.
    struct Tree {
        manifest: Manifest,
        blobs: HashMap<Digest, Vec<u8>>,
    }

    fn tree(files: &[(&str, &[u8])]) -> Tree {
        let blobs = files.iter().map(|(_, bytes)| (Digest::of(bytes), bytes.to_vec())).collect();
        let entries = files.iter().map(|(path, bytes)| Entry {
            path: path.parse().expect("a path"),
            kind: Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(bytes) },
        });
        Tree { manifest: Manifest::new(entries.collect()).expect("a tree"), blobs }
    }

    fn delta(base: Option<&Tree>, target: &Tree) -> Vec<u8> {
        let from = |tree: &Tree, digest, offset: u64, len| Ok(tree.blobs[&digest][offset as usize..][..len].to_vec());
        let read_base = |digest, offset, len| from(base.expect("asked only with a base"), digest, offset, len);
        let read_target = |digest, offset, len| from(target, digest, offset, len);
        let mut bytes = vec![];
        let base = base.map(|base| (&base.manifest, &read_base as df_delta::ReadBlob<'_>));
        df_delta::encode(base, (&target.manifest, &read_target), Level::Fast, &mut bytes).expect("made");
        bytes
    }

    fn take(layout: &Layout, base: Option<&Tree>, target: &Tree, bytes: &[u8]) -> Result<Received, ReceiveError> {
        receive(layout, target.manifest.image(), base.map(|base| base.manifest.image()), &mut &bytes[..])
    }

    fn inode(layout: &Layout, tree: &Tree, path: &str) -> u64 {
        std::fs::metadata(layout.image(tree.manifest.image()).join(path)).expect("it is there").ino()
    }

    #[test]
    fn whole_then_a_delta_that_shares_what_did_not_change() {
        let (_dir, layout) = fixture::layout();
        let (v1, v2) = (tree(&[("a", b"one"), ("b", b"old")]), tree(&[("a", b"one"), ("b", b"new")]));
        take(&layout, None, &v1, &delta(None, &v1)).expect("received");
        let received = take(&layout, Some(&v1), &v2, &delta(Some(&v1), &v2)).expect("received");
        assert_eq!(received.reused, 3);
        assert_eq!(inode(&layout, &v1, "a"), inode(&layout, &v2, "a"), "an unchanged file is one inode");
        for tree in [&v1, &v2] {
            let image = tree.manifest.image();
            assert_eq!(store::manifest(&layout, image).expect("kept"), tree.manifest);
            assert_eq!(df_cache::check::tree(&layout.image(image), &tree.manifest).expect("read"), []);
        }
        assert_eq!(store::images(&layout).expect("listed").len(), 2);
        assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_damaged_delta_or_base_gives_no_image_and_leaves_nothing() {
        let (_dir, layout) = fixture::layout();
        let (v1, v2) = (tree(&[("a", b"one"), ("b", b"old")]), tree(&[("a", b"one"), ("b", b"new")]));
        take(&layout, None, &v1, &delta(None, &v1)).expect("received");
        let good = delta(Some(&v1), &v2);
        for cut in 0..good.len() {
            assert!(take(&layout, Some(&v1), &v2, &good[..cut]).is_err(), "cut at {cut}");
        }
        let stranger = tree(&[("z", b"z")]);
        assert!(matches!(take(&layout, Some(&stranger), &v2, &good), Err(ReceiveError::Base(StoreError::Missing(_)))));
        df_testkit::faults::flip_byte(&layout.image(v1.manifest.image()).join("a"), 0);
        assert!(matches!(take(&layout, Some(&v1), &v2, &good), Err(ReceiveError::Export(ExportError::Damaged { .. }))));
        assert!(!store::holds(&layout, v2.manifest.image()));
        assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0);
        take(&layout, None, &v2, &delta(None, &v2)).expect("whole is the way out");
    }

    #[test]
    fn two_receives_of_one_image_do_not_mix() {
        let (_dir, layout) = fixture::layout();
        let v1 = tree(&[("a", b"one")]);
        let _held = Work::begin(&layout, v1.manifest.image()).expect("begun");
        assert!(matches!(take(&layout, None, &v1, &delta(None, &v1)), Err(ReceiveError::Busy)));
    }

    #[test]
    fn no_room_is_said_before_anything_is_written() {
        let (_dir, layout) = fixture::layout();
        assert!(matches!(check_room(&layout, u64::MAX), Err(ReceiveError::NoRoom { .. })));
        check_room(&layout, 1).expect("room for a byte");
    }
}
