//! A binary arithmetic coder: bits of known probability to bytes and back.
//!
//! It keeps the interval `[low, high]` of 64 bits and sends its leading bytes as soon as both ends agree on them. At the end it sends the fewest bytes that fall
//! into the interval when zeros follow, and no zeros at the very end: the reader takes what lies beyond the end for zeros. So every sequence of bits has
//! exactly one packing, and [`Reader::finish`] accepts no other.

/// Probabilities are of 65536; never 0, never all of it.
pub(super) const ONE: u32 = 1 << 16;

/// Bits to bytes.
pub(super) struct Writer {
    low: u64,
    high: u64,
    out: Vec<u8>,
}

/// Bytes to bits.
pub(super) struct Reader<'a> {
    low: u64,
    high: u64,
    /// The eight bytes of the packing that decide the next bit.
    window: u64,
    /// How many bytes entered the window, those beyond the end too.
    taken: usize,
    packed: &'a [u8],
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { low: 0, high: u64::MAX, out: Vec::new() }
    }

    /// Writes a bit that was a one with probability `p1`.
    #[inline]
    pub(super) fn put(&mut self, bit: u32, p1: u32) {
        let middle = middle(self.low, self.high, p1);
        if bit == 1 {
            self.high = middle
        } else {
            self.low = middle + 1
        }
        while (self.low ^ self.high) >> 56 == 0 {
            self.out.push((self.high >> 56) as u8);
            self.low <<= 8;
            self.high = self.high << 8 | 0xff;
        }
    }

    /// How many bytes there are so far.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&shortest(self.low, self.high).to_be_bytes());
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(packed: &'a [u8]) -> Self {
        let mut reader = Self { low: 0, high: u64::MAX, window: 0, taken: 0, packed };
        for _ in 0..8 {
            reader.take();
        }
        reader
    }

    /// Reads a bit that is a one with probability `p1`.
    #[inline]
    pub(super) fn get(&mut self, p1: u32) -> u32 {
        let middle = middle(self.low, self.high, p1);
        let bit = u32::from(self.window <= middle);
        if bit == 1 {
            self.high = middle
        } else {
            self.low = middle + 1
        }
        while (self.low ^ self.high) >> 56 == 0 {
            self.low <<= 8;
            self.high = self.high << 8 | 0xff;
            self.take();
        }
        bit
    }

    /// Whether the bytes were the one packing of the bits that were read.
    pub(super) fn finish(self) -> bool {
        self.window == shortest(self.low, self.high) && self.packed.len() <= self.taken && self.packed.last() != Some(&0)
    }

    fn take(&mut self) {
        let byte = self.packed.get(self.taken).copied().unwrap_or(0);
        self.window = self.window << 8 | u64::from(byte);
        self.taken += 1;
    }
}

/// The last place of the interval that means a one. The ends differ in their first byte, and all but never by less than 2^16: then a one gets the least there is.
#[inline]
fn middle(low: u64, high: u64, p1: u32) -> u64 {
    low + ((high - low) >> 16) * u64::from(p1)
}

/// The value of the interval with the most zeros at its end.
fn shortest(low: u64, high: u64) -> u64 {
    for n_bytes in 0..8 {
        let rest = u64::MAX >> (8 * n_bytes);
        if let Some(value) = low.checked_add(rest).map(|sum| sum & !rest).filter(|value| *value <= high) {
            return value;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_what_is_got(bits in prop::collection::vec((any::<bool>(), 1..ONE), 0..300)) {
            let mut writer = Writer::new();
            for (bit, p1) in &bits {
                writer.put(u32::from(*bit), *p1);
            }
            let packed = writer.finish();
            let mut reader = Reader::new(&packed);
            for (bit, p1) in &bits {
                prop_assert_eq!(reader.get(*p1), u32::from(*bit));
            }
            prop_assert!(reader.finish());
        }

        #[test]
        fn there_is_one_packing(bits in prop::collection::vec((any::<bool>(), 1..ONE), 0..60), more in prop::collection::vec(any::<u8>(), 1..4)) {
            let mut writer = Writer::new();
            for (bit, p1) in &bits {
                writer.put(u32::from(*bit), *p1);
            }
            let packed = [writer.finish(), more].concat();
            let mut reader = Reader::new(&packed);
            let read: Vec<bool> = bits.iter().map(|(_, p1)| reader.get(*p1) == 1).collect();
            prop_assert!(!reader.finish() || read.iter().ne(bits.iter().map(|(bit, _)| bit)));
        }
    }
}
