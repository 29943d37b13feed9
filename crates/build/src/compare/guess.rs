//! What a difference comes from, said only when it is evident.

use std::fmt;

use serde::Serialize;

use super::text::Spot;
use crate::tool::HOST_NAMES;

/// What differs from build to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guess {
    /// When it was built.
    Time,
    /// Where something lies.
    Path,
    /// The same things in another order: a hash table, or the order in which a directory was read or threads were done.
    Order,
    /// How many cores were there.
    Cores,
    /// What the machine is called.
    HostName,
}

/// What is known to have differed between two builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Varied {
    /// What it is.
    pub what: Guess,
    /// What it was in the first build.
    pub here: String,
    /// What it was in the second.
    pub there: String,
}

impl Varied {
    /// Returns what differs between a strict build of this machine and [`crate::Builder::build_from_nothing`].
    pub fn of_strict_builds() -> Vec<Self> {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (here, there) = HOST_NAMES;
        vec![
            Self { what: Guess::HostName, here: here.to_owned(), there: there.to_owned() },
            Self { what: Guess::Cores, here: n_cores.to_string(), there: "1".to_owned() },
        ]
    }
}

impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "a time",
            Self::Path => "a path",
            Self::Order => "a random order",
            Self::Cores => "the number of cores",
            Self::HostName => "the host name",
        })
    }
}

/// Directories that absolute paths begin with.
const TOPS: [&str; 20] = [
    "home", "tmp", "root", "usr", "var", "opt", "df", "build", "mnt", "srv", "run", "nix", "proc", "dev", "etc", "bin", "lib",
    "Users", "data", "media",
];
/// Seconds since 1970 of 2020-01-01 and 2100-01-01: what a time of today looks like.
const TIMES: std::ops::Range<u64> = 1_577_836_800..4_102_444_800;
/// Seconds by which two builds are apart at most.
const APART: u64 = 10 * 365 * 86_400;
/// Bytes in another order that are no accident.
const ORDER_LEN: usize = 12;
/// Lines that are counted.
const N_LINES: usize = 1_000_000;

/// Returns what the first place comes from of which it is evident.
pub(super) fn of(spots: &[Spot<'_>], varied: &[Varied]) -> Option<Guess> {
    spots.iter().find_map(|spot| of_spot(spot, varied))
}

fn of_spot(spot: &Spot<'_>, varied: &[Varied]) -> Option<Guess> {
    let (here, there) = (spot.here, spot.there);
    if !here.is_text && !there.is_text {
        let time = |bytes: &[u8]| bytes.first_chunk().map(|chunk| u64::from_le_bytes(*chunk)).filter(|n| TIMES.contains(n));
        // Aligned words differ in their low bytes, which come first.
        return are_times(time(here.bytes)?, time(there.bytes)?).then_some(Guess::Time);
    }
    let known = varied.iter().find(|known| {
        let word = |bytes, at| word(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        known.here != known.there
            && word(here.bytes, here.at) == known.here.as_bytes()
            && word(there.bytes, there.at) == known.there.as_bytes()
    });
    if let Some(known) = known {
        return Some(known.what);
    }
    let number = |bytes, at| word(bytes, at, |b: u8| b.is_ascii_digit());
    if let (Some(a), Some(b)) = (unix_time(number(here.bytes, here.at)), unix_time(number(there.bytes, there.at)))
        && are_times(a, b)
    {
        return Some(Guess::Time);
    }
    let is_clock = |bytes, at| shapes(bytes, at).next().is_some();
    if is_clock(here.bytes, here.at) && is_clock(there.bytes, there.at) {
        return Some(Guess::Time);
    }
    let is_path = |bytes, at| is_absolute(word(bytes, at, |b| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b)));
    (is_path(here.bytes, here.at) && is_path(there.bytes, there.at)).then_some(Guess::Path)
}

/// Says whether two texts are the same lines in another order.
pub(super) fn order_of_lines(here: &[u8], there: &[u8]) -> Option<Guess> {
    let lines = |bytes| {
        let mut lines: Vec<&[u8]> = <[u8]>::split(bytes, |&b| b == b'\n').take(N_LINES).collect();
        lines.sort_unstable();
        lines
    };
    (here.len() == there.len() && here != there && lines(here) == lines(there))
        .then_some(Guess::Order)
        .or_else(|| order(here, there))
}

/// Says whether what differs is the same bytes in another order, and too many for an accident.
pub(super) fn order(here: &[u8], there: &[u8]) -> Option<Guess> {
    if here.len() != there.len() {
        return None;
    }
    let differs = |(a, b): (&u8, &u8)| a != b;
    let start = here.iter().zip(there).position(differs)?;
    let end = here.iter().zip(there).rposition(differs)? + 1;
    let (here, there) = (&here[start..end], &there[start..end]);
    let count = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        counts
    };
    let counts = count(here);
    let n_kinds = counts.iter().filter(|&&n| n > 0).count();
    (here.len() >= ORDER_LEN && n_kinds >= ORDER_LEN / 2 && counts == count(there)).then_some(Guess::Order)
}

/// Returns the word that a byte is in, or that ends before it.
fn word(bytes: &[u8], at: usize, belongs: impl Fn(u8) -> bool) -> &[u8] {
    let at = at.min(bytes.len());
    let before = bytes[..at].iter().rev().take_while(|&&b| belongs(b)).count();
    let after = bytes[at..].iter().take_while(|&&b| belongs(b)).count();
    &bytes[at - before..at + after]
}

/// Reads a time in seconds, milliseconds, microseconds or nanoseconds since 1970; returns seconds.
fn unix_time(digits: &[u8]) -> Option<u64> {
    let per_second = match digits.len() {
        10 => 1,
        13 => 1_000,
        16 => 1_000_000,
        19 => 1_000_000_000,
        _ => return None,
    };
    let n: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(n / per_second).filter(|seconds| TIMES.contains(seconds))
}

fn are_times(a: u64, b: u64) -> bool {
    a.abs_diff(b) < APART
}

/// Returns the dates and times of day that a byte is in.
fn shapes(bytes: &[u8], at: usize) -> impl Iterator<Item = &'static str> {
    let fits = move |shape: &&'static str| {
        let first = at.saturating_sub(shape.len() - 1);
        (first..=at).any(|start| bytes.get(start..start + shape.len()).is_some_and(|part| has_shape(part, shape)))
    };
    ["2###-##-##", "2#######T##", "##:##:##", "Mmm ## 2###", "Mmm  # 2###", "## Mmm 2###"].into_iter().filter(fits)
}

fn has_shape(part: &[u8], shape: &str) -> bool {
    const MONTHS: [&[u8]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    if let Some(at) = shape.find("Mmm")
        && !MONTHS.contains(&&part[at..at + 3])
    {
        return false;
    }
    if shape == "##:##:##" && [0, 3, 6].iter().any(|&at| part[at] > b'5') {
        return false;
    }
    let is_so = |(&byte, shape): (&u8, u8)| match shape {
        b'#' => byte.is_ascii_digit(),
        b'M' | b'm' => true,
        other => byte == other,
    };
    part.iter().zip(shape.bytes()).all(is_so)
}

/// Texts stand one after another without anything between, so a path may begin in the middle of a word.
fn is_absolute(word: &[u8]) -> bool {
    let begins = |at: usize| {
        let rest = &word[at + 1..];
        TOPS.iter().any(|top| rest.strip_prefix(top.as_bytes()).is_some_and(|rest| rest.len() > 1 && rest[0] == b'/'))
    };
    (0..word.len()).filter(|&at| word[at] == b'/').any(begins)
}
