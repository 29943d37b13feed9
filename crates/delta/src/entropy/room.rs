//! How many bytes of a part may be mixed: guessing a byte bit by bit takes a hundred times as long as copying one.

use super::Shape;
use crate::diff::Level;

/// How much room a byte takes that is guessed by the whole model; by the light one it takes 1.
pub(super) const MIXED: usize = 8;
/// The room of a part, so that whatever is received is unpacked in less than four seconds: one MiB by the whole model takes two or three.
const PART: usize = MIXED << 20;

/// What is left of it.
#[derive(Debug, Clone)]
pub struct Room(usize);

impl Room {
    /// Returns what packing may use for a part that makes `len` bytes of a shape.
    pub fn to_pack(len: usize, shape: Shape, level: Level) -> Self {
        let share = if shape == Shape::Code { CODE_SHARE } else { TEXT_SHARE };
        match level {
            Level::Small => Self(PART),
            Level::Fast => Self((len / share).clamp(LEAST, PART)),
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

/// At [`Level::Fast`] one byte for so many of a program may be guessed by the light model, in 200 to 300 ns: then it takes as much time as the prediction, and
/// with a third of it deltas were more than 1.3 times as long as those of [`Level::Small`].
const CODE_SHARE: usize = 56;
/// The same of anything else, which is predicted in a third of the time and corrected more.
const TEXT_SHARE: usize = 24;
/// Of small parts more, for what they take altogether is little.
const LEAST: usize = 40 << 10;
