//! Guesses each bit of a byte from many contexts at once, and learns what it was.

use super::matches::Expected;
use super::mixer::{Adaptive, Correction, Guesses, Mixer, history_prior};
use super::slots::Slots;
use super::tables::{squash, stretch};
use crate::entropy::range::{Reader, Writer};

/// How many contexts a byte is guessed from.
pub(super) const N: usize = 12;
/// Guesses: two of each context and of each match, and a constant one.
const CONSTANT: usize = 2 * N + 4;

/// What a byte is guessed from.
pub(super) struct View {
    /// Hashes of what precedes or surrounds it.
    pub(super) contexts: [u32; N],
    /// What followed the same bytes before.
    pub(super) expected: [Expected; 2],
    /// A byte that says most, for the choice of weights.
    pub(super) beside: u8,
    /// What sort of byte it is: below the number that the model was made for.
    pub(super) phase: u8,
}

/// Where bits come from or go to.
pub(super) trait Bits {
    /// Writes `bit`, or reads one and ignores that; `p1` is how likely a one is. Returns the bit.
    fn bit(&mut self, bit: u32, p1: u32) -> u32;
}

impl Bits for Writer {
    #[inline]
    fn bit(&mut self, bit: u32, p1: u32) -> u32 {
        self.put(bit, p1);
        bit
    }
}

impl Bits for Reader<'_> {
    #[inline]
    fn bit(&mut self, _: u32, p1: u32) -> u32 {
        self.get(p1)
    }
}

/// Everything learned so far; both ends have the same.
pub(super) struct Model {
    slots: Slots,
    lines: [usize; N],
    histories: [Adaptive<256>; N],
    sureness: [Adaptive<64>; 2],
    guesses: Guesses,
    mixers: [Mixer; 3],
    last: Mixer,
    mixed: Guesses,
    corrections: [Correction; 2],
    correction_mask: usize,
}

impl Model {
    /// Will see about `len` bytes, of `phases` sorts.
    pub(super) fn new(len: usize, phases: usize) -> Self {
        let correction_bits = (usize::BITS - len.leading_zeros() + 3).clamp(10, 16);
        let sureness = || Adaptive::new(|kind| if kind < 32 { 65535 - 40000 / (kind * kind / 2 + 2) } else { 40000 });
        let weights = std::array::from_fn(|i| if i < 2 * N && i % 2 == 1 { 255 } else { 850 });
        Self {
            slots: Slots::new(len.saturating_mul(N)),
            lines: [0; N],
            histories: std::array::from_fn(|_| Adaptive::new(|history| history_prior(history + 1))),
            sureness: [sureness(), sureness()],
            guesses: [0; 32],
            mixers: [
                Mixer::new(256 * phases, weights, 24),
                Mixer::new(16 * (N + 1), weights, 24),
                Mixer::new(256 * phases, weights, 24),
            ],
            last: Mixer::new(phases, [2730; 32], 5),
            mixed: [0; 32],
            corrections: [Correction::new(256 * phases, 5), Correction::new(1 << correction_bits, 5)],
            correction_mask: (1 << correction_bits) - 1,
        }
    }

    /// Writes `byte`, or reads one and ignores that. Returns the byte.
    pub(super) fn byte(&mut self, bits: &mut impl Bits, byte: u8, view: &View) -> u8 {
        // The bits of the byte so far below a leading one.
        let mut node = 1u32;
        for n_bits in 0..8 {
            if n_bits & 3 == 0 {
                for (line, context) in self.lines.iter_mut().zip(view.contexts) {
                    *line = self.slots.find(context ^ node.wrapping_mul(0x3d4d_51cb));
                }
            }
            let place = if n_bits < 4 { node } else { (node & ((1 << (n_bits - 4)) - 1)) | 1 << (n_bits - 4) } as usize;
            let agreed = view.expected.each_ref().map(|expected| expected.bit(node, n_bits));
            let p1 = self.guess(node as usize, place, view, agreed);
            let bit = bits.bit(u32::from(byte) >> (7 - n_bits) & 1, p1);
            self.learn(bit, place, view, agreed);
            node = node << 1 | bit;
        }
        node as u8
    }

    /// The probability that the next bit is a one, of 65536.
    #[inline]
    fn guess(&mut self, node: usize, place: usize, view: &View, agreed: [Option<u32>; 2]) -> u32 {
        let mut n_known = 0;
        for i in 0..N {
            let slot = self.slots.slot(self.lines[i], place);
            let learned = stretch(self.histories[i].guess(slot.history.into())) as i16;
            let known = slot.n > 0;
            n_known += usize::from(known);
            self.guesses[2 * i] = if known { learned } else { 0 };
            self.guesses[2 * i + 1] = slot.p >> 4;
        }
        let mut agreement = 0;
        for (i, agreed) in agreed.into_iter().enumerate() {
            let kind = view.expected[i].kind;
            let (logit, half, class) = match agreed {
                Some(bit) => {
                    let p = self.sureness[i].guess(kind);
                    let sign = 2 * bit as i32 - 1;
                    (sign * stretch(p), sign * ((p as i32 - 32768) >> 4), 1 + usize::from(kind >= 16) + usize::from(kind >= 32))
                }
                None => (0, 0, 0),
            };
            agreement = agreement * 4 + class;
            self.guesses[2 * N + 2 * i] = logit as i16;
            self.guesses[2 * N + 2 * i + 1] = half as i16;
        }
        self.guesses[CONSTANT] = 256;
        let phase = usize::from(view.phase) * 256;
        let beside = usize::from(view.beside);
        for (i, situation) in [phase | beside, agreement * (N + 1) + n_known, phase | node].into_iter().enumerate() {
            self.mixed[i] = self.mixers[i].mix(&self.guesses, situation) as i16;
        }
        let mixed = self.last.mix(&self.mixed, phase / 256);
        let by_node = self.corrections[0].correct(mixed, phase | node);
        let both = (((phase | beside) * 256 + node).wrapping_mul(0x9e37_79b1) >> 12) & self.correction_mask;
        let by_both = self.corrections[1].correct(mixed, both);
        ((squash(mixed) + by_node + 2 * by_both) >> 2).clamp(1, 65535)
    }

    #[inline]
    fn learn(&mut self, bit: u32, place: usize, view: &View, agreed: [Option<u32>; 2]) {
        for i in 0..N {
            let slot = self.slots.slot_mut(self.lines[i], place);
            if slot.n > 0 {
                self.histories[i].learn(slot.history.into(), bit);
            }
            slot.learn(bit, LIMIT);
        }
        for ((sureness, agreed), expected) in self.sureness.iter_mut().zip(agreed).zip(&view.expected) {
            if let Some(guess) = agreed {
                sureness.learn(expected.kind, u32::from(guess == bit));
            }
        }
        let eager = self.guesses.map(|guess| guess << 3);
        for mixer in &mut self.mixers {
            mixer.learn(&eager, bit);
        }
        self.last.learn(&self.mixed.map(|guess| guess << 3), bit);
        for correction in &mut self.corrections {
            correction.learn(bit);
        }
    }
}

/// After so many bits a context weighs each new one the same.
const LIMIT: u8 = 127;
