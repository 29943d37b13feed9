//! Unpacks pieces on all cores while the next ones are read, in bounded memory, and gives what comes out to the sink.
//!
//! One thread reads, as the input is one stream; when too much is in flight it waits, and with it whoever sends. Blobs that lie whole in a piece go to the sink as
//! soon as they are checked, in no order; stretches of longer ones, and marks, in order.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use df_core::{Digest, Hasher};
use rayon::prelude::*;

use super::{ApplyError, Counted, Head, Mark, Sink, read_packed, read_part_header};
use crate::choose::{Piece, Slice};
use crate::codec::{self, Base};
use crate::format::{Codec, Kind, PartHeader};
use crate::read::{self, ReadBlob, ReadError, concat};

/// How many bytes are in flight at most: old, new and packed ones, and what unpacking takes besides. One piece may be larger by itself; then it is alone.
pub const IN_FLIGHT: u64 = 224 << 20;
/// More threads find no more to do: a piece is 32 MiB and more where there is much.
const THREADS: usize = 4;

/// What the tables of the coders take at most; of small pieces less, as they are a kilobyte for each byte at most.
const TABLES: u64 = 32 << 20;

/// So many bytes are worth several threads.
const SHARED: usize = 1 << 20;

/// The pieces of a delta, and all that is needed to make blobs of them.
pub(super) struct Pieces<'a> {
    kind: Kind,
    pieces: &'a [Piece],
    lens: HashMap<Digest, u64>,
    read: Option<ReadBlob<'a>>,
    sink: &'a dyn Sink,
}

/// Where to begin.
pub(super) struct Start {
    /// So many pieces are done.
    pub n_done: usize,
    /// What was hashed of a blob that is not complete.
    pub unfinished: Hasher,
}

/// A piece that was read.
struct Job {
    number: usize,
    header: PartHeader,
    packed: Vec<u8>,
    /// Bytes of the delta up to its end.
    end: u64,
    weight: u64,
}

impl<'a> Pieces<'a> {
    pub fn of(head: &'a Head, read: Option<ReadBlob<'a>>, sink: &'a dyn Sink) -> Self {
        let lens = head.manifest.blobs().into_iter().collect();
        Self { kind: head.kind, pieces: &head.plan.pieces, lens, read: read.filter(|_| head.kind != Kind::Whole), sink }
    }

    /// Reads and unpacks what is left. When the input breaks, what was read whole is worked in before this returns.
    pub fn run(&self, start: Start, input: &mut Counted<'_>) -> Result<(), ApplyError> {
        let n_done = start.n_done;
        let flight = Flight::default();
        let order = Mutex::new(Order { next: n_done, waiting: BTreeMap::new(), unfinished: start.unfinished });
        let n_threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(self.pieces.len() - n_done);
        let is_small =
            self.pieces[n_done..].iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.target_len())) < SHARED as u64;
        let read = if n_threads < 2 || is_small {
            self.feed(n_done, input, &flight, &mut |job| self.take(job, &flight, &order))
        } else {
            // It holds little: what is in flight is bounded.
            let (jobs, queue) = mpsc::channel();
            let queue = Mutex::new(queue);
            thread::scope(|scope| {
                for _ in 0..n_threads {
                    scope.spawn(|| {
                        while let Some(job) = next(&queue) {
                            self.take(job, &flight, &order);
                        }
                    });
                }
                // Moved in, so that it is dropped when all is read: the threads end then.
                let jobs = jobs;
                self.feed(n_done, input, &flight, &mut |job| jobs.send(job).expect("the queue lives longer"))
            })
        };
        flight.end()?;
        read
    }

    /// Reads the pieces and gives them away, to the end of the delta or until one fails.
    fn feed(&self, n_done: usize, input: &mut Counted<'_>, flight: &Flight, give: &mut dyn FnMut(Job)) -> Result<(), ApplyError> {
        for (number, piece) in self.pieces.iter().enumerate().skip(n_done) {
            let header = read_part_header(input, self.kind, &read::lens(&piece.target))?;
            let weight = weight(&header, piece.base_len(), piece.target_len());
            if !flight.start(weight) {
                return Ok(());
            }
            let packed = read_packed(input, &header)?;
            give(Job { number, header, packed, end: input.n_read, weight });
        }
        if input.take(1).read_to_end(&mut Vec::new())? > 0 {
            return Err(ApplyError::Trailing);
        }
        Ok(())
    }

    fn take(&self, job: Job, flight: &Flight, order: &Mutex<Order>) {
        // Whoever waits for room must not wait for a thread that panicked.
        let alarm = Alarm(flight);
        if !flight.has_failed() {
            let number = job.number;
            flight.land(number, self.work(job, order));
        }
        std::mem::forget(alarm);
    }

    /// Makes one piece; returns how much of its weight is free now, its own or that of others that waited for it.
    fn work(&self, job: Job, order: &Mutex<Order>) -> Result<u64, ApplyError> {
        let piece = &self.pieces[job.number];
        let base = if job.header.codec == Codec::Stored { Base::default() } else { self.base(piece)? };
        let bytes = codec::unpack(&job.header, job.packed, base, &read::lens(&piece.target))?;
        let (whole, longer): (Vec<_>, Vec<_>) =
            cut(&piece.target, &bytes).partition(|(slice, _)| slice.len == self.lens[&slice.digest]);
        if bytes.len() < SHARED {
            whole.iter().try_for_each(|(slice, bytes)| self.blob(slice.digest, bytes))?;
        } else {
            whole.par_iter().try_for_each(|(slice, bytes)| self.blob(slice.digest, bytes))?;
        }
        let waits = !longer.is_empty();
        let (bytes, free) = if waits { (bytes, 0) } else { (Vec::new(), job.weight) };
        let done = Done { bytes, end: job.end, weight: job.weight - free };
        let mut order = lock(order);
        order.waiting.insert(job.number, done);
        Ok(free + self.advance(&mut order)?)
    }

    /// Works in what was waiting for its turn.
    fn advance(&self, order: &mut Order) -> Result<u64, ApplyError> {
        let mut free = 0;
        while let Some(done) = order.waiting.remove(&order.next) {
            let target = &self.pieces[order.next].target;
            let mut unfinished = None;
            let slices = cut(if done.bytes.is_empty() { &[] } else { target }, &done.bytes);
            for (slice, bytes) in slices.filter(|(slice, _)| slice.len != self.lens[&slice.digest]) {
                unfinished = self.stretch(slice, bytes, &mut order.unfinished)?;
            }
            self.sink.reached(&Mark { offset: done.end, unfinished }).map_err(ApplyError::Sink)?;
            order.next += 1;
            free += done.weight;
        }
        Ok(free)
    }

    fn blob(&self, expected: Digest, bytes: &[u8]) -> Result<(), ApplyError> {
        let found = Digest::of(bytes);
        if found != expected {
            return Err(ApplyError::WrongBlob { expected, found });
        }
        self.sink.blob(expected, bytes).map_err(ApplyError::Sink)
    }

    /// Gives on a stretch of a blob; returns what is there of it when it is not complete.
    fn stretch(&self, slice: &Slice, bytes: &[u8], hasher: &mut Hasher) -> Result<Option<(u64, Digest)>, ApplyError> {
        if slice.offset == 0 {
            *hasher = Hasher::new();
        }
        self.sink.stretch(*slice, bytes).map_err(ApplyError::Sink)?;
        hasher.update(bytes);
        let (end, found) = (slice.offset + slice.len, hasher.finish());
        if end < self.lens[&slice.digest] {
            return Ok(Some((end, found)));
        }
        if found != slice.digest {
            return Err(ApplyError::WrongBlob { expected: slice.digest, found });
        }
        self.sink.finish(slice.digest).map_err(ApplyError::Sink).map(|()| None)
    }

    fn base(&self, piece: &Piece) -> Result<Base, ApplyError> {
        let Some(read) = self.read else { return Ok(Base::default()) };
        let bytes = concat(&piece.base, read).map_err(|ReadError { digest, source }| ApplyError::ReadBase { digest, source })?;
        Ok(Base { bytes, lens: read::lens(&piece.base) })
    }

    /// Hashes what the sink kept of the pieces before the last mark.
    pub fn check_kept(&self, marks: &[Mark]) -> Result<Start, ApplyError> {
        let n_done = marks.len() - 1;
        let mut begun = HashMap::new();
        let mut complete = Vec::new();
        for (number, piece) in self.pieces[..n_done].iter().enumerate() {
            for slice in &piece.target {
                let first = *begun.entry(slice.digest).or_insert(number);
                if slice.offset + slice.len == self.lens[&slice.digest] {
                    begun.remove(&slice.digest);
                    complete.push((first, slice.digest));
                }
            }
        }
        let is_lost = |digest: Digest| self.sink.kept(digest, self.lens[&digest]).is_none_or(|found| found.finish() != digest);
        let mut lost = complete.par_iter().filter(|(_, digest)| is_lost(*digest)).map(|(first, _)| *first).min();
        let mut unfinished = Hasher::new();
        // One blob at a time comes in stretches.
        if let Some((&digest, &first)) = begun.iter().next() {
            let kept = marks[n_done].unfinished.and_then(|(len, found)| Some((self.sink.kept(digest, len)?, found)));
            match kept {
                Some((hasher, found)) if hasher.finish() == found => unfinished = hasher,
                _ => lost = Some(lost.map_or(first, |lost| lost.min(first))),
            }
        }
        match lost {
            Some(first) => Err(ApplyError::NotKept { n_marks: first + 1 }),
            None => Ok(Start { n_done, unfinished }),
        }
    }
}

/// Returns how many bytes unpacking a piece takes at most: both sides, what is packed, and what its codec has besides.
fn weight(header: &PartHeader, base_len: u64, target_len: u64) -> u64 {
    let PartHeader { codec, raw, packed } = *header;
    // The numbers of segments and corrections take no more than a quarter above the new bytes. Where they are many, tables are not as large as they may be.
    let guessing = (target_len * 5 / 4).max(TABLES.min(target_len << 10));
    match codec {
        Codec::Stored => packed,
        Codec::Zstd => base_len + target_len + packed,
        // What is packed is gone before the new bytes are there.
        Codec::Rsync => base_len + raw + target_len.max(packed),
        Codec::Copy => base_len + target_len + packed + guessing,
        // References take up to twice the program that they are in; where a program ends is not known before it is read.
        Codec::Elf => 3 * base_len + target_len + packed + guessing,
    }
}

/// Waits for the next piece; `None` when there are no more.
fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    lock(queue).recv().ok()
}

/// Cuts bytes into slices.
fn cut<'a>(slices: &'a [Slice], mut bytes: &'a [u8]) -> impl Iterator<Item = (&'a Slice, &'a [u8])> {
    slices.iter().map(move |slice| {
        let (now, later) = bytes.split_at(slice.len as usize);
        bytes = later;
        (slice, now)
    })
}

/// Pieces that are unpacked, in their order.
struct Order {
    next: usize,
    waiting: BTreeMap<usize, Done>,
    /// What was hashed of the blob that comes in stretches.
    unfinished: Hasher,
}

/// A piece that is unpacked; its whole blobs are with the sink.
struct Done {
    /// All of it, when it holds a stretch.
    bytes: Vec<u8>,
    end: u64,
    /// What it still holds of the room.
    weight: u64,
}

/// How much is in flight, and what failed first.
#[derive(Default)]
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: u64,
    failed: Option<(usize, ApplyError)>,
    panicked: bool,
}

impl Flight {
    /// Waits until there is room, or nothing else is in flight; `false` when something failed.
    fn start(&self, weight: u64) -> bool {
        let is_full = |state: &mut State| !state.is_over() && state.bytes > 0 && state.bytes + weight > IN_FLIGHT;
        let mut state = self.changed.wait_while(lock(&self.state), is_full).unwrap_or_else(PoisonError::into_inner);
        state.bytes += weight;
        !state.is_over()
    }

    fn has_failed(&self) -> bool {
        lock(&self.state).is_over()
    }

    /// Takes how a piece ended: with so much room that is free again, or with an error.
    fn land(&self, number: usize, done: Result<u64, ApplyError>) {
        let mut state = lock(&self.state);
        match done {
            Ok(free) => state.bytes -= free,
            Err(error) if state.failed.as_ref().is_none_or(|(first, _)| number < *first) => state.failed = Some((number, error)),
            Err(_) => {}
        }
        self.changed.notify_all();
    }

    /// Returns the failure of the first piece that failed.
    fn end(self) -> Result<(), ApplyError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.failed.is_some() || self.panicked
    }
}

/// Says that a thread panicked, unless it is forgotten.
struct Alarm<'a>(&'a Flight);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).panicked = true;
        self.0.changed.notify_all();
    }
}

/// Locks, also after another thread panicked: that panic is on its way to the caller.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
