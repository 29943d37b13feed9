//! What the bytes of a file have in common with those of another, from a few numbers of each.
//!
//! A file is the set of its stretches of 16 bytes. Of those that begin where the bytes themselves say so (one place in 16 about), hashed, the smallest 128 are the
//! sketch. Two sketches tell how much of both sets is common (Broder, "On the resemblance and containment of documents", 1997), whatever moved and
//! whatever the files are: in programs, where addresses change every few bytes, enough stretches of 16 bytes stay.

/// How many hashes a sketch has at most.
const HASHES: usize = 128;
/// One place in so many begins a stretch that counts, as a power of two.
const GATE_BITS: u32 = 4;

/// A few numbers of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Sketch {
    /// Ascending.
    hashes: Vec<u64>,
}

impl Sketch {
    /// Makes the sketch of some bytes; about 1 GB in a second.
    pub fn of(bytes: &[u8]) -> Self {
        let mut smallest = Smallest::default();
        let mut hash = 0_u64;
        for (at, &byte) in bytes.iter().enumerate() {
            // Each byte leaves the hash after sixteen more.
            hash = (hash << 4).wrapping_add(SCATTER[usize::from(byte)]);
            if hash >> (64 - GATE_BITS) == 0 && at >= 15 {
                smallest.add(mix(hash));
            }
        }
        Self { hashes: smallest.finish() }
    }

    /// Returns the sketch of both one after the other, but for the stretches across the seam.
    pub fn with(self, other: Self) -> Self {
        let mut smallest = Smallest { kept: self.hashes, bound: None };
        smallest.kept.extend(other.hashes);
        Self { hashes: smallest.finish() }
    }

    /// Returns the hashes.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Returns how much of both is common to both, in thousandths of what either has.
    pub fn resemblance(&self, other: &Self) -> u32 {
        let (mut common, mut seen, mut a, mut b) = (0, 0, self.hashes.iter().peekable(), other.hashes.iter().peekable());
        // The smallest of the union, as many as the shorter sketch of a long file has: beyond, one of them knows nothing.
        while seen < HASHES {
            match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x == y => {
                    common += 1;
                    a.next();
                    b.next();
                }
                (Some(x), Some(y)) if x < y => drop(a.next()),
                (Some(_), None) => drop(a.next()),
                (_, Some(_)) => drop(b.next()),
                (None, None) => break,
            }
            seen += 1;
        }
        if seen == 0 { 0 } else { 1000 * common / seen as u32 }
    }
}

/// Keeps the smallest of many numbers, each once.
#[derive(Default)]
struct Smallest {
    kept: Vec<u64>,
    /// Nothing above it gets in.
    bound: Option<u64>,
}

impl Smallest {
    fn add(&mut self, number: u64) {
        if self.bound.is_some_and(|bound| number >= bound) {
            return;
        }
        self.kept.push(number);
        if self.kept.len() >= 4 * HASHES {
            self.trim();
        }
    }

    fn trim(&mut self) {
        self.kept.sort_unstable();
        self.kept.dedup();
        self.kept.truncate(HASHES);
        self.bound = self.kept.get(HASHES - 1).copied();
    }

    fn finish(mut self) -> Vec<u64> {
        self.trim();
        self.kept
    }
}

/// The finaliser of SplitMix64: what passed the gate is small, and has to be spread again.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number for each byte.
const SCATTER: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = mix((byte as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        (0..len as u64 / 8).flat_map(|at| mix(seed << 32 | at).to_le_bytes()).collect()
    }

    #[track_caller]
    fn check(a: &[u8], b: &[u8], expected: std::ops::RangeInclusive<u32>) {
        let (a, b) = (Sketch::of(a), Sketch::of(b));
        let found = a.resemblance(&b);
        assert!(expected.contains(&found), "{found}");
        assert_eq!(found, b.resemblance(&a));
    }

    #[test]
    fn common_bytes_count_wherever_they_lie() {
        let (a, b) = (noise(1, 100_000), noise(2, 100_000));
        check(&a, &a, 1000..=1000);
        check(&a, &b, 0..=0);
        check(&a, &[&b"moved by seven"[..], &a].concat(), 950..=1000);
        check(&[&a[..], &b[..]].concat(), &[&b[..50_000], &a[..50_000]].concat(), 350..=650);
    }

    #[test]
    fn a_program_whose_addresses_moved_resembles_the_old_one() {
        let old = noise(3, 100_000);
        let mut new = old.clone();
        // An address of four bytes in every 32.
        new.chunks_mut(32).for_each(|chunk| chunk[8] = chunk[8].wrapping_add(1));
        check(&old, &new, 150..=600);
    }

    #[test]
    fn nothing_and_one_byte_over_and_over_have_no_resemblance_to_speak_of() {
        check(&[], &[], 0..=0);
        check(b"short", b"short", 0..=0);
        check(&[0; 5000], &noise(1, 5000), 0..=0);
    }
}
