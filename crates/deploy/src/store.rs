//! The images that a node holds.
//!
//! An image is held when its manifest and its directory have their names: everything was checked and synced before. The manifest gets its name before the
//! directory, and loses it after it; a power cut may leave either of them alone. A directory alone is no image: it takes the place of one when that is received again, and until then a collection
//! removes it, unless a generation may run from it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use df_cache::durable;
use df_core::{Digest, ImageId, Kind, Manifest, limits};

use crate::layout::Layout;

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("the node holds no image {}", .0.short())]
    Missing(ImageId),
    #[error("the manifest of image {} is damaged", .0.short())]
    Damaged(ImageId),
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Returns whether an image is held.
pub fn holds(layout: &Layout, image: ImageId) -> bool {
    layout.image(image).is_dir() && layout.manifest(image).is_file()
}

/// Returns the images that are held.
///
/// # Errors
/// The store cannot be read.
pub fn images(layout: &Layout) -> io::Result<Vec<ImageId>> {
    let mut images = vec![];
    for entry in fs::read_dir(layout.store())? {
        let image = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        images.extend(image.filter(|image| holds(layout, *image)));
    }
    images.sort();
    Ok(images)
}

/// Reads the manifest of an image that is held, and checks that it is the one.
///
/// # Errors
/// The image is not held, or its manifest is not what its name says.
pub fn manifest(layout: &Layout, image: ImageId) -> Result<Manifest, StoreError> {
    if !holds(layout, image) {
        return Err(StoreError::Missing(image));
    }
    let path = layout.manifest(image);
    let mut bytes = vec![];
    let read = File::open(&path).and_then(|file| file.take(limits::MANIFEST_LEN + 1).read_to_end(&mut bytes));
    read.map_err(|source| StoreError::Io { path, source })?;
    if Digest::of(&bytes) != image.0 {
        return Err(StoreError::Damaged(image));
    }
    Manifest::decode(&bytes).map_err(|_| StoreError::Damaged(image))
}

/// An image that is about to be held: its manifest is written, and has no name yet.
pub struct Candidate<'a> {
    manifest: &'a Manifest,
    written: durable::Pending,
}

impl<'a> Candidate<'a> {
    /// Writes a manifest into a directory of the same file system, which is swept when this was killed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(directory: &Path, manifest: &'a Manifest) -> io::Result<Self> {
        let mut written = durable::Pending::beside(directory)?;
        written.file().write_all(&manifest.encode())?;
        Ok(Self { manifest, written })
    }

    /// Syncs what was written, before [`Self::adopt`].
    ///
    /// # Errors
    /// It is of no use then.
    pub fn sync(&self) -> io::Result<()> {
        self.written.sync(0o444)
    }

    /// Gives the image its name: from here on it is held.
    ///
    /// `tree` is complete, checked and synced, and lies on the same file system. After a crash midway the image is held or it is not.
    ///
    /// One that is held already is read back: what is damaged changes places with the new tree in one step, so that its path is never missing; what is well
    /// stays.
    ///
    /// # Errors
    /// A name cannot be given.
    pub fn adopt(self, layout: &Layout, tree: &Path) -> io::Result<()> {
        let Self { manifest, written } = self;
        let image = manifest.image();
        match durable::publish_beside(written, &layout.manifest(image), tree, &layout.image(image)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => mend(layout, image, manifest, tree),
            other => other,
        }
    }
}

/// Puts a tree in the place of one that is damaged, which is removed.
fn mend(layout: &Layout, image: ImageId, manifest: &Manifest, tree: &Path) -> io::Result<()> {
    let held = layout.image(image);
    if df_cache::check::tree(&held, manifest)?.is_empty() {
        return Ok(());
    }
    // Brought beside it first: only root may exchange read-only directories of two parents.
    let beside = layout.store().join(format!(".new-{image}"));
    durable::remove_tree(&beside)?;
    durable::publish(tree, &beside)?;
    durable::exchange(&beside, &held)?;
    durable::remove_tree(&beside)
}

/// Removes what a crash left of images that were being removed or mended.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep(layout: &Layout) -> io::Result<()> {
    for entry in fs::read_dir(layout.store())? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            durable::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the directories that have no manifest and are not kept: of a power cut, on a file system that logs each directory by itself. Needs the lock of the node, as a receive does, which
/// might just be naming it.
///
/// # Errors
/// Something cannot be looked at or removed.
pub fn sweep_trees(layout: &Layout, kept: &BTreeSet<ImageId>) -> io::Result<()> {
    for entry in fs::read_dir(layout.store())? {
        let image = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(image) = image.filter(|image| !kept.contains(image))
            && !layout.manifest(image).try_exists()?
        {
            remove_tree(layout, image)?;
        }
    }
    Ok(())
}

/// Removes an image: it loses its name first, durably, then its bytes.
///
/// # Errors
/// It cannot be renamed or removed; what is left is swept by the next collection.
pub fn remove(layout: &Layout, image: ImageId) -> io::Result<()> {
    remove_tree(layout, image)?;
    fs::remove_file(layout.manifest(image))
}

fn remove_tree(layout: &Layout, image: ImageId) -> io::Result<()> {
    // Within the store: only root may move a read-only directory to another parent.
    let doomed = layout.store().join(format!(".gone-{image}"));
    durable::rename(&layout.image(image), &doomed)?;
    durable::remove_tree(&doomed)
}

/// The contents of an image's files, by digest.
#[derive(Debug)]
pub struct Contents {
    root: PathBuf,
    /// Any path for a digest, and one for each executable bit.
    paths: HashMap<(Digest, bool), PathBuf>,
}

impl Contents {
    /// Lists what an image holds.
    pub fn new(layout: &Layout, image: ImageId, manifest: &Manifest) -> Self {
        Self::at(layout.image(image), manifest)
    }

    /// Lists what a directory holds.
    pub fn at(root: PathBuf, manifest: &Manifest) -> Self {
        let mut paths = HashMap::new();
        for entry in manifest.entries() {
            if let Kind::File { executable, digest, .. } = entry.kind {
                paths.entry((digest, executable)).or_insert_with(|| entry.path.as_path().to_owned());
            }
        }
        Self { root, paths }
    }

    /// Returns a file with this content and this executable bit.
    pub fn exact(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.paths.get(&(digest, executable)).map(|path| self.root.join(path))
    }

    /// Returns a file with this content.
    pub fn any(&self, digest: Digest) -> Option<PathBuf> {
        self.exact(digest, false).or_else(|| self.exact(digest, true))
    }

    /// Reads a part of a content; the bytes are what lies on the disk, not checked.
    ///
    /// # Errors
    /// The image has no such content, or it is shorter.
    pub fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let path = self.any(digest).ok_or(io::ErrorKind::NotFound)?;
        let file = File::open(path)?;
        if file.metadata()?.len() < offset.saturating_add(len as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use df_core::Timestamp;

    use super::*;
    use crate::collect::{Policy, perform};
    use crate::{fixture, generation};

    #[test]
    fn a_tree_that_a_power_cut_left_without_its_manifest_goes_with_a_collection_unless_a_generation_may_run_from_it() {
        let (_dir, layout) = fixture::layout();
        let (serving, held) = (fixture::release("greeter", 1), ImageId(Digest::of(b"held")));
        generation::create(&layout, &serving, 0, "me", Timestamp(0)).expect("made");
        let alone = ImageId(Digest::of(b"alone"));
        for image in [serving.image, held, alone] {
            fs::create_dir(layout.image(image)).expect("made");
            fs::write(layout.image(image).join("a"), b"bytes").expect("written");
        }
        fs::write(layout.manifest(held), b"a manifest").expect("written");
        let there = || [serving.image, held, alone].map(|image| layout.image(image).exists());
        sweep_trees(&layout, &[serving.image].into()).expect("swept");
        assert_eq!(there(), [true, true, false]);
        fs::create_dir(layout.image(alone)).expect("made");
        let policy = Policy { count: 9, older: Timestamp(i64::MAX) };
        perform(&layout, &serving.app, &[], policy, true).expect("nothing is done");
        assert!(there()[2]);
        perform(&layout, &serving.app, &[], policy, false).expect("collected");
        assert_eq!(there(), [true, false, false], "no generation has the second one either");
    }
}
