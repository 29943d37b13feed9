//! A coder that guesses each bit from many contexts at once.

mod contexts;
mod matches;
mod mixer;
mod slots;
mod tables;

use contexts::Recent;
use matches::{Matches, Past};
use mixer::{Adaptive, Correction, Guesses, Mixer, history_prior, logit};
use slots::Slots;

use super::range::{Reader, Writer};
use super::{EntropyError, Shape};

/// Two guesses of each context and of each match, and a constant one.
const N_GUESSES: usize = 2 * contexts::N + 2 * 2 + 1;

/// Packs; gives up with nothing when that takes `limit` bytes or more.
pub(crate) fn encode(bytes: &[u8], context: &[u8], shape: Shape, limit: usize) -> Option<Vec<u8>> {
    let mut model = Model::new(context, shape, bytes.len());
    let mut writer = Writer::new();
    for (i, byte) in bytes.iter().enumerate() {
        for shift in (0..8).rev() {
            let bit = u32::from(*byte) >> shift & 1;
            writer.put(bit, model.guess());
            model.learn(bit);
        }
        model.see(Past { context, seen: &bytes[..=i] });
        if writer.len() >= limit {
            return None;
        }
    }
    Some(writer.finish())
}

/// Unpacks exactly `len` bytes.
pub(crate) fn decode(packed: &[u8], context: &[u8], shape: Shape, len: usize) -> Result<Vec<u8>, EntropyError> {
    let mut model = Model::new(context, shape, len);
    let mut reader = Reader::new(packed);
    let mut out = Vec::with_capacity(len);
    for _ in 0..len {
        let mut byte = 0;
        for _ in 0..8 {
            let bit = reader.get(model.guess());
            model.learn(bit);
            byte = byte << 1 | bit as u8;
        }
        out.push(byte);
        model.see(Past { context, seen: &out });
    }
    if reader.finish() { Ok(out) } else { Err(EntropyError::Length { expected: len }) }
}

/// Everything learned so far; both ends have the same.
struct Model {
    recent: Recent,
    slots: Slots,
    contexts: [u32; contexts::N],
    lines: [usize; contexts::N],
    histories: [Adaptive<256>; contexts::N],
    matches: [Matches; 2],
    sureness: [Adaptive<64>; 2],
    guesses: Guesses,
    mixers: [Mixer; 3],
    last: Mixer,
    mixed: Guesses,
    corrections: [Correction; 2],
    correction_mask: usize,
    /// The bits of the byte so far below a leading one.
    node: u32,
    n_bits: u32,
    limit: u8,
}

impl Model {
    fn new(context: &[u8], shape: Shape, len: usize) -> Self {
        let correction_bits = (usize::BITS - len.leading_zeros() + 3).clamp(10, 16);
        let histories = |_| Adaptive::new(|history| history_prior(history + 1));
        let sureness = || Adaptive::new(|kind| if kind < 32 { 65535 - 40000 / (kind * kind / 2 + 2) } else { 40000 });
        let (short, long) = match shape {
            Shape::Numbers => (3, 6),
            Shape::Bytes => (4, 8),
            Shape::Text => (4, 7),
            Shape::Code => (4, 7),
        };
        let mut model = Self {
            recent: Recent::new(shape),
            slots: Slots::new(len.saturating_mul(contexts::N)),
            contexts: [0; contexts::N],
            lines: [0; contexts::N],
            histories: std::array::from_fn(histories),
            matches: [Matches::new(short, context, len), Matches::new(long, context, len)],
            sureness: [sureness(), sureness()],
            guesses: [0; 24],
            mixers: [
                Mixer::new(256, 1750, 40),
                Mixer::new(16 * 9, 1750, 40),
                Mixer::new(256 * 4, 1750, 40),
            ],
            last: Mixer::new(1, 2730, 10),
            mixed: [0; 24],
            corrections: [Correction::new(256 * 4, 6), Correction::new(1 << correction_bits, 6)],
            correction_mask: (1 << correction_bits) - 1,
            node: 1,
            n_bits: 0,
            limit: 127,
        };
        model.enter_byte();
        model
    }

    /// The probability that the next bit is a one, of 65536.
    fn guess(&mut self) -> u32 {
        let mut n_known = 0;
        let at = if self.n_bits < 4 { self.node } else { self.node & ((1 << (self.n_bits - 4)) - 1) | 1 << (self.n_bits - 4) }
            as usize;
        for i in 0..contexts::N {
            let slot = self.slots.slot(self.lines[i], at);
            let known = slot.n > 0;
            n_known += usize::from(known);
            let learned = logit(self.histories[i].guess(slot.history.into())) as i16;
            self.guesses[2 * i] = if known { learned } else { 0 };
            self.guesses[2 * i + 1] = if known { slot.p >> 4 } else { 0 };
        }
        let mut agreed = 0;
        for i in 0..2 {
            let guess = self.matches[i].guess(self.node, self.n_bits);
            let (a, b) = match guess {
                Some((bit, kind)) => {
                    let p = self.sureness[i].guess(kind);
                    let sign = 2 * bit as i32 - 1;
                    (sign * logit(p), sign * ((p as i32 - 32768) >> 4))
                }
                None => (0, 0),
            };
            agreed = agreed * 4
                + match guess {
                    None => 0,
                    Some((_, kind)) => 1 + usize::from(kind >= 16) + usize::from(kind >= 32),
                };
            self.guesses[2 * contexts::N + 2 * i] = a as i16;
            self.guesses[2 * contexts::N + 2 * i + 1] = b as i16;
        }
        self.guesses[N_GUESSES - 1] = 256;
        let last = self.recent.last();
        let situations = [last as usize & 0xff, agreed * 9 + n_known, self.recent.phase() << 8 | self.node as usize & 0xff];
        for (i, situation) in situations.into_iter().enumerate() {
            self.mixed[i] = self.mixers[i].mix(&self.guesses, situation) as i16;
        }
        let mixed = self.last.mix(&self.mixed, 0);
        let p = tables::squash(mixed);
        let by_node = self.corrections[0].correct(mixed, self.recent.phase() << 8 | self.node as usize & 0xff);
        let by_byte = self.corrections[1].correct(
            mixed,
            (((last as usize & 0xff) * 256 | self.node as usize & 0xff).wrapping_mul(0x9e3779b1) >> 12) & self.correction_mask,
        );
        ((2 * p + by_node + by_byte) >> 2).clamp(1, 65535)
    }

    fn learn(&mut self, bit: u32) {
        let at = if self.n_bits < 4 { self.node } else { self.node & ((1 << (self.n_bits - 4)) - 1) | 1 << (self.n_bits - 4) }
            as usize;
        for i in 0..contexts::N {
            let slot = self.slots.slot_mut(self.lines[i], at);
            if slot.n > 0 {
                let history = slot.history.into();
                self.histories[i].learn(history, bit);
            }
            slot.learn(bit, self.limit);
        }
        for i in 0..2 {
            if let Some((expected, kind)) = self.matches[i].guess(self.node, self.n_bits) {
                self.sureness[i].learn(kind, u32::from(expected == bit));
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
        self.node = self.node << 1 | bit;
        self.n_bits += 1;
        if self.n_bits == 4 {
            for i in 0..contexts::N {
                self.lines[i] = self.slots.find(self.contexts[i] ^ (self.node.wrapping_mul(0x3d4d_51cb)));
            }
        }
    }

    /// Sees a whole byte, the last of the past.
    fn see(&mut self, past: Past) {
        self.recent.see(self.node as u8);
        for matches in &mut self.matches {
            matches.see(past);
        }
        (self.node, self.n_bits) = (1, 0);
        self.enter_byte();
    }

    fn enter_byte(&mut self) {
        self.contexts = self.recent.contexts();
        for i in 0..contexts::N {
            self.lines[i] = self.slots.find(self.contexts[i]);
        }
    }
}
