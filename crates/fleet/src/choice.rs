//! Which way an image gets to a node: the one that is done soonest, not the one of fewest bytes.
//!
//! A pure model of time. A copy is done when its delta is made, has travelled, and is worked in on the node; the last two overlap. What a delta costs to make
//! is paid once for all nodes that it serves, and nothing where it was made before: a cold delta that saves a second of a slow line loses a tenth on a fast
//! one, so a fast line takes the whole image unless the delta is there. The line is what remains of the uplink for a node ([`Crowd`]): two hundred that hold one
//! base take its delta where one of them alone would take the whole image. By this model no node waits longer than for the whole image, at any rate; what differs
//! by less than the model can tell (`ALIKE`) counts as equal, and then fewer bytes are better.
//!
//! What machines do is in [`Speed`]; the estimates of bytes are on the cautious side of the version pairs of `benches/delta`, so that a doubtful delta loses.
//! Bytes are exact for a delta that was made before.

use std::collections::HashMap;
use std::time::Duration;

use df_core::ImageId;
use df_delta::Level;
use serde::{Deserialize, Serialize};

mod uplink;
mod work;

pub use uplink::{Crowd, Line};
pub use work::{LARGE, Speed, Work};

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
    /// Bytes a second that left here for all nodes together while it was measured: the uplink carries no less. What was measured by an older df says nothing
    /// of it.
    #[serde(default)]
    pub together: f64,
}

impl Link {
    /// What is taken for a line that nothing is known of: 100 Mbit/s, 20 ms.
    pub const UNMEASURED: Self = Self { bytes_per_second: 12.5e6, round_trip: 0.02, together: 12.5e6 };

    /// Returns how long bytes take when nothing else is sent.
    pub fn seconds(&self, bytes: u64) -> f64 {
        Line::from(*self).seconds(bytes)
    }

    /// Returns the bytes a second that the uplink is known to carry by this line.
    pub fn uplink(&self) -> f64 {
        self.together.max(self.bytes_per_second)
    }

    /// Returns how long the rounds take that a connection needs to find its rate (RFC 6928: ten segments in the first, twice as many in each).
    fn rounds(&self, bytes: u64) -> f64 {
        let in_flight = self.bytes_per_second.max(1.0) * self.round_trip;
        let rounds = (bytes as f64).min(in_flight) / 14_600.0;
        self.round_trip * (1.0 + rounds.max(1.0).log2())
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
        let bytes_per_second = travelled as f64 / took.as_secs_f64();
        Some(Link { bytes_per_second, round_trip, together: bytes_per_second })
    }
}

/// What remains of new bytes of a delta when they are squeezed, by level.
const SQUEEZED: [f64; 2] = [0.36, 0.30];
/// The same for the whole image, of which much squeezes better. Too little rather than too much: then a doubtful delta loses.
const WHOLE: [f64; 2] = [0.30, 0.25];
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
        let squeezed = if way == Way::Whole { WHOLE } else { SQUEEZED };
        let bytes = (work.expected as f64 * squeezed[index(level)]) as u64 + HEAD_LEN;
        Self { is_made: false, encode: speed.encode(work, level), ..Self::made(way, level, work, bytes, speed) }
    }

    /// Returns the offer of a delta that was made before.
    pub fn made(way: Way, level: Level, work: &Work, bytes: u64, speed: &Speed) -> Self {
        Self { way, level, bytes, is_made: true, encode: 0.0, apply: speed.apply(way, level, work, bytes), before: 0.0 }
    }

    /// Returns the offer of a delta to a base that only the node holds, of which nothing but the length of the new image is known here: that half of it is
    /// held, and the rest resembles.
    pub fn by_signature(base: ImageId, level: Level, len: u64, line: &Line, speed: &Speed) -> Self {
        let changed = len as f64 / 2.0;
        let signed = changed / speed.sign + changed * SIGNATURE / line.bytes_per_second();
        Self {
            way: Way::Rsync(base),
            level,
            bytes: (changed * RSYNC) as u64 + HEAD_LEN,
            is_made: false,
            encode: changed / (speed.fresh() / 2.0),
            apply: speed.apply(Way::Rsync(base), level, &Work { changed: len / 2, ..Work::default() }, 0),
            // Its manifest, then its signatures.
            before: 2.0 * line.round_trip() + signed,
        }
    }

    /// Returns what is made once for all that want it.
    fn made_as(&self) -> (Way, usize) {
        (self.way, index(self.level))
    }

    /// Returns how long the copy takes from when its delta is ready.
    fn travels(&self, line: &Line) -> f64 {
        line.seconds(self.bytes).max(self.apply)
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
    pub fn seconds(&self, offer: &Offer, line: &Line, now: f64) -> f64 {
        self.ready(offer, now) - now + offer.travels(line)
    }
}

/// Returns which offer is done soonest, and in how many seconds; of those that are `ALIKE` that of fewest bytes. `None` for no offer at all.
pub fn choose<'a>(offers: &'a [Offer], line: &Line, queue: &Queue, now: f64) -> Option<(&'a Offer, f64)> {
    let timed = || offers.iter().map(|offer| (offer, queue.seconds(offer, line, now)));
    let soonest = timed().map(|(_, seconds)| seconds).min_by(f64::total_cmp)?;
    let alike = timed().filter(|(_, seconds)| *seconds <= soonest + ALIKE);
    alike.min_by(|(a, a_seconds), (b, b_seconds)| a.bytes.cmp(&b.bytes).then(a_seconds.total_cmp(b_seconds)))
}

fn index(level: Level) -> usize {
    match level {
        Level::Fast => 0,
        Level::Small => 1,
    }
}

#[cfg(test)]
mod tests;
