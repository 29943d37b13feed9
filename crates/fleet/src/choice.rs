//! Which way an image gets to a node: the one that is done soonest, not the one of fewest bytes.
//!
//! A pure model of time. A copy is done when its delta is made, has travelled, and is worked in on the node; the last two overlap. What a delta costs to make
//! is paid once for all nodes that it serves, and nothing where it was made before: a cold delta that saves a second of a slow line loses a tenth on a fast
//! one, so a fast line takes the whole image unless the delta is there. By this model no node waits longer than for the whole image, at any rate; what differs
//! by less than the model can tell (`ALIKE`) counts as equal, and then fewer bytes are better.
//!
//! # Where the constants are from
//!
//! [`Speed`] holds what one core of a server of 2023 does with programs and libraries (`benches/delta`); the estimates of bytes are on the cautious side of the
//! version pairs there, so that a doubtful delta loses. Bytes are exact for a delta that was made before.

use std::collections::HashMap;
use std::time::Duration;

use df_core::ImageId;
use df_delta::Level;
use serde::{Deserialize, Serialize};

/// How an image gets to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// It is there.
    Held,
    /// As a delta to an image that is there and here: made here, once for all nodes that hold it.
    Patch(ImageId),
    /// As a delta to an image that is only there: from the node's signature of it.
    Rsync(ImageId),
    /// Whole.
    Whole,
}

impl Way {
    /// Returns a word for what travels: `none`, `patch`, `rsync`, `whole`.
    pub fn codec(self) -> &'static str {
        match self {
            Self::Held => "none",
            Self::Patch(_) => "patch",
            Self::Rsync(_) => "rsync",
            Self::Whole => "whole",
        }
    }

    /// Returns the base.
    pub fn base(self) -> Option<ImageId> {
        match self {
            Self::Patch(base) | Self::Rsync(base) => Some(base),
            Self::Held | Self::Whole => None,
        }
    }
}

/// The line to a node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Bytes a second, up.
    pub bytes_per_second: f64,
    /// Seconds to the node and back.
    pub round_trip: f64,
}

impl Link {
    /// What is taken for a line that nothing is known of: 100 Mbit/s, 20 ms.
    pub const UNMEASURED: Self = Self { bytes_per_second: 12.5e6, round_trip: 0.02 };

    /// Returns how long bytes take, with the rounds that a connection needs to find its rate (RFC 6928: ten segments in the first, twice as many in each).
    pub fn seconds(&self, bytes: u64) -> f64 {
        let rate = self.bytes_per_second.max(1.0);
        let bytes = bytes as f64;
        let in_flight = rate * self.round_trip;
        let rounds = (bytes.min(in_flight) / 14_600.0).max(1.0).log2();
        self.round_trip * (1.0 + rounds) + bytes / rate
    }
}

/// Tells from bytes that leave how fast a line is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    /// When the first bytes had left, and the last.
    first: Option<Duration>,
    last: Duration,
    /// Bytes that left after the first.
    bytes: u64,
}

/// What fits into pipes and sockets on the way: so much leaves at once, whatever the line is.
const BUFFERED: u64 = 4 << 20;
/// What takes no longer tells more of buffers than of the line.
const TELLING: Duration = Duration::from_secs(1);

impl Meter {
    /// Takes note that bytes had left at a time.
    pub fn add(&mut self, bytes: u64, at: Duration) {
        if self.first.is_some() {
            self.bytes += bytes;
        }
        self.first.get_or_insert(at);
        self.last = at;
    }

    /// Returns what the line is like; `None` when too little was sent to tell. A round trip that was not seen is as it was thought to be.
    pub fn link(&self, round_trip: Option<Duration>, thought: &Link) -> Option<Link> {
        let took = self.last.checked_sub(self.first?)?;
        if took.is_zero() || self.bytes < 2 * BUFFERED && took < TELLING {
            return None;
        }
        let travelled = self.bytes.saturating_sub(BUFFERED).max(self.bytes / 2);
        let round_trip = round_trip.map_or(thought.round_trip, |round_trip| round_trip.as_secs_f64());
        Some(Link { bytes_per_second: travelled as f64 / took.as_secs_f64(), round_trip })
    }
}

/// What a delta between two images has to do with the bytes that the base lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes of new files that resemble old ones.
    pub changed: u64,
    /// Bytes of new files that resemble nothing.
    pub fresh: u64,
    /// Bytes of the largest stretch that one core has to itself.
    pub largest: u64,
    /// About so many bytes are new, before they are squeezed: of changed files a part, of the others all.
    pub expected: u64,
}

impl Work {
    /// Returns the work of sending everything.
    pub fn whole(len: u64, largest: u64) -> Self {
        Self { changed: 0, fresh: len, largest, expected: len }
    }
}

/// What machines do in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Cores here.
    pub cores: f64,
    /// Bytes of changed files that a core packs against old ones.
    pub encode_changed: [f64; 2],
    /// Bytes of other files that a core packs.
    pub encode_fresh: [f64; 2],
    /// Bytes of changed files that a core of a node restores.
    pub apply_changed: f64,
    /// Bytes of a delta at [`Level::Small`] that a core of a node unpacks: each is guessed from much that came before it.
    pub apply_small: f64,
    /// Bytes of other files that a core of a node unpacks, checks and writes.
    pub apply_fresh: f64,
    /// Bytes that a core of a node signs.
    pub sign: f64,
}

impl Speed {
    /// Returns the speeds of a usual machine with so many cores; of the two numbers the first is for [`Level::Fast`].
    pub fn usual(cores: usize) -> Self {
        Self {
            cores: cores.max(1) as f64,
            encode_changed: [35e6, 1e6],
            encode_fresh: [25e6, 0.5e6],
            apply_changed: 200e6,
            apply_small: 110e3,
            apply_fresh: 250e6,
            sign: 400e6,
        }
    }
}

/// What remains of new bytes when they are squeezed, by level.
const SQUEEZED: [f64; 2] = [0.36, 0.30];
/// What remains of a file whose base is only on the node: every moved address is sent again.
const RSYNC: f64 = 0.25;
/// Signature bytes for each byte of the base: 20 for each block of 2 KiB.
const SIGNATURE: f64 = 20.0 / 2048.0;
/// Seconds that are none: a disk's sync takes longer or shorter by as much, and nobody pays a megabyte for them.
const ALIKE: f64 = 0.02;
/// Headers and the manifest's delta.
const HEAD_LEN: u64 = 300;

/// One way and what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// The way.
    pub way: Way,
    /// How hard it is squeezed.
    pub level: Level,
    /// Bytes that travel up.
    pub bytes: u64,
    /// Whether the delta was made before, so that the bytes are no estimate.
    pub is_made: bool,
    /// Seconds that making it takes on this machine alone.
    pub encode: f64,
    /// Seconds that the node works, most of them while bytes arrive.
    pub apply: f64,
    /// Seconds before the first byte is made: a base's signature is asked for.
    pub before: f64,
}

impl Offer {
    /// Returns the offer of a delta, or of the whole image, that has to be made.
    pub fn cold(way: Way, level: Level, work: &Work, speed: &Speed) -> Self {
        let at = index(level);
        let (changed, fresh) = (work.changed as f64, work.fresh as f64);
        let spread = |rate: f64| {
            let total = changed + fresh;
            // One file is packed by one core.
            (total / speed.cores).max((work.largest as f64).min(total)) / total.max(1.0) / rate
        };
        let encode = changed * spread(speed.encode_changed[at]) + fresh * spread(speed.encode_fresh[at]);
        let bytes = (work.expected as f64 * SQUEEZED[at]) as u64 + HEAD_LEN;
        Self { way, level, bytes, is_made: false, encode, apply: apply(way, level, work, bytes, speed), before: 0.0 }
    }

    /// Returns the offer of a delta that was made before.
    pub fn made(way: Way, level: Level, work: &Work, bytes: u64, speed: &Speed) -> Self {
        Self { way, level, bytes, is_made: true, encode: 0.0, apply: apply(way, level, work, bytes, speed), before: 0.0 }
    }

    /// Returns the offer of a delta to a base that only the node holds, of which nothing but the length of the new image is known here: that half of it is
    /// held, and the rest resembles.
    pub fn by_signature(base: ImageId, level: Level, len: u64, link: &Link, speed: &Speed) -> Self {
        let changed = len as f64 / 2.0;
        let signed = changed / speed.sign + changed * SIGNATURE / link.bytes_per_second.max(1.0);
        Self {
            way: Way::Rsync(base),
            level,
            bytes: (changed * RSYNC) as u64 + HEAD_LEN,
            is_made: false,
            encode: changed / (speed.encode_fresh[0] / 2.0),
            apply: changed / speed.apply_changed,
            // Its manifest, then its signatures.
            before: 2.0 * link.round_trip + signed,
        }
    }

    /// Returns what is made once for all that want it.
    fn made_as(&self) -> (Way, usize) {
        (self.way, index(self.level))
    }

    /// Returns how long the copy takes from when its delta is ready.
    fn travels(&self, link: &Link) -> f64 {
        link.seconds(self.bytes).max(self.apply)
    }
}

/// What this machine is making for a command's nodes, in seconds since the command began.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    free_at: f64,
    ready: HashMap<(Way, usize), f64>,
}

impl Queue {
    /// Returns when an offer's delta would be ready.
    ///
    /// Deltas wait for one another; the whole image waits for none, so that nobody who takes it is held up by those that do not.
    fn ready(&self, offer: &Offer, now: f64) -> f64 {
        if offer.is_made {
            return now;
        }
        match self.ready.get(&offer.made_as()) {
            Some(&ready) => ready.max(now),
            None if offer.way == Way::Whole => now + offer.encode,
            None => self.free_at.max(now) + offer.before + offer.encode,
        }
    }

    /// Notes that a delta is being made from now on, for whoever wants it.
    pub fn take(&mut self, offer: &Offer, now: f64) {
        if offer.is_made || self.ready.contains_key(&offer.made_as()) {
            return;
        }
        let ready = self.ready(offer, now);
        self.free_at = self.free_at.max(ready);
        // Each node's signature is its own.
        if !matches!(offer.way, Way::Rsync(_)) {
            self.ready.insert(offer.made_as(), ready);
        }
    }

    /// Returns how many seconds from now a copy is done.
    pub fn seconds(&self, offer: &Offer, link: &Link, now: f64) -> f64 {
        self.ready(offer, now) - now + offer.travels(link)
    }
}

/// Returns which offer is done soonest, and in how many seconds; of those that are `ALIKE` that of fewest bytes. `None` for no offer at all.
pub fn choose<'a>(offers: &'a [Offer], link: &Link, queue: &Queue, now: f64) -> Option<(&'a Offer, f64)> {
    let timed = || offers.iter().map(|offer| (offer, queue.seconds(offer, link, now)));
    let soonest = timed().map(|(_, seconds)| seconds).min_by(f64::total_cmp)?;
    let alike = timed().filter(|(_, seconds)| *seconds <= soonest + ALIKE);
    alike.min_by(|(a, a_seconds), (b, b_seconds)| a.bytes.cmp(&b.bytes).then(a_seconds.total_cmp(b_seconds)))
}

fn apply(way: Way, level: Level, work: &Work, bytes: u64, speed: &Speed) -> f64 {
    let plain = work.changed as f64 / speed.apply_changed + work.fresh as f64 / speed.apply_fresh;
    // What a small delta saves on a line that carries more than a tenth of a megabyte a second, its unpacking takes again.
    let guessed = if level == Level::Small && matches!(way, Way::Patch(_)) { bytes as f64 / speed.apply_small } else { 0.0 };
    plain + guessed
}

fn index(level: Level) -> usize {
    match level {
        Level::Fast => 0,
        Level::Small => 1,
    }
}

#[cfg(test)]
mod tests;
