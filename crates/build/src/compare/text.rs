//! What stands where two byte strings differ: the text around the first difference, or the bytes.

use std::collections::HashSet;

use df_core::text::{escape, shorten};

use super::guess::{self, Varied};
use super::{Explained, Place};

/// Places shown of two strings of bytes.
const N_PLACES: usize = 3;
/// Differing stretches looked at to find some that hold text.
const N_STRETCHES: usize = 200;
/// Equal bytes that end a differing stretch.
const GAP: usize = 16;
/// Text shown before and after the first byte that differs.
const BEFORE: usize = 60;
const AFTER: usize = 100;
/// Text shorter than this is none.
const RUN_LEN: usize = 5;
/// Bytes shown when there is no text.
const HEX_LEN: usize = 16;
/// Bytes in which texts that only one side has are looked for.
const SEARCHED: usize = 4 << 20;
/// Bytes of one such text, and their number.
const TEXT_LEN: usize = 4096;
const N_TEXTS: usize = 100_000;
/// Texts of the other side that one is held against.
const N_CANDIDATES: usize = 1000;

/// One place where two strings of bytes differ.
pub(super) struct Spot<'a> {
    pub offset: usize,
    pub here: Around<'a>,
    pub there: Around<'a>,
}

/// The text around a byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// Printable bytes, or a few of any kind when it is no text.
    pub bytes: &'a [u8],
    /// Where the byte is in them; the end when the text ends before it.
    pub at: usize,
    pub is_text: bool,
    cut: (bool, bool),
}

/// Says what stands where two files differ that are no ELF files.
pub(super) fn explain(here: &[u8], there: &[u8], varied: &[Varied]) -> Explained {
    let spots = spots(here, there);
    let guess = guess::order_of_lines(here, there).or_else(|| guess::of(&spots, varied));
    Explained { sections: vec![], places: places(&spots, None), guess }
}

/// Returns spots as they are shown.
pub(super) fn places(spots: &[Spot<'_>], section: Option<&str>) -> Vec<Place> {
    let place = |spot: &Spot<'_>| Place {
        section: section.map(str::to_owned),
        offset: spot.offset as u64,
        here: spot.here.shown(),
        there: spot.there.shown(),
    };
    spots.iter().map(place).collect()
}

/// Returns the first few places where two strings of bytes differ, those that tell most.
///
/// Linkers sort and merge texts, so what stands at one place in both need not belong together. A text that only one side has says more than one that lies
/// elsewhere on the other side; any text says more than bytes.
pub(super) fn spots<'a>(here: &'a [u8], there: &'a [u8]) -> Vec<Spot<'a>> {
    let starts = if here.len() == there.len() { stretches(here, there) } else { first(here, there).into_iter().collect() };
    let spot = |&at: &usize| Spot { offset: at, here: Around::of(here, at), there: Around::of(there, at) };
    let (texts, mut bytes): (Vec<_>, Vec<_>) = starts.iter().map(spot).partition(|spot| spot.here.is_text || spot.there.is_text);
    let Some(unique) = Unique::of(here, there) else { return vec![] };
    let is_unique =
        |spot: &Spot<'_>| unique.here.contains(whole(here, spot.offset)) && unique.there.contains(whole(there, spot.offset));
    let (mut shown, mut moved): (Vec<_>, Vec<_>) = texts.into_iter().partition(is_unique);
    shown.truncate(N_PLACES);
    if shown.is_empty() {
        shown.extend(unique.pair());
    }
    if shown.is_empty() {
        moved.truncate(N_PLACES);
        shown = moved;
    }
    if shown.is_empty() {
        bytes.truncate(1);
        shown = bytes;
    }
    shown
}

fn first(here: &[u8], there: &[u8]) -> Option<usize> {
    let at = here.iter().zip(there).position(|(a, b)| a != b);
    at.or((here.len() != there.len()).then_some(here.len().min(there.len())))
}

/// Returns where differing stretches begin, in two strings of one length.
fn stretches(here: &[u8], there: &[u8]) -> Vec<usize> {
    let mut starts = vec![];
    let mut last: Option<usize> = None;
    for (at, _) in here.iter().zip(there).enumerate().filter(|(_, (a, b))| a != b) {
        if last.is_none_or(|last| at - last > GAP) {
            if starts.len() == N_STRETCHES {
                break;
            }
            starts.push(at);
        }
        last = Some(at);
    }
    starts
}

/// The texts that only one of two strings of bytes has.
struct Unique<'a> {
    from: usize,
    base: &'a [u8],
    here: HashSet<&'a [u8]>,
    there: HashSet<&'a [u8]>,
    in_order: (Vec<&'a [u8]>, Vec<&'a [u8]>),
}

impl<'a> Unique<'a> {
    /// Looks at what begins a little before the first difference; `None` when there is none.
    fn of(here: &'a [u8], there: &'a [u8]) -> Option<Self> {
        let at = first(here, there)?;
        // Both are equal before it, so a text that is begun is begun in both.
        let from = here[..at].iter().rev().take(TEXT_LEN).take_while(|&&b| is_printable(b)).count();
        let from = at - from;
        let tail = |bytes: &'a [u8]| &bytes[from..bytes.len().min(from + SEARCHED)];
        let (base, other) = (tail(here), tail(there));
        let (ours, theirs) = (runs(base), runs(other));
        let only = |mine: &[&'a [u8]], other: &[&'a [u8]]| -> Vec<&'a [u8]> {
            let other: HashSet<&[u8]> = other.iter().copied().collect();
            mine.iter().copied().filter(|run| !other.contains(run)).collect()
        };
        let in_order = (only(&ours, &theirs), only(&theirs, &ours));
        let (here, there) = (in_order.0.iter().copied().collect(), in_order.1.iter().copied().collect());
        Some(Self { from, base, here, there, in_order })
    }

    /// Returns the first text that only the first side has, beside the one of the other side that is most like it.
    fn pair(&self) -> Option<Spot<'a>> {
        let mine = *self.in_order.0.first()?;
        let like = |other: &&&[u8]| {
            let equal = |(a, b): &(&u8, &u8)| a == b;
            mine.iter().zip(other.iter()).take_while(equal).count()
                + mine.iter().rev().zip(other.iter().rev()).take_while(equal).count()
        };
        let candidates = &self.in_order.1[..self.in_order.1.len().min(N_CANDIDATES)];
        // The first of several that are equally alike.
        let its = *candidates.iter().rev().max_by_key(like)?;
        let at = first(mine, its)?;
        // Both are parts of the bytes that they were found in.
        let offset = self.from + (mine.as_ptr() as usize - self.base.as_ptr() as usize) + at;
        Some(Spot { offset, here: Around::of(mine, at), there: Around::of(its, at) })
    }
}

/// Returns the text that a byte is in, or that ends before it.
fn whole(bytes: &[u8], at: usize) -> &[u8] {
    let at = at.min(bytes.len());
    let before = bytes[..at].iter().rev().take(TEXT_LEN).take_while(|&&b| is_printable(b)).count();
    let after = bytes[at..].iter().take_while(|&&b| is_printable(b)).take(TEXT_LEN).count();
    let run = &bytes[at - before..at + after];
    &run[..run.len().min(TEXT_LEN)]
}

/// Lists the printable texts.
fn runs(bytes: &[u8]) -> Vec<&[u8]> {
    let long = |run: &&[u8]| run.len() >= RUN_LEN;
    bytes.split(|&b| !is_printable(b)).filter(long).map(|run| &run[..run.len().min(TEXT_LEN)]).take(N_TEXTS).collect()
}

impl<'a> Around<'a> {
    fn of(bytes: &'a [u8], at: usize) -> Self {
        let at = at.min(bytes.len());
        let before = bytes[..at].iter().rev().take(BEFORE).take_while(|&&b| is_printable(b)).count();
        let after = bytes[at..].iter().take(AFTER).take_while(|&&b| is_printable(b)).count();
        if before + after < RUN_LEN {
            let end = bytes.len().min(at + HEX_LEN);
            return Self { bytes: &bytes[at..end], at: 0, is_text: false, cut: (false, false) };
        }
        let cut = (before == BEFORE && at > before, after == AFTER && at + after < bytes.len());
        Self { bytes: &bytes[at - before..at + after], at: before, is_text: true, cut }
    }

    fn shown(&self) -> String {
        if !self.is_text {
            if self.bytes.is_empty() {
                return "(its end)".to_owned();
            }
            let digits: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return format!("hex {digits}");
        }
        let dots = |cut| if cut { "..." } else { "" };
        let text = format!("{}{}{}", dots(self.cut.0), escape(self.bytes), dots(self.cut.1));
        shorten(&text, 4 * (BEFORE + AFTER))
    }
}

/// What counts as text: ASCII, because almost any bytes of code would be text otherwise.
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}
