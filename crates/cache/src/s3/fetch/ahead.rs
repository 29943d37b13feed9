//! Parts of packs that are loaded before somebody wants them, and how much of that is in memory.
//!
//! Nobody has to take blobs in the order in which packs lie: small files that came with many commits lie in as many packs, and each is needed until the last of them is taken. So a range may be
//! wanted when there is no room for it. It is asked for once all the same: what has no room lies in a file without a name, and is read back piece by piece. Where there can be no such file,
//! each of these pieces is a request of its own.

use std::fs::File;
use std::io;
use std::ops;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::super::S3Store;
use super::super::format::name::{Reference, Space};

/// Bytes of a pack that one request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) pack: Reference,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// How much may be in memory, in bytes: that, and one range on its way into the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Of ranges, before one is loaded that nobody waits for.
    pub(crate) ahead: u64,
    /// Of ranges, whoever waits for them.
    pub(crate) most: u64,
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
    /// Bytes in the file; none when it cannot be written.
    aside: Option<u64>,
    /// Somebody loads a range for which there is no room.
    is_crowded: bool,
    /// The first range that nobody has begun to load, or one before it.
    next: usize,
    stopped: bool,
    /// The most bytes that were ever in memory.
    #[cfg(test)]
    peak: u64,
}

enum Loaded {
    NotYet,
    OnItsWay,
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
            aside: Some(0),
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

    /// Does something with one piece of a range, which is taken by that; nothing when it is not at hand.
    pub(super) fn take<T>(&self, at: usize, piece: ops::Range<usize>, act: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let done = match self.wanted(at)? {
            Held::Memory(bytes) => bytes.get(piece).map(act),
            Held::File(from) => self.read_aside(from, piece).ok().map(|bytes| act(&bytes)),
        };
        // Not before that: as long as somebody looks at it, it is in memory.
        self.took(self.state(), at);
        done
    }

    /// Waits for a range, and loads it when nobody has begun to; nothing when it is not to be had.
    fn wanted(&self, at: usize) -> Option<Held> {
        let mut state = self.state();
        loop {
            state = match &state.ranges[at] {
                Loaded::Here(held) => return Some(held.clone()),
                Loaded::Gone => return None,
                Loaded::OnItsWay => self.wait(state),
                Loaded::NotYet if state.has_room(self.ranges[at].len(), self.room.most) => self.load(state, at),
                Loaded::NotYet if state.is_crowded => self.wait(state),
                Loaded::NotYet => match state.aside {
                    Some(end) => self.load_aside(state, at, end),
                    None => {
                        self.took(state, at);
                        return None;
                    }
                },
            };
        }
    }

    /// Loads a range that nobody has begun to load.
    fn load<'a>(&'a self, mut state: MutexGuard<'a, State>, at: usize) -> MutexGuard<'a, State> {
        let len = self.ranges[at].len();
        state.ranges[at] = Loaded::OnItsWay;
        state.bytes += len;
        #[cfg(test)]
        state.look();
        drop(state);
        let read = self.ask(at);
        state = self.state();
        state.ranges[at] = match read {
            Some(bytes) => Loaded::Here(Held::Memory(Arc::new(bytes))),
            None => {
                state.bytes -= len;
                Loaded::Gone
            }
        };
        self.changed.notify_all();
        state
    }

    /// Loads a range for which there is no room; one at a time.
    fn load_aside<'a>(&'a self, mut state: MutexGuard<'a, State>, at: usize, end: u64) -> MutexGuard<'a, State> {
        state.ranges[at] = Loaded::OnItsWay;
        state.is_crowded = true;
        drop(state);
        let read = self.ask(at);
        let written = read.as_ref().map(|bytes| self.write_aside(bytes, end));
        drop(read);
        state = self.state();
        state.is_crowded = false;
        state.ranges[at] = match written {
            None => Loaded::Gone,
            Some(Ok(())) => {
                state.aside = Some(end + self.ranges[at].len());
                Loaded::Here(Held::File(end))
            }
            // No disk, or no room on it. What is loaded ahead from now on has room.
            Some(Err(_)) => {
                state.aside = None;
                Loaded::NotYet
            }
        };
        self.changed.notify_all();
        state
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

    /// Counts a piece as taken; with its last one a range goes.
    fn took(&self, mut state: MutexGuard<'_, State>, at: usize) {
        state.left[at] = state.left[at].saturating_sub(1);
        if state.left[at] > 0 {
            return;
        }
        if let Loaded::Here(Held::Memory(_)) = std::mem::replace(&mut state.ranges[at], Loaded::Gone) {
            state.bytes -= self.ranges[at].len();
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether a range has room beside what is there; one that is longer than all of it has, alone.
    fn has_room(&self, len: u64, most: u64) -> bool {
        self.bytes == 0 || self.bytes + len <= most
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
        self.state().look();
        self.state().peak
    }

    /// Returns how many bytes were put aside.
    pub(super) fn aside(&self) -> Option<u64> {
        self.state().aside
    }
}

#[cfg(test)]
impl State {
    /// Compares what is there with what was counted, and remembers the most.
    #[track_caller]
    fn look(&mut self) {
        let held = |loaded: &Loaded| if let Loaded::Here(Held::Memory(bytes)) = loaded { bytes.len() as u64 } else { 0 };
        assert!(self.ranges.iter().map(held).sum::<u64>() <= self.bytes, "something is there that was not counted");
        self.peak = self.peak.max(self.bytes);
    }
}
