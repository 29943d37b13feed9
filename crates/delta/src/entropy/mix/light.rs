//! Guesses bits from few contexts: about a tenth of the work of the whole model.

use super::model::Bits;
use super::tables::{LOGIT, squash, stretch};

/// Four bits of a byte in one context: slot 0 says which context, the others are nodes of a tree of bits. A slot is twelve bits of a probability (the uppermost
/// flipped, so that all zeros are a half) and four of a count.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Line([u16; 16]);

const FRESH: Line = Line([0; 16]);

/// Everything learned so far from `N` contexts; both ends have the same.
pub(super) struct Light<const N: usize> {
    lines: Vec<Line>,
    mask: usize,
    /// Weights, of 65536, by what is guessed, and by which contexts are known: their sum counts.
    by_node: Vec<[i32; N]>,
    by_known: Vec<[i32; N]>,
    /// The lines in use, and where they belong.
    open: [Line; N],
    at: [usize; N],
}

impl<const N: usize> Light<N> {
    /// Will see about `len` bytes, of `phases` sorts; remembers at most `max_lines` lines, a power of two.
    pub(super) fn new(len: usize, phases: usize, max_lines: usize) -> Self {
        let n_lines = len.saturating_mul(2 * N).next_power_of_two().clamp(1 << 6, max_lines);
        let weights = [78_642 / N as i32; N];
        Self {
            lines: vec![FRESH; n_lines],
            mask: n_lines - 1,
            by_node: vec![weights; 256 * phases],
            by_known: vec![weights; (2 << N) * phases],
            open: [FRESH; N],
            at: [0; N],
        }
    }

    /// Writes `byte`, or reads one and ignores that. Returns the byte.
    #[inline]
    pub(super) fn byte(&mut self, bits: &mut impl Bits, byte: u8, contexts: &[u32; N], phase: usize) -> u8 {
        let mut node = 1;
        for half in 0..2 {
            let known = self.open(contexts, node) | half << N | phase << (N + 1);
            let mut place = 1;
            for n_left in (0..4).rev() {
                let nth = 4 * (1 - half) as u32 + n_left;
                let bit = self.bit(bits, u32::from(byte) >> nth & 1, place, phase << 8 | node as usize, known);
                node = node << 1 | bit;
                place = place << 1 | bit as usize;
            }
            self.close();
        }
        node as u8
    }

    /// The same for a byte that is most often small: first how many bits it has, then those.
    #[inline]
    pub(super) fn small(&mut self, bits: &mut impl Bits, byte: u8, contexts: &[u32; N], phase: usize) -> u8 {
        let known = self.open(contexts, 0) | phase << (N + 1);
        let n_bits = u8::BITS - byte.leading_zeros();
        let mut n = 0;
        while n < 8 && self.bit(bits, u32::from(n_bits > n), n as usize + 1, phase << 8 | n as usize, known) == 1 {
            n += 1;
        }
        self.close();
        if n < 2 {
            return n as u8;
        }
        let (mut value, mut left) = (1, n - 1);
        while left > 0 {
            let known = self.open(contexts, (n << 8) | value) | 1 << N | phase << (N + 1);
            let mut place = 1;
            for _ in 0..left.min(4) {
                left -= 1;
                let node = phase << 8 | (16 * n as usize + place);
                let bit = self.bit(bits, u32::from(byte) >> left & 1, place, node, known);
                value = value << 1 | bit;
                place = place << 1 | bit as usize;
            }
            self.close();
        }
        value as u8
    }

    /// Takes out the lines of contexts, new ones where others were; returns which were there.
    #[inline(always)]
    fn open(&mut self, contexts: &[u32; N], node: u32) -> usize {
        let mut known = 0;
        let node = node.wrapping_mul(0x3d4d_51cb);
        for (i, context) in contexts.iter().enumerate() {
            let hash = (context ^ node).wrapping_mul(0x9e37_79b1);
            let at = (hash >> 12) as usize & self.mask;
            let check = hash as u16 | 1;
            let line = self.lines[at];
            let is_known = line.0[0] == check;
            known = known << 1 | usize::from(is_known);
            // No branch: nobody can tell which way it would go.
            let keep = if is_known { u16::MAX } else { 0 };
            self.open[i] = Line(line.0.map(|slot| slot & keep));
            self.open[i].0[0] = check;
            self.at[i] = at;
        }
        known
    }

    #[inline(always)]
    fn close(&mut self) {
        for i in 0..N {
            self.lines[self.at[i] & self.mask] = self.open[i];
        }
    }

    #[inline(always)]
    fn bit(&mut self, bits: &mut impl Bits, bit: u32, place: usize, node: usize, known: usize) -> u32 {
        let place = place & 15;
        let (by_node, by_known) = (&mut self.by_node[node], &mut self.by_known[known]);
        // Weights stay far below 2^20 unless somebody means them not to; then it does not matter what is guessed, but both ends guess the same.
        let (mut guesses, mut sum) = ([0; N], 0i32);
        for i in 0..N {
            guesses[i] = stretch(u32::from(self.open[i].0[place] ^ HALF));
            sum = guesses[i].wrapping_mul(by_node[i].wrapping_add(by_known[i]) >> 4).wrapping_add(sum);
        }
        let p1 = squash((sum >> 12).clamp(-LOGIT, LOGIT));
        let bit = bits.bit(bit, p1);
        let error = ((bit << 16) as i32 - p1 as i32) * RATE;
        let goal = if bit == 1 { 65535 } else { 0 };
        for i in 0..N {
            let step = (guesses[i] * error) >> 20;
            by_node[i] = by_node[i].wrapping_add(step);
            by_known[i] = by_known[i].wrapping_add(step);
            let slot = &mut self.open[i].0[place];
            let old = i32::from(*slot ^ HALF);
            let n = (old & 15) as usize;
            let new = old + (((goal - old) * RATES[n]) >> 16);
            *slot = (new as u16 & 0xfff0 | NEXT[n]) ^ HALF;
        }
        bit
    }
}

/// Turns the uppermost bit of a probability.
const HALF: u16 = 0x8000;
/// How fast weights are learned.
const RATE: i32 = 14;
/// After so many bits a context weighs each new one the same.
static NEXT: [u16; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15];
/// How much of the way to what was seen, of 65536: 1 / (n + 1.6).
static RATES: [i32; 16] = {
    let mut table = [0; 16];
    let mut n = 0;
    while n < 16 {
        table[n] = (655_360 / (10 * n + 16)) as i32;
        n += 1;
    }
    table
};
