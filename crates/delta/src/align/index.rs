//! Where in the old bytes do these eight bytes stand?
//!
//! Places are sorted by hash and then by place, so that of many equal ones those nearest to where one expects them are found: in an executable the same instructions
//! stand in many functions, and the right ones are nearly always the nearest.

use std::ops::Range;

use super::runs::word;

/// How many bytes are hashed.
pub(super) const KEY: usize = 8;

/// So many bits tell which entries there may be; more would be of no use.
const MOST_FILTERED: u32 = 16;

/// So many hashes are told apart by where they begin: 16 MiB, which what was freed before has room for. The filter tells the others.
const MOST_HASHES: usize = 1 << 22;

/// So many entries of one hash are looked at before it is taken for granted that a key is among them: a few in most files, but one that was made for it has all of its
/// places at one hash.
const CROWD: usize = 64;

/// For so many keys at once [`Index::may_have`] answers.
pub(super) const AHEAD: usize = 8;

/// The places of the old bytes, by what stands there.
pub(super) struct Index {
    /// Where in `entries` each hash begins; one more than there are hashes. Below that, as many bits as there is room for, one of which each entry sets by its further
    /// bits of the hash: most keys that are nowhere are known by them, without a look at the entries.
    starts: Vec<u32>,
    filter_bits: u32,
    /// The number of an indexed place, and below it as many more bits of the hash as there is room for: most places that only happen to have the same hash are
    /// known by them, without a look at the old bytes.
    entries: Vec<u32>,
    shift: u32,
    step: usize,
    tag_bits: u32,
}

impl Index {
    /// Indexes every `step`th place of `old`: takes at most `8 / step` times its length, of a long one half of that and 16 MiB.
    ///
    /// Of a stretch that repeats the same key from one indexed place to the next only the first is kept.
    pub(super) fn new(old: &[u8], step: usize) -> Self {
        let n_most = old.len() / step + 1;
        let bits = n_most.clamp(256, MOST_HASHES).ilog2();
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
        let filter_bits = (n_most as u32 + 1).leading_zeros().min(MOST_FILTERED);
        let mut index = Self { starts, filter_bits, entries, shift, step, tag_bits };
        index.fill_filter();
        index
    }

    fn fill_filter(&mut self) {
        for bucket in 0..self.starts.len() - 1 {
            let (start, end) = (self.starts[bucket], self.starts[bucket + 1]);
            let set = |filter, entry: &u32| filter | self.filter(entry & tag(u64::MAX, self.shift, self.tag_bits));
            let filter = self.entries[start as usize..end as usize].iter().fold(0, set);
            self.starts[bucket] = start << self.filter_bits | filter;
        }
        if let Some(last) = self.starts.last_mut() {
            *last <<= self.filter_bits;
        }
    }

    /// Returns the bit that an entry with a tag sets.
    fn filter(&self, tag: u32) -> u32 {
        if self.filter_bits == 0 { 0 } else { 1 << ((u64::from(tag) * u64::from(self.filter_bits)) >> self.tag_bits) }
    }

    /// Returns where the entries of a hash are.
    fn range(&self, bucket: usize) -> Range<usize> {
        (self.starts[bucket] >> self.filter_bits) as usize..(self.starts[bucket + 1] >> self.filter_bits) as usize
    }

    /// Returns some of at most `most` places whose key hashes like `key`, those nearest to `near`; the caller compares.
    pub(super) fn near(&self, key: u64, near: i64, most: usize) -> impl Iterator<Item = usize> {
        let hash = hash(key);
        let (bucket, wanted) = ((hash >> self.shift) as usize, tag(hash, self.shift, self.tag_bits));
        let mut all = &self.entries[self.range(bucket)];
        if all.len() > most {
            let middle = all.partition_point(|&entry| (self.place(entry) as i64) < near);
            let from = middle.saturating_sub(most / 2).min(all.len() - most);
            all = &all[from..from + most];
        }
        let mask = tag(u64::MAX, self.shift, self.tag_bits);
        all.iter().filter(move |&&entry| entry & mask == wanted).map(|&entry| self.place(entry))
    }

    /// Returns for each key whether there may be a place whose key hashes like it; when it says no, [`Index::near`] finds none. Memory is slow, but it fetches many
    /// things at once.
    pub(super) fn may_have(&self, keys: &[u64; AHEAD]) -> [bool; AHEAD] {
        // What each of them waits for is asked for before any of it is looked at, by loops so short that they are unrolled.
        let (mut tags, mut ranges, mut firsts) = ([0; AHEAD], [const { 0..0 }; AHEAD], [0; AHEAD]);
        for n in 0..AHEAD {
            let hash = hash(keys[n]);
            let bucket = (hash >> self.shift) as usize;
            tags[n] = tag(hash, self.shift, self.tag_bits);
            let may_be = self.filter_bits == 0 || self.starts[bucket] & self.filter(tags[n]) > 0;
            let Range { start, end } = self.range(bucket);
            ranges[n] = if may_be { start..end } else { 0..0 };
        }
        for n in 0..AHEAD {
            firsts[n] = self.entries.get(ranges[n].start).copied().unwrap_or(0);
        }
        let mask = tag(u64::MAX, self.shift, self.tag_bits);
        std::array::from_fn(|n| {
            let range = ranges[n].clone();
            let is_of = |entry: &u32| entry & mask == tags[n];
            !range.is_empty() && (is_of(&firsts[n]) || range.len() > CROWD || self.entries[range].iter().skip(1).any(is_of))
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

    /// Returns a key whose hash is that of another but for these bits.
    fn key_beside(key: u64, bits: u64) -> u64 {
        // The inverse of the factor, by Newton's iteration.
        let factor = hash(1);
        let inverse = (0..6).fold(1_u64, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(factor.wrapping_mul(inverse))));
        (hash(key) ^ bits).wrapping_mul(inverse)
    }

    /// Returns an index of `n` places of one key with other keys between them, and keys that are nowhere in it though its filter does not say so: one whose hash is kept
    /// with that key's, and one whose hash is kept alone.
    fn crowded(n: usize) -> (Index, [u64; 2]) {
        let (key, alone) = (0x0123_4567_89ab_cdef_u64, 0x1122_3344_5566_7788_u64);
        let between = (1..=n as u64).flat_map(|n| [key, n << 40]);
        let old: Vec<u8> = between.chain([alone]).flat_map(u64::to_le_bytes).collect();
        let index = Index::new(&old, KEY);
        // The lowest bit of what tells entries apart: nearly always the filter has both at one bit.
        let lowest = 1 << (index.shift - index.tag_bits);
        let absent = [key, alone].map(|key| key_beside(key, lowest));
        assert!(absent.iter().all(|key| index.near(*key, 0, usize::MAX).count() == 0));
        (index, absent)
    }

    #[test]
    fn the_many_places_of_one_key_are_not_walked_for_another_that_looks_like_it() {
        let (index, [crowd, alone]) = crowded(10_000);
        let found = index.may_have(&[crowd, alone, crowd, alone, crowd, alone, crowd, alone]);
        assert_eq!(found, [true, false, true, false, true, false, true, false], "whether more than a few places are compared");
        let (index, [few, _]) = crowded(20);
        assert_eq!(index.may_have(&[few; AHEAD]), [false; AHEAD]);
    }

    proptest::proptest! {
        #[test]
        fn what_the_index_has_it_may_have(words in proptest::collection::vec(0_u64..40, 1..600), step in 1_usize..9) {
            let old: Vec<u8> = words.iter().flat_map(|word| (word << 7).to_le_bytes()).collect();
            let index = Index::new(&old, step);
            for key in (0..50).map(|word| word << 7) {
                let is_there = index.near(key, 0, usize::MAX).count() > 0;
                proptest::prop_assert!(!is_there || index.may_have(&[key; AHEAD])[0], "{}", key);
            }
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
