//! What there is to do for a delta, and how long machines take for it.
//!
//! # Where the numbers are from
//!
//! [`Speed::usual`] is what one core does by the table in `docs/deltas.md` (`benches/delta`); whole images were encoded by the same bench without a base. Nothing
//! but names, lengths and the first bytes of files is known before a delta is made, so a pair whose program changed a lot and one of which a line changed look
//! alike. The rates are those of pairs that changed a lot, as a doubtful delta is to lose; the tests hold every row and say how far off the model is.

use df_delta::Level;

use super::{Way, index};

/// A program of so many bytes and more takes much longer, byte for byte: most of what it refers to moved, and its tables leave the core's caches.
pub const LARGE: u64 = 16 << 20;

/// What a delta between two images has to do with the bytes that the base lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes of new files that resemble old ones.
    pub changed: u64,
    /// Those of them in programs of [`LARGE`] bytes and more.
    pub large_programs: u64,
    /// Those of them in other programs that are long enough to be looked at.
    pub programs: u64,
    /// Those of them in long files that are no programs.
    pub data: u64,
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
        Self { fresh: len, largest, expected: len, ..Self::default() }
    }

    /// Returns the bytes of each kind; all changed ones together are what changed, whatever is said of them.
    fn kinds(&self) -> ByKind {
        let mut left = self.changed;
        let [large, programs, data] = [self.large_programs, self.programs, self.data].map(|len| {
            let len = len.min(left);
            left -= len;
            len
        });
        [large, programs, data, left, self.fresh].map(|len| len as f64)
    }
}

/// A number for each kind of bytes: of large programs that changed, of other programs, of long files that changed and are no programs, of all else that changed,
/// and of what resembles nothing.
type ByKind = [f64; 5];

/// What machines do in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Cores here.
    pub cores: f64,
    /// Bytes that a core packs, by level and kind.
    pub encode: [ByKind; 2],
    /// Seconds that the first changed byte takes, by level: indexes, tables and models are made for it.
    pub begin: [f64; 2],
    /// Bytes that a core of a node restores, checks and writes.
    pub apply: ByKind,
    /// Seconds until a node has restored the first changed byte, by level.
    pub begin_apply: [f64; 2],
    /// Bytes of a delta at [`Level::Small`] that a core of a node unpacks: each is guessed from much that came before it.
    pub apply_small: f64,
    /// Bytes that a core of a node signs.
    pub sign: f64,
}

impl Speed {
    /// Returns the speeds of a usual machine with so many cores.
    pub fn usual(cores: usize) -> Self {
        Self {
            cores: cores.max(1) as f64,
            encode: [[10e6, 30e6, 40e6, 20e6, 22e6], [1e6, 1e6, 1e6, 1e6, 0.5e6]],
            begin: [0.012, 0.4],
            apply: [90e6, 140e6, 400e6, 200e6, 250e6],
            begin_apply: [0.005, 0.06],
            apply_small: 110e3,
            sign: 400e6,
        }
    }

    /// Returns the bytes of what resembles nothing that a core packs quickly.
    pub(super) fn fresh(&self) -> f64 {
        self.encode[0][4]
    }

    /// Returns how many seconds making a delta takes on this machine alone: no shorter than its longest stretch takes one core.
    pub fn encode(&self, work: &Work, level: Level) -> f64 {
        let (rates, kinds) = (&self.encode[index(level)], work.kinds());
        let present = || kinds.iter().zip(rates).filter(|(len, _)| **len > 0.0);
        let Some(slowest) = present().map(|(_, rate)| *rate).min_by(f64::total_cmp) else { return 0.0 };
        let one_core: f64 = present().map(|(len, rate)| len / rate).sum();
        let longest = (work.largest as f64).min(kinds.iter().sum()) / slowest;
        let begin = if work.changed > 0 { self.begin[index(level)] } else { 0.0 };
        begin + (one_core / self.cores).max(longest.min(one_core))
    }

    /// Returns how many seconds a node works with a delta of so many bytes.
    pub fn apply(&self, way: Way, level: Level, work: &Work, bytes: u64) -> f64 {
        let plain: f64 = work.kinds().iter().zip(&self.apply).map(|(len, rate)| len / rate).sum();
        let begin = if work.changed > 0 { self.begin_apply[index(level)] } else { 0.0 };
        // What a small delta saves on a line that carries more than a tenth of a megabyte a second, its unpacking takes again.
        let guessed = if level == Level::Small && matches!(way, Way::Patch(_)) { bytes as f64 / self.apply_small } else { 0.0 };
        begin + plain + guessed
    }
}

#[cfg(test)]
mod tests;
