//! Bytes become an image: applied, checked, synced, and only then named.
//!
//! When the bytes end too early, what came stays, if the sender named its delta: a later receive goes on with it, or takes it for a base.

use std::io::{self, Read};
use std::path::PathBuf;

use df_cache::blobs::{Blobs, Bytes};
use df_cache::export::{ExportError, Growing};
use df_core::{Digest, ImageId, Manifest};
use df_delta::{Applied, ApplyError, Kept, ReadBlob};

use crate::layout::Layout;
use crate::store::{self, StoreError};

mod base;
mod landing;
mod work;

pub use base::{Base, cut, find};
use landing::Landing;
pub use work::touched;
use work::{Left, Record, Work};

/// An image did not come about. Nothing has its name.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReceiveError {
    #[error("the same image is being received by another session")]
    Busy,
    /// The bytes do not go on where this one ends.
    #[error("what lies here of the delta ends at byte {offset}")]
    Elsewhere { offset: u64 },
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

/// What is to be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    /// What it makes.
    pub image: ImageId,
    /// The image that the delta is to; `None`: it is whole.
    pub base: Option<ImageId>,
    /// The digest of the delta; without it nothing stays after a cut.
    pub delta: Option<Digest>,
    /// Where in the delta the bytes begin.
    pub from: u64,
}

/// Receives an image from a stream, as a delta to a base or whole, or the rest of one that was cut.
///
/// Memory is bounded by [`df_delta::apply::IN_FLIGHT`]; what comes is written once, where it stays, and unchanged files are hard links to the base's. Every file
/// is hashed before it counts, the linked ones and those of an earlier sitting too, so a base that was damaged on disk is found here, not when it runs.
///
/// # Errors
/// The image has no name then. What was written is removed, unless the bytes ended too early.
pub fn receive(layout: &Layout, parcel: &Parcel, input: &mut dyn Read) -> Result<Received, ReceiveError> {
    let mut work = Work::take(layout, parcel.image)?;
    let left = work.left().filter(|left| left.manifest.image() == parcel.image);
    let received =
        if parcel.from > 0 { go_on(layout, &work, left, parcel, input) } else { begin(layout, &work, left, parcel, input) };
    if let Err(ReceiveError::Delta(ApplyError::Input(_)) | ReceiveError::Elsewhere { offset: 1.. }) = received
        && work.left().is_some()
    {
        work.keep();
    }
    received
}

/// Receives a delta from its first byte.
fn begin(
    layout: &Layout,
    work: &Work,
    left: Option<Left>,
    parcel: &Parcel,
    input: &mut dyn Read,
) -> Result<Received, ReceiveError> {
    let io = |source| ReceiveError::Io { path: layout.incoming(), source };
    let base = base_of(layout, work, parcel)?;
    let own = base.as_ref().filter(|base| base.is_own);
    let growing = match (own, left) {
        (Some(base), Some(left)) => Some(grown(work, &left.manifest, base)?),
        (Some(base), None) => return Err(ReceiveError::Base(StoreError::Missing(base.manifest.image()))),
        (None, _) => None,
    };
    let record = parcel.delta.map(|delta| Record::new(parcel.base, delta));
    work.begin(record.as_ref(), own.map(|base| &base.manifest), growing.is_some()).map_err(io)?;
    let landing = Landing::new(work, record.is_some(), growing).map_err(io)?;
    let applied = with(base.as_ref(), |base| df_delta::apply(base, parcel.image, &mut landing.noting(input), &landing));
    name(layout, work, parcel.image, base.as_ref(), applied.map_err(ReceiveError::Delta)?, landing)
}

/// Receives the rest of a delta.
fn go_on(
    layout: &Layout,
    work: &Work,
    left: Option<Left>,
    parcel: &Parcel,
    input: &mut dyn Read,
) -> Result<Received, ReceiveError> {
    let io = |source| ReceiveError::Io { path: layout.incoming(), source };
    let is_it = |left: &Left| parcel.delta.map(|delta| Record::new(parcel.base, delta)) == Some(left.record);
    let Some(left) = left.filter(is_it) else { return Err(ReceiveError::Elsewhere { offset: 0 }) };
    let Some(last) = left.marks.iter().position(|mark| mark.offset == parcel.from) else {
        return Err(ReceiveError::Elsewhere { offset: left.offset() });
    };
    let marks = &left.marks[..=last];
    work.forget_marks(marks.len()).map_err(io)?;
    let base = base_of(layout, work, parcel)?;
    let growing = match base.as_ref().filter(|base| base.is_own) {
        Some(base) => grown(work, &left.manifest, base)?,
        None => Growing::in_old(&left.manifest, &work.tree()).map_err(ReceiveError::Export)?,
    };
    let landing = Landing::again(work, growing).map_err(io)?;
    let mut head = work.head().map_err(io)?;
    let applied =
        with(base.as_ref(), |base| df_delta::resume(base, parcel.image, Kept { head: &mut head, marks }, input, &landing));
    match applied {
        Err(ApplyError::NotKept { n_marks }) => {
            work.forget_marks(n_marks).map_err(io)?;
            let offset = n_marks.checked_sub(1).map_or(0, |last| marks[last].offset);
            Err(ReceiveError::Elsewhere { offset })
        }
        applied => name(layout, work, parcel.image, base.as_ref(), applied.map_err(ReceiveError::Delta)?, landing),
    }
}

fn base_of(layout: &Layout, work: &Work, parcel: &Parcel) -> Result<Option<Base>, ReceiveError> {
    let find = |base| base::find(layout, base, Some((work, parcel.image)));
    parcel.base.map(find).transpose().map_err(ReceiveError::Base)
}

/// Goes on with a tree that is its own base: all of the base's contents have to be right.
fn grown(work: &Work, manifest: &Manifest, base: &Base) -> Result<Growing, ReceiveError> {
    let growing = Growing::in_old(manifest, &work.tree()).map_err(ReceiveError::Export)?;
    growing.look_over();
    if base.manifest.blobs().iter().all(|(digest, _)| growing.has(*digest)) {
        Ok(growing)
    } else {
        Err(ReceiveError::Base(StoreError::Damaged(base.manifest.image())))
    }
}

/// Hands a base to a function that reads its blobs.
fn with<T>(base: Option<&Base>, run: impl FnOnce(Option<(&Manifest, ReadBlob<'_>)>) -> T) -> T {
    let read = |digest, offset, len| base.ok_or(io::ErrorKind::NotFound)?.contents.read(digest, offset, len);
    run(base.map(|base| (&base.manifest, &read as ReadBlob<'_>)))
}

/// Completes the tree and gives it its name.
fn name(
    layout: &Layout,
    work: &Work,
    image: ImageId,
    base: Option<&Base>,
    applied: Applied,
    landing: Landing<'_>,
) -> Result<Received, ReceiveError> {
    let io = |source| ReceiveError::Io { path: layout.image(image), source };
    let candidate = store::Candidate::new(work.dir(), &applied.manifest).map_err(io)?;
    landing.finish(&Sources(base), &|| candidate.sync()).map_err(ReceiveError::Export)?;
    candidate.adopt(layout, &work.tree()).map_err(io)?;
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

/// Where the bytes of the new image lie that did not come: in the base.
struct Sources<'a>(Option<&'a Base>);

impl Blobs for Sources<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let held = self.0.and_then(|base| base.contents.any(digest)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Bytes::File(held))
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.0?.contents.exact(digest, executable)
    }

    fn twins_are_durable(&self) -> bool {
        self.0.is_some_and(|base| base.is_named)
    }
}

#[cfg(test)]
mod tests;
