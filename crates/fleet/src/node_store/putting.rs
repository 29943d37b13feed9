//! Images and releases on their way to a node that is used as a store, and the mending of what it has damaged.
//!
//! An image travels as every image does: as the bytes that make it, applied and compared with its digest by the node before it has a name. One that is held and
//! damaged is sent whole; the node puts the new tree in the place of the old one in one step, and only when they differ.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use df_cache::blobs::{Blobs, Bytes, Chain};
use df_cache::scrub::Repaired;
use df_cache::store::{Added, PutError, Store as _};
use df_core::attestation::{Policy, Subject};
use df_core::{CommitId, Digest, Hasher, ImageId, Kind, Manifest, RecipeKey, Release, ReleaseId, Timestamp, limits};
use df_wire::message::{Collected, Difference};
use df_wire::{Reply, Request};

use super::NodeStore;
use crate::choice::Link;
use crate::choosing::Wish;
use crate::connection::{NodeError, TakeError};
use crate::deltas::{Deltas, Images};
use crate::survey;
use crate::transfer::{self, CopyError, Errand};
use crate::trust::Credentials;

/// An image whose contents were compared with their digests and lie one after the other in a file of ours.
struct Lent {
    manifest: Manifest,
    file: File,
    /// Where each content begins.
    places: HashMap<Digest, u64>,
    scratch: PathBuf,
}

impl NodeStore {
    /// Sends an image; `is_held`: also when the node has it, because it is damaged there.
    pub(super) fn send(&self, manifest: &Manifest, blobs: &dyn Blobs, is_held: bool) -> Result<Added, PutError> {
        let image = manifest.image();
        let lent = Lent::of(manifest, blobs, self.scratch.path())?;
        let credentials = self.credentials(image);
        let deltas = Arc::new(Deltas::to(Arc::new(lent), image).map_err(failed)?);
        let mut line = self.line();
        line.is_asked().map_err(io::Error::from)?;
        let errand = Errand {
            deltas: &deltas,
            app: &self.app,
            wish: Wish { full: is_held, ..Wish::default() },
            link: Link::UNMEASURED,
            claim: &self.claim,
            credentials: &credentials,
            stage: None,
            through: None,
            is_last: false,
        };
        let sent = self.runtime.block_on(async {
            let copied = transfer::copy(&mut line.reached, &errand, &mut |_| {}).await?;
            line.reached.survey = survey::again(&mut line.reached.connection).await?;
            Ok::<_, CopyError>(copied)
        });
        sent.map_err(|error| io::Error::from(line.give_up(error)))?;
        Ok(Added { n_blobs: manifest.blobs().len() as u64, bytes: manifest.total_len() })
    }

    /// Has the node remember a release whose image it holds.
    pub(super) fn stage(&self, release: &Release) -> Result<(), PutError> {
        if !self.line().reached.survey.images.contains(&release.image) {
            return Err(PutError::NoImage { image: release.image });
        }
        let text = String::from_utf8(release.encode()).expect("JSON is UTF-8");
        match self.ask_locked(&Request::Stage { release: text })? {
            Reply::Done => Ok(()),
            _ => Err(failed(NodeError::Answer)),
        }
    }

    /// Lets go of the application's generations and images that nothing needs which serves, runs, or may serve again; or says which those are.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub fn let_go(&self, dry_run: bool) -> Result<Vec<Collected>, PutError> {
        // By the node's own clock, and all that it could have made by then.
        let older = Timestamp(self.line().reached.survey.now.0.saturating_add(86_400));
        let request = Request::Collect { app: self.app.clone(), count: 0, older, dry_run };
        match self.ask_locked(&request)? {
            Reply::Collected { collected } => Ok(collected),
            _ => Err(failed(NodeError::Answer)),
        }
    }

    /// Puts right what the node finds damaged. Of a damaged image all is sent: from `source`, and what that lacks from what is whole on the node. One that cannot be mended, or that the
    /// node refuses, holds up no other.
    pub(super) fn mend(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let mut repaired = Repaired::default();
        for image in self.images() {
            let found = self.check(image).map_err(io::Error::from)?;
            if found.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            let hurt = self.hurt(image, &found.unwrap_or_default());
            match self.mend_one(image, source) {
                Ok(()) => repaired.healed.extend(hurt),
                Err(PutError::Source { .. } | PutError::WrongBytes { .. } | PutError::NoImage { .. }) => {
                    repaired.lost.extend(hurt);
                    repaired.images.push(image);
                }
                Err(error) => {
                    // What broke the session is about all images.
                    self.line().is_asked().map_err(io::Error::from)?;
                    repaired.gone.push(format!("image {image} is not mended: {}", in_words(&error)));
                    repaired.lost.extend(hurt);
                    repaired.images.push(image);
                }
            }
        }
        Ok(repaired)
    }

    fn mend_one(&self, image: ImageId, source: &dyn Blobs) -> Result<(), PutError> {
        let manifest = match self.known_manifest(image) {
            Ok(manifest) => (*manifest).clone(),
            Err(_) => manifest_from(source, image).ok_or(PutError::NoImage { image })?,
        };
        let own = self.reading(&manifest.blobs()).map_err(|error| PutError::Store(error.into()))?;
        self.send(&manifest, &Chain(vec![&Compared(source), &*own]), true).map(drop)
    }

    /// Returns the contents that differences are about; where they are about none, that is a mode, a link or the manifest, the image.
    pub(super) fn hurt(&self, image: ImageId, found: &[Difference]) -> Vec<Digest> {
        let manifest = self.known_manifest(image).ok();
        let entries = manifest.iter().flat_map(|manifest| manifest.entries());
        let named = entries.filter_map(|entry| match entry.kind {
            Kind::File { digest, .. } => Some((String::from_utf8_lossy(entry.path.as_bytes()).into_owned(), digest)),
            _ => None,
        });
        let mut hurt: Vec<Digest> = named
            .filter(|(path, _)| found.iter().any(|it| it.path == *path && it.kind != "mode"))
            .map(|(_, digest)| digest)
            .collect();
        hurt.sort_unstable();
        hurt.dedup();
        if hurt.is_empty() { vec![image.0] } else { hurt }
    }

    fn ask_locked(&self, request: &Request) -> Result<Reply, PutError> {
        let mut line = self.line();
        line.is_asked().map_err(io::Error::from)?;
        let asked = self.runtime.block_on(async {
            let connection = &mut line.reached.connection;
            if !connection.holds_lock {
                survey::lock(connection, &self.claim).await?;
            }
            let reply = connection.ask(request).await?;
            line.reached.survey = survey::again(&mut line.reached.connection).await?;
            Ok::<_, NodeError>(reply)
        });
        Ok(asked.map_err(|error| io::Error::from(line.give_up(TakeError::Node(error))))?)
    }

    /// Returns who vouches for an image: those who vouched when the node took a release of it.
    fn credentials(&self, image: ImageId) -> Credentials {
        let named = {
            let apps = &self.line().reached.survey.apps;
            let generations = apps.iter().flat_map(|app| app.generations.iter().map(|it| (&app.app, it.release, it.image)));
            let staged = apps.iter().flat_map(|app| app.staged.iter().map(|it| (&app.app, it.release, it.image)));
            generations.chain(staged).find(|(.., it)| *it == image).map(|(app, release, _)| (app.clone(), release))
        };
        let known = named.and_then(|(app, release)| self.known_release(&app, release).ok());
        match known.filter(|(release, _)| release.image == image) {
            Some((release, bundle)) => Credentials::of(&release, bundle, Policy::default()),
            None => self.nobody(image),
        }
    }

    /// Returns that nobody vouches: enough for a node that believes nobody in particular, and refused by one that does.
    fn nobody(&self, image: ImageId) -> Credentials {
        let subject = Subject {
            release: ReleaseId(image.0),
            app: self.app.clone(),
            commit: "0".repeat(40).parse::<CommitId>().expect("forty digits"),
            recipe_key: RecipeKey(image.0),
            image,
        };
        Credentials { subject, bundle: None, policy: Policy::default() }
    }
}

impl Lent {
    /// Takes all contents of an image, each compared with its digest.
    fn of(manifest: &Manifest, blobs: &dyn Blobs, scratch: &std::path::Path) -> Result<Self, PutError> {
        let mut file = tempfile::tempfile_in(scratch)?;
        let (mut places, mut at) = (HashMap::new(), 0);
        for (digest, len) in manifest.blobs() {
            let source = |source| PutError::Source { digest, source };
            let mut reader = blobs.blob(digest).and_then(Bytes::reader).map_err(source)?.take(len + 1);
            let (mut hasher, mut n_bytes, mut buffer) = (Hasher::new(), 0, vec![0; 128 << 10]);
            loop {
                let n = reader.read(&mut buffer).map_err(source)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n])?;
                n_bytes += n as u64;
            }
            if n_bytes != len || hasher.finish() != digest {
                return Err(PutError::WrongBytes { digest });
            }
            places.insert(digest, at);
            at += len;
        }
        Ok(Self { manifest: manifest.clone(), file, places, scratch: scratch.to_owned() })
    }
}

impl Images for Lent {
    fn holds(&self, image: ImageId) -> bool {
        image == self.manifest.image()
    }

    fn manifest(&self, image: ImageId) -> io::Result<Manifest> {
        if self.holds(image) { Ok(self.manifest.clone()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let at = self.places.get(&digest).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at + offset)?;
        Ok(bytes)
    }

    fn scratch(&self) -> PathBuf {
        self.scratch.clone()
    }
}

/// A source of which only what is whole counts, so that the next one is asked for the rest.
struct Compared<'a>(&'a dyn Blobs);

impl Blobs for Compared<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let mut hasher = Hasher::new();
        io::copy(&mut self.0.blob(digest)?.reader()?, &mut hasher)?;
        if hasher.finish() == digest { self.0.blob(digest) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Returns the manifest of an image out of a source of contents, when it is the one.
fn manifest_from(source: &dyn Blobs, image: ImageId) -> Option<Manifest> {
    let mut bytes = vec![];
    source.blob(image.0).ok()?.reader().ok()?.take(limits::MANIFEST_LEN + 1).read_to_end(&mut bytes).ok()?;
    (Digest::of(&bytes) == image.0).then(|| Manifest::decode(&bytes).ok()).flatten()
}

/// Returns an error with its causes, those only once that are an error which wraps another.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = vec![df_core::text::escape(error.to_string().as_bytes())];
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = df_core::text::escape(error.to_string().as_bytes());
        if words.last() != Some(&said) {
            words.push(said);
        }
        cause = error.source();
    }
    words.join(": ")
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> PutError {
    PutError::Store(io::Error::other(error))
}
