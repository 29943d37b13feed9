//! Blobs into packs, packs to the bucket: all cores compress and hash while a few packs are on their way.
//!
//! In memory are at most, 64 MiB each: the packs that are on their way (for a moment twice), one that is full and waits until one of them has arrived, and one that is being filled; besides
//! the blobs that are being compressed, 40 MiB. What comes as a change of an older blob takes, on each core, that blob (at most 64 MiB) and the compressor's tables, some 300 MiB for a blob of 60 MB.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use df_core::{Digest, Hasher};
use rayon::prelude::*;

use super::S3Store;
use super::failure::BucketError;
use super::format::name::{Name, Reference, Space};
use super::format::pack::{self, FULL, PACK_LEN, Piece, UNPACKED_LEN};
use super::format::slot::{self, PIECE_LEN, Slot};
use super::prefix::{self, Older};
use super::swap::Run;
use crate::blobs::{Blobs, Bytes, read_checked};
use crate::store::PutError;

/// What a row takes in the footer, at most.
const ROW_COST: u64 = 128;
/// What a pack may hold before its footer: pieces as they are stored, and their rows.
const ROOM: u64 = PACK_LEN - 4096;

/// A pack that is in the bucket, and its rows.
pub(crate) type Sent = (Reference, Vec<Slot>);

/// Where the bytes come from, and what becomes of packs that arrived.
pub(crate) struct Upload<'a> {
    pub(crate) run: &'a Run,
    pub(crate) source: &'a dyn Blobs,
    /// Blobs that are at hand: manifests.
    pub(crate) texts: &'a HashMap<Digest, Vec<u8>>,
    /// Pieces of long blobs that were sent before, and their digests.
    pub(crate) known: &'a HashMap<(Digest, u32), Digest>,
    /// Those of them that are right.
    pub(crate) confirmed: &'a Mutex<HashSet<(Digest, u32)>>,
    /// Older blobs that new ones may be like; used where the source has them.
    pub(crate) older: &'a HashMap<Digest, Older>,
    /// Is told of each pack that arrived.
    pub(crate) arrived: &'a (dyn Fn(&Sent) + Sync),
}

/// A pack that is ready to go.
struct Ready {
    name: Name,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

/// What will be a piece of a pack.
enum Work {
    /// A blob of one piece that is still to be read.
    Blob(Digest, u64),
    /// A piece of a long one.
    Piece { digest: Digest, len: u64, part: u32, bytes: Vec<u8>, older: Option<Arc<(Older, Vec<u8>)>> },
}

/// Why nothing more is made ready.
enum Stop {
    Failed(PutError),
    /// Nobody takes packs any more; whoever stopped says why.
    NotWanted,
}

impl From<PutError> for Stop {
    fn from(error: PutError) -> Self {
        Self::Failed(error)
    }
}

impl S3Store {
    /// Sends blobs in packs: long ones first, then the others in their order, so that what is read together lies together.
    pub(crate) fn upload(&self, blobs: &[(Digest, u64)], upload: &Upload<'_>) -> Result<Vec<Sent>, PutError> {
        if blobs.is_empty() {
            return Ok(vec![]);
        }
        let (sender, receiver) = sync_channel(0);
        let receiver = Mutex::new(receiver);
        let sent = Mutex::new(vec![]);
        let made = thread::scope(|scope| {
            let senders: Vec<_> =
                (0..self.options.uploads.max(1)).map(|_| scope.spawn(|| self.send_packs(&receiver, &sent, upload))).collect();
            let made = make_packs(blobs, upload, &sender);
            drop(sender);
            let failed = senders.into_iter().filter_map(|thread| thread.join().expect("senders do not panic").err()).next();
            match (failed, made) {
                (Some(error), _) => Err(error.into()),
                (None, Err(Stop::Failed(error))) => Err(error),
                (None, Err(Stop::NotWanted)) => unreachable!("packs are wanted until a sender fails"),
                (None, Ok(())) => Ok(()),
            }
        });
        made.map(|()| sent.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends packs until there are none, or one fails.
    fn send_packs(
        &self,
        receiver: &Mutex<Receiver<Ready>>,
        sent: &Mutex<Vec<Sent>>,
        upload: &Upload<'_>,
    ) -> Result<(), BucketError> {
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Ready { name, bytes, slots }) = next else { return Ok(()) };
            let len = u32::try_from(bytes.len()).expect("packs stay below 64 MiB");
            let reference = Reference { name, len, digest: Digest::of(&bytes) };
            if let Err(error) = self.write_once(&name.key(Space::Pack), &bytes.into()) {
                // Those that were made meanwhile are taken and dropped, so that whoever makes them ends.
                receiver.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(drop);
                return Err(error);
            }
            let row = (reference, slots);
            (upload.arrived)(&row);
            let blobs = row.1.iter().filter(|slot| !upload.texts.contains_key(&slot.digest));
            upload.source.arrived(blobs.map(|slot| slot.part_len() as u64).sum());
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    }
}

fn make_packs(blobs: &[(Digest, u64)], upload: &Upload<'_>, sender: &SyncSender<Ready>) -> Result<(), Stop> {
    let (mut long, short): (Vec<_>, Vec<_>) = blobs.iter().copied().partition(|&(_, len)| slot::n_parts(len) > 1);
    long.sort_by_key(|&(_, len)| std::cmp::Reverse(len));
    let mut open = Open { works: vec![], bytes: 0, pieces: vec![], fill: Fill::default() };
    for (digest, len) in long {
        cut(digest, len, upload, |work, cost| open.push(work, cost, upload, sender))?;
    }
    for (digest, len) in short {
        open.push(Work::Blob(digest, len), len, upload, sender)?;
    }
    open.compress(upload, sender)?;
    open.close(upload, sender)
}

/// The pack that is being filled.
struct Open {
    /// What is compressed next, by all cores.
    works: Vec<Work>,
    bytes: u64,
    pieces: Vec<Piece>,
    fill: Fill,
}

/// What is in a pack: it is filled by the length of what is stored, so that few requests bring much. But whoever is killed sends all of what was in packs that are not there yet again, so there is
/// a bound of what it is unpacked, too.
#[derive(Default)]
pub(crate) struct Fill {
    /// With what rows take.
    stored: u64,
    unpacked: u64,
}

impl Fill {
    /// Adds a piece, to the next pack when this one has no room for it; then it returns true.
    pub(crate) fn add(&mut self, stored: u64, unpacked: u64) -> bool {
        let is_full = self.stored + stored + ROW_COST > ROOM || self.unpacked + unpacked > UNPACKED_LEN;
        if is_full {
            *self = Self::default();
        }
        self.stored += stored + ROW_COST;
        self.unpacked += unpacked;
        is_full
    }
}

/// Returns how many packs some blobs make at most: when nothing of them can be compressed, and each pack ends where the longest piece just does not fit.
pub(crate) fn most_packs(lens: impl Iterator<Item = u64> + Clone) -> u64 {
    let longest = lens.clone().max().unwrap_or(0).min(PIECE_LEN);
    let takes: u64 = lens.map(|len| len + ROW_COST * u64::from(slot::n_parts(len))).sum();
    takes.div_ceil(ROOM - longest - ROW_COST)
}

impl Open {
    fn push(&mut self, work: Work, len: u64, upload: &Upload<'_>, sender: &SyncSender<Ready>) -> Result<(), Stop> {
        self.works.push(work);
        self.bytes += len + ROW_COST;
        if self.bytes >= FULL { self.compress(upload, sender) } else { Ok(()) }
    }

    fn compress(&mut self, upload: &Upload<'_>, sender: &SyncSender<Ready>) -> Result<(), Stop> {
        self.bytes = 0;
        let works = std::mem::take(&mut self.works);
        for piece in works.into_par_iter().map(|work| piece(work, upload)).collect::<Result<Vec<_>, PutError>>()? {
            if self.fill.add(piece.stored.len() as u64, piece.slot.part_len() as u64) {
                self.close(upload, sender)?;
            }
            self.pieces.push(piece);
        }
        Ok(())
    }

    fn close(&mut self, upload: &Upload<'_>, sender: &SyncSender<Ready>) -> Result<(), Stop> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.is_empty() {
            return Ok(());
        }
        let (bytes, slots) = pack::pack(pieces);
        sender.send(Ready { name: upload.run.name(), bytes, slots }).map_err(|_| Stop::NotWanted)
    }
}

fn piece(work: Work, upload: &Upload<'_>) -> Result<Piece, PutError> {
    match work {
        Work::Blob(digest, len) => {
            let bytes = read(digest, len, upload)?;
            Ok(as_change(digest, len, 0, bytes, older(digest, upload).as_ref()))
        }
        Work::Piece { digest, len, part, bytes, older } => Ok(as_change(digest, len, part, bytes, older.as_deref())),
    }
}

fn as_change(digest: Digest, len: u64, part: u32, bytes: Vec<u8>, older: Option<&(Older, Vec<u8>)>) -> Piece {
    let Some((older, prefix)) = older else { return Piece::new(digest, len, part, Digest::of(&bytes), bytes) };
    let alone = Piece::new(digest, len, part, Digest::of(&bytes), bytes.clone());
    prefix::piece(alone, &bytes, older, prefix)
}

/// Returns the bytes of the older blob that this one may be like, if they are at hand.
fn older(digest: Digest, upload: &Upload<'_>) -> Option<(Older, Vec<u8>)> {
    let older = *upload.older.get(&digest)?;
    let reader = upload.source.blob(older.digest).and_then(Bytes::reader).ok()?;
    Some((older, read_checked(reader, older.digest, older.len).ok()?))
}

fn read(digest: Digest, len: u64, upload: &Upload<'_>) -> Result<Vec<u8>, PutError> {
    match upload.texts.get(&digest) {
        Some(text) => Ok(text.clone()),
        None => read_checked(open(digest, upload)?, digest, len).map_err(source_error(digest)),
    }
}

/// Reads a long blob piece by piece; it is checked when its last piece is known.
fn cut(digest: Digest, len: u64, upload: &Upload<'_>, mut push: impl FnMut(Work, u64) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut reader = open(digest, upload)?;
    let mut hasher = Hasher::new();
    let older = older(digest, upload).map(Arc::new);
    for part in 0..slot::n_parts(len) {
        let mut bytes = Vec::with_capacity(slot::part_len(len, part));
        reader
            .by_ref()
            .take(PIECE_LEN.min(slot::part_len(len, part) as u64))
            .read_to_end(&mut bytes)
            .map_err(source_error(digest))?;
        if bytes.len() != slot::part_len(len, part) {
            return Err(PutError::WrongBytes { digest }.into());
        }
        hasher.update(&bytes);
        if upload.known.get(&(digest, part)).is_some_and(|known| *known == Digest::of(&bytes)) {
            upload.confirmed.lock().unwrap_or_else(PoisonError::into_inner).insert((digest, part));
            upload.source.arrived(bytes.len() as u64);
            continue;
        }
        let cost = bytes.len() as u64;
        push(Work::Piece { digest, len, part, bytes, older: older.clone() }, cost)?;
    }
    let ends = reader.read(&mut [0]).map_err(source_error(digest))? == 0;
    if ends && hasher.finish() == digest { Ok(()) } else { Err(PutError::WrongBytes { digest }.into()) }
}

fn open(digest: Digest, upload: &Upload<'_>) -> Result<Box<dyn io::Read + Send>, PutError> {
    match upload.texts.get(&digest) {
        Some(text) => Ok(Box::new(io::Cursor::new(text.clone()))),
        None => upload.source.blob(digest).and_then(Bytes::reader).map_err(source_error(digest)),
    }
}

fn source_error(digest: Digest) -> impl Fn(io::Error) -> PutError {
    move |source| match source.kind() {
        io::ErrorKind::InvalidData => PutError::WrongBytes { digest },
        _ => PutError::Source { digest, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many packs blobs make that cannot be compressed.
    fn n_packs(lens: &[u64]) -> u64 {
        let mut fill = Fill::default();
        let pieces = lens.iter().flat_map(|&len| (0..slot::n_parts(len)).map(move |part| slot::part_len(len, part) as u64));
        let n_full = pieces.filter(|&len| fill.add(len, len)).count() as u64;
        n_full + u64::from(fill.stored > 0)
    }

    #[test]
    fn no_blobs_make_more_packs_than_the_most_of_them() {
        const MIB: u64 = 1 << 20;
        let table: [(Vec<u64>, u64); 8] = [
            (vec![], 0),
            (vec![0], 1),
            (vec![5_000; 12_000], 1),
            (vec![16 * MIB; 64], 19),
            (vec![8 * MIB - 1; 70], 11),
            (vec![0; 1_000_000], 2),
            (vec![300 * MIB + 1], 6),
            ([vec![4 * MIB; 30], vec![100; 9_000]].concat(), 3),
        ];
        for (lens, most) in table {
            assert_eq!(most_packs(lens.iter().copied()), most, "{} blobs", lens.len());
            assert!(n_packs(&lens) <= most && n_packs(&lens) + 2 >= most, "{} blobs, {} packs", lens.len(), n_packs(&lens));
        }
        let mut state = 7_u64;
        for n in 0..300 {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            let lens: Vec<u64> = (0..1 + n).map(|_| next() % (1 << (next() % 26))).collect();
            assert!(n_packs(&lens) <= most_packs(lens.iter().copied()), "{lens:?}");
        }
    }

    #[test]
    fn a_pack_ends_when_it_is_full_or_would_be_long_to_send_again() {
        let n_before = |stored: u64, unpacked: u64| {
            let mut fill = Fill::default();
            (0..).take_while(|_| !fill.add(stored, unpacked)).count() as u64
        };
        assert_eq!(n_before(8 << 20, 8 << 20), 7);
        assert_eq!(n_before(700, 8 << 20), 32, "of zeros");
        assert_eq!(n_before(0, 0), ROOM / ROW_COST);
    }
}
