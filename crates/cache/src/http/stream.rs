//! An object as a stream: pieces of it are fetched side by side and handed on in order; a piece that was cut goes on from its last byte.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Client, FetchError, Url};

/// Bytes of a piece, and how many are under way: what is held in memory at most.
const PIECE_LEN: u64 = 4 << 20;
const PIECES: usize = 6;
/// How much is read at once.
const READ_LEN: usize = 128 << 10;
/// How often a piece is asked for in all, and how often without a byte more.
const TRIES: u32 = 8;
const FUTILE: u32 = 3;
/// How often whoever waits is told that it goes on.
const TICK: Duration = Duration::from_secs(2);

/// Hears now and then how many bytes came; says whether they are still wanted.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> bool;

/// An object on its way, from one of its bytes to its end.
pub struct Stream<'a> {
    fetching: Arc<Fetching>,
    /// Where the next piece begins that nobody fetches yet.
    next: u64,
    under_way: VecDeque<Receiver<Result<Vec<u8>, FetchError>>>,
    chunk: Vec<u8>,
    at: usize,
    watch: Watch<'a>,
    watched: Instant,
    deadline: Instant,
    failure: Option<FetchError>,
}

/// What the threads share that fetch pieces.
struct Fetching {
    client: Client,
    url: Url,
    total: u64,
    is_over: Mutex<bool>,
    over: Condvar,
    is_cancelled: AtomicBool,
    fetched: AtomicU64,
}

impl<'a> Stream<'a> {
    /// Begins to fetch an object of `total` bytes from byte `from` on; it ends with [`FetchError::Expired`] when it takes longer than `limit`.
    pub fn open(client: Client, url: Url, from: u64, total: u64, limit: Duration, watch: Watch<'a>) -> Self {
        let fetching = Fetching {
            client,
            url,
            total,
            is_over: Mutex::new(false),
            over: Condvar::new(),
            is_cancelled: AtomicBool::new(false),
            fetched: AtomicU64::new(0),
        };
        let now = Instant::now();
        Self {
            fetching: Arc::new(fetching),
            next: from,
            under_way: VecDeque::new(),
            chunk: vec![],
            at: 0,
            watch,
            watched: now,
            deadline: now + limit,
            failure: None,
        }
    }

    /// Returns why it ended, if it did.
    pub fn failure(&self) -> Option<&FetchError> {
        self.failure.as_ref()
    }

    /// Returns how many bytes came over the network, bodies alone.
    pub fn fetched(&self) -> u64 {
        self.fetching.fetched.load(Ordering::Relaxed)
    }

    fn fill(&mut self) -> Result<(), FetchError> {
        while self.under_way.len() < PIECES && self.next < self.fetching.total {
            let (start, len) = (self.next, PIECE_LEN.min(self.fetching.total - self.next));
            let (fetching, (tell, heard)) = (self.fetching.clone(), mpsc::channel());
            let fetch = move || drop(tell.send(fetching.piece(start, len)));
            thread::Builder::new().spawn(fetch).map_err(|_| FetchError::Answer("more than this machine has threads for"))?;
            self.under_way.push_back(heard);
            self.next += len;
        }
        let Some(first) = self.under_way.front() else { return Ok(()) };
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(FetchError::Expired);
            }
            if now.duration_since(self.watched) >= TICK {
                self.watched = now;
                if !(self.watch)(self.fetching.fetched.load(Ordering::Relaxed)) {
                    return Err(FetchError::Cancelled);
                }
            }
            match first.recv_timeout(TICK.min(self.deadline - now)) {
                Ok(piece) => {
                    (self.chunk, self.at) = (piece?, 0);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(FetchError::Cancelled),
            }
        }
        self.under_way.pop_front();
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            if self.failure.is_none() {
                self.failure = self.fill().err();
            }
            if let Some(failure) = &self.failure {
                return Err(io::Error::other(failure.clone()));
            }
        }
        let len = out.len().min(self.chunk.len() - self.at);
        out[..len].copy_from_slice(&self.chunk[self.at..][..len]);
        self.at += len;
        Ok(len)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.fetching.is_cancelled.store(true, Ordering::Relaxed);
        *self.fetching.is_over.lock().expect("nobody panics while holding it") = true;
        self.fetching.over.notify_all();
    }
}

impl Fetching {
    /// Fetches a piece, again from its last byte when it was cut.
    fn piece(&self, start: u64, len: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::with_capacity(len as usize);
        let (mut tries, mut futile) = (0, 0);
        loop {
            let before = bytes.len();
            let error = match self.rest(start, len, &mut bytes) {
                Ok(()) => return Ok(bytes),
                Err(error) => error,
            };
            (tries, futile) = (tries + 1, if bytes.len() > before { 0 } else { futile + 1 });
            if !error.is_passing() || tries == TRIES || futile == FUTILE {
                return Err(error);
            }
            self.pause(self.client.patience.pause * 2_u32.pow(futile.min(5)))?;
        }
    }

    fn rest(&self, start: u64, len: u64, bytes: &mut Vec<u8>) -> Result<(), FetchError> {
        let has = bytes.len() as u64;
        let mut part = self.client.range(&self.url, start + has, len - has, self.total)?;
        loop {
            if self.is_cancelled.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled);
            }
            match part.read_into(bytes, READ_LEN)? {
                0 => return Ok(()),
                len => self.fetched.fetch_add(len as u64, Ordering::Relaxed),
            };
        }
    }

    /// Waits before a repetition, or until nobody wants it any more.
    fn pause(&self, pause: Duration) -> Result<(), FetchError> {
        let is_over = self.is_over.lock().expect("nobody panics while holding it");
        let (is_over, _) =
            self.over.wait_timeout_while(is_over, pause, |is_over| !*is_over).expect("nobody panics while holding it");
        if *is_over { Err(FetchError::Cancelled) } else { Ok(()) }
    }
}
