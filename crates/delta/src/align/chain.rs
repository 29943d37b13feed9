//! Which anchors pay for themselves?
//!
//! A short anchor may be a coincidence: without it the segments on both sides of it, extended through it, can be the smaller description. Dynamic programming decides: the best way
//! to a given anchor comes from one of the few before it, with only short ones passed over.

use super::Segment;
use super::anchors::Anchor;
use super::extend::{self, Between, Sides};

/// Anchors longer than this are never passed over.
const DOUBTFUL: u32 = 48;
/// Not more new bytes than these are passed over at once.
const FAR: u32 = 400;

/// Returns segments made of those anchors that pay, extended into what is between them.
pub(super) fn choose(sides: &Sides<'_>, anchors: &[Anchor], n_passed: usize) -> Vec<Segment> {
    let chosen = best_way(sides, &Anchors { all: anchors, n_passed });
    let mut segments: Vec<Segment> = Vec::with_capacity(chosen.len());
    let mut before: Option<&Segment> = None;
    for after in chosen.iter().map(|&n| &anchors[n].segment).map(Some).chain([None]) {
        let between = extend::between(sides, before, after);
        if let Some(last) = segments.last_mut() {
            last.len += between.forward as u32;
        }
        match (after, segments.last_mut()) {
            (Some(after), Some(last)) if between.joined => last.len += after.len,
            (Some(after), _) => segments.push(widened(after, between.backward as u32)),
            (None, _) => {}
        }
        before = after;
    }
    segments
}

fn widened(anchor: &Segment, by: u32) -> Segment {
    Segment { old: anchor.old - by, new: anchor.new - by, len: anchor.len + by }
}

/// The best way to an anchor.
#[derive(Clone, Copy)]
struct Way {
    score: i64,
    from: Option<usize>,
}

/// The anchors to choose from.
struct Anchors<'a> {
    all: &'a [Anchor],
    /// How many may be passed over in a row.
    n_passed: usize,
}

fn best_way(sides: &Sides<'_>, anchors: &Anchors<'_>) -> Vec<usize> {
    let mut ways: Vec<Way> = Vec::with_capacity(anchors.all.len());
    for n in 0..anchors.all.len() {
        let way = way_to(sides, anchors, &ways, n);
        ways.push(way);
    }
    let mut chosen = Vec::new();
    let mut at = last(sides, anchors, &ways);
    while let Some(n) = at {
        chosen.push(n);
        at = ways[n].from;
    }
    chosen.reverse();
    chosen
}

fn way_to(sides: &Sides<'_>, anchors: &Anchors<'_>, ways: &[Way], n: usize) -> Way {
    let Anchor { segment, n_wrong } = anchors.all[n];
    let worth = sides.costs.saved((segment.len - n_wrong) as usize, segment.len as usize);
    let mut best: Option<Way> = None;
    for from in anchors.before(n) {
        let Between { score, .. } =
            extend::between(sides, from.map(|from| &anchors.all[from].segment), Some(&anchors.all[n].segment));
        let score = score + worth + from.map_or(0, |from| ways[from].score);
        if best.is_none_or(|best| score > best.score) {
            best = Some(Way { score, from });
        }
    }
    best.unwrap_or(Way { score: worth, from: None })
}

fn last(sides: &Sides<'_>, anchors: &Anchors<'_>, ways: &[Way]) -> Option<usize> {
    let score = |&from: &Option<usize>| {
        let between = extend::between(sides, from.map(|from| &anchors.all[from].segment), None);
        between.score + from.map_or(0, |from| ways[from].score)
    };
    // The first of equals: `max_by_key` would take the last, which passes over more.
    anchors.before(anchors.all.len()).rev().max_by_key(score).flatten()
}

impl Anchors<'_> {
    /// Returns from where one may come to anchor `n`: the nearest first, and at last from the beginning when only doubtful ones are passed over.
    fn before(&self, n: usize) -> impl DoubleEndedIterator<Item = Option<usize>> {
        let first = n.saturating_sub(self.n_passed);
        let is_last = |from: &usize| {
            let Segment { new, len, .. } = self.all[*from].segment;
            len > DOUBTFUL || self.all[n - 1].segment.new - new > FAR
        };
        let last = (first..n).rev().find(is_last);
        let beginning = if first == 0 && last.is_none() { Some(None) } else { None };
        (last.unwrap_or(first)..n).rev().map(Some).chain(beginning)
    }
}
