//! What a delta can be to: an image that the node holds, or what a receive has that was cut.
//!
//! The complete files of a cut receive are an image too, the *partial* one: its manifest is that part of the whole image's manifest, and its id the digest
//! of it. So it is surveyed, listed, signed and used like any other; only it has no name in the store, and its bytes are those that may be there.

use std::fs;
use std::io;
use std::time::SystemTime;

use df_cache::export::Growing;
use df_core::{ImageId, Manifest};
use df_wire::message::Incoming;

use super::work::{self, Left, Work};
use crate::layout::Layout;
use crate::store::{self, Contents, StoreError};

/// How many cut receives a survey tells of.
const TOLD: usize = 8;

/// What a delta is to.
#[derive(Debug)]
pub struct Base {
    /// What it holds.
    pub manifest: Manifest,
    /// Its files.
    pub contents: Contents,
    /// Whether it is what the receive that asks has so far.
    pub is_own: bool,
    /// Whether it has a name in the store: then all of it was synced.
    pub is_named: bool,
    /// Held so that nobody sweeps it meanwhile.
    _work: Option<Work>,
}

/// Finds an image among those that are held, in the receive that asks, and in those that were cut.
///
/// # Errors
/// It is not there, or its manifest is damaged.
pub fn find(layout: &Layout, image: ImageId, own: Option<(&Work, ImageId)>) -> Result<Base, StoreError> {
    if store::holds(layout, image) {
        let manifest = store::manifest(layout, image)?;
        let contents = Contents::new(layout, image, &manifest);
        return Ok(Base { manifest, contents, is_own: false, is_named: true, _work: None });
    }
    if let Some((work, target)) = own {
        let partial = work.base().into_iter().chain(partial(layout, target)).find(|partial| partial.image() == image);
        if let Some(manifest) = partial {
            let contents = Contents::at(work.tree(), &manifest);
            return Ok(Base { manifest, contents, is_own: true, is_named: false, _work: None });
        }
    }
    let read = |source| StoreError::Io { path: layout.incoming(), source };
    for other in images(layout).map_err(read)?.into_iter().filter(|other| own.is_none_or(|(_, target)| target != *other)) {
        if let Some(manifest) = partial(layout, other).filter(|partial| partial.image() == image) {
            // Somebody who works there changes it, and when it was swept it is no base.
            let Ok(mut work) = Work::take(layout, other) else { break };
            work.keep();
            let contents = Contents::at(work.tree(), &manifest);
            return Ok(Base { manifest, contents, is_own: false, is_named: false, _work: Some(work) });
        }
    }
    Err(StoreError::Missing(image))
}

/// Returns the receives that were cut, the youngest first.
///
/// # Errors
/// The directory cannot be read.
pub fn cut(layout: &Layout) -> io::Result<Vec<Incoming>> {
    let mut left: Vec<(SystemTime, ImageId)> =
        images(layout)?.into_iter().filter_map(|image| Some((work::touched(layout, image)?, image))).collect();
    left.sort_unstable_by(|a, b| b.cmp(a));
    let tell = |(_, image): (SystemTime, ImageId)| {
        let left = Left::of(layout, image)?;
        let partial = partial_of(layout, &left);
        // Without its base it is of use only as a base itself.
        let goes_on = left.record.base.is_none_or(|base| has(layout, image, base));
        let offset = if goes_on { left.offset() } else { 0 };
        Some(Incoming { image, base: left.record.base, delta: left.record.delta, offset, partial: partial.map(|it| it.image()) })
    };
    Ok(left.into_iter().filter(|(_, image)| !store::holds(layout, *image)).filter_map(tell).take(TOLD).collect())
}

fn has(layout: &Layout, image: ImageId, base: ImageId) -> bool {
    store::holds(layout, base) || work::base_in(layout, image).is_some_and(|own| own.image() == base)
}

/// Returns the image of what a cut receive has; `None` when it has no complete file.
fn partial(layout: &Layout, image: ImageId) -> Option<Manifest> {
    partial_of(layout, &Left::of(layout, image)?)
}

fn partial_of(layout: &Layout, left: &Left) -> Option<Manifest> {
    let complete = Growing::complete(&left.manifest, &work::tree_in(layout, left.manifest.image()));
    (!complete.entries().is_empty()).then_some(complete)
}

fn images(layout: &Layout) -> io::Result<Vec<ImageId>> {
    let mut images = vec![];
    for entry in fs::read_dir(layout.incoming())? {
        images.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ImageId>().ok()));
    }
    images.sort_unstable();
    Ok(images)
}
