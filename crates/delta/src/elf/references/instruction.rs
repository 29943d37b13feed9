//! Measures x86-64 instructions and finds the operand of each that counts from it.
//!
//! Only lengths matter here: prefixes, opcode map, ModRM, displacement and immediate, by the tables of the processor manuals. No meaning is decoded beyond
//! what tells a table of jumps.

/// The most bytes an instruction may have, and one more so that the window is a power of two.
pub(super) const WINDOW: usize = 16;

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Its length.
    pub len: u8,
    /// Where in it the operand is that counts from its end, 0 if it has none.
    pub operand: u8,
    /// What it does with that operand.
    pub form: Form,
}

/// What matters of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing.
    Other,
    /// Jumps by one signed byte.
    Short,
    /// Jumps or calls by four signed bytes.
    Branch,
    /// Has an operand in memory, four signed bytes from its end.
    Memory,
    /// As [`Form::Memory`], and only takes the address, into a register.
    Take(u8),
    /// Reads four bytes, sign extended, at a register plus four times another: an entry of a table.
    Entry(u8),
}

/// Flags of an opcode: the low three bits are the immediate's sort.
const BAD: u8 = 0x80;
const MODRM: u8 = 0x08;
const PREFIX: u8 = 0x10;
const IMM8: u8 = 1;
const IMM16: u8 = 2;
/// Two or four bytes, by the operand's size.
const IMM: u8 = 3;
/// As [`IMM`], or eight.
const IMM64: u8 = 4;
/// An absolute address.
const FAR: u8 = 5;
/// Two and one.
const IMM24: u8 = 6;
/// Immediate only when the ModRM's second opcode is 0 or 1.
const TEST: u8 = 0x20;

static ONE: [u8; 256] = one();
static TWO: [u8; 256] = two();

/// Measures the instruction at the start of a window; `None` if there is none such.
///
/// Nine of ten instructions are simple: at most a REX prefix, an opcode of one or two bytes, perhaps a ModRM. Hardly anything of theirs is decided by branches, of which
/// a processor would guess two in each instruction wrong.
#[inline]
pub(super) fn measure(window: &[u8; WINDOW]) -> Option<Instruction> {
    // Read once and shifted: each instruction waits for the length of the one before, so what counts is how long that takes.
    let mut bytes = u64::from_le_bytes(*window.first_chunk().expect("eight of sixteen"));
    let has_rex = bytes & 0xf0 == 0x40;
    let rex = if has_rex { bytes as u8 } else { 0 };
    bytes >>= 8 * u32::from(has_rex);
    let mut at = 1 + u8::from(has_rex);
    let mut op = bytes as u8;
    let mut simple = SIMPLE_ONE[usize::from(op)];
    if op == 0x0f {
        at += 1;
        bytes >>= 8;
        op = bytes as u8;
        simple = SIMPLE_TWO[usize::from(op)];
    }
    if simple == 0 || simple & WIDE != 0 && rex & 8 != 0 {
        return measure_any(window);
    }
    let (modrm, sib) = ((bytes >> 8) as u8, (bytes >> 16) as u8);
    let has_modrm = simple & HAS_MODRM != 0;
    let without_base = modrm & 0xc7 == 4 && sib & 7 == 5;
    let tail = if has_modrm { TAIL[usize::from(modrm)] + if without_base { 4 } else { 0 } } else { 0 };
    let len = at + tail + (simple & N_IMMEDIATE);
    let (operand, form) = if simple & RELATIVE != 0 {
        (at, if simple & N_IMMEDIATE == 1 { Form::Short } else { Form::Branch })
    } else if has_modrm && modrm & 0xc7 == 5 {
        let takes = op == 0x8d && rex & 8 != 0;
        (at + 1, if takes { Form::Take(modrm >> 3 & 7 | (rex & 4) << 1) } else { Form::Memory })
    } else if op == 0x63 && has_modrm && modrm & 0xc7 == 4 && sib & 0xc0 == 0x80 && !without_base {
        (0, Form::Entry(sib & 7 | (rex & 1) << 3))
    } else {
        (0, Form::Other)
    };
    Some(Instruction { len, operand, form })
}

/// What is known of a simple opcode, nothing of others: how long its immediate is,
const N_IMMEDIATE: u8 = 7;
/// whether it has a ModRM,
const HAS_MODRM: u8 = 8;
/// whether it jumps by its immediate,
const RELATIVE: u8 = 0x10;
/// whether the prefix for wide operands makes it longer,
const WIDE: u8 = 0x20;
/// and that it is simple at all.
const SIMPLE: u8 = 0x80;

static SIMPLE_ONE: [u8; 256] = simple(&ONE, false);
static SIMPLE_TWO: [u8; 256] = simple(&TWO, true);

const fn simple(flags: &[u8; 256], two: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut op = 0;
    while op < 256 {
        let more_follows = if two { op == 0x38 || op == 0x3a } else { matches!(op, 0x0f | 0x62 | 0xc4 | 0xc5) };
        let relative = if two { op & 0xf0 == 0x80 } else { matches!(op, 0x70..=0x7f | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb) };
        let immediate = match flags[op] & 7 {
            0 => Some(0),
            IMM8 => Some(1),
            IMM16 => Some(2),
            IMM => Some(4),
            IMM64 => Some(4 | WIDE),
            _ => None,
        };
        if let (Some(immediate), false) = (immediate, more_follows || flags[op] & (BAD | PREFIX | TEST) != 0) {
            let modrm = if flags[op] & MODRM != 0 { HAS_MODRM } else { 0 };
            table[op] = SIMPLE | immediate | modrm | if relative { RELATIVE } else { 0 };
        }
        op += 1;
    }
    table
}

/// How long a ModRM is with the SIB and the displacement that follow it.
static TAIL: [u8; 256] = {
    let mut table = [0; 256];
    let mut modrm = 0;
    while modrm < 256 {
        let (mode, rm) = (modrm >> 6, modrm & 7);
        let displacement = match mode {
            0 if rm == 5 => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        table[modrm] = 1 + displacement + if mode != 3 && rm == 4 { 1 } else { 0 };
        modrm += 1;
    }
    table
};

/// The same for all instructions.
#[inline(never)]
fn measure_any(window: &[u8; WINDOW]) -> Option<Instruction> {
    let byte = |at: usize| window[at & (WINDOW - 1)];
    let (mut at, mut rex, mut narrow) = (0usize, 0u8, false);
    let mut op = byte(0);
    let mut flags = ONE[op as usize];
    while flags & PREFIX != 0 {
        if op & 0xf0 == 0x40 {
            rex = op;
        } else {
            rex = 0;
            narrow |= op == 0x66;
        }
        at += 1;
        if at >= WINDOW - 1 {
            return None;
        }
        op = byte(at);
        flags = ONE[op as usize];
    }
    at += 1;
    let mut form = Form::Other;
    match op {
        0x0f => {
            op = byte(at);
            at += 1;
            flags = match op {
                0x38 | 0x3a => {
                    at += 1;
                    if op == 0x38 { MODRM } else { MODRM | IMM8 }
                }
                _ => TWO[op as usize],
            };
            if op & 0xf0 == 0x80 {
                form = Form::Branch;
                narrow = false;
            }
        }
        0xc4 | 0xc5 | 0x62 => {
            let (map, skip) = match op {
                0xc5 => (1, 1),
                0xc4 => (byte(at) & 0x1f, 2),
                _ => (byte(at) & 7, 3),
            };
            at += skip;
            op = byte(at);
            at += 1;
            flags = match map {
                1 => TWO[op as usize] | if op == 0x77 { 0 } else { MODRM },
                2 | 5 | 6 => MODRM,
                3 => MODRM | IMM8,
                _ => BAD,
            };
        }
        0xe8 | 0xe9 => {
            form = Form::Branch;
            narrow = false;
        }
        0x70..=0x7f | 0xe0..=0xe3 | 0xeb => form = Form::Short,
        _ => {}
    }
    if flags & BAD != 0 {
        return None;
    }
    let mut memory = 0;
    if flags & MODRM != 0 {
        let modrm = byte(at);
        at += 1;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if flags & TEST != 0 && modrm & 0x30 != 0 {
            flags &= !7;
        }
        if mode != 3 {
            let sib = byte(at);
            if rm == 4 {
                at += 1;
                if mode == 0 && op == 0x63 && sib & 0xc0 == 0x80 && sib & 7 != 5 {
                    form = Form::Entry(sib & 7 | (rex & 1) << 3);
                }
            }
            match mode {
                0 if rm == 5 => {
                    memory = at;
                    form = if op == 0x8d && rex & 8 != 0 { Form::Take(modrm >> 3 & 7 | (rex & 4) << 1) } else { Form::Memory };
                    at += 4;
                }
                0 if rm == 4 && sib & 7 == 5 => at += 4,
                1 => at += 1,
                2 => at += 4,
                _ => {}
            }
        }
    }
    if matches!(form, Form::Short | Form::Branch) {
        memory = at;
    }
    at += match flags & 7 {
        0 => 0,
        IMM8 => 1,
        IMM16 => 2,
        IMM if narrow => 2,
        IMM => 4,
        IMM64 if rex & 8 != 0 => 8,
        IMM64 if narrow => 2,
        IMM64 => 4,
        FAR => 8,
        _ => 3,
    };
    (at < WINDOW).then_some(Instruction { len: at as u8, operand: memory as u8, form })
}

/// The opcodes of one byte.
const fn one() -> [u8; 256] {
    let mut table = [0; 256];
    let mut op = 0;
    while op < 256 {
        table[op] = match op {
            // Eight operations: four with ModRM, two with an immediate, two that are gone in 64-bit mode, or prefixes.
            0x00..=0x3f => match op & 7 {
                0..=3 => MODRM,
                4 => IMM8,
                5 => IMM,
                _ if op == 0x0f => 0,
                _ if op == 0x26 || op == 0x2e || op == 0x36 || op == 0x3e => PREFIX,
                _ => BAD,
            },
            0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => PREFIX,
            0x60 | 0x61 | 0x82 | 0x9a | 0xea | 0xd4..=0xd6 | 0xce => BAD,
            0x62 | 0xc4 | 0xc5 => 0,
            0x63 => MODRM,
            0x68 => IMM,
            0x69 => MODRM | IMM,
            0x6a => IMM8,
            0x6b => MODRM | IMM8,
            0x70..=0x7f | 0xe0..=0xe7 | 0xeb => IMM8,
            0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => MODRM | IMM8,
            0x81 | 0xc7 => MODRM | IMM,
            0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => MODRM,
            0xa0..=0xa3 => FAR,
            0xa8 | 0xb0..=0xb7 | 0xcd => IMM8,
            0xa9 | 0xe8 | 0xe9 => IMM,
            0xb8..=0xbf => IMM64,
            0xc2 | 0xca => IMM16,
            0xc8 => IMM24,
            0xf6 => MODRM | TEST | IMM8,
            0xf7 => MODRM | TEST | IMM,
            _ => 0,
        };
        op += 1;
    }
    table
}

/// The opcodes after 0F.
const fn two() -> [u8; 256] {
    let mut table = [MODRM; 256];
    let mut op = 0;
    while op < 256 {
        table[op] = match op {
            0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => 0,
            0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x39 | 0x3b..=0x3f | 0xa6 | 0xa7 => BAD,
            0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM | IMM8,
            0x80..=0x8f => IMM,
            _ => MODRM,
        };
        op += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], len: u8, operand: u8, form: Form) {
        let mut window = [0x90; WINDOW];
        window[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(measure(&window), Some(Instruction { len, operand, form }));
    }

    #[test]
    fn instructions_have_the_lengths_of_the_manual() {
        check(&[0x90], 1, 0, Form::Other);
        check(&[0xe8, 1, 2, 3, 4], 5, 1, Form::Branch);
        check(&[0x0f, 0x84, 1, 2, 3, 4], 6, 2, Form::Branch);
        check(&[0x74, 5], 2, 1, Form::Short);
        check(&[0x48, 0x8d, 0x05, 1, 2, 3, 4], 7, 3, Form::Take(0));
        check(&[0x4c, 0x8d, 0x3d, 1, 2, 3, 4], 7, 3, Form::Take(15));
        check(&[0x48, 0x63, 0x04, 0x82], 4, 0, Form::Entry(2));
        check(&[0x49, 0x63, 0x04, 0x86], 4, 0, Form::Entry(14));
        check(&[0x48, 0x83, 0x3d, 1, 2, 3, 4, 5], 8, 3, Form::Memory);
        check(&[0xc7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8], 10, 2, Form::Memory);
        check(&[0x66, 0xc7, 0x05, 1, 2, 3, 4, 5, 6], 9, 3, Form::Memory);
        check(&[0xf6, 0x05, 1, 2, 3, 4, 5], 7, 2, Form::Memory);
        check(&[0xf7, 0xd8], 2, 0, Form::Other);
        check(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], 10, 0, Form::Other);
        check(&[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], 9, 0, Form::Other);
        check(&[0xc5, 0xf8, 0x10, 0x05, 1, 2, 3, 4], 8, 4, Form::Memory);
        check(&[0xc4, 0xe3, 0x79, 0x0f, 0x05, 1, 2, 3, 4, 5], 10, 5, Form::Memory);
        check(&[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x05, 1, 2, 3, 4], 10, 6, Form::Memory);
        check(&[0x66, 0x0f, 0x3a, 0x0f, 0x05, 1, 2, 3, 4, 5], 10, 5, Form::Memory);
        check(&[0x8b, 0x84, 0x24, 1, 2, 3, 4], 7, 0, Form::Other);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4096))]

        #[test]
        fn simple_instructions_are_measured_like_all(
            prefixes in proptest::collection::vec(proptest::prop_oneof![0x40_u8..0x50, proptest::prelude::Just(0x66), proptest::prelude::Just(0x0f)], 0..3),
            rest in proptest::array::uniform16(proptest::prelude::any::<u8>()),
        ) {
            let mut window = rest;
            window[..prefixes.len()].copy_from_slice(&prefixes);
            for op in 0..=255 {
                window[prefixes.len()] = op;
                proptest::prop_assert_eq!(measure(&window), measure_any(&window), "{:x?}", window);
            }
        }
    }

    #[test]
    fn what_is_no_instruction_has_no_length() {
        assert_eq!(measure(&[0x66; WINDOW]), None);
        assert_eq!(measure(&[0x06; WINDOW]), None);
    }
}
