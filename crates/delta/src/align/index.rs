//! Where in the old bytes do these eight bytes stand?
//!
//! Places are sorted by hash and then by place, so that of many equal ones those nearest to where one expects them are found: in an executable the same instructions
//! stand in many functions, and the right ones are nearly always the nearest.

use super::runs::word;

/// How many bytes are hashed.
pub(super) const KEY: usize = 8;

/// For so many keys at once [`Index::may_have`] answers.
pub(super) const AHEAD: usize = 8;

/// The places of the old bytes, by what stands there.
pub(super) struct Index {
    /// Where in `entries` each hash begins; one more than there are hashes.
    starts: Vec<u32>,
    /// The number of an indexed place, and below it as many more bits of the hash as there is room for: most places that only happen to have the same hash are
    /// known by them, without a look at the old bytes.
    entries: Vec<u32>,
    shift: u32,
    step: usize,
    tag_bits: u32,
}

impl Index {
    /// Indexes every `step`th place of `old`: takes about `8 / step` times its length.
    ///
    /// Of a stretch that repeats the same key from one indexed place to the next only the first is kept.
    pub(super) fn new(old: &[u8], step: usize) -> Self {
        let n_most = old.len() / step + 1;
        let bits = n_most.max(256).ilog2();
        let tag_bits = n_most.leading_zeros().saturating_sub(usize::BITS - u32::BITS);
        let (shift, mut starts) = (64 - bits, vec![0_u32; (1 << bits) + 1]);
        each_key(old, step, |_, key| starts[(hash(key) >> shift) as usize + 1] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        // Filling moves every start to its end, which is the start of the next.
        let mut entries = vec![0_u32; sum as usize];
        each_key(old, step, |n, key| {
            let hash = hash(key);
            let next = &mut starts[(hash >> shift) as usize];
            entries[*next as usize] = ((n << tag_bits) as u32) | tag(hash, shift, tag_bits);
            *next += 1;
        });
        starts.rotate_right(1);
        starts[0] = 0;
        Self { starts, entries, shift, step, tag_bits }
    }

    /// Returns some of at most `most` places whose key hashes like `key`, those nearest to `near`; the caller compares.
    pub(super) fn near(&self, key: u64, near: i64, most: usize) -> impl Iterator<Item = usize> {
        let hash = hash(key);
        let (bucket, wanted) = ((hash >> self.shift) as usize, tag(hash, self.shift, self.tag_bits));
        let mut all = &self.entries[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        if all.len() > most {
            let middle = all.partition_point(|&entry| (self.place(entry) as i64) < near);
            let from = middle.saturating_sub(most / 2).min(all.len() - most);
            all = &all[from..from + most];
        }
        let mask = tag(u64::MAX, self.shift, self.tag_bits);
        all.iter().filter(move |&&entry| entry & mask == wanted).map(|&entry| self.place(entry))
    }

    /// Returns for each key whether there may be a place whose key hashes like it. Memory is slow, but it fetches many things at once.
    pub(super) fn may_have(&self, keys: &[u64; AHEAD]) -> [bool; AHEAD] {
        let hashes = keys.map(hash);
        let ranges = hashes.map(|hash| {
            let bucket = (hash >> self.shift) as usize;
            self.starts[bucket] as usize..self.starts[bucket + 1] as usize
        });
        // The first of each, needed or not: no answer waits for another.
        let firsts: [u32; AHEAD] = std::array::from_fn(|n| self.entries.get(ranges[n].start).copied().unwrap_or(0));
        let mask = tag(u64::MAX, self.shift, self.tag_bits);
        std::array::from_fn(|n| {
            let wanted = tag(hashes[n], self.shift, self.tag_bits);
            let range = ranges[n].clone();
            !range.is_empty()
                && (firsts[n] & mask == wanted || self.entries[range].iter().skip(1).any(|entry| entry & mask == wanted))
        })
    }

    fn place(&self, entry: u32) -> usize {
        (u64::from(entry) >> self.tag_bits) as usize * self.step
    }
}

fn each_key(old: &[u8], step: usize, mut found: impl FnMut(usize, u64)) {
    let mut last = None;
    for (n, bytes) in old.windows(KEY).step_by(step).enumerate() {
        let key = word(bytes);
        if last != Some(key) {
            found(n, key);
        }
        last = Some(key);
    }
}

/// Fibonacci hashing (Knuth, volume 3, 6.4): the upper bits of a product depend on all of the key's.
fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns the bits of a hash that are below those that choose where it is kept.
fn tag(hash: u64, shift: u32, bits: u32) -> u32 {
    (hash >> (shift - bits)) as u32 & ((1_u64 << bits) - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampled_place_is_found_by_its_bytes() {
        let old: Vec<u8> = (0..4000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let index = Index::new(&old, 4);
        for place in (0..old.len() - KEY).step_by(4) {
            assert!(index.near(word(&old[place..]), place as i64, 8).any(|found| found == place));
        }
    }

    #[test]
    fn of_many_equal_places_the_nearest_are_given() {
        let old = b"abcdefghijklmnop".repeat(1000);
        let index = Index::new(&old, 8);
        let near = |near: i64, most: usize| index.near(word(b"abcdefgh"), near, most).collect::<Vec<_>>();
        assert_eq!(near(8001, 4), [7984, 8000, 8016, 8032]);
        assert_eq!(near(-5, 2), [0, 16]);
        assert_eq!(near(i64::MAX, 2), [15968, 15984]);
    }
}
