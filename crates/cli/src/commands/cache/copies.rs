//! The other copies of what a cache has damaged or lacks: the cache here, that of df.yaml, and what nodes hold.
//!
//! What they hand out is asked for by its digest and compared with it, so that it does not matter who vouches for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use df_cache::blobs::{Blobs, Bytes};
use df_cache::disk::Workspace;
use df_cache::document::Document;
use df_cache::store::Store;
use df_core::{AppName, Digest, Hasher, ImageId, Release, ReleaseId};

use super::{Place, place};
use crate::bucket::failure::Unasked;
use crate::failure::Failure;
use crate::session::Session;

/// What is longer lies in a file between the reading that compares it and its use.
const MEMORY_LEN: u64 = 1 << 20;

/// The other caches, and those of them that did not answer.
#[derive(Default)]
pub struct Caches {
    places: Vec<Place>,
    unasked: Option<Unasked>,
}

/// Several copies: what one of them has damaged another may have whole. Nodes are asked last, and reached only when they are.
pub struct Copies<'a> {
    session: &'a Session,
    caches: &'a Caches,
    /// What the first cache is about to be asked for, in few requests.
    ahead: Option<Box<dyn Blobs + 'a>>,
    nodes: OnceLock<Vec<Place>>,
    /// Where what comes from nodes lies, and what is too long to be kept in memory.
    workspace: Arc<Workspace>,
    /// What is mended itself is no copy.
    name: &'a str,
    /// Where what was handed out came from.
    sources: Mutex<HashMap<Digest, String>>,
}

impl Caches {
    /// Finds the caches beside a place: the one here, and that of df.yaml.
    ///
    /// # Errors
    /// The cache here cannot be opened.
    pub fn beside(session: &Session, place: &Place) -> Result<Self, Failure> {
        let mut places = if place.is_elsewhere() { vec![Place::here(session)?] } else { vec![] };
        let Some(remote) = session.config.cache.remote.as_ref().filter(|remote| remote.to_string() != place.name) else {
            return Ok(Self { places, unasked: None });
        };
        let opened = Place::remote(session, remote, false);
        let asked = opened.and_then(|other| {
            other.store().contents().map_err(|error| other.unread(&error))?;
            Ok(other)
        });
        let unasked = match asked {
            Ok(other) => {
                places.push(other);
                None
            }
            Err(failure) => {
                session.output().note(format!("  {remote} was not asked: {}", failure.message));
                Some(Unasked { place: remote.to_string() })
            }
        };
        Ok(Self { places, unasked })
    }

    /// Asks one after the other for what is kept beside blobs. That none has it is believed only when all were asked.
    fn first<T>(&self, find: impl Fn(&dyn Store) -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        let mut failed = self.unasked.clone().map(io::Error::other);
        for place in &self.places {
            match find(place.store()) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

impl<'a> Copies<'a> {
    /// Makes a source of the copies of a place; `wanted` are those of the blobs it lacks whose lengths are known.
    ///
    /// # Errors
    /// The cache here has no room for what comes, or the first cache cannot be asked for it.
    pub fn of(session: &'a Session, place: &'a Place, caches: &'a Caches, wanted: &[(Digest, u64)]) -> Result<Self, Failure> {
        // Only where the first one is a bucket: what lies on this machine is not asked for in vain.
        let first = caches.places.first().filter(|first| first.bucket().is_some() && !wanted.is_empty());
        let ahead = first.map(|first| first.store().reading(wanted).map_err(|error| first.unread(&error))).transpose()?;
        let (nodes, workspace) = (OnceLock::new(), place::workspace(session)?);
        Ok(Self { session, caches, ahead, nodes, workspace, name: &place.name, sources: Mutex::default() })
    }

    /// Returns what the copy is called that had a blob.
    pub fn source(&self, digest: Digest) -> String {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(&digest).cloned().unwrap_or_else(|| "what was whole of it".to_owned())
    }

    /// Does something with each copy that holds an image until it succeeds; returns what that copy is called.
    pub fn with<T>(&self, image: ImageId, work: &dyn Fn(&Place) -> Option<T>) -> Option<String> {
        let holds = |place: &&Place| place.store().has(image).unwrap_or(false);
        self.all().filter(holds).find(|place| work(place).is_some()).map(|place| place.name.clone())
    }

    fn all(&self) -> impl Iterator<Item = &Place> {
        self.caches.places.iter().chain(std::iter::once(()).flat_map(|()| self.nodes.get_or_init(|| self.reach())))
    }

    /// Reaches the nodes that df knows; one that is not there is mentioned.
    fn reach(&self) -> Vec<Place> {
        let nodes = self.session.inventory().map(|inventory| inventory.nodes().to_vec()).unwrap_or_default();
        let others = nodes.into_iter().filter(|node| node.label() != self.name);
        let reached = others.filter_map(|node| match Place::node_in(self.session, &node, None, self.workspace.clone()) {
            Ok(place) => Some(place),
            Err(failure) => {
                self.session.output().note(format!("  {} was not asked: {}", node.label(), failure.message));
                None
            }
        });
        reached.collect()
    }
}

impl Blobs for Copies<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let kept = self.workspace.path().join(digest.to_string());
        if kept.is_file() {
            return Ok(Bytes::File(kept));
        }
        for (at, place) in self.all().enumerate() {
            let ahead = self.ahead.as_deref().filter(|_| at == 0);
            let asked = ahead.into_iter().chain([place.store() as &dyn Blobs]);
            let whole = asked.filter_map(|source| compared(source, digest, &kept).ok()).flatten().next();
            let found = match whole {
                Some(found) => found,
                None => match place.store().manifest(ImageId(digest)) {
                    Ok(manifest) => Bytes::Read(Box::new(io::Cursor::new(manifest.encode()))),
                    Err(_) => continue,
                },
            };
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, place.name.clone());
            return Ok(found);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    // Nodes hold no documents, and of releases only those that they run.
    fn release(&self, id: ReleaseId) -> io::Result<Option<Release>> {
        self.caches.first(|store| store.release(id))
    }

    fn document(&self, app: &AppName, release: ReleaseId, document: Document) -> io::Result<Option<Vec<u8>>> {
        self.caches.first(|store| store.document(app, release, document))
    }
}

/// Reads a blob and compares it with its digest.
pub fn is_whole(source: &dyn Blobs, digest: Digest) -> io::Result<bool> {
    let mut hasher = Hasher::new();
    io::copy(&mut source.blob(digest)?.reader()?, &mut hasher)?;
    Ok(hasher.finish() == digest)
}

/// Takes a blob once and compares it with its digest: a short one to memory, a long one that is no file to `kept`. `None` when it is another one.
fn compared(source: &dyn Blobs, digest: Digest, kept: &Path) -> io::Result<Option<Bytes>> {
    let bytes = source.blob(digest)?;
    let mut hasher = Hasher::new();
    if let Bytes::File(path) = bytes {
        io::copy(&mut Bytes::File(path.clone()).reader()?, &mut hasher)?;
        return Ok((hasher.finish() == digest).then_some(Bytes::File(path)));
    }
    let (mut reader, mut begin) = (bytes.reader()?, vec![]);
    reader.by_ref().take(MEMORY_LEN + 1).read_to_end(&mut begin)?;
    hasher.update(&begin);
    if begin.len() as u64 <= MEMORY_LEN {
        return Ok((hasher.finish() == digest).then(|| Bytes::Read(Box::new(io::Cursor::new(begin)))));
    }
    // Under another name until it is whole.
    let part = kept.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(&begin)?;
    io::copy(&mut reader, &mut Both(&mut file, &mut hasher))?;
    if hasher.finish() != digest {
        std::fs::remove_file(&part)?;
        return Ok(None);
    }
    std::fs::rename(&part, kept)?;
    Ok(Some(Bytes::File(kept.to_owned())))
}

/// Writes to a file what it hashes.
struct Both<'a>(&'a mut File, &'a mut Hasher);

impl io::Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
