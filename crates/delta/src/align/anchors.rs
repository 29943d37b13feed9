//! Which stretches are equal and long enough to believe that they belong together?
//!
//! One walk over the new bytes. As long as the old bytes beside which we walk go on being equal, there is nothing to look for; where they differ for a few bytes only,
//! neither. Elsewhere the index says where else these bytes stand, and the longest equal stretch around one of those places is an anchor.

use super::costs::{Costs, jump_bits};
use super::extend::Sides;
use super::index::{AHEAD, Index, KEY};
use super::runs;
use super::{Effort, Segment};

/// A stretch that belongs together for sure, or nearly.
#[derive(Clone, Copy)]
pub(super) struct Anchor {
    pub(super) segment: Segment,
    /// So many bytes of it are wrong: few.
    pub(super) n_wrong: u32,
}

/// How the walk looks for anchors.
pub(super) struct Search {
    /// An indexed place every so many old bytes.
    pub(super) step: usize,
    /// How many places with the same key are compared.
    pub(super) n_places: usize,
    /// How many of them are compared for each new byte on average, at most.
    pub(super) n_compared: usize,
    /// The shortest stretch that is an anchor.
    pub(super) least: usize,
    /// How many places behind one that was found are looked at, too.
    pub(super) lazy: usize,
    /// With so many equal bytes in the window no other place is looked for.
    pub(super) alike: usize,
    /// After so many places without an anchor, every second one is looked at; after so many again every third, up to [`STRIDE`].
    pub(super) patience: usize,
    /// So many anchors in a row may be passed over.
    pub(super) n_passed: usize,
}

impl Search {
    pub(super) fn by(effort: Effort) -> Self {
        match effort {
            Effort::Fast => {
                Self { step: 8, n_places: 8, n_compared: 2, least: 12, lazy: 7, alike: 29, patience: 512, n_passed: 4 }
            }
            Effort::Small => Self {
                step: 1,
                n_places: 64,
                n_compared: 8,
                least: 10,
                lazy: 8,
                alike: WINDOW + 1,
                patience: 1 << 13,
                n_passed: 12,
            },
        }
    }

    /// Where nothing corrects a wrong byte and the same words stand everywhere, more is to be compared; there is less to be looked for.
    pub(super) fn of_equals(effort: Effort) -> Self {
        let by = Self::by(effort);
        Self {
            step: by.step.min(4),
            n_places: 8 * by.n_places.max(32),
            least: by.least.min(8),
            lazy: by.lazy.min(3),
            n_passed: by.n_passed.max(12),
            ..by
        }
    }
}

/// So many bytes are looked at to see whether the old bytes beside which we walk go on being the right ones.
const WINDOW: usize = 32;
/// At least every so many new bytes something is looked for.
const STRIDE: usize = 16;
/// So many places are compared before it matters how many they are.
const COMPARED_FREELY: usize = 1 << 20;
/// For so many places it is remembered what was found elsewhere; more than [`Search::lazy`].
const RECENT: usize = 16;
/// How many equal bytes more than where we walk another place must have.
const BETTER: usize = 4;
/// From this length on a stretch that was not better is passed over as a whole, or many such would be compared again and again.
const LONG: usize = 64;

/// Returns anchors sorted by `new`, not overlapping in `new`.
pub(super) fn find(sides: &Sides<'_>, index: &Index, search: &Search) -> Vec<Anchor> {
    let Sides { old, new, costs } = *sides;
    let mut walk = Walk {
        old,
        new,
        costs,
        index,
        search,
        found: Vec::new(),
        beside: 0,
        end: 0,
        n_compared: 0,
        recent: [(usize::MAX, None); RECENT],
        ahead: Ahead { from: 0, step: 1, may_have: [true; AHEAD] },
    };
    let mut at = 0;
    while at < new.len() {
        at = walk.advance(at);
    }
    walk.found
}

struct Walk<'a> {
    old: &'a [u8],
    new: &'a [u8],
    costs: &'a Costs,
    index: &'a Index,
    search: &'a Search,
    found: Vec<Anchor>,
    /// The old place beside new place 0, where we walk.
    beside: i64,
    /// Where the last anchor ends.
    end: usize,
    n_compared: usize,
    /// What was found elsewhere for the last few places, by place: what was looked at as a place just behind is mostly looked at again for itself.
    recent: [(usize, Option<Found>); RECENT],
    ahead: Ahead,
}

/// What the index was asked for ahead.
struct Ahead {
    from: usize,
    /// Every so many places from there.
    step: usize,
    may_have: [bool; AHEAD],
}

impl Walk<'_> {
    /// Decides what begins at `at` and returns where to go on.
    fn advance(&mut self, at: usize) -> usize {
        if let Some(len) = self.goes_on(at) {
            self.go_on(at, len);
            return at + len;
        }
        let Some(key) = self.new.get(at..at + KEY) else { return self.new.len() };
        let repeats = key[1..] == key[..KEY - 1];
        match self.best_around(at, runs::word(key)) {
            Some(Found { at, beside, back, len }) if back + len >= self.search.least => {
                let here = runs::equal(self.old_beside(at, self.beside), &self.new[at..at + len]);
                if len > here + BETTER {
                    let start = self.give_back(at - back);
                    self.push(start, at + len - start, beside);
                    return at + len;
                }
                if len >= LONG { at + len } else { at + 1 }
            }
            // Inside of a run of one byte all places look alike; what follows it tells them apart.
            _ if repeats => at + (runs::forward(&self.new[at..], &self.new[at + 1..]) + 2 - KEY).max(1),
            _ => at + self.stride(at),
        }
    }

    /// Returns how far to go on where nothing was found.
    fn stride(&self, at: usize) -> usize {
        1 + (at.saturating_sub(self.end) / self.search.patience).min(STRIDE - 1)
    }

    /// Returns for how long the old bytes beside us go on being equal, or nearly.
    fn goes_on(&self, at: usize) -> Option<usize> {
        let (old, new) = (self.old_beside(at, self.beside), &self.new[at..]);
        let len = runs::forward(old, new);
        if len >= WINDOW / 2 {
            return Some(len);
        }
        let (old, new) = (old.first_chunk::<WINDOW>()?, new.first_chunk::<WINDOW>()?);
        if runs::equal_in_window(old, new) < self.search.alike {
            return None;
        }
        // What is better elsewhere begins with a difference: end with a few equal bytes.
        let ends = |len: &usize| old[len - 4..*len] == new[len - 4..*len];
        (4..=WINDOW).rev().find(ends)
    }

    /// Returns the best stretch around `at` or, when that is short, around one of the places just behind.
    fn best_around(&mut self, at: usize, key: u64) -> Option<Found> {
        let mut best = self.elsewhere(at, key)?;
        for at in at + 1..=at + self.search.lazy {
            if best.len >= LONG || self.is_long(at) {
                break;
            }
            let Some(key) = self.new.get(at..at + KEY) else { break };
            if let Some(found) = self.elsewhere(at, runs::word(key))
                && self.rank(&found) > self.rank(&best)
            {
                best = found;
            }
        }
        Some(best)
    }

    fn elsewhere(&mut self, at: usize, key: u64) -> Option<Found> {
        let (place, found) = self.recent[at % RECENT];
        if place == at {
            return found;
        }
        let found = self.look_elsewhere(at, key);
        self.recent[at % RECENT] = (at, found);
        found
    }

    /// Returns whether the index may have the key at a place; asks it for those of the next places, too.
    fn may_be_elsewhere(&mut self, at: usize) -> bool {
        let Ahead { from, step, may_have } = &self.ahead;
        if let Some(distance) = at.checked_sub(*from)
            && distance < AHEAD * step
            && distance.is_multiple_of(*step)
        {
            return may_have[distance / step];
        }
        let step = self.stride(at);
        let last = at + (AHEAD - 1) * step;
        if last + KEY > self.new.len() {
            return true;
        }
        let keys = std::array::from_fn(|n| runs::word(&self.new[at + n * step..]));
        self.ahead = Ahead { from: at, step, may_have: self.index.may_have(&keys) };
        self.ahead.may_have[0]
    }

    fn look_elsewhere(&mut self, at: usize, key: u64) -> Option<Found> {
        if !self.may_be_elsewhere(at) {
            return None;
        }
        let expected = at as i64 + self.beside;
        let mut best: Option<Found> = None;
        let index = self.index;
        let most = if self.is_long(at) { self.search.n_compared } else { self.search.n_places };
        for place in index.near(key, expected, most) {
            self.n_compared += 1;
            if runs::word(&self.old[place..]) != key {
                continue;
            }
            let len = KEY + runs::forward(&self.old[place + KEY..], &self.new[at + KEY..]);
            let back = runs::backward(&self.old[..place], &self.new[self.least_start()..at]);
            let found = Found { at, beside: place as i64 - at as i64, back, len };
            if best.as_ref().is_none_or(|best| self.rank(&found) > self.rank(best)) {
                best = Some(found);
            }
        }
        best
    }

    /// Returns whether so many places were compared that it would take long to go on like that.
    fn is_long(&self, at: usize) -> bool {
        self.n_compared > at * self.search.n_compared + COMPARED_FREELY
    }

    /// The one that saves most, and of equals the nearest to where we walk.
    fn rank(&self, found: &Found) -> (i64, i64) {
        let jump = found.beside - self.beside;
        ((found.back + found.len) as i64 * self.costs.literal - jump_bits(jump, 0), -jump.abs())
    }

    fn old_beside(&self, at: usize, beside: i64) -> &[u8] {
        usize::try_from(at as i64 + beside).ok().and_then(|place| self.old.get(place..)).unwrap_or_default()
    }

    /// Goes on beside the same old bytes: when the last anchor ends here, it becomes longer.
    fn go_on(&mut self, at: usize, len: usize) {
        let n_wrong = len - runs::equal(self.old_beside(at, self.beside), &self.new[at..at + len]);
        match self.found.last_mut() {
            Some(last) if self.end == at => last.segment.len += len as u32,
            _ => self.push(at, len, self.beside),
        }
        if let Some(last) = self.found.last_mut() {
            last.n_wrong += n_wrong as u32;
        }
        self.end = at + len;
        self.forget();
    }

    /// Forgets what was found for places before, which depends on the last anchor.
    fn forget(&mut self) {
        self.recent.fill((usize::MAX, None));
    }

    /// Returns how far back an anchor may reach: a little into the last one, which may be wrong there.
    fn least_start(&self) -> usize {
        match self.found.last() {
            Some(last) if last.n_wrong > 0 => self.end - (WINDOW * 2).min(last.segment.len as usize - 1),
            _ => self.end,
        }
    }

    /// Ends the last anchor before its first wrong byte from `start` on, and returns where another may begin.
    fn give_back(&mut self, start: usize) -> usize {
        let (beside, end) = (self.beside, self.end);
        if start >= end {
            return start;
        }
        let keep = start + runs::forward(self.old_beside(start, beside), &self.new[start..end]);
        let n_wrong = end - keep - runs::equal(self.old_beside(keep, beside), &self.new[keep..end]);
        if let Some(last) = self.found.last_mut() {
            last.segment.len -= (end - keep) as u32;
            last.n_wrong -= n_wrong as u32;
        }
        keep
    }

    fn push(&mut self, at: usize, len: usize, beside: i64) {
        let segment = Segment { old: (at as i64 + beside) as u32, new: at as u32, len: len as u32 };
        self.found.push(Anchor { segment, n_wrong: 0 });
        (self.end, self.beside) = (at + len, beside);
        self.forget();
    }
}

/// An equal stretch around a place in the new bytes.
#[derive(Clone, Copy)]
struct Found {
    at: usize,
    beside: i64,
    back: usize,
    len: usize,
}
