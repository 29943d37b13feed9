//! Parts of packs that are loaded before somebody wants them, and how much of that is in memory.
//!
//! Nobody has to take blobs in the order in which packs lie: small files that came with many commits lie in as many packs, and each is needed until the last of them is taken. So a range may be
//! wanted when there is no room for it. It is asked for once all the same: what has no room lies in a file without a name, is read back piece by piece, and gives its blocks back with the last of
//! them. Where there can be no such file, or there is too much in it, each of these pieces is a request of its own.

use std::fs::File;
use std::io;
use std::mem;
use std::ops;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::FallocateFlags;

use super::super::S3Store;
use super::super::format::name::{Reference, Space};

/// Bytes of a pack that one request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) pack: Reference,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// How much may be in memory, in bytes: that, and one range on its way into the file. And how much in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Of ranges, before one is loaded that nobody waits for.
    pub(crate) ahead: u64,
    /// Of ranges, whoever waits for them.
    pub(crate) most: u64,
    /// Of ranges in the file: their gaps are a stranger's, and so is how many are needed until the end.
    pub(crate) aside: u64,
}

/// Ranges that are loaded ahead.
pub(super) struct Ahead {
    store: S3Store,
    cache: [u8; 16],
    ranges: Vec<Range>,
    room: Room,
    state: Mutex<State>,
    changed: Condvar,
    /// What has no room in memory.
    aside: OnceLock<File>,
}

struct State {
    ranges: Vec<Loaded>,
    /// Pieces of each range that nobody took yet.
    left: Vec<usize>,
    /// Bytes in memory, or on their way there.
    bytes: u64,
    /// The file; none when it cannot be written.
    aside: Option<Aside>,
    /// Somebody loads a range for which there is no room.
    is_crowded: bool,
    /// The first range that nobody has begun to load, or one before it.
    next: usize,
    stopped: bool,
    /// The most bytes that were ever in memory.
    #[cfg(test)]
    peak: u64,
}

/// What is in the file.
#[derive(Clone, Copy, Default)]
struct Aside {
    /// Where the next range comes to lie.
    end: u64,
    /// Bytes of ranges that did not give them back.
    held: u64,
}

enum Loaded {
    NotYet,
    /// Somebody loads it.
    ToMemory,
    /// Somebody loads it, and there is no room for it.
    ToFile,
    Here(Held),
    /// Taken by all, or failed: who asks reads it alone, and hears why that fails.
    Gone,
}

#[derive(Clone)]
enum Held {
    Memory(Arc<Vec<u8>>),
    /// From there on in the file.
    File(u64),
}

/// A range that somebody loads. Should he panic, it is gone, and nobody waits for it for ever.
struct OnItsWay<'a> {
    ahead: &'a Ahead,
    at: usize,
}

impl Range {
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }
}

impl Ahead {
    /// Makes ranges ready to be loaded, in this order; so many pieces of each will be taken.
    pub(super) fn new(store: S3Store, cache: [u8; 16], ranges: Vec<Range>, left: Vec<usize>, room: Room) -> Self {
        let state = State {
            ranges: ranges.iter().map(|_| Loaded::NotYet).collect(),
            left,
            bytes: 0,
            aside: Some(Aside::default()),
            is_crowded: false,
            next: 0,
            stopped: false,
            #[cfg(test)]
            peak: 0,
        };
        Self { store, cache, ranges, room, state: Mutex::new(state), changed: Condvar::new(), aside: OnceLock::new() }
    }

    pub(super) fn n_ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Returns where in its pack a range begins.
    pub(super) fn start(&self, at: usize) -> u64 {
        self.ranges[at].start
    }

    /// Loads one range after the other, as far ahead as there is room.
    pub(super) fn load_all(&self) {
        let mut state = self.state();
        while !state.stopped {
            while state.next < self.ranges.len() && !matches!(state.ranges[state.next], Loaded::NotYet) {
                state.next += 1;
            }
            let next = state.next;
            if next == self.ranges.len() {
                return;
            }
            state = match state.has_room(self.ranges[next].len(), self.room.ahead) {
                true => self.load(state, next),
                false => self.wait(state),
            };
        }
    }

    /// Has [`Ahead::load_all`] end.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Does something with one piece of a range; nothing when it is not at hand. Who looks says [`Ahead::took`] after it: as long as somebody looks at it, it is in memory.
    pub(super) fn look<T>(&self, at: usize, piece: ops::Range<usize>, act: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.wanted(at)? {
            Held::Memory(bytes) => bytes.get(piece).map(act),
            Held::File(from) => self.read_aside(from, piece).ok().map(|bytes| act(&bytes)),
        }
    }

    /// Counts a piece as taken, whether it was at hand or could not be used; with its last one a range goes.
    pub(super) fn took(&self, at: usize) {
        let mut state = self.state();
        state.left[at] = state.left[at].saturating_sub(1);
        self.let_go(state, at);
    }

    /// Waits for a range, and loads it when nobody has begun to; nothing when it is not to be had, or there is no place for it.
    fn wanted(&self, at: usize) -> Option<Held> {
        let len = self.ranges[at].len();
        let mut state = self.state();
        loop {
            state = match &state.ranges[at] {
                Loaded::Here(held) => return Some(held.clone()),
                Loaded::Gone => return None,
                Loaded::ToMemory | Loaded::ToFile => self.wait(state),
                Loaded::NotYet if state.has_room(len, self.room.most) => self.load(state, at),
                Loaded::NotYet if state.is_crowded => self.wait(state),
                Loaded::NotYet => {
                    let aside = state.aside.filter(|aside| aside.held + len <= self.room.aside)?;
                    self.load_aside(state, at, aside.end)
                }
            };
        }
    }

    /// Loads a range that nobody has begun to load.
    fn load<'a>(&'a self, state: MutexGuard<'a, State>, at: usize) -> MutexGuard<'a, State> {
        let way = self.begin(state, at, Loaded::ToMemory);
        way.end(self.ask(at).map_or(Loaded::Gone, |bytes| Loaded::Here(Held::Memory(Arc::new(bytes)))))
    }

    /// Loads a range for which there is no room; one at a time.
    fn load_aside<'a>(&'a self, state: MutexGuard<'a, State>, at: usize, from: u64) -> MutexGuard<'a, State> {
        let way = self.begin(state, at, Loaded::ToFile);
        way.end(match self.ask(at).map(|bytes| self.write_aside(&bytes, from)) {
            None => Loaded::Gone,
            Some(Ok(())) => Loaded::Here(Held::File(from)),
            // No disk, or no room on it. What is loaded ahead from now on has room.
            Some(Err(_)) => {
                let _ = self.give_back(from, self.ranges[at].len());
                self.state().aside = None;
                Loaded::NotYet
            }
        })
    }

    fn begin<'a>(&'a self, mut state: MutexGuard<'a, State>, at: usize, to: Loaded) -> OnItsWay<'a> {
        state.set(at, self.ranges[at].len(), to);
        OnItsWay { ahead: self, at }
    }

    /// Says what became of a range that was on its way.
    fn settle(&self, at: usize, loaded: Loaded) {
        let mut state = self.state();
        state.set(at, self.ranges[at].len(), loaded);
        self.changed.notify_all();
        // Meanwhile all its pieces may have been counted as taken.
        self.let_go(state, at);
    }

    /// Lets go of a range when nobody wants anything of it any more; one that is on its way goes when it has arrived.
    fn let_go(&self, mut state: MutexGuard<'_, State>, at: usize) {
        if state.left[at] > 0 || matches!(state.ranges[at], Loaded::ToMemory | Loaded::ToFile) {
            return;
        }
        let len = self.ranges[at].len();
        let was = state.set(at, len, Loaded::Gone);
        drop(state);
        self.changed.notify_all();
        // Where a file system cannot take blocks back, they count until the end.
        if let Loaded::Here(Held::File(from)) = was
            && self.give_back(from, len).is_ok()
            && let Some(aside) = &mut self.state().aside
        {
            aside.held -= len;
        }
    }

    fn ask(&self, at: usize) -> Option<Vec<u8>> {
        let range @ Range { pack, start, .. } = self.ranges[at];
        // An empty range cannot be asked for.
        if range.len() == 0 {
            return Some(vec![]);
        }
        self.store.objects.get_range(&pack.name.key(Space::Pack), start, range.len()).ok()
    }

    fn write_aside(&self, bytes: &[u8], end: u64) -> io::Result<()> {
        if self.aside.get().is_none() {
            // Only one at a time comes here.
            let _ = self.aside.set(self.store.local.nameless(self.cache)?);
        }
        self.aside.get().ok_or(io::ErrorKind::NotFound)?.write_all_at(bytes, end)
    }

    fn read_aside(&self, from: u64, piece: ops::Range<usize>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; piece.len()];
        self.aside.get().ok_or(io::ErrorKind::NotFound)?.read_exact_at(&mut bytes, from + piece.start as u64)?;
        Ok(bytes)
    }

    /// Gives blocks of the file back. Who reads there all the same, because he takes a piece twice, finds zeros, which are not what he looks for.
    fn give_back(&self, from: u64, len: u64) -> io::Result<()> {
        let file = self.aside.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, len)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> OnItsWay<'a> {
    /// Says what became of it.
    fn end(self, loaded: Loaded) -> MutexGuard<'a, State> {
        let (ahead, at) = (self.ahead, self.at);
        mem::forget(self);
        ahead.settle(at, loaded);
        ahead.state()
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.ahead.settle(self.at, Loaded::Gone);
    }
}

impl State {
    /// Returns whether a range has room beside what is there; one that is longer than all of it has, alone.
    fn has_room(&self, len: u64, most: u64) -> bool {
        self.bytes == 0 || self.bytes + len <= most
    }

    /// Changes what a range is, and all that is counted with it; returns what it was.
    fn set(&mut self, at: usize, len: u64, to: Loaded) -> Loaded {
        let in_memory = |loaded: &Loaded| if loaded.is_in_memory() { len } else { 0 };
        self.bytes += in_memory(&to);
        if let (Loaded::Here(Held::File(from)), Some(aside)) = (&to, &mut self.aside) {
            *aside = Aside { end: from + len, held: aside.held + len };
        }
        let was = mem::replace(&mut self.ranges[at], to);
        self.bytes -= in_memory(&was);
        self.is_crowded = match (&was, &self.ranges[at]) {
            (_, Loaded::ToFile) => true,
            (Loaded::ToFile, _) => false,
            _ => self.is_crowded,
        };
        #[cfg(test)]
        self.note_peak();
        was
    }
}

impl Loaded {
    /// Returns whether it takes memory, or will.
    fn is_in_memory(&self) -> bool {
        matches!(self, Self::ToMemory | Self::Here(Held::Memory(_)))
    }
}

#[cfg(test)]
impl Ahead {
    /// Returns how many pieces were not taken yet.
    pub(super) fn n_left(&self) -> usize {
        self.state().left.iter().sum()
    }

    /// Returns the most bytes of ranges that were in memory at once, by what was counted; what is there now was counted.
    #[track_caller]
    pub(super) fn peak(&self) -> u64 {
        self.state().note_peak();
        self.state().peak
    }

    /// Returns how many bytes were put aside, and how many of them did not give their place back.
    pub(super) fn aside(&self) -> Option<(u64, u64)> {
        self.state().aside.map(|aside| (aside.end, aside.held))
    }

    /// Returns how many bytes the file takes on its disk.
    pub(super) fn on_disk(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        self.aside.get().map_or(0, |file| 512 * file.metadata().expect("it is open").blocks())
    }
}

#[cfg(test)]
impl State {
    /// Compares what is there with what was counted, and remembers the most.
    #[track_caller]
    fn note_peak(&mut self) {
        let held = |loaded: &Loaded| if let Loaded::Here(Held::Memory(bytes)) = loaded { bytes.len() as u64 } else { 0 };
        assert!(self.ranges.iter().map(held).sum::<u64>() <= self.bytes, "something is there that was not counted");
        self.peak = self.peak.max(self.bytes);
    }
}
