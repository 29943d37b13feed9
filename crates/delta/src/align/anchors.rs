//! Which stretches are equal and long enough to believe that they belong together?
//!
//! One walk over the new bytes. As long as the old bytes beside which we walk go on being equal, there is nothing to look for; where they differ for a few bytes only,
//! neither. Elsewhere the index says where else these bytes stand, and the longest equal stretch around one of those places is an anchor.

use super::index::{Index, KEY};
use super::runs;
use super::{Effort, Segment};

/// How the walk looks for anchors.
pub(super) struct Search {
    /// An indexed place every so many old bytes.
    pub(super) step: usize,
    /// How many places with the same key are compared.
    pub(super) n_places: usize,
    /// The shortest stretch that is an anchor.
    pub(super) least: usize,
    /// So many equal bytes soon after a difference, and no other place is looked for.
    pub(super) resume: usize,
}

impl Search {
    pub(super) fn by(effort: Effort) -> Self {
        match effort {
            Effort::Fast => Self { step: 4, n_places: 8, least: 12, resume: 16 },
            Effort::Small => Self { step: 1, n_places: 64, least: 10, resume: 24 },
        }
    }
}

/// How many bytes an operand has at most: so far we look for the same stretch to go on.
const OPERAND: usize = 8;
/// How many equal bytes more than where we walk another place must have.
const BETTER: usize = 8;
/// From this length on a stretch that was not better is passed over as a whole, or many such would be compared again and again.
const LONG: usize = 64;

/// Returns equal stretches: sorted by `new`, not overlapping in `new`.
pub(super) fn find(old: &[u8], new: &[u8], index: &Index, search: &Search) -> Vec<Segment> {
    let mut walk = Walk { old, new, index, search, found: Vec::new(), beside: 0, end: 0 };
    let mut at = 0;
    while at < new.len() {
        at = walk.advance(at);
    }
    walk.found
}

struct Walk<'a> {
    old: &'a [u8],
    new: &'a [u8],
    index: &'a Index,
    search: &'a Search,
    found: Vec<Segment>,
    /// The old place beside new place 0, where we walk.
    beside: i64,
    /// Where the last anchor ends.
    end: usize,
}

impl Walk<'_> {
    /// Decides what begins at `at` and returns where to go on.
    fn advance(&mut self, at: usize) -> usize {
        if let Some((skip, len)) = self.goes_on(at) {
            self.push(at + skip, len, self.beside);
            return at + skip + len;
        }
        let Some(key) = self.new.get(at..at + KEY) else { return self.new.len() };
        let repeats = key[1..] == key[..KEY - 1];
        match self.elsewhere(at, runs::word(key)) {
            Some(Found { beside, back, len }) if back + len >= self.search.least => {
                let here = runs::equal(self.old_beside(at, self.beside), &self.new[at..at + len]);
                if len > here + BETTER {
                    self.push(at - back, back + len, beside);
                    return at + len;
                }
                if len >= LONG { at + len } else { at + 1 }
            }
            // Inside of a run of one byte all places look alike; what follows it tells them apart.
            _ if repeats => at + (runs::forward(&self.new[at..], &self.new[at + 1..]) + 2 - KEY).max(1),
            _ => at + 1,
        }
    }

    /// Returns how far ahead the old bytes beside us are equal again, and for how long.
    fn goes_on(&self, at: usize) -> Option<(usize, usize)> {
        let old = self.old_beside(at, self.beside);
        let new = &self.new[at..];
        let most = old.len().min(new.len());
        for skip in 0..OPERAND.min(most) {
            if old[skip] != new[skip] {
                continue;
            }
            let len = runs::forward(&old[skip..], &new[skip..]);
            if len >= self.search.resume {
                return Some((skip, len));
            }
        }
        None
    }

    fn elsewhere(&self, at: usize, key: u64) -> Option<Found> {
        let expected = at as i64 + self.beside;
        let mut best: Option<Found> = None;
        for &place in self.index.near(key, expected, self.search.n_places) {
            let place = place as usize;
            if runs::word(&self.old[place..]) != key {
                continue;
            }
            let len = KEY + runs::forward(&self.old[place + KEY..], &self.new[at + KEY..]);
            let back = runs::backward(&self.old[..place], &self.new[self.end..at]);
            let found = Found { beside: place as i64 - at as i64, back, len };
            if best.as_ref().is_none_or(|best| found.rank(self.beside) > best.rank(self.beside)) {
                best = Some(found);
            }
        }
        best
    }

    fn old_beside(&self, at: usize, beside: i64) -> &[u8] {
        usize::try_from(at as i64 + beside).ok().and_then(|place| self.old.get(place..)).unwrap_or_default()
    }

    fn push(&mut self, at: usize, len: usize, beside: i64) {
        self.found.push(Segment { old: (at as i64 + beside) as u32, new: at as u32, len: len as u32 });
        (self.end, self.beside) = (at + len, beside);
    }
}

/// An equal stretch around a place in the new bytes.
struct Found {
    beside: i64,
    back: usize,
    len: usize,
}

impl Found {
    /// The longest, and of those the nearest to where we walk.
    fn rank(&self, beside: i64) -> (usize, i64) {
        (self.back + self.len, -(self.beside - beside).abs())
    }
}
