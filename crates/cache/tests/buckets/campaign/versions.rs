//! What is put: versions of programs that follow from numbers.

use df_cache::contract::{Source, image, release};
use df_core::{Manifest, Release};

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(words: [u64; 2]) -> Self {
        Self(words[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ words[1].wrapping_mul(0xd1b5_4a32_d192_ed03) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Returns the n-th version of a writer's program: some files of all writers, some of this one, and one that changes a little each time, so that it is stored as a change of the one before.
pub fn version(writer: u64, n: u64) -> (Manifest, Source, Release) {
    // What was let go comes back after some versions, so that it is wanted again just when it is condemned.
    let shared = (0..6).map(|i| text([1_000 + i, n / (3 + i) % 3], 100, 3_000));
    let own = (0..5).map(|i| text([2_000 + 100 * writer + i, n / (1 + i) % 3], 100, 3_000));
    let mut program = text([9_000, writer], 6_000, 1_000);
    program.splice(1_000..1_008, n.to_le_bytes());
    let files: Vec<Vec<u8>> = shared.chain(own).chain([program]).collect();
    let (manifest, blobs) = image(&files.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let release = release(&format!("app-{writer}"), n, manifest.image());
    (manifest, blobs, release)
}

fn text(salt: [u64; 2], least: u64, more: u64) -> Vec<u8> {
    let mut dice = Dice::new(salt);
    let len = least + dice.below(more);
    (0..len).map(|_| dice.below(256) as u8).collect()
}
