//! The other copies of what a cache has damaged or lacks: the cache here, that of df.yaml, and what nodes hold.
//!
//! What they hand out is asked for by its digest and compared with it, so that it does not matter who vouches for it.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use df_cache::blobs::{Blobs, Bytes};
use df_cache::disk::Workspace;
use df_cache::document::Document;
use df_core::{AppName, Digest, Hasher, ImageId, Release, ReleaseId};

use super::{Place, place};
use crate::failure::Failure;
use crate::session::Session;

/// Several copies: what one of them has damaged another may have whole. Nodes are asked last, and reached only when they are.
pub struct Copies<'a> {
    session: &'a Session,
    caches: Vec<Place>,
    nodes: OnceLock<Vec<Place>>,
    /// Where what comes from nodes lies.
    workspace: Arc<Workspace>,
    /// What is mended itself is no copy.
    name: &'a str,
    /// Where what was handed out came from.
    sources: Mutex<HashMap<Digest, String>>,
}

impl<'a> Copies<'a> {
    /// Finds the copies beside a place; when nothing is wanted of them, none.
    ///
    /// # Errors
    /// The cache here cannot be opened.
    pub fn of(session: &'a Session, place: &'a Place, is_wanted: bool) -> Result<Self, Failure> {
        let caches = if is_wanted { caches(session, place)? } else { vec![] };
        let nodes = if is_wanted { OnceLock::new() } else { OnceLock::from(vec![]) };
        let workspace = place::workspace(session)?;
        Ok(Self { session, caches, nodes, workspace, name: &place.name, sources: Mutex::default() })
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
        self.caches.iter().chain(std::iter::once(()).flat_map(|()| self.nodes.get_or_init(|| self.reach())))
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
        for place in self.all() {
            let found = if is_whole(place.store(), digest).unwrap_or(false) {
                place.store().blob(digest)?
            } else if let Ok(manifest) = place.store().manifest(ImageId(digest)) {
                Bytes::Read(Box::new(io::Cursor::new(manifest.encode())))
            } else {
                continue;
            };
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, place.name.clone());
            return Ok(found);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    // Nodes hold no documents, and of releases only those that they run.
    fn release(&self, id: ReleaseId) -> Option<Release> {
        self.caches.iter().find_map(|place| place.store().release(id))
    }

    fn document(&self, app: &AppName, release: ReleaseId, document: Document) -> Option<Vec<u8>> {
        self.caches.iter().find_map(|place| place.store().document(app, release, document))
    }
}

/// Reads a blob and compares it with its digest.
pub fn is_whole(source: &dyn Blobs, digest: Digest) -> io::Result<bool> {
    let mut hasher = Hasher::new();
    let mut reader = source.blob(digest)?.reader()?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish() == digest),
            n => hasher.update(&buffer[..n]),
        };
    }
}

fn caches(session: &Session, place: &Place) -> Result<Vec<Place>, Failure> {
    let mut others = if place.is_elsewhere() { vec![Place::here(session)?] } else { vec![] };
    let Some(remote) = session.config.cache.remote.as_ref().filter(|remote| remote.to_string() != place.name) else {
        return Ok(others);
    };
    let opened = Place::remote(session, remote, false);
    let asked = opened.and_then(|other| {
        other.store().contents().map_err(|error| other.unread(&error))?;
        Ok(other)
    });
    match asked {
        Ok(other) => others.push(other),
        Err(failure) => session.output().note(format!("  {remote} was not asked: {}", failure.message)),
    }
    Ok(others)
}
