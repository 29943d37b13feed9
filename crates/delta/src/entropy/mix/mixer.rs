//! Weighs guesses by how well they did, and corrects the result by what it was worth before.

use super::tables::{squash, stretch};

/// Weights for `n` guesses in each of some situations.
pub(super) struct Mixer {
    n: usize,
    weights: Vec<i32>,
    /// Where the weights of the current situation begin.
    at: usize,
    /// The mixed probability.
    p: u32,
    rate: i32,
}

impl Mixer {
    /// All weights begin as `weight`, of 65536.
    pub(super) fn new(n: usize, situations: usize, weight: i32, rate: i32) -> Self {
        Self { n, weights: vec![weight; n * situations], at: 0, p: 1 << 15, rate }
    }

    /// Mixes logits; returns a logit.
    #[inline]
    pub(super) fn mix(&mut self, guesses: &[i32], situation: usize) -> i32 {
        self.at = situation * self.n;
        let weights = &self.weights[self.at..self.at + self.n];
        let sum: i32 = weights.iter().zip(guesses).map(|(weight, guess)| (weight >> 4) * guess >> 4).fold(0, i32::wrapping_add);
        let logit = (sum >> 8).clamp(-super::tables::LOGIT, super::tables::LOGIT);
        self.p = squash(logit);
        logit
    }

    /// Learns the bit that came.
    #[inline]
    pub(super) fn learn(&mut self, guesses: &[i32], bit: u32) {
        let error = ((bit << 16) as i32 - self.p as i32) * self.rate >> 4;
        for (weight, guess) in self.weights[self.at..self.at + self.n].iter_mut().zip(guesses) {
            *weight = (*weight + ((guess * (error >> 4) + (1 << 13)) >> 14)).clamp(-(1 << 20), 1 << 20);
        }
    }
}

/// A guess by itself: for each situation, how often the bit was a one.
pub(super) struct Adaptive {
    /// 22 bits of probability and 10 of a count.
    cells: Vec<u32>,
    limit: u32,
    at: usize,
}

impl Adaptive {
    pub(super) fn new(initial: impl Iterator<Item = u32>, limit: u32) -> Self {
        Self { cells: initial.map(|p| p << 16).collect(), limit, at: 0 }
    }

    /// The probability, of 65536.
    #[inline]
    pub(super) fn guess(&mut self, situation: usize) -> u32 {
        self.at = situation;
        self.cells[situation] >> 16
    }

    #[inline]
    pub(super) fn learn(&mut self, bit: u32) {
        self.learn_at(self.at, bit);
    }

    #[inline]
    pub(super) fn learn_at(&mut self, at: usize, bit: u32) {
        let cell = &mut self.cells[at];
        let (p, n) = (*cell >> 10, *cell & 1023);
        let goal = if bit == 1 { (1 << 22) - 1 } else { 0 };
        let p = p as i32 + ((goal - p as i32) >> 3) * RATES[n as usize & 1023] / 8192;
        *cell = (p as u32) << 10 | if n < self.limit { n + 1 } else { n };
    }
}

/// 2^16 / (n + 1.5)
static RATES: [i32; 1024] = {
    let mut table = [0; 1024];
    let mut n = 0;
    while n < 1024 {
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

/// The logit of a probability.
#[inline]
pub(super) fn logit(p: u32) -> i32 {
    stretch(p)
}
