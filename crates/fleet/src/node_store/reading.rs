//! Contents on their way from a node: asked for many at once, in the order in which they are wanted, and compared with their digests before anybody gets them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use df_cache::blobs::{Blobs, Bytes};
use df_cache::store::ReadError;
use df_core::{Digest, ImageId};
use df_wire::message::{BLOBS, Unread};

use super::NodeStore;
use crate::connection::{Landing, NodeError, TakeError};

/// A content that is longer lies in a file until it is taken.
const MEMORY_LEN: u64 = 1 << 20;
/// Bytes that are asked for at once, beyond one content.
const BATCH_LEN: u64 = 32 << 20;
/// Bytes that may wait in memory to be taken; beyond that all are dropped, and asked for once more when they are wanted.
const WAITING_LEN: u64 = 4 * BATCH_LEN;
/// How many times a connection that broke is opened again for what is lacking.
const REOPENED: u32 = 2;

/// A content that came, or did not.
pub(super) enum Ready {
    Memory(Vec<u8>),
    File(PathBuf),
    None(Unread),
}

/// A source of contents that are known before.
pub(super) struct Reading<'a> {
    store: &'a NodeStore,
    /// What is wanted, each with an image that has it; those of one image together.
    order: Vec<(Digest, ImageId, u64)>,
    places: HashMap<Digest, usize>,
    ready: Mutex<HashMap<Digest, Ready>>,
}

/// Where contents land that come from a node.
struct Desk<'a> {
    scratch: &'a Path,
    lens: HashMap<Digest, u64>,
    open: Option<Open>,
    ready: HashMap<Digest, Ready>,
}

/// A content of which more will come.
enum Open {
    Memory(Vec<u8>),
    File(PathBuf, File),
}

impl NodeStore {
    /// Has contents of an image come; what the node does not hand out comes as such. A connection that breaks is opened again for the rest.
    pub(super) fn fetch(&self, image: ImageId, wanted: &[(Digest, u64)]) -> Result<HashMap<Digest, Ready>, ReadError> {
        let mut line = self.line();
        line.is_asked()?;
        let lens = wanted.iter().copied().collect();
        let mut desk = Desk { scratch: self.scratch.path(), lens, open: None, ready: HashMap::new() };
        let mut reopened = 0;
        loop {
            let lacking: Vec<(Digest, u64)> =
                wanted.iter().filter(|(digest, _)| !desk.ready.contains_key(digest)).copied().collect();
            let connection = &mut line.reached.connection;
            let taken = self.runtime.block_on(async {
                if !connection.is_open() {
                    connection.reopen(&[]).await?;
                }
                connection.take_blobs(image, &lacking, &mut desk).await
            });
            match taken {
                Ok(()) => return Ok(std::mem::take(&mut desk.ready)),
                Err(TakeError::Node(NodeError::Broken { .. } | NodeError::Unreachable { .. })) if reopened < REOPENED => {
                    reopened += 1;
                    desk.clear();
                }
                Err(error) => return Err(line.give_up(error)),
            }
        }
    }
}

impl<'a> Reading<'a> {
    pub(super) fn new(store: &'a NodeStore, blobs: &[(Digest, u64)]) -> Result<Self, ReadError> {
        let index = store.index()?;
        // What the node lacks is said when it is asked for.
        let held = |(digest, len): &(Digest, u64)| {
            index.get(digest).filter(|(_, told)| told == len).map(|(image, _)| (*digest, *image, *len))
        };
        let mut order: Vec<(Digest, ImageId, u64)> = blobs.iter().filter_map(held).collect();
        // One request is about one image.
        order.sort_by_key(|(_, image, _)| *image);
        let places = order.iter().enumerate().map(|(at, (digest, ..))| (*digest, at)).collect();
        Ok(Self { store, order, places, ready: Mutex::default() })
    }

    /// Returns what is asked for together with the content at a place: what follows it, of the same image.
    fn batch(&self, at: usize, ready: &HashMap<Digest, Ready>) -> Vec<(Digest, u64)> {
        let image = self.order[at].1;
        let following = self.order[at..].iter().take_while(|(_, other, _)| *other == image);
        let (mut batch, mut sum) = (vec![], 0_u64);
        for &(digest, _, len) in following.filter(|(digest, ..)| !ready.contains_key(digest)) {
            sum = sum.saturating_add(len);
            if batch.len() == BLOBS || (!batch.is_empty() && sum > BATCH_LEN) {
                break;
            }
            batch.push((digest, len));
        }
        batch
    }
}

impl Blobs for Reading<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let Some(&at) = self.places.get(&digest) else { return Err(ReadError::NoBlob { digest }.into()) };
        // Held while bytes come: whoever wants another one waits for these, and then finds it among them.
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains_key(&digest) {
            let waiting: usize = ready.values().map(|it| if let Ready::Memory(bytes) = it { bytes.len() } else { 0 }).sum();
            if waiting as u64 > WAITING_LEN {
                ready.clear();
            }
            let batch = self.batch(at, &ready);
            ready.extend(self.store.fetch(self.order[at].1, &batch)?);
        }
        match ready.remove(&digest) {
            Some(Ready::Memory(bytes)) => Ok(Bytes::Read(Box::new(Cursor::new(bytes)))),
            Some(Ready::File(path)) => Ok(Bytes::Take(path)),
            Some(Ready::None(why)) => Err(refused(digest, why).into()),
            None => Err(ReadError::NoBlob { digest }.into()),
        }
    }
}

/// Returns what it means that a node does not hand out a content.
pub(super) fn refused(digest: Digest, why: Unread) -> ReadError {
    match why {
        Unread::Missing => ReadError::NoBlob { digest },
        Unread::Damaged => ReadError::Damaged { digest },
        Unread::Unreadable => ReadError::Store(io::Error::other(format!("the node cannot read content {}", digest.short()))),
    }
}

impl Desk<'_> {
    /// Throws away what is not complete.
    fn clear(&mut self) {
        if let Some(Open::File(path, _)) = self.open.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Landing for Desk<'_> {
    fn bytes(&mut self, digest: Digest, bytes: Vec<u8>) -> io::Result<()> {
        match self.open.as_mut() {
            Some(Open::Memory(held)) => held.extend(bytes),
            Some(Open::File(_, file)) => file.write_all(&bytes)?,
            None if self.lens.get(&digest).is_some_and(|len| *len <= MEMORY_LEN) => self.open = Some(Open::Memory(bytes)),
            None => {
                // Another name than that of a whole one.
                let path = self.scratch.join(format!("{digest}.part"));
                let mut file = File::create(&path)?;
                file.write_all(&bytes)?;
                self.open = Some(Open::File(path, file));
            }
        }
        Ok(())
    }

    fn whole(&mut self, digest: Digest) -> io::Result<()> {
        let ready = match self.open.take() {
            None => Ready::Memory(vec![]),
            Some(Open::Memory(bytes)) => Ready::Memory(bytes),
            Some(Open::File(part, _)) => {
                let path = self.scratch.join(format!("{digest}.whole"));
                fs::rename(part, &path)?;
                Ready::File(path)
            }
        };
        self.ready.insert(digest, ready);
        Ok(())
    }

    fn none(&mut self, digest: Digest, why: Unread) {
        self.ready.insert(digest, Ready::None(why));
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
