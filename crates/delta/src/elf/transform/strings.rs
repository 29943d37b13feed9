//! The order of the strings in `.debug_str`.
//!
//! LLD deals strings out to 32 shards by their hash, and writes one shard after the other, each in the order in which the compiler made them. A name with a new hash
//! in it lands somewhere else, and every offset changes. Here they are sorted by what they say without such hashes, and the offsets follow: what stays, stays in
//! order. The way back needs the order within each shard. It is close to that of their first uses, which the entries still show; how far off each
//! string is goes into room that another step of the transform left empty.

use std::ops::Range;

use super::hash::hash;
use crate::elf::Reference;
use crate::elf::bytes::{put_u32, u8_at, u32_at};
use crate::elf::image::Section;

/// The most strings that are worth the memory, and how long they must be on average.
const MOST: usize = 1 << 20;
const LEN: usize = 8;

const SHARDS: usize = 32;

/// Says that four bytes follow.
const WIDE: u8 = 0xff;

/// Where offsets of strings are.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// The offsets, sorted by place.
    pub references: Vec<Reference>,
    /// Their places, in the order in which the compiler most likely came to them.
    pub sequence: Vec<u32>,
}

/// Sorts the strings and moves the offsets; `false`, and the bytes are as they were, if these are not such shards, or there is too little `room`, which holds
/// zeros.
pub(super) fn sort(bytes: &mut [u8], section: &Section, uses: &Uses, room: Range<usize>) -> bool {
    let Some(strings) = Strings::read(bytes, section) else { return false };
    let shards: Vec<u8> = strings.texts(bytes).map(shard).collect();
    if shards.last() == Some(&0) || !shards.is_sorted() {
        return false;
    }
    let first = first_uses(bytes, &strings, &uses.sequence);
    let mut keys: Vec<(u64, u32, u32)> =
        strings.texts(bytes).zip(&first).zip(0..).map(|((text, first), k)| (family(text), *first, k)).collect();
    keys.sort_unstable();
    let order: Vec<u32> = keys.into_iter().map(|key| key.2).collect();
    // As the way back will see it: the strings of each shard in their new order, sorted by first use.
    let mut new = vec![0u32; order.len()];
    (0..).zip(&order).for_each(|(k, old)| new[*old as usize] = k);
    let mut steps = Vec::with_capacity(shards.len());
    for range in ranges(&shards) {
        let expected = by_first_use(range.clone().map(|k| (first[k as usize], new[k as usize])));
        let mut place = vec![0u32; expected.len()];
        (0..).zip(&expected).for_each(|(rank, new)| place[(order[*new as usize] - range.start) as usize] = rank);
        let mut left = Left::new(expected.len());
        for rank in place {
            put_step(&mut steps, left.rank(rank as usize));
        }
    }
    match bytes.get_mut(room).and_then(|room| room.get_mut(..steps.len())) {
        Some(room) => room.copy_from_slice(&steps),
        None => return false,
    }
    rearrange(bytes, &strings, &order, &uses.references);
    true
}

/// Undoes [`sort`], and leaves zeros in the room.
pub(super) fn unsort(bytes: &mut [u8], section: &Section, uses: &Uses, room: Range<usize>) -> Option<()> {
    let strings = Strings::read(bytes, section)?;
    let first = first_uses(bytes, &strings, &uses.sequence);
    let mut members: [Vec<u32>; SHARDS] = Default::default();
    for (text, k) in strings.texts(bytes).zip(0..) {
        members[usize::from(shard(text))].push(k);
    }
    let mut at = room.start;
    let mut order = Vec::with_capacity(strings.n());
    for members in members {
        let expected = by_first_use(members.into_iter().map(|k| (first[k as usize], k)));
        let mut left = Left::new(expected.len());
        for _ in 0..expected.len() {
            let step = step(&bytes[..room.end], &mut at)?;
            order.push(expected[left.take(step as usize)?]);
        }
    }
    bytes[room.start..at].fill(0);
    rearrange(bytes, &strings, &order, &uses.references);
    Some(())
}

/// Writes how many strings that were expected before come later: mostly none, or a few.
fn put_step(out: &mut Vec<u8>, step: u32) {
    match u8::try_from(step) {
        Ok(step) if step < WIDE => out.push(step),
        _ => {
            out.push(WIDE);
            out.extend(step.to_le_bytes());
        }
    }
}

fn step(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let first = u8_at(bytes, *at)?;
    let (step, len) = if first == WIDE { (u32_at(bytes, *at + 1)?, 5) } else { (u32::from(first), 1) };
    *at += len;
    Some(step)
}

/// Where the strings of a section start, and where the last one ends.
struct Strings {
    at: u32,
    starts: Vec<u32>,
    /// For each stretch of 64 bytes, the last string that starts at or before its start.
    index: Vec<u32>,
}

impl Strings {
    fn read(bytes: &[u8], section: &Section) -> Option<Strings> {
        let text = bytes.get(section.at as usize..section.end() as usize)?;
        let most = (text.len() / LEN).min(MOST);
        if text.last() != Some(&0) {
            return None;
        }
        let (mut starts, mut index) = (vec![0], Vec::with_capacity(text.len() / 64 + 2));
        for (k, chunk) in text.chunks(64).enumerate() {
            index.push(starts.len() as u32 - 1);
            for (i, _) in chunk.iter().enumerate().filter(|(_, byte)| **byte == 0) {
                starts.push((64 * k + i) as u32 + 1);
            }
            if starts.len() > most {
                return None;
            }
        }
        Some(Strings { at: section.at, starts, index })
    }

    fn n(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns the strings, each without the zero that ends it.
    fn texts<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let at = self.at as usize;
        self.starts.windows(2).map(move |ends| &bytes[at + ends[0] as usize..at + ends[1] as usize - 1])
    }

    /// Returns the number of the string that an offset is in.
    fn find(&self, offset: u32) -> Option<usize> {
        let mut k = *self.index.get(offset as usize / 64)? as usize;
        // At most 64 steps.
        while *self.starts.get(k + 1)? <= offset {
            k += 1;
        }
        Some(k)
    }
}

/// Which of some things are left, by rank: a tree of counts.
struct Left {
    counts: Vec<u32>,
}

impl Left {
    fn new(n: usize) -> Left {
        Left { counts: (0..=n).map(|k| if k == 0 { 0 } else { 1 << k.trailing_zeros() }).collect() }
    }

    /// Takes a thing; returns how many are left before it.
    fn rank(&mut self, thing: usize) -> u32 {
        let mut at = thing;
        let mut before = 0;
        while at > 0 {
            before += self.counts[at];
            at &= at - 1;
        }
        self.remove(thing);
        before
    }

    /// Takes the thing that has so many left before it.
    fn take(&mut self, mut before: usize) -> Option<usize> {
        let mut at = 0;
        for bit in (0..usize::BITS - self.counts.len().leading_zeros()).rev() {
            let next = at + (1 << bit);
            if let Some(count) = self.counts.get(next)
                && *count as usize <= before
            {
                before -= *count as usize;
                at = next;
            }
        }
        (at + 1 < self.counts.len()).then(|| {
            self.remove(at);
            at
        })
    }

    fn remove(&mut self, thing: usize) {
        let mut at = thing + 1;
        while at < self.counts.len() {
            self.counts[at] -= 1;
            at += at & at.wrapping_neg();
        }
    }
}

fn shard(text: &[u8]) -> u8 {
    (hash(text) as u32 >> 27) as u8
}

/// Returns the numbers of the strings of each shard.
fn ranges(shards: &[u8]) -> impl Iterator<Item = Range<u32>> {
    let start = |shard: usize| shards.partition_point(|s| usize::from(*s) < shard) as u32;
    (0..SHARDS).map(move |shard| start(shard)..start(shard + 1))
}

/// Returns a hash of what a name says without the hashes that Rust puts into it: the end of the one way to write them, the disambiguators of crates of the other.
fn family(text: &[u8]) -> u64 {
    const END: usize = 20;
    if text.starts_with(b"_R") {
        return hash(&without_disambiguators(text));
    }
    match text.len().checked_sub(END).map(|at| text.split_at(at)) {
        Some((name, end)) if text.starts_with(b"_ZN") && end.starts_with(b"17h") && end.ends_with(b"E") => hash(name) ^ 1,
        _ => hash(text),
    }
}

fn without_disambiguators(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut skipping = false;
    for byte in text {
        skipping &= byte.is_ascii_alphanumeric();
        if !skipping {
            out.push(*byte);
            skipping = out.ends_with(b"Cs");
        }
    }
    out
}

/// Returns for each string a number that grows with its first use in the sequence.
fn first_uses(bytes: &[u8], strings: &Strings, sequence: &[u32]) -> Vec<u32> {
    let mut first = vec![u32::MAX; strings.n()];
    for (rank, at) in (0..).zip(sequence) {
        if let Some(k) = u32_at(bytes, *at as usize).and_then(|offset| strings.find(offset)) {
            first[k] = first[k].min(rank);
        }
    }
    first
}

/// Sorts strings by their first use and then by their numbers; returns those.
fn by_first_use(strings: impl Iterator<Item = (u32, u32)>) -> Vec<u32> {
    let mut keys: Vec<u64> = strings.map(|(first, number)| u64::from(first) << 32 | u64::from(number)).collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| key as u32).collect()
}

/// Writes the strings in another order, and moves the offsets.
fn rearrange(bytes: &mut [u8], strings: &Strings, order: &[u32], uses: &[Reference]) {
    let start = |k: usize| strings.at as usize + strings.starts[k] as usize;
    let range = start(0)..start(strings.n());
    let mut text = Vec::with_capacity(range.len());
    let mut moved = vec![0u32; strings.n()];
    for k in order.iter().map(|k| *k as usize) {
        moved[k] = text.len() as u32;
        text.extend_from_slice(&bytes[start(k)..start(k + 1)]);
    }
    bytes[range].copy_from_slice(&text);
    for at in uses.iter().map(|reference| reference.at as usize) {
        let Some(offset) = u32_at(bytes, at) else { continue };
        if let Some(k) = strings.find(offset) {
            put_u32(bytes, at, offset - strings.starts[k] + moved[k]);
        }
    }
}
