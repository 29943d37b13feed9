//! Many blobs at once: few requests, several on their way, in memory no more than is said here.
//!
//! What is wanted is known beforehand, so places that lie near each other in a pack are asked for together, and ahead of whoever takes the blobs. Nobody has to take them in
//! that order: what is asked for earlier is loaded at once, and what was let go already is read by itself.
//!
//! In memory are at most 448 MiB of packs as they are stored, in whatever order blobs are taken ([`ahead`]), and on each thread that takes one a piece of 8 MiB, and as much of what it is stored
//! as where that lies in the file. Of older blobs that others are changes of, the last 128 MiB and one of at most 64 MiB that is being made; as much once more when something had to be
//! read again. Only where the pieces of one blob are changes of several long ones, as a put leaves it that was killed and went on by newer versions, another one may be half made on each of 8
//! levels. On the disk are at most 1 GiB.

mod ahead;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

pub(super) use ahead::Room;
use ahead::{Ahead, Range};
use df_core::Digest;

use super::S3Store;
use super::format::pack;
use super::format::slot::{self, DEPTH, PIECE_LEN, PREFIX_LEN, Slot};
use super::index::{Found, Index, Place};
use super::recent::Recent;
use super::swap::View;
use crate::blobs::{Blobs, Bytes, Checked, absent};
use crate::store::ReadError;

/// Places this far apart, in bytes, are asked for together.
const GAP: u64 = 64 << 10;
/// A request asks for half of what is wanted, and for no less than this and no more than that: few requests for much, and two on their way at least.
const RANGE_LEN: (u64, u64) = (16 << 20, 64 << 20);
/// Four of the longest ranges ahead of whoever takes blobs, and two more for threads that take them elsewhere in the image.
const ROOM: Room = Room { ahead: 256 << 20, most: 384 << 20, aside: 1 << 30 };
/// Requests before the first of them: the head, the root table, the manifest, and two documents for whoever asks who vouches for it.
const BEFORE: u64 = 5;
/// Requests on their way at most.
const THREADS: usize = 6;

/// Blobs of a bucket that are loaded ahead.
pub struct Fetch {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

/// Where blobs lie.
struct Placed {
    index: Arc<Index>,
    cache: [u8; 16],
    /// Each with when it is wanted.
    places: Vec<(usize, Place)>,
    /// Length and pieces of each blob.
    blobs: HashMap<Digest, (u64, u32)>,
}

/// Where a piece comes from.
struct Wanted {
    range: usize,
    slot: Slot,
}

struct Inner {
    store: S3Store,
    index: Arc<Index>,
    pieces: HashMap<(Digest, u32), Wanted>,
    /// Length and pieces of each blob.
    blobs: HashMap<Digest, (u64, u32)>,
    /// What others are changes of, from the pieces.
    prefixes: Recent,
    /// Held by who makes one of them: its pieces are there for one.
    making: Mutex<()>,
    /// Which of them were begun, and whether they are well: their pieces count as taken once, and what could not be made is not tried again.
    made: Mutex<HashMap<Digest, bool>>,
    ahead: Ahead,
}

impl S3Store {
    /// Begins to load blobs, to be handed out in about this order. Those that are not there are not found later.
    ///
    /// # Errors
    /// Those of reading the head, the root table and the index.
    pub fn fetch(&self, blobs: &[(Digest, u64)]) -> Result<Fetch, ReadError> {
        self.fetch_within(blobs, ROOM)
    }

    pub(super) fn fetch_within(&self, blobs: &[(Digest, u64)], room: Room) -> Result<Fetch, ReadError> {
        let Placed { index, cache, places, blobs: known } = self.place(blobs)?;
        let (ranges, of) = plan(&places, range_len(&places));
        let (ranges, of) = biggest_first(ranges, of, room.ahead);
        let mut left = vec![0; ranges.len()];
        let mut pieces = HashMap::new();
        for ((_, Place { slot, .. }), range) in places.into_iter().zip(of) {
            left[range] += 1;
            pieces.insert((slot.digest, slot.part), Wanted { range, slot });
        }
        let ahead = Ahead::new(self.clone(), cache, ranges, left, room);
        let (prefixes, making, made) = Default::default();
        let inner = Arc::new(Inner { store: self.clone(), index, pieces, blobs: known, prefixes, making, made, ahead });
        let threads = (0..THREADS.min(inner.ahead.n_ranges())).map(|_| {
            let inner = inner.clone();
            thread::spawn(move || inner.ahead.load_all())
        });
        Ok(Fetch { threads: threads.collect(), inner })
    }

    /// Returns how many requests it takes at most to bring blobs out of an image, for somebody who has read nothing yet and has room for what is put aside.
    ///
    /// # Errors
    /// As [`S3Store::fetch`].
    pub fn n_requests(&self, blobs: &[(Digest, u64)]) -> Result<u64, ReadError> {
        let apart = |view: &Arc<View>| view.head.segments.iter().filter(|segment| view.head.kept(segment).is_none()).count();
        let segments = self.with_view(|view| Ok::<_, ReadError>(apart(view)))?.unwrap_or_default();
        let places = self.place(blobs)?.places;
        let ranges = plan(&places, range_len(&places)).0.len();
        Ok(BEFORE + (segments + ranges) as u64)
    }

    /// Finds where blobs lie, and what they are changes of.
    fn place(&self, blobs: &[(Digest, u64)]) -> Result<Placed, ReadError> {
        let none = || ReadError::Store(io::ErrorKind::NotFound.into());
        let look = |view: &Arc<View>| Ok::<_, ReadError>((view.head.cache, self.index(view)?));
        let (mut cache, mut index) = self.with_newer(self.last_view()?.ok_or_else(none)?, look)?;
        if blobs.iter().any(|&(digest, len)| index.find(digest, Some(len)).is_none()) {
            (cache, index) = self.with_view(look)?.ok_or_else(none)?;
        }
        let mut placed = Placed { index: index.clone(), cache, places: vec![], blobs: HashMap::new() };
        let mut older = HashSet::new();
        for (order, &(digest, len)) in blobs.iter().enumerate() {
            let Some(found) = index.find(digest, Some(len)) else { continue };
            placed.blobs.insert(digest, (len, found.parts.len() as u32));
            add(&mut placed.places, &mut older, &index, order, found, DEPTH);
        }
        Ok(placed)
    }
}

#[cfg(test)]
impl Fetch {
    /// Returns how many pieces were not taken yet.
    pub(super) fn n_left(&self) -> usize {
        self.inner.ahead.n_left()
    }

    /// Returns the most bytes of packs that were in memory so far.
    #[track_caller]
    pub(super) fn peak(&self) -> u64 {
        self.inner.ahead.peak()
    }

    /// Returns how many bytes were put aside, and how many of them did not give their place back; none when that cannot be done.
    pub(super) fn aside(&self) -> Option<(u64, u64)> {
        self.inner.ahead.aside()
    }

    /// Returns how many bytes of a disk they take.
    pub(super) fn on_disk(&self) -> u64 {
        self.inner.ahead.on_disk()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.inner.ahead.stop();
        for thread in self.threads.drain(..) {
            // It can only have panicked: then its range was gone, and whoever wanted some of it has read that by itself.
            let _ = thread.join();
        }
    }
}

impl Blobs for Fetch {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        match self.inner.blobs.get(&digest) {
            None => Err(absent(digest)),
            Some((_, 1)) => Ok(Bytes::Read(Box::new(io::Cursor::new(self.inner.piece(digest, 0)?)))),
            Some(&(len, parts)) => {
                let pieces = Pieces { inner: self.inner.clone(), digest, part: 0, parts, left: io::Cursor::new(vec![]) };
                Ok(Bytes::Read(Box::new(Checked::new(pieces, digest, len))))
            }
        }
    }
}

/// Adds the places of a blob, and of what it is a change of: these once, however many need them.
fn add(places: &mut Vec<(usize, Place)>, older: &mut HashSet<Digest>, index: &Index, order: usize, found: Found, depth: u8) {
    for place in found.parts.into_iter().filter_map(|copies| copies.into_iter().next()) {
        if let Some((prefix, _)) = place.slot.prefix()
            && let Some(depth) = depth.checked_sub(1)
            && !older.contains(&prefix)
            && let Some(found) = index.find(prefix, None)
        {
            older.insert(prefix);
            add(places, older, index, order, found, depth);
        }
        places.push((order, place));
    }
}

/// Says for how much a request asks at most, unless one place has more.
fn range_len(places: &[(usize, Place)]) -> u64 {
    let all: u64 = places.iter().map(|(_, place)| u64::from(place.slot.stored)).sum();
    // The last place of a range may not fit: a whole piece more, so that two are enough.
    (all / 2 + PIECE_LEN).clamp(RANGE_LEN.0, RANGE_LEN.1)
}

/// Puts places together to requests, in the order in which they are wanted first; says for each place which request brings it.
fn plan(places: &[(usize, Place)], most: u64) -> (Vec<Range>, Vec<usize>) {
    let end = |slot: &Slot| u64::from(slot.offset) + u64::from(slot.stored);
    let mut sorted: Vec<usize> = (0..places.len()).collect();
    sorted.sort_unstable_by_key(|&i| (places[i].1.pack, places[i].1.slot.offset, places[i].1.slot.stored));
    // Each with when it is wanted first.
    let mut ranges: Vec<(usize, Range)> = vec![];
    let mut of = vec![0; places.len()];
    for i in sorted {
        let (order, Place { pack, slot }) = &places[i];
        let (start, end) = (u64::from(slot.offset), end(slot));
        match ranges.last_mut() {
            Some((first, range))
                if range.pack == *pack && start <= range.end + GAP && end.max(range.end) - range.start <= most =>
            {
                range.end = range.end.max(end);
                *first = (*first).min(*order);
            }
            _ => ranges.push((*order, Range { pack: *pack, start, end })),
        }
        of[i] = ranges.len() - 1;
    }
    let mut by_need: Vec<usize> = (0..ranges.len()).collect();
    by_need.sort_by_key(|&range| ranges[range].0);
    let mut place = vec![0; ranges.len()];
    by_need.iter().enumerate().for_each(|(new, &old)| place[old] = new);
    (by_need.iter().map(|&old| ranges[old].1).collect(), of.into_iter().map(|old| place[old]).collect())
}

/// Puts those of the first requests whose answers have room at once in the order of their length, so that none of them is still on its way alone when the others are done; what comes after them
/// is needed in its order, because there is no room for it before.
fn biggest_first(ranges: Vec<Range>, of: Vec<usize>, room: u64) -> (Vec<Range>, Vec<usize>) {
    let mut sum = 0_u64;
    let fits = |range: &&Range| {
        sum = sum.saturating_add(range.len());
        sum <= room
    };
    let n_first = ranges.iter().take_while(fits).count();
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order[..n_first].sort_by_key(|&range| std::cmp::Reverse(ranges[range].len()));
    let mut place = vec![0; ranges.len()];
    order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
    (order.iter().map(|&old| ranges[old]).collect(), of.into_iter().map(|old| place[old]).collect())
}

impl Inner {
    /// Returns a piece, checked.
    fn piece(&self, digest: Digest, part: u32) -> io::Result<Vec<u8>> {
        let wanted = self.pieces.get(&(digest, part)).ok_or_else(|| absent(digest))?;
        let making = wanted.slot.prefix().map(|_| self.making.lock().unwrap_or_else(PoisonError::into_inner));
        let loaded = self.loaded(wanted, DEPTH);
        // In any case: what nobody takes any more would be in memory until the end.
        self.ahead.took(wanted.range);
        let piece = match loaded {
            Some(bytes) => Ok(bytes),
            // From another copy, or by a newer head, or with an error that says why.
            None => self.store.read_part_of(&self.index, digest, wanted.slot.len, part),
        };
        // Not before that: it needs what it is a change of, too.
        drop(making);
        Ok(piece?)
    }

    /// Returns a piece of what was loaded ahead, checked; nothing when it is not there or not whole, or what it is a change of is not.
    fn loaded(&self, Wanted { range, slot }: &Wanted, depth: u8) -> Option<Vec<u8>> {
        let prefix = match slot.prefix() {
            None => Arc::default(),
            Some((prefix, _)) => self.prefix(prefix, depth.checked_sub(1)?)?,
        };
        let start = (u64::from(slot.offset) - self.ahead.start(*range)) as usize;
        self.ahead.look(*range, start..start + slot.stored as usize, |stored| pack::decode(slot, stored, &prefix).ok())?
    }

    /// Returns what others are changes of.
    fn prefix(&self, digest: Digest, depth: u8) -> Option<Arc<Vec<u8>>> {
        if let Some(bytes) = self.prefixes.find(digest, depth) {
            return Some(bytes);
        }
        let len = self.pieces.get(&(digest, 0)).map(|wanted| wanted.slot.len).filter(|&len| len <= PREFIX_LEN)?;
        let pieces: Vec<&Wanted> = (0..slot::n_parts(len)).map(|part| self.pieces.get(&(digest, part))).collect::<Option<_>>()?;
        // Not well until it is.
        let before = self.made().insert(digest, false);
        if before == Some(false) {
            return None;
        }
        // What it is itself a change of first, so that of a chain of them one is half made at a time.
        let older = pieces.iter().filter_map(|wanted| wanted.slot.prefix());
        if let Some(depth) = depth.checked_sub(1) {
            older.for_each(|(older, _)| drop(self.prefix(older, depth)));
        }
        let mut bytes = Some(Vec::with_capacity(len as usize));
        for wanted in pieces {
            bytes = bytes.and_then(|mut bytes| {
                bytes.extend_from_slice(&self.loaded(wanted, depth)?);
                Some(bytes)
            });
            if before.is_none() {
                self.ahead.took(wanted.range);
            }
        }
        let bytes = Arc::new(bytes?);
        self.made().insert(digest, true);
        self.prefixes.keep(digest, depth, bytes.clone());
        Some(bytes)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<Digest, bool>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A long blob, piece by piece.
struct Pieces {
    inner: Arc<Inner>,
    digest: Digest,
    part: u32,
    parts: u32,
    left: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.left.read(buffer)?;
            if n > 0 || buffer.is_empty() || self.part == self.parts {
                return Ok(n);
            }
            // One piece at a time is in memory.
            self.left = io::Cursor::default();
            self.left = io::Cursor::new(self.inner.piece(self.digest, self.part)?);
            self.part += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::name::tests::reference;
    use super::super::format::slot::Codec;
    use super::*;

    fn place(pack: u32, offset: u32, stored: u32) -> Place {
        let digest = Digest::of(&[pack.to_le_bytes(), offset.to_le_bytes()].concat());
        let slot = Slot { digest, len: u64::from(stored), part: 0, pack: 0, offset, stored, codec: Codec::Raw, more: None };
        Place { pack: reference(pack), slot }
    }

    #[test]
    fn near_places_are_one_request_in_the_order_of_need() {
        const MIB: u32 = 1 << 20;
        let places = [
            (0, place(2, 0, 10)),
            (1, place(1, 100, 50)),
            (2, place(1, 150 + GAP as u32, 10)),
            (3, place(1, 161 + 2 * GAP as u32, 10)),
            (4, place(2, 10, 31 * MIB)),
            (5, place(2, 10 + 31 * MIB, 2 * MIB)),
            (6, place(1, 100, 50)),
        ];
        let (ranges, of) = plan(&places, 32 << 20);
        let rows: Vec<_> = ranges.iter().map(|range| (range.pack.name.n, range.start, range.end)).collect();
        let (gap, mib) = (GAP, u64::from(MIB));
        let expected =
            [(2, 0, 10 + 31 * mib), (1, 100, 160 + gap), (1, 161 + 2 * gap, 171 + 2 * gap), (2, 10 + 31 * mib, 10 + 33 * mib)];
        assert_eq!((rows.as_slice(), of.as_slice()), (&expected[..], &[0, 1, 1, 2, 0, 3, 1][..]));
    }

    #[test]
    fn of_what_has_room_at_once_the_biggest_is_asked_for_first() {
        let range = |n: u32, len: u64| Range { pack: reference(n), start: 5, end: 5 + len };
        let lens = [3, 1, 9, 4, 9, 100, 1, 50];
        let ranges: Vec<_> = (0..).zip(lens).map(|(n, len)| range(n, len)).collect();
        // Room, and the order of requests.
        for (room, expected) in [
            (0, [0, 1, 2, 3, 4, 5, 6, 7]),
            (3, [0, 1, 2, 3, 4, 5, 6, 7]),
            (16, [2, 0, 1, 3, 4, 5, 6, 7]),
            (26, [2, 4, 3, 0, 1, 5, 6, 7]),
            (1000, [5, 7, 2, 4, 3, 0, 1, 6]),
        ] {
            let of: Vec<usize> = (0..lens.len()).collect();
            let (sorted, of) = biggest_first(ranges.clone(), of, room);
            assert_eq!(sorted.iter().map(|range| range.pack.name.n).collect::<Vec<_>>(), expected, "{room}");
            assert!(of.iter().zip(&ranges).all(|(&at, range)| sorted[at] == *range), "each place is where it was");
        }
    }

    #[test]
    fn a_get_of_one_pack_is_two_requests_when_it_is_much_and_none_is_longer_than_a_pack() {
        const MIB: u64 = 1 << 20;
        let pieces = |n: u32| (0..n).map(|at| (0, place(1, at * (PIECE_LEN as u32), PIECE_LEN as u32))).collect::<Vec<_>>();
        // Pieces, what a request asks for, how many there are.
        for (n, len, requests) in
            [(0, 16, 0), (1, 16, 1), (2, 16, 1), (3, 20, 2), (4, 24, 2), (7, 36, 2), (14, 64, 2), (24, 64, 3)]
        {
            let places = pieces(n);
            assert_eq!((range_len(&places), plan(&places, len * MIB).0.len()), (len * MIB, requests), "{n} pieces");
        }
    }
}
