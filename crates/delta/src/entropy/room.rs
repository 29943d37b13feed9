//! How many bytes of a part may be mixed: guessing a byte bit by bit takes a hundred times as long as copying one.

use crate::diff::Level;

/// How much room a byte takes that is guessed by the whole model; by the light one it takes 1.
pub(super) const MIXED: usize = 8;
/// The room of a part, so that whatever is received is unpacked in less than five seconds: one MiB by the whole model, eight by the light one.
///
/// Measured with noise that nobody packed, at the limits, in CPU time on cores that others used, too: 3.8 to 4.6 s by the whole model, the most of it with a context of
/// 64 MiB, and 3.2 to 3.6 s by the light one. Twice as much took up to 7.8 s. A program of 27 MB with debugging entries, whose corrections had room in that, grew by
/// 3 % at [`Level::Small`], and takes 1.8 s to make instead of 4.6. A gap is counted as one byte; the longest target lets gaps take half a million more.
const PART: usize = MIXED << 20;

/// What is left of it.
#[derive(Debug, Clone)]
pub struct Room(usize);

impl Room {
    /// Returns what packing may use for a part that makes `len` bytes.
    pub fn to_pack(len: usize, level: Level) -> Self {
        match level {
            Level::Small => Self(PART),
            Level::Fast => Self((len / SHARE).clamp(LEAST, PART)),
        }
    }

    /// Returns the most that unpacking a part may use.
    pub fn to_unpack() -> Self {
        Self(PART)
    }

    /// Returns whether there is so much.
    pub(super) fn has(&self, cost: usize) -> bool {
        cost <= self.0
    }

    /// Takes so much, or nothing when there is not enough.
    #[must_use]
    pub(super) fn take(&mut self, cost: usize) -> bool {
        let fits = self.has(cost);
        if fits {
            self.0 -= cost;
        }
        fits
    }
}

/// At [`Level::Fast`] one byte for so many may be guessed by the light model, in 200 to 300 ns: a quarter of the time that predicting the rest of a program takes.
/// With four times as much deltas are 5 to 10 % shorter and take twice as long to apply: that pays on lines below 3 Mbit/s, which [`Level::Small`] is for.
const SHARE: usize = 256;
/// Of small parts more, for what they take altogether is little.
const LEAST: usize = 4 << 10;
