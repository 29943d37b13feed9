//! Where in the old bytes do these eight bytes stand?
//!
//! Places are sorted by hash and then by place, so that of many equal ones those nearest to where one expects them are found: in an executable the same instructions
//! stand in many functions, and the right ones are nearly always the nearest.

use super::runs::word;

/// How many bytes are hashed.
pub(super) const KEY: usize = 8;

/// The places of the old bytes, by what stands there.
pub(super) struct Index {
    /// Where in `places` each hash begins; one more than there are hashes.
    starts: Vec<u32>,
    places: Vec<u32>,
    shift: u32,
}

impl Index {
    /// Indexes every `step`th place of `old`: takes about `8 / step` times its length.
    ///
    /// Of a stretch that repeats the same key from one indexed place to the next only the first is kept.
    pub(super) fn new(old: &[u8], step: usize) -> Self {
        let n_most = old.len() / step;
        let bits = n_most.max(256).ilog2();
        let shift = 64 - bits;
        let mut starts = vec![0_u32; (1 << bits) + 1];
        each_key(old, step, |_, key| starts[hash(key, shift) + 1] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        // Filling moves every start to its end, which is the start of the next.
        let mut places = vec![0_u32; sum as usize];
        each_key(old, step, |place, key| {
            let next = &mut starts[hash(key, shift)];
            places[*next as usize] = place as u32;
            *next += 1;
        });
        starts.rotate_right(1);
        starts[0] = 0;
        Self { starts, places, shift }
    }

    /// Returns at most `most` places whose key hashes like `key`, those nearest to `near`; the caller compares.
    pub(super) fn near(&self, key: u64, near: i64, most: usize) -> &[u32] {
        let hash = hash(key, self.shift);
        let all = &self.places[self.starts[hash] as usize..self.starts[hash + 1] as usize];
        if all.len() <= most {
            return all;
        }
        let middle = all.partition_point(|&place| i64::from(place) < near);
        let from = middle.saturating_sub(most / 2).min(all.len() - most);
        &all[from..from + most]
    }
}

fn each_key(old: &[u8], step: usize, mut found: impl FnMut(usize, u64)) {
    let mut last = None;
    for (n, bytes) in old.windows(KEY).step_by(step).enumerate() {
        let key = word(bytes);
        if last != Some(key) {
            found(n * step, key);
        }
        last = Some(key);
    }
}

fn hash(key: u64, shift: u32) -> usize {
    // Fibonacci hashing (Knuth, volume 3, 6.4): the upper bits of a product depend on all of the key's.
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampled_place_is_found_by_its_bytes() {
        let old: Vec<u8> = (0..4000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let index = Index::new(&old, 4);
        for place in (0..old.len() - KEY).step_by(4) {
            assert!(index.near(word(&old[place..]), place as i64, 8).contains(&(place as u32)));
        }
    }

    #[test]
    fn of_many_equal_places_the_nearest_are_given() {
        let old = b"abcdefghijklmnop".repeat(1000);
        let index = Index::new(&old, 8);
        assert_eq!(index.near(word(b"abcdefgh"), 8001, 4), [7984, 8000, 8016, 8032]);
        assert_eq!(index.near(word(b"abcdefgh"), -5, 2), [0, 16]);
        assert_eq!(index.near(word(b"abcdefgh"), i64::MAX, 2), [15968, 15984]);
    }
}
