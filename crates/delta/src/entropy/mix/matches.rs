//! Guesses that what followed the same bytes before follows again, in the context or in the stream itself.

/// The longest match that is told from longer ones.
const LONGEST: usize = 40;
/// After this many wrong guesses in a row a place is left.
const PATIENCE: u8 = 8;

/// The place whose following bytes are guessed.
pub(super) struct Matches {
    /// Where a hash of `min` bytes was last seen: in the context, or beyond it in the stream. 0: nowhere.
    table: Vec<u32>,
    shift: u32,
    min: usize,
    at: usize,
    /// How many bytes before the place agree.
    len: usize,
    misses: u8,
    /// The guessed byte, with a one above it; 0 when there is no guess.
    expected: u32,
}

/// Everything that may be referred to: the context, then what was seen of the stream.
#[derive(Clone, Copy)]
pub(super) struct Past<'a> {
    pub(super) context: &'a [u8],
    pub(super) seen: &'a [u8],
}

impl Past<'_> {
    fn len(&self) -> usize {
        self.context.len() + self.seen.len()
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        if at < self.context.len() { self.context[at] } else { self.seen[at - self.context.len()] }
    }
}

impl Matches {
    /// Knows the context; will see a stream of `len` bytes.
    pub(super) fn new(min: usize, context: &[u8], len: usize) -> Self {
        let bits = (usize::BITS - (context.len() + len).leading_zeros()).clamp(8, 20);
        let mut matches = Self { table: vec![0; 1 << bits], shift: 32 - bits, min, at: 0, len: 0, misses: PATIENCE, expected: 0 };
        for (i, bytes) in context.windows(min).enumerate() {
            let slot = matches.slot(bytes);
            matches.table[slot] = (i + min) as u32;
        }
        matches
    }

    /// Sees the byte that the stream now ends with.
    pub(super) fn see(&mut self, past: Past) {
        let byte = past.byte(past.len() - 1);
        if self.expected == u32::from(byte) | 256 {
            self.len = (self.len + 1).min(LONGEST);
            self.misses = 0;
        } else {
            self.len = 0;
            self.misses = (self.misses + 1).min(PATIENCE);
        }
        self.at += 1;
        if let Some(recent) = past.seen.len().checked_sub(self.min).map(|from| &past.seen[from..]) {
            let slot = self.slot(recent);
            let candidate = self.table[slot] as usize;
            self.table[slot] = past.len() as u32;
            if self.len < self.min && candidate > 0 {
                self.turn_to(candidate, past);
            }
        }
        let followed = self.misses < PATIENCE && self.at < past.len();
        self.expected = if followed { u32::from(past.byte(self.at)) | 256 } else { 0 };
    }

    /// The guessed bit after the bits of this byte so far, and how sure a guess of that sort is to be told apart: below 64.
    #[inline]
    pub(super) fn guess(&self, node: u32, n_bits: u32) -> Option<(u32, usize)> {
        let agrees = self.expected != 0 && self.expected >> (8 - n_bits) == node;
        let len = if self.len < 16 { self.len } else { 16 + (self.len - 16) / 8 };
        agrees.then(|| (self.expected >> (7 - n_bits) & 1, if len == 0 { 32 + usize::from(self.misses) } else { len }))
    }

    fn turn_to(&mut self, candidate: usize, past: Past) {
        let end = past.len();
        let agree = (1..=LONGEST.min(candidate)).take_while(|back| past.byte(candidate - back) == past.byte(end - back)).count();
        if agree > self.len && agree >= self.min {
            (self.at, self.len, self.misses) = (candidate, agree, 0);
        }
    }

    fn slot(&self, bytes: &[u8]) -> usize {
        let hash = bytes[..self.min]
            .iter()
            .fold(0u32, |hash, byte| (hash.wrapping_add(u32::from(*byte) + 1)).wrapping_mul(0x2c9277b5).rotate_left(11));
        (hash.wrapping_mul(0x9e3779b1) >> self.shift) as usize
    }
}
