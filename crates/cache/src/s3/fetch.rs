//! Many blobs at once: few requests, several on their way, in memory no more than is said here.
//!
//! What is wanted is known beforehand, so places that lie near each other in a pack are asked for together, and ahead of whoever takes the blobs. Nobody has to take them in
//! that order: what is asked for earlier is loaded at once, and what was let go already is read by itself.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use df_core::Digest;

use super::S3Store;
use super::format::name::{Reference, Space};
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
/// Bytes that are loaded ahead at most.
const AHEAD: u64 = 256 << 20;
/// Requests before the first of them: the head, the root table, the manifest, and two documents for whoever asks who vouches for it.
const BEFORE: u64 = 5;
/// Requests on their way at most.
const THREADS: usize = 6;

/// Blobs of a bucket that are loaded ahead.
pub struct Fetch {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

/// Bytes of a pack that one request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    pack: Reference,
    start: u64,
    end: u64,
}

/// Where blobs lie.
struct Placed {
    index: Arc<Index>,
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
    ranges: Vec<Range>,
    pieces: HashMap<(Digest, u32), Wanted>,
    /// Length and pieces of each blob.
    blobs: HashMap<Digest, (u64, u32)>,
    /// What others are changes of, from the pieces.
    prefixes: Recent,
    /// Held by who makes one of them: its pieces are there for one.
    making: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ranges: Vec<Loaded>,
    /// Pieces of each range that nobody took yet.
    left: Vec<usize>,
    /// Bytes that are loaded or being loaded.
    bytes: u64,
    /// The first range that nobody has begun to load, or one before it.
    next: usize,
    stopped: bool,
}

enum Loaded {
    NotYet,
    OnItsWay,
    Here(Arc<Vec<u8>>),
    /// Taken by all, or failed: who asks reads it alone, and hears why that fails.
    Gone,
}

impl S3Store {
    /// Begins to load blobs, to be handed out in about this order. Those that are not there are not found later.
    ///
    /// # Errors
    /// Those of reading the head, the root table and the index.
    pub fn fetch(&self, blobs: &[(Digest, u64)]) -> Result<Fetch, ReadError> {
        let Placed { index, places, blobs: known } = self.place(blobs)?;
        let (ranges, of) = plan(&places, range_len(&places));
        let mut left = vec![0; ranges.len()];
        let mut pieces = HashMap::new();
        for ((_, Place { slot, .. }), range) in places.into_iter().zip(of) {
            left[range] += 1;
            pieces.insert((slot.digest, slot.part), Wanted { range, slot });
        }
        let loaded = ranges.iter().map(|_| Loaded::NotYet).collect();
        let state = Mutex::new(State { ranges: loaded, left, bytes: 0, next: 0, stopped: false });
        let inner = Arc::new(Inner {
            store: self.clone(),
            index,
            ranges,
            pieces,
            blobs: known,
            prefixes: Recent::default(),
            making: Mutex::new(()),
            state,
            changed: Condvar::new(),
        });
        let threads = (0..THREADS.min(inner.ranges.len())).map(|_| {
            let inner = inner.clone();
            thread::spawn(move || inner.load_ahead())
        });
        Ok(Fetch { threads: threads.collect(), inner })
    }

    /// Returns how many requests it takes at most to bring blobs out of an image, for somebody who has read nothing yet.
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
        let mut index = self.with_newer(self.last_view()?.ok_or_else(none)?, |view| self.index(view))?;
        if blobs.iter().any(|&(digest, len)| index.find(digest, Some(len)).is_none()) {
            index = self.with_view(|view| self.index(view))?.ok_or_else(none)?;
        }
        let mut placed = Placed { index: index.clone(), places: vec![], blobs: HashMap::new() };
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
        self.inner.state().left.iter().sum()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.inner.state().stopped = true;
        self.inner.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It can only have panicked; whoever waits for its range would have said so.
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

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads one range after the other, as far ahead as there is room.
    fn load_ahead(&self) {
        let mut state = self.state();
        while !state.stopped {
            while state.next < self.ranges.len() && !matches!(state.ranges[state.next], Loaded::NotYet) {
                state.next += 1;
            }
            let next = state.next;
            if next == self.ranges.len() {
                return;
            }
            let len = self.ranges[next].end - self.ranges[next].start;
            if state.bytes > 0 && state.bytes + len > AHEAD {
                state = self.wait(state);
                continue;
            }
            state = self.load(state, next);
        }
    }

    /// Loads a range that nobody has begun to load.
    fn load<'a>(&'a self, mut state: MutexGuard<'a, State>, at: usize) -> MutexGuard<'a, State> {
        let Range { pack, start, end } = self.ranges[at];
        state.ranges[at] = Loaded::OnItsWay;
        state.bytes += end - start;
        drop(state);
        // An empty range cannot be asked for.
        let read =
            if start == end { Ok(vec![]) } else { self.store.objects.get_range(&pack.name.key(Space::Pack), start, end - start) };
        state = self.state();
        state.ranges[at] = match read {
            Ok(bytes) => Loaded::Here(Arc::new(bytes)),
            Err(_) => {
                state.bytes -= end - start;
                Loaded::Gone
            }
        };
        self.changed.notify_all();
        state
    }

    /// Returns a piece, checked.
    fn piece(&self, digest: Digest, part: u32) -> io::Result<Vec<u8>> {
        let Wanted { slot, .. } = self.pieces.get(&(digest, part)).ok_or_else(|| absent(digest))?;
        let making = slot.prefix().map(|_| self.making.lock().unwrap_or_else(PoisonError::into_inner));
        let loaded = self.loaded(digest, part, DEPTH);
        drop(making);
        match loaded {
            Some(bytes) => Ok(bytes),
            // From another copy, or by a newer head, or with an error that says why.
            None => Ok(self.store.read_part_of(&self.index, digest, slot.len, part)?),
        }
    }

    /// Returns a piece of what was loaded ahead, checked; nothing when it is not there or not whole.
    fn loaded(&self, digest: Digest, part: u32, depth: u8) -> Option<Vec<u8>> {
        let Wanted { range, slot } = self.pieces.get(&(digest, part))?;
        let bytes = self.take(*range)?;
        let start = (u64::from(slot.offset) - self.ranges[*range].start) as usize;
        let stored = bytes.get(start..start + slot.stored as usize)?;
        let prefix = match slot.prefix() {
            None => Arc::default(),
            Some((prefix, _)) => self.prefix(prefix, depth.checked_sub(1)?)?,
        };
        pack::decode(slot, stored, &prefix).ok()
    }

    fn prefix(&self, digest: Digest, depth: u8) -> Option<Arc<Vec<u8>>> {
        if let Some(bytes) = self.prefixes.find(digest, depth) {
            return Some(bytes);
        }
        let parts = slot::n_parts(self.pieces.get(&(digest, 0)).map(|wanted| wanted.slot.len).filter(|&len| len <= PREFIX_LEN)?);
        let mut bytes = vec![];
        for part in 0..parts {
            bytes.extend_from_slice(&self.loaded(digest, part, depth)?);
        }
        let bytes = Arc::new(bytes);
        self.prefixes.keep(digest, depth, bytes.clone());
        Some(bytes)
    }

    /// Returns the bytes of a range; nothing when they are gone already.
    fn take(&self, at: usize) -> Option<Arc<Vec<u8>>> {
        let mut state = self.state();
        loop {
            match &state.ranges[at] {
                Loaded::NotYet => state = self.load(state, at),
                Loaded::OnItsWay => state = self.wait(state),
                Loaded::Gone => return None,
                Loaded::Here(bytes) => {
                    let bytes = bytes.clone();
                    state.left[at] = state.left[at].saturating_sub(1);
                    if state.left[at] == 0 {
                        state.ranges[at] = Loaded::Gone;
                        state.bytes -= self.ranges[at].end - self.ranges[at].start;
                        self.changed.notify_all();
                    }
                    return Some(bytes);
                }
            }
        }
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
}
