//! What the next byte is guessed from, by the shape of the stream.

use crate::entropy::Shape;

use super::model::N;

/// How many phases a stream has at most.
pub(super) const PHASES: usize = 4;

/// What was seen of a stream, as far as contexts need it.
pub(super) struct Recent {
    shape: Shape,
    /// The last eight bytes, the newest lowest.
    last: u64,
    /// Hash of the letters since the last that was none.
    word: u32,
    previous_word: u32,
    /// The last four numbers, the newest first.
    numbers: [u64; 4],
    /// The bytes of the number that is not yet complete.
    partial: u64,
    n_partial: u32,
}

impl Recent {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, last: 0, word: 0, previous_word: 0, numbers: [0; 4], partial: 0, n_partial: 0 }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What sort of byte comes: below [`PHASES`].
    pub(super) fn phase(&self) -> u8 {
        match self.shape {
            Shape::Numbers => self.n_partial.min(3) as u8,
            _ => 0,
        }
    }

    pub(super) fn see(&mut self, byte: u8) {
        self.last = self.last << 8 | u64::from(byte);
        match self.shape {
            Shape::Numbers => self.see_number(byte),
            Shape::Text => self.see_letter(byte),
            _ => {}
        }
    }

    /// Hashes of all contexts of the next byte.
    pub(super) fn contexts(&self) -> [u32; N] {
        let mut contexts = match self.shape {
            Shape::Numbers => self.of_numbers(),
            Shape::Bytes => self.of_bytes(),
            Shape::Text => self.of_text(),
            Shape::Code => self.of_code(),
        };
        for (i, context) in contexts.iter_mut().enumerate() {
            *context = hash(*context, i as u64 + 1);
        }
        contexts.map(|context| (context >> 20) as u32)
    }

    fn order(&self, n: u32) -> u64 {
        if n == 0 { 0 } else { self.last & (u64::MAX >> (64 - 8 * n)) }
    }

    fn of_numbers(&self) -> [u64; N] {
        let [a, b, c, d] = self.numbers;
        let partial = hash(self.partial, u64::from(self.n_partial));
        let size = |number: u64| u64::from(64 - number.leading_zeros());
        [
            partial,
            hash(partial, a),
            hash(partial, b),
            hash(partial, c),
            hash(hash(partial, a), b),
            hash(hash(hash(partial, a), b), c),
            hash(partial, size(a) << 16 | size(b) << 8 | size(c)),
            hash(hash(partial, size(a)), d),
            self.order(2),
            hash(hash(partial, b), c),
            hash(hash(partial, a), hash(c, 1)),
            hash(partial, size(a)),
        ]
    }

    fn of_bytes(&self) -> [u64; N] {
        [
            0,
            self.order(1),
            self.order(2),
            self.order(3),
            self.order(4),
            self.last >> 8 & 0xff,
            self.last >> 8 & 0xffff,
            self.order(6),
            self.last & 0xff00ff,
            self.last >> 16 & 0xff,
            hash(self.order(5), 1),
            hash(self.order(8), 2),
        ]
    }

    fn of_text(&self) -> [u64; N] {
        [
            self.order(0),
            self.order(1),
            self.order(2),
            self.order(3),
            self.order(4),
            self.order(6),
            hash(u64::from(self.word), self.order(1)),
            hash(u64::from(self.word), u64::from(self.previous_word)),
            self.order(5),
            u64::from(self.word),
            self.last & 0xff00,
            hash(self.order(8), 2),
        ]
    }

    fn of_code(&self) -> [u64; N] {
        [
            self.order(0),
            self.order(1),
            self.order(2),
            self.order(3),
            self.order(4),
            self.last & 0xff00,
            self.last & 0xffff00,
            self.order(6),
            self.last & 0xff0000,
            self.last & 0xff00ff,
            self.order(5),
            self.last & 0xf0f0f0f0,
        ]
    }

    fn see_number(&mut self, byte: u8) {
        self.partial = self.partial << 8 | u64::from(byte);
        self.n_partial += 1;
        if byte < 128 {
            let [a, b, c, _] = self.numbers;
            self.numbers = [self.partial, a, b, c];
            (self.partial, self.n_partial) = (0, 0);
        }
    }

    fn see_letter(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 128 {
            self.word = (self.word.wrapping_add(u32::from(byte) + 1)).wrapping_mul(0x2c92_77b5);
        } else if self.word != 0 {
            (self.previous_word, self.word) = (self.word, 0);
        }
    }
}

/// Mixes a value into a hash; the upper bits are the good ones.
#[inline]
pub(super) fn hash(hash: u64, value: u64) -> u64 {
    (hash ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15))
        .wrapping_mul(0xd6e8_feb8_6659_fd93)
        .rotate_left(29)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
