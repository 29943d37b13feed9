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
    expected: Expected,
}

/// A guess at the next byte.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// The byte, with a one above it; 0 when there is no guess.
    byte: u32,
    /// How sure guesses of that sort are is learned for each: below 64.
    pub(super) kind: usize,
}

impl Expected {
    pub(super) const NOTHING: Self = Self { byte: 0, kind: 0 };

    /// The guessed bit after the bits of this byte so far.
    #[inline]
    pub(super) fn bit(&self, node: u32, n_bits: u32) -> Option<u32> {
        let agrees = self.byte != 0 && self.byte >> (8 - n_bits) == node;
        agrees.then_some(self.byte >> (7 - n_bits) & 1)
    }
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
        let mut matches = Self {
            table: vec![0; 1 << bits],
            shift: 32 - bits,
            min,
            at: 0,
            len: 0,
            misses: PATIENCE,
            expected: Expected::NOTHING,
        };
        for (i, bytes) in context.windows(min).enumerate() {
            let slot = matches.slot(bytes);
            matches.table[slot] = (i + min) as u32;
        }
        matches
    }

    /// Sees the byte that the stream now ends with.
    pub(super) fn see(&mut self, past: Past) {
        let byte = past.byte(past.len() - 1);
        if self.expected.byte == u32::from(byte) | 256 {
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
        self.expect(past);
    }

    /// Finds a place that follows the same bytes as come before a place somewhere else.
    pub(super) fn enter(&mut self, past: Past) {
        (self.len, self.misses) = (0, PATIENCE);
        if let Some(recent) = past.seen.len().checked_sub(self.min).map(|from| &past.seen[from..]) {
            let candidate = self.table[self.slot(recent)] as usize;
            if candidate > 0 {
                self.turn_to(candidate, past);
            }
        }
        self.expect(past);
    }

    /// The guess at the next byte.
    pub(super) fn expected(&self) -> Expected {
        self.expected
    }

    fn expect(&mut self, past: Past) {
        let followed = self.misses < PATIENCE && self.at < past.len();
        let len = if self.len < 16 { self.len } else { 16 + (self.len - 16) / 8 };
        let kind = if len == 0 { 32 + usize::from(self.misses) } else { len };
        self.expected = if followed { Expected { byte: u32::from(past.byte(self.at)) | 256, kind } } else { Expected::NOTHING };
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
