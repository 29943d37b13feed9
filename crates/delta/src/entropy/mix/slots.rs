//! What followed each context so far: a bounded hash table of bits' histories.

/// What is known of one bit in one context.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// How often it was a one, of 65536, less a half.
    pub(super) p: i16,
    /// How many times it was seen, up to a limit.
    pub(super) n: u8,
    /// The last seven bits below a leading one, less one.
    pub(super) history: u8,
}

/// Four bits of a byte in one context: slot 0 says which context, 1 to 15 are the nodes of the tree of four bits.
pub(super) type Line = [Slot; 16];

/// All zeros, so that a table of them costs nothing until it is used.
const FRESH: Slot = Slot { p: 0, n: 0, history: 0 };

/// The lines of all contexts.
pub(super) struct Slots {
    lines: Vec<Line>,
    mask: usize,
}

impl Slots {
    /// Room for about `n_lines`, within 16 MiB.
    pub(super) fn new(n_lines: usize) -> Self {
        let n_lines = n_lines.next_power_of_two().clamp(1 << 8, 1 << 18);
        Self { lines: vec![[FRESH; 16]; n_lines], mask: n_lines - 1 }
    }

    /// Finds the line of a context, or makes one where the less used of two was.
    #[inline]
    pub(super) fn find(&mut self, context: u32) -> usize {
        let check = Slot { p: (context >> 16) as i16, n: 1, history: (context >> 8) as u8 };
        let at = (context.wrapping_mul(0x9e37_79b1) >> 12) as usize & self.mask;
        for at in [at, at ^ 1] {
            let found = &self.lines[at][0];
            if found.n == 1 && found.p == check.p && found.history == check.history {
                return at;
            }
        }
        let at = if self.lines[at][1].n > self.lines[at ^ 1][1].n { at ^ 1 } else { at };
        self.lines[at] = [FRESH; 16];
        self.lines[at][0] = check;
        at
    }

    #[inline]
    pub(super) fn slot(&self, line: usize, node: usize) -> Slot {
        self.lines[line & self.mask][node & 15]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, line: usize, node: usize) -> &mut Slot {
        &mut self.lines[line & self.mask][node & 15]
    }
}

impl Slot {
    /// Learns a bit; the first weigh most, and after `limit` all the same.
    #[inline]
    pub(super) fn learn(&mut self, bit: u32, limit: u8) {
        let goal = if bit == 1 { 32767 } else { -32768 };
        self.p = (i32::from(self.p) + (((goal - i32::from(self.p)) * RATES[self.n as usize]) >> 16)) as i16;
        self.n = if self.n < limit { self.n + 1 } else { limit };
        let history = (u32::from(self.history) + 1) << 1 | bit;
        self.history = (if history < 256 { history } else { history & 127 | 128 } - 1) as u8;
    }
}

/// How much of the way to what was seen: 1 / (n + 1.6).
static RATES: [i32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        table[n] = (655_360 / (10 * n + 16)) as i32;
        n += 1;
    }
    table
};
