//! Finds the blocks of a signed base in a target: librsync's delta, as fast_rsync makes it, with a bound on the work that a signature can cause.
//!
//! At each place whose rolling sum a signature holds, a block is hashed, and that was for nothing when the hash is another. fast_rsync gives a sum up after 1,024
//! such misses, and a signature has a sum for each block: one written for a target that repeats itself costs it minutes for 64 MiB. Here all misses together hash
//! no more bytes than [`allowed`]; what comes after that is sent as it is.

use std::collections::{HashMap, HashSet};

use crate::signature::{ENTRY, HEADER};

/// Bytes of hashing in vain that are allowed besides the target's own.
const ALLOWED: u64 = 1 << 20;
/// How a delta begins.
const DELTA_MAGIC: [u8; 4] = [0x72, 0x73, 0x02, 0x36];
/// What each byte counts for besides its value, so that zeros count.
const OFFSET: u16 = 31;

/// Returns how many bytes may be hashed in vain: about as many as a target has.
fn allowed(target: &[u8]) -> u64 {
    target.len() as u64 + ALLOWED
}

/// Makes the delta that turns the base of a signature, which was checked, into a target.
pub(crate) fn find(signature: &fast_rsync::Signature, target: &[u8]) -> Vec<u8> {
    find_and_count(signature, target).0
}

/// As [`find`], with how many bytes were hashed in vain.
fn find_and_count(signature: &fast_rsync::Signature, target: &[u8]) -> (Vec<u8>, u64) {
    let index = Index::of(signature.serialized());
    let (len, mut commands, mut missed) = (index.block_len, Commands::new(target), 0);
    let mut here = 0;
    while let Some(block) = target.get(here..here + len) {
        let mut sum = Sum::of(block);
        loop {
            if index.may_hold(sum.value()) && missed < allowed(target) {
                match index.place(&target[here..here + len]) {
                    Some(nth) => {
                        commands.copy(nth * len, len, here);
                        here += len;
                        break;
                    }
                    None => missed += len as u64,
                }
            }
            let Some(&next) = target.get(here + len) else { return (commands.end(), missed) };
            sum.roll(len, target[here], next);
            here += 1;
        }
    }
    (commands.end(), missed)
}

/// The blocks of a base by their sums.
struct Index {
    block_len: usize,
    /// Bits of sums: most places of a target are passed over by one look at it.
    likely: Vec<u64>,
    sums: HashSet<u32>,
    /// Places by sum and hash together.
    blocks: HashMap<[u8; ENTRY as usize], usize>,
}

impl Index {
    fn of(signature: &[u8]) -> Self {
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
        let mut index = Self {
            block_len: word(&signature[4..]) as usize,
            likely: vec![0; 1 << 14],
            sums: HashSet::new(),
            blocks: HashMap::new(),
        };
        for (nth, entry) in signature[HEADER..].chunks_exact(ENTRY as usize).enumerate() {
            let sum = word(entry);
            let (at, bit) = place_of(sum);
            index.likely[at] |= bit;
            index.sums.insert(sum);
            index.blocks.entry(entry.try_into().expect("as long as an entry")).or_insert(nth);
        }
        index
    }

    fn may_hold(&self, sum: u32) -> bool {
        let (at, bit) = place_of(sum);
        self.likely[at] & bit != 0 && self.sums.contains(&sum)
    }

    /// Returns the place of a block among those of the base.
    fn place(&self, block: &[u8]) -> Option<usize> {
        let options = fast_rsync::SignatureOptions { block_size: block.len() as u32, crypto_hash_size: 16 };
        let signed = fast_rsync::Signature::calculate(block, options);
        self.blocks.get(&signed.serialized()[HEADER..]).copied()
    }
}

/// The word and the bit of a sum among 2^20.
fn place_of(sum: u32) -> (usize, u64) {
    let at = sum.wrapping_mul(0x9e37_79b1) >> 12;
    ((at >> 6) as usize, 1 << (at & 63))
}

/// librsync's rolling sum of a block.
struct Sum(u16, u16);

impl Sum {
    fn of(block: &[u8]) -> Self {
        block.iter().fold(Self(0, 0), |Self(sum, sums), &byte| {
            let sum = sum.wrapping_add(u16::from(byte) + OFFSET);
            Self(sum, sums.wrapping_add(sum))
        })
    }

    fn roll(&mut self, len: usize, old: u8, new: u8) {
        self.0 = self.0.wrapping_add(u16::from(new)).wrapping_sub(u16::from(old));
        self.1 = self.1.wrapping_add(self.0).wrapping_sub((len as u16).wrapping_mul(u16::from(old) + OFFSET));
    }

    fn value(&self) -> u32 {
        u32::from(self.0) | u32::from(self.1) << 16
    }
}

/// librsync's commands.
struct Commands<'a> {
    target: &'a [u8],
    out: Vec<u8>,
    /// How much of the target is said.
    said: usize,
    /// A copy that the next one may go on: from where, and how much.
    copy: Option<(usize, usize)>,
}

impl<'a> Commands<'a> {
    fn new(target: &'a [u8]) -> Self {
        Self { target, out: DELTA_MAGIC.to_vec(), said: 0, copy: None }
    }

    fn copy(&mut self, from: usize, len: usize, at: usize) {
        if let Some((start, so_far)) = self.copy
            && self.said + so_far == at
            && start + so_far == from
        {
            self.copy = Some((start, so_far + len));
            return;
        }
        self.say(at);
        self.copy = Some((from, len));
    }

    /// Says all up to a place: the copy that is due, then bytes as they are.
    fn say(&mut self, until: usize) {
        if let Some((from, len)) = self.copy.take() {
            let ((from_class, from), (len_class, len_bytes)) = (number(from), number(len));
            self.out.push(0x45 + 4 * from_class + len_class);
            self.out.extend(from.into_iter().chain(len_bytes));
            self.said += len;
        }
        let bytes = &self.target[self.said..until];
        if !bytes.is_empty() {
            match u8::try_from(bytes.len()) {
                Ok(len @ 1..=64) => self.out.push(len),
                _ => {
                    let (class, len) = number(bytes.len());
                    self.out.push(0x41 + class);
                    self.out.extend(len);
                }
            }
            self.out.extend_from_slice(bytes);
            self.said = until;
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.say(self.target.len());
        self.out.push(0);
        self.out
    }
}

/// Returns a number in as few bytes as there are commands for, big end first: one, two, four or eight.
fn number(number: usize) -> (u8, Vec<u8>) {
    let bytes = (number as u64).to_be_bytes();
    let class = match number {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    };
    (class, bytes[8 - (1 << class)..].to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signature::{parse, signature};

    /// Returns what fast_rsync would hash in vain, at least: 1,024 blocks for each sum that occurs so often.
    fn missed_before(signature: &[u8], target: &[u8], len: usize) -> u64 {
        let index = Index::of(signature);
        let mut misses: HashMap<u32, u64> = HashMap::new();
        let mut sum = Sum::of(&target[..len]);
        for here in 0..target.len() - len {
            if index.may_hold(sum.value()) {
                *misses.entry(sum.value()).or_default() += 1;
            }
            sum.roll(len, target[here], target[here + len]);
        }
        misses.values().map(|n| n.min(&1024) * len as u64).sum()
    }

    #[test]
    fn a_signature_written_for_a_target_that_repeats_itself_costs_no_minutes() {
        const LEN: usize = 2048;
        // A period that is no block's length, so that each place within it has a sum of its own.
        let period: Vec<u8> = (0..1000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
        let target = period.repeat(4 << 10);
        let mut hostile = signature(&period.repeat(LEN), LEN as u32).expect("a good block length");
        // The sums of all places, and hashes of none.
        for (at, entry) in hostile[HEADER..].chunks_exact_mut(ENTRY as usize).enumerate() {
            let place = at % period.len();
            entry[..4].copy_from_slice(&Sum::of(&target[place..place + LEN]).value().to_be_bytes());
            entry[4..].fill(0xaa);
        }
        let parsed = parse(&hostile, (period.len() * LEN) as u64).expect("it keeps all rules");
        let before = missed_before(&hostile, &target, LEN);
        assert!(before > 400 * target.len() as u64, "{before} bytes hashed for {}", target.len());
        let (delta, missed) = find_and_count(&parsed, &target);
        assert!(missed < allowed(&target) + LEN as u64, "{missed} bytes hashed in vain");
        let mut out = vec![];
        fast_rsync::apply_limited(&[], &delta, &mut out, target.len()).expect("it copies nothing");
        assert_eq!(out, target);
    }

    proptest! {
        /// What fast_rsync finds, this finds: the deltas are of one length, and make the target.
        #[test]
        fn a_delta_is_as_short_as_that_of_fast_rsync(
            base in proptest::collection::vec(0u8..3, 0..6000),
            cuts in proptest::collection::vec((0usize..6000, 0usize..3000, any::<u8>()), 0..6),
            block_len in 256u32..700,
        ) {
            let mut target = vec![];
            for (from, len, byte) in cuts {
                let from = from.min(base.len());
                target.extend_from_slice(&base[from..(from + len).min(base.len())]);
                target.extend_from_slice(&vec![byte; len % 300]);
            }
            let signed = signature(&base, block_len).expect("a good block length");
            let parsed = parse(&signed, base.len() as u64).expect("our own");
            let (found, mut theirs) = (find(&parsed, &target), vec![]);
            fast_rsync::diff(&parsed.index(), &target, &mut theirs).expect("a vector takes all");
            prop_assert!(found.len() <= theirs.len() + 16, "{} bytes, theirs {}", found.len(), theirs.len());
            let mut out = vec![];
            fast_rsync::apply_limited(&base, &found, &mut out, target.len()).expect("a delta");
            prop_assert_eq!(out, target);
        }
    }
}
