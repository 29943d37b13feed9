//! What a node holds, as a store like any other: images are copied from it and to it, compared, and mended.
//!
//! A node stays its own judge: it believes whom it believes, checks what it is sent, keeps what its generations need, and lets go by its own rules. So what a
//! store can be told and a node cannot (to pin, to keep a document, to remove just this) is refused in words.
//!
//! Nothing that a node says is trusted: its manifests and contents are compared with their digests as they come, its releases with their ids, and after the
//! first thing that does not fit it is asked nothing more.

mod putting;
mod reading;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use df_cache::blobs::{Blobs, Bytes};
use df_cache::scrub::{Damage, Damaged, Repaired};
use df_cache::store::{Added, Contents, PutError, ReadError, Stats, Store, StoredImage, StoredRelease};
use df_cache::{Document, gc};
use df_core::{AppName, Bundle, Digest, ImageId, Manifest, Release, ReleaseId, Timestamp};
use df_wire::message::{Difference, FaultKind};
use df_wire::{Reply, Request};
use tokio::runtime::Handle;

use crate::connection::{NodeError, TakeError};
use crate::deltas::manifest_of;
use crate::survey::{Claim, Reached};
use crate::transfer::CopyError;

use reading::{Reading, Ready};

/// Bytes of manifests that are read to learn which image has a content: of as many images as that holds.
const MANIFESTS: u64 = 256 << 20;

/// A node as a store. Whoever calls it is no task of the runtime that it is given.
pub struct NodeStore {
    runtime: Handle,
    app: AppName,
    claim: Claim,
    /// Where contents lie until they are taken.
    scratch: tempfile::TempDir,
    line: Mutex<Line>,
    manifests: Mutex<HashMap<ImageId, Arc<Manifest>>>,
    /// Which image has a content; made when it is first asked.
    index: Mutex<Option<Arc<Index>>>,
    releases: Mutex<HashMap<ReleaseId, Known>>,
}

/// The session with the node.
struct Line {
    reached: Reached,
    /// Why the node is asked nothing more.
    given_up: Option<GivenUp>,
}

type Index = HashMap<Digest, (ImageId, u64)>;
type Known = (Release, Option<Bundle>);

impl NodeStore {
    /// Makes a store of a node that was reached; what comes from it lies in a directory below `scratch` until it is taken.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(runtime: Handle, reached: Reached, app: AppName, claim: Claim, scratch: &Path) -> io::Result<Self> {
        Ok(Self {
            runtime,
            app,
            claim,
            scratch: tempfile::Builder::new().prefix("df-node-").tempdir_in(scratch)?,
            line: Mutex::new(Line { reached, given_up: None }),
            manifests: Mutex::default(),
            index: Mutex::default(),
            releases: Mutex::default(),
        })
    }

    /// Returns whether the node hands out contents at all: an older one does not.
    pub fn hands_out(&self) -> bool {
        self.line().reached.survey.hands_out
    }

    /// Returns the images that the node holds or that its generations need, in order.
    pub fn images(&self) -> Vec<ImageId> {
        self.line().reached.images()
    }

    /// Returns what of an image is not what its manifest says, read back by the node; `None`: it holds no such image, or a damaged manifest.
    ///
    /// # Errors
    /// The node cannot tell.
    pub fn check(&self, image: ImageId) -> Result<Option<Vec<Difference>>, ReadError> {
        let mut line = self.line();
        line.is_asked()?;
        let asked = self.runtime.block_on(line.reached.connection.ask(&Request::Check { image }));
        match asked {
            Ok(Reply::Checked { differences }) => Ok(Some(differences)),
            Ok(_) => Err(line.give_up(TakeError::Node(NodeError::Answer))),
            Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Missing | FaultKind::Damaged) => Ok(None),
            Err(error) => Err(line.give_up(TakeError::Node(error))),
        }
    }

    /// Returns whether an image is what its manifest says, read back by the node.
    fn is_well(&self, image: ImageId) -> Result<bool, ReadError> {
        let found = self.check(image)?;
        Ok(found.is_some_and(|found| found.is_empty()))
    }

    /// Returns the bytes that went to the node and came from it.
    pub fn traffic(&self) -> (u64, u64) {
        self.line().reached.connection.traffic()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // What a panic left half done is a session, which ends by itself.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_manifest(&self, image: ImageId) -> Result<Arc<Manifest>, ReadError> {
        let known = || self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manifest) = known().get(&image) {
            return Ok(manifest.clone());
        }
        let mut line = self.line();
        line.is_asked()?;
        if !line.reached.survey.images.contains(&image) {
            return Err(ReadError::NoImage { image });
        }
        let manifest = match self.runtime.block_on(manifest_of(&mut line.reached.connection, image)) {
            Ok(manifest) => Arc::new(manifest),
            Err(CopyError::Node(NodeError::Fault(fault))) => {
                return Err(match fault.kind {
                    FaultKind::Missing => ReadError::NoImage { image },
                    FaultKind::Damaged => ReadError::Damaged { digest: image.0 },
                    _ => unread(NodeError::Fault(fault)),
                });
            }
            Err(error) => return Err(line.give_up(error)),
        };
        known().insert(image, manifest.clone());
        Ok(manifest)
    }

    /// Returns which image has which content, as far as the node tells.
    fn index(&self) -> Result<Arc<Index>, ReadError> {
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*kept {
            return Ok(index.clone());
        }
        let (mut index, mut read) = (Index::new(), 0);
        let held = self.line().reached.survey.images.clone();
        for image in held {
            let manifest = match self.known_manifest(image) {
                Ok(manifest) => manifest,
                Err(ReadError::Store(error)) => return Err(ReadError::Store(error)),
                // What is damaged there has nothing to give.
                Err(_) => continue,
            };
            for (digest, len) in manifest.blobs() {
                index.entry(digest).or_insert((image, len));
            }
            read += manifest.encode().len() as u64;
            if read > MANIFESTS {
                break;
            }
        }
        Ok(kept.insert(Arc::new(index)).clone())
    }

    /// Returns a release that the survey named.
    fn known_release(&self, app: &AppName, release: ReleaseId) -> Result<Known, ReadError> {
        let known = || self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&release) {
            return Ok(found.clone());
        }
        let mut line = self.line();
        line.is_asked()?;
        let found = self.runtime.block_on(line.reached.connection.release(app, release));
        let found = found.map_err(|error| line.give_up(error))?;
        known().insert(release, found.clone());
        Ok(found)
    }

    /// Returns the application's releases as the survey names them: what was copied only, then generations, what is current last.
    fn named(&self) -> Vec<(ReleaseId, Timestamp)> {
        let line = self.line();
        let Some(state) = line.reached.survey.apps.iter().find(|state| state.app == self.app) else { return vec![] };
        let staged = state.staged.iter().map(|staged| (staged.release, staged.since));
        let (current, others): (Vec<_>, Vec<_>) = state.generations.iter().partition(|it| it.number == state.current);
        let generations = others.into_iter().chain(current).map(|generation| (generation.release, generation.since));
        // Of those that name the same release the last one counts.
        let mut named: Vec<(ReleaseId, Timestamp)> = vec![];
        for (release, since) in staged.chain(generations) {
            named.retain(|(known, _)| *known != release);
            named.push((release, since));
        }
        named
    }
}

impl Line {
    /// Passes when the node may be asked something that only newer ones know.
    fn is_asked(&self) -> Result<(), ReadError> {
        match &self.given_up {
            Some(why) => Err(ReadError::Store(io::Error::other(why.clone()))),
            None if !self.reached.survey.hands_out => Err(unread(TakeError::Old)),
            None => Ok(()),
        }
    }

    /// Asks nothing more after an error that is neither a refusal nor of this machine.
    fn give_up(&mut self, error: impl Into<Failed>) -> ReadError {
        let Failed { error, is_over } = error.into();
        if !is_over {
            return ReadError::Store(io::Error::other(error));
        }
        let why = GivenUp(Arc::from(error));
        self.given_up = Some(why.clone());
        ReadError::Store(io::Error::other(why))
    }
}

/// Why a node is asked nothing more: the first thing of it that did not fit.
#[derive(Debug, Clone)]
struct GivenUp(Arc<dyn Error + Send + Sync>);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is asked nothing more")
    }
}

impl Error for GivenUp {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// An error, and whether the node is asked nothing more after it.
struct Failed {
    error: Box<dyn Error + Send + Sync>,
    is_over: bool,
}

impl From<TakeError> for Failed {
    fn from(error: TakeError) -> Self {
        let is_over = !matches!(error, TakeError::Old | TakeError::Node(NodeError::Fault(_)));
        Self { error: error.into(), is_over }
    }
}

impl From<CopyError> for Failed {
    fn from(error: CopyError) -> Self {
        let is_over = match &error {
            CopyError::Node(error) => !matches!(error, NodeError::Fault(_)),
            CopyError::Manifest(_) => true,
            CopyError::Wish(_)
            | CopyError::Untrusted(_)
            | CopyError::Encode(_)
            | CopyError::Here(_)
            | CopyError::Scattered(_) => false,
        };
        Self { error: error.into(), is_over }
    }
}

fn unread(error: impl Into<TakeError>) -> ReadError {
    ReadError::Store(io::Error::other(error.into()))
}

fn unsupported(what: &str) -> PutError {
    let why = format!("a node {what}");
    PutError::Store(io::Error::new(io::ErrorKind::Unsupported, why))
}

impl Blobs for NodeStore {
    /// Hands out a content that was compared with its digest, or the manifest of an image; it lies in the scratch directory until the store is dropped.
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let held = self.line().reached.survey.images.contains(&ImageId(digest));
        if held {
            let bytes = self.known_manifest(ImageId(digest))?.encode();
            return Ok(Bytes::Read(Box::new(io::Cursor::new(bytes))));
        }
        let Some(&(image, len)) = self.index()?.get(&digest) else { return Err(ReadError::NoBlob { digest }.into()) };
        let kept = self.scratch.path().join(digest.to_string());
        if kept.is_file() {
            return Ok(Bytes::File(kept));
        }
        match self.fetch(image, &[(digest, len)])?.remove(&digest) {
            Some(Ready::Memory(bytes)) => {
                std::fs::write(&kept, bytes)?;
                Ok(Bytes::File(kept))
            }
            Some(Ready::File(path)) => {
                std::fs::rename(path, &kept)?;
                Ok(Bytes::File(kept))
            }
            Some(Ready::None(why)) => Err(reading::refused(digest, why).into()),
            None => Err(ReadError::NoBlob { digest }.into()),
        }
    }
}

impl Store for NodeStore {
    fn put_image(&self, manifest: &Manifest, blobs: &dyn Blobs, _now: Timestamp) -> Result<Added, PutError> {
        let is_held = self.has(manifest.image()).map_err(|error| PutError::Store(error.into()))?;
        if is_held && self.is_well(manifest.image()).map_err(|error| PutError::Store(error.into()))? {
            return Ok(Added::default());
        }
        self.send(manifest, blobs, is_held)
    }

    fn put_release(&self, release: &Release, _now: Timestamp) -> Result<(), PutError> {
        self.stage(release)
    }

    fn contents(&self) -> Result<Contents, ReadError> {
        let mut contents = Contents::default();
        for (at, (id, stored)) in self.named().into_iter().enumerate() {
            let (release, _) = self.known_release(&self.app, id)?;
            contents.releases.push(StoredRelease::new(release, at as u64 + 1, stored));
        }
        let since = |image| contents.releases.iter().rfind(|it| it.release.image == image).map_or(Timestamp(0), |it| it.stored);
        let held = &self.line().reached.survey.images;
        contents.images = held.iter().map(|&image| StoredImage { image, stored: since(image) }).collect();
        contents.images.sort_unstable();
        Ok(contents)
    }

    fn manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        self.known_manifest(image).map(|manifest| (*manifest).clone())
    }

    fn has(&self, image: ImageId) -> Result<bool, ReadError> {
        Ok(self.line().reached.survey.images.contains(&image))
    }

    fn lacking(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, ReadError> {
        // A node gets images, not contents: one that it lacks or has damaged comes with all of them, or as a delta to another.
        let image = manifest.image();
        Ok(if self.has(image)? && self.is_well(image)? { vec![] } else { manifest.blobs() })
    }

    fn reading<'a>(&'a self, blobs: &[(Digest, u64)]) -> Result<Box<dyn Blobs + 'a>, ReadError> {
        Ok(Box::new(Reading::new(self, blobs)?))
    }

    fn read(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        let reader = self.blob(digest).and_then(Bytes::reader)?;
        let mut bytes = vec![];
        io::Read::read_to_end(&mut io::Read::take(reader, len + 1), &mut bytes)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(ReadError::Damaged { digest }) }
    }

    fn read_blob(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let Some(&(_, whole)) = self.index()?.get(&digest) else { return Err(ReadError::NoBlob { digest }) };
        if offset.checked_add(len as u64).is_none_or(|end| end > whole) {
            return Err(ReadError::Range { digest, offset, len });
        }
        let bytes = self.read(digest, whole)?;
        Ok(bytes[offset as usize..][..len].to_vec())
    }

    fn attach(&self, _: &AppName, _: ReleaseId, document: Document, _: &[u8]) -> Result<bool, PutError> {
        Err(unsupported(&format!("keeps no {document}")))
    }

    fn attached(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<Vec<u8>>, ReadError> {
        if document != Document::Attestations {
            return Ok(None);
        }
        Ok(self.known_release(app, release)?.1.map(|bundle| bundle.encode()))
    }

    fn pin(&self, _: ImageId, _: &str) -> Result<(), PutError> {
        Err(unsupported("keeps what its generations need, and no pins"))
    }

    fn unpin(&self, _: ImageId) -> Result<bool, PutError> {
        Ok(false)
    }

    fn collect(&self, _: &gc::Plan) -> Result<gc::Collected, PutError> {
        Err(unsupported("judges by itself what goes"))
    }

    fn verify(&self) -> Result<Vec<Damage>, ReadError> {
        let mut damages = vec![];
        for image in self.images() {
            let row = |what, why| Damage { what, place: None, why, images: vec![image] };
            match self.check(image)? {
                None => damages.push(row(Damaged::Manifest(image), "it is not there, or its manifest is damaged".to_owned())),
                Some(differences) => damages.extend(differences.into_iter().map(|found| {
                    let what = match self.hurt(image, std::slice::from_ref(&found))[..] {
                        [digest] if digest != image.0 => Damaged::Blob(digest),
                        _ => Damaged::Object(found.path.clone()),
                    };
                    let Difference { path, kind, expected, found } = found;
                    row(what, format!("{path}: {kind}, expected {expected}, found {found}"))
                })),
            }
        }
        Ok(damages)
    }

    fn repair(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        self.mend(source)
    }

    /// Lets go of all that nothing needs which serves, runs, or may serve again.
    fn flush(&self) -> Result<(), PutError> {
        self.let_go(false).map(drop)
    }

    fn stats(&self) -> Result<Stats, ReadError> {
        let line = self.line();
        let survey = &line.reached.survey;
        let n_releases = survey.apps.iter().map(|app| app.generations.len() + app.staged.len()).sum::<usize>() as u64;
        Ok(Stats { n_images: survey.images.len() as u64, n_releases, free_bytes: Some(survey.free), ..Stats::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_ended_a_session_is_known_from_every_error_after_it() {
        let failed = Failed::from(TakeError::Node(NodeError::Silent(Duration::from_secs(9))));
        assert!(failed.is_over);
        let later = ReadError::Store(io::Error::other(GivenUp(Arc::from(failed.error))));
        let mut cause: Option<&(dyn Error + 'static)> = Some(&later);
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(TakeError::Node(NodeError::Silent(_)))) {
                return;
            }
            cause = error.source();
        }
        panic!("the kind of the first error is lost");
    }

    #[test]
    fn what_only_this_machine_cannot_do_does_not_end_a_session() {
        assert!(!Failed::from(CopyError::Here(io::ErrorKind::StorageFull.into())).is_over);
        assert!(!Failed::from(TakeError::Old).is_over);
        assert!(Failed::from(CopyError::Manifest(ImageId(Digest::of(b"other")))).is_over);
    }
}
