//! Weighs guesses by how well they did, and corrects the result by what it was worth before.

use super::tables::{LOGIT, squash};

/// A logit for each way to guess, padded with zeros.
pub(super) type Guesses = [i16; 32];

/// Weights for guesses in each of some situations.
pub(super) struct Mixer {
    /// Of 8192.
    weights: Vec<Guesses>,
    /// The current situation.
    at: usize,
    /// The mixed probability.
    p: u32,
    rate: i32,
}

impl Mixer {
    /// The weights begin as these, of 8192, in every situation.
    pub(super) fn new(situations: usize, weights: Guesses, rate: i32) -> Self {
        Self { weights: vec![weights; situations], at: 0, p: 1 << 15, rate }
    }

    /// Mixes logits; returns a logit.
    #[inline]
    pub(super) fn mix(&mut self, guesses: &Guesses, situation: usize) -> i32 {
        self.at = situation;
        // 24 products of at most 2^15 and 3072 stay within 31 bits.
        let sum = dot(&self.weights[situation], guesses);
        let logit = (sum >> 13).clamp(-LOGIT, LOGIT);
        self.p = squash(logit);
        logit
    }

    /// Learns the bit that came; `eager` is eight times the guesses.
    #[inline]
    pub(super) fn learn(&mut self, eager: &Guesses, bit: u32) {
        let error = ((((bit << 16) as i32 - self.p as i32) * self.rate) >> 9).clamp(-32768, 32767) as i16;
        for (weight, guess) in self.weights[self.at].iter_mut().zip(eager) {
            // Only the upper half of the product is used: processors have an instruction for eight of these.
            let step = ((i32::from(*guess) * i32::from(error)) >> 16) as i16;
            *weight = weight.saturating_add((step + 1) >> 1);
        }
    }
}

/// Lanes of eight, so that a processor takes each at once.
#[inline]
fn dot(a: &Guesses, b: &Guesses) -> i32 {
    let mut sums = [0i32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += i32::from(a[lane]) * i32::from(b[lane]);
        }
    }
    sums.iter().sum()
}

/// A guess by itself: in each situation, how often the bit was a one.
pub(super) struct Adaptive<const SITUATIONS: usize> {
    /// 22 bits of probability and 10 of a count.
    cells: [u32; SITUATIONS],
}

impl<const SITUATIONS: usize> Adaptive<SITUATIONS> {
    pub(super) fn new(initial: impl Fn(u32) -> u32) -> Self {
        Self { cells: std::array::from_fn(|situation| initial(situation as u32) << 16) }
    }

    /// The probability, of 65536.
    #[inline]
    pub(super) fn guess(&self, situation: usize) -> u32 {
        self.cells[situation % SITUATIONS] >> 16
    }

    #[inline]
    pub(super) fn learn(&mut self, situation: usize, bit: u32) {
        let cell = &mut self.cells[situation % SITUATIONS];
        let (p, n) = (i64::from(*cell >> 10), *cell & 255);
        let goal = if bit == 1 { (1 << 22) - 1 } else { 0 };
        let p = p + (((goal - p) * i64::from(RATES[n as usize])) >> 16);
        *cell = ((p as u32) << 10) | (n + 1).min(255);
    }
}

/// 2^16 / (n + 1.5)
static RATES: [i32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[n] = (655_360 / (10 * n + 15)) as i32;
        n += 1;
    }
    table
};

/// Corrects a probability by what came of it in a situation: interpolates between 33 steps of its logit.
pub(super) struct Correction {
    cells: Vec<u16>,
    at: usize,
    rate: i32,
}

impl Correction {
    pub(super) fn new(situations: usize, rate: i32) -> Self {
        let steps: Vec<u16> = (0..33).map(|step| squash((step - 16) * 128) as u16).collect();
        Self { cells: steps.repeat(situations), at: 0, rate }
    }

    #[inline]
    pub(super) fn correct(&mut self, logit: i32, situation: usize) -> u32 {
        let place = (logit.clamp(-2047, 2047) + 2048) as usize;
        let (step, rest) = (place >> 7, (place & 127) as u32);
        let low = situation * 33 + step;
        self.at = low + usize::from(rest >= 64);
        (u32::from(self.cells[low]) * (128 - rest) + u32::from(self.cells[low + 1]) * rest) >> 7
    }

    #[inline]
    pub(super) fn learn(&mut self, bit: u32) {
        let cell = &mut self.cells[self.at];
        let goal = if bit == 1 { 65535 } else { 0 };
        *cell = (i32::from(*cell) + ((goal - i32::from(*cell)) >> self.rate)) as u16;
    }
}

/// What a history of up to seven bits says before anything was learned: the last count most.
pub(super) fn history_prior(history: u32) -> u32 {
    let len = 31 - history.max(1).leading_zeros();
    let (mut ones, mut all) = (13u32, 26u32);
    for age in (0..len).rev() {
        // Each bit weighs a fifth more than the one before it.
        ones = ones * 4 / 5 + 32 * (history >> age & 1);
        all = all * 4 / 5 + 32;
    }
    (ones.min(all) * 65535 / all.max(1)).clamp(256, 65280)
}
