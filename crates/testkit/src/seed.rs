//! Where do random choices come from? From one printed number, so that a failure can be had again.

/// The number a run's random choices follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

/// The environment variable that overrides the seed of every test.
pub const SEED_VARIABLE: &str = "DF_SEED";

impl Seed {
    /// Returns the seed of the environment variable `DF_SEED`, else `fallback`, and prints which one it is.
    ///
    /// Panics when the variable holds no number: a repeated run that silently takes another seed is worse.
    #[track_caller]
    pub fn from_env_or(fallback: u64) -> Seed {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text:?} is not a number")),
            Err(_) => fallback,
        };
        eprintln!("seed: {SEED_VARIABLE}={seed} repeats this run");
        Seed(seed)
    }

    /// Returns the sequence of choices that follows from this seed.
    pub fn random(self) -> Random {
        Random { state: self.0 }
    }
}

/// A small deterministic source of choices: splitmix64 (Steele, Lea, Flood, 2014), not for secrets.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`; 0 when `end` is 0. The bias of the remainder does not matter to a test.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.bits() % end }
    }

    /// Returns an index into something of `len` elements.
    pub fn index(&mut self, len: usize) -> usize {
        assert!(len > 0, "a choice among nothing");
        (self.bits() % len as u64) as usize
    }

    /// Returns one of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Returns `len` bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Returns `len` bytes of lines of words, which compress about as source code does.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            text.extend_from_slice(self.pick(&WORDS).as_bytes());
            let end = if self.below(9) == 0 { b'\n' } else { b' ' };
            text.push(end);
        }
        text.truncate(len);
        text
    }
}

const WORDS: [&str; 24] = [
    "commit",
    "image",
    "node",
    "fn",
    "let",
    "mut",
    "return",
    "self",
    "match",
    "digest",
    "{",
    "}",
    "(path)",
    "->",
    "Result",
    "u64",
    "=",
    "0x1f",
    "release",
    "base",
    "delta",
    "store",
    "\"serving\"",
    "//",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let (mut a, mut b) = (Seed(7).random(), Seed(7).random());
        assert_eq!(a.bytes(100), b.bytes(100));
        assert_eq!(a.text(100), b.text(100));
        assert_ne!(Seed(7).random().bits(), Seed(8).random().bits());
    }

    #[test]
    fn the_sequence_is_the_published_one() {
        // The first outputs of splitmix64 for the seed 1234567, as printed in the reference program's comments.
        let mut random = Seed(1_234_567).random();
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }
}
