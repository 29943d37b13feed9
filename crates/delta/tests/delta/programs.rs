//! Programs whose addresses moved.

use df_delta::{Codec, Level, Options};
use proptest::prelude::*;

use crate::trees::{Random, Tree, apply, tree};

/// What lies where in a program that [`program`] links.
const CODE: usize = 0x1000;

/// Links functions to a small x86-64 program: each calls those of the given numbers, loads the address of a word, and has a body of the given length.
fn program(functions: &[(Vec<usize>, usize)], seed: u64) -> Vec<u8> {
    let mut starts = Vec::new();
    let mut end = CODE;
    for (calls, body) in functions {
        starts.push(end);
        end = (end + body + 5 * calls.len() + 7 + 1).next_multiple_of(16);
    }
    let words = end.next_multiple_of(0x1000);
    let mut bytes = vec![0xcc; words + 8 * functions.len()];
    bytes[..CODE].fill(0);
    header(&mut bytes, words);
    for (number, (calls, body)) in functions.iter().enumerate() {
        let mut at = starts[number];
        let relative = |at: usize, to: usize| (to as i32 - at as i32).to_le_bytes();
        for &called in calls {
            bytes[at] = 0xe8;
            bytes[at + 1..at + 5].copy_from_slice(&relative(at + 5, starts[called % functions.len()]));
            at += 5;
        }
        bytes[at..at + 3].copy_from_slice(&[0x48, 0x8d, 0x05]);
        bytes[at + 3..at + 7].copy_from_slice(&relative(at + 7, words + 8 * number));
        at += 7;
        // Bytes that are no instructions with operands, the same whatever the function's number.
        let mut random = Random(seed + *body as u64 + calls.len() as u64);
        (0..*body).for_each(|n| bytes[at + n] = 0x50 + (random.next() % 16) as u8);
        bytes[at + body] = 0xc3;
        bytes[words + 8 * number..][..8].copy_from_slice(&(starts[number] as u64).to_le_bytes());
    }
    bytes
}

/// Writes the ELF header and two loads: code and, a page further, data.
fn header(bytes: &mut [u8], words: usize) {
    let len = bytes.len();
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(CODE as u64).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    for (at, flags, from, to) in [(64, 5_u32, 0, words), (120, 6, words, len)] {
        put(at, &1_u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (field, value) in [(8, from), (16, from), (24, from), (32, to - from), (40, to - from), (48, 0x1000)] {
            put(at + field, &(value as u64).to_le_bytes());
        }
    }
}

/// Functions that call each other at random.
fn functions(n: usize, seed: u64) -> Vec<(Vec<usize>, usize)> {
    let mut random = Random(seed);
    let mut calls = |_| random.below(n);
    (0..n).map(|number| ((0..3).map(&mut calls).collect(), 10 + number * 7 % 90)).collect()
}

/// A program and the same with one function grown and one more, so that all behind them moved. The golden file is made of these.
pub fn pair() -> (Tree, Tree) {
    let old = functions(40, 1);
    let mut new = old.clone();
    new[5].1 += 33;
    new.push((vec![1, 2, 3, 40], 50));
    (tree([("bin/server", program(&old, 2))]), tree([("bin/server", program(&new, 2))]))
}

/// Encodes with one codec, applies, compares; returns the bytes of the delta and whether that codec was taken.
#[track_caller]
fn check(old: &Tree, new: &Tree, options: Options) -> (usize, bool) {
    let (delta, encoded) = crate::trees::encode_with(Some(old), new, options).expect("encodes");
    assert_eq!(&apply(Some(old), new, &delta).expect("applies"), new, "another tree came out");
    (delta.len(), options.codec.is_some_and(|codec| encoded.codecs.of(codec).raw > 0))
}

fn forced(codec: Codec) -> Options {
    Options { level: Level::Fast, codec: Some(codec) }
}

#[test]
fn moved_addresses_cost_little() {
    let old = functions(2000, 3);
    let mut new = old.clone();
    new[100].1 += 48;
    let (old, new) = (tree([("a", program(&old, 4))]), tree([("a", program(&new, 4))]));
    let (patch, _) = check(&old, &new, forced(Codec::Zstd));
    let (elf, taken) = check(&old, &new, forced(Codec::Elf));
    assert!(taken && elf < 400 && elf * 20 < patch, "elf {elf} bytes, patch {patch}");
    let (chosen, _) = check(&old, &new, Level::Fast.into());
    assert_eq!(chosen, elf, "the smallest codec is taken");
}

#[test]
fn several_programs_and_other_files_share_a_piece() {
    let mut random = Random(11);
    let text = |n: usize| format!("line {n} of a text\n").repeat(50).into_bytes();
    let mut old = tree([("lib/notes.so", text(1)), ("lib/random.so", random.bytes(3000)), ("lib/empty.so", vec![])]);
    let mut new =
        tree([("lib/notes.so", [&text(1)[..], b"and more"].concat()), ("lib/fresh.so", text(2)), ("lib/none.so", vec![])]);
    for n in 0..4 {
        let before = functions(50 + n, n as u64);
        let mut after = before.clone();
        after[n].1 += 16 * n;
        old.insert(format!("lib/lib{n}.so.1"), program(&before, n as u64));
        new.insert(format!("lib/lib{n}.so.2"), program(&after, n as u64));
    }
    let (_, taken) = check(&old, &new, forced(Codec::Elf));
    assert!(taken);
    check(&new, &old, forced(Codec::Elf));
    check(&old, &new, Level::Small.into());
    check(&old, &new, forced(Codec::Copy));
}

#[test]
fn a_forced_codec_that_does_not_fit_leaves_it_to_another() {
    let (old, new) = (tree([("a", b"old text ".repeat(30))]), tree([("a", b"new text ".repeat(30))]));
    for codec in Codec::ALL {
        check(&old, &new, forced(codec));
    }
}

/// The smallest shared libraries of this very process: real programs, whatever machine this is.
fn libraries() -> Vec<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let mut paths: Vec<&str> =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|p| p.contains(".so")).collect();
    paths.sort_unstable();
    paths.dedup();
    let read = |path: &str| std::fs::read(path).ok().filter(|bytes| bytes.starts_with(b"\x7fELF") && bytes.len() < 3 << 20);
    let mut found: Vec<Vec<u8>> = paths.into_iter().filter_map(read).collect();
    found.sort_by_key(Vec::len);
    found.truncate(3);
    assert!(!found.is_empty(), "no library of this process can be read, or all are too large");
    found
}

/// Changes some bytes of a program, half of the time in its headers, where it hurts most, and puts others in.
fn mutated(program: &[u8], round: usize, random: &mut Random) -> Vec<u8> {
    let mut new = program.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(if round.is_multiple_of(2) { 0x400.min(new.len()) } else { new.len() });
        new[at] = random.next() as u8;
    }
    let at = random.below(new.len());
    new.splice(at..(at + random.below(30)).min(program.len()), random.bytes(round * 10));
    new
}

#[test]
fn mutated_programs_survive() {
    let mut random = Random(12);
    for library in libraries() {
        let old = tree([("a", library.clone())]);
        let mut n_taken = 0;
        for round in 0..4 {
            let new = tree([("a", mutated(&library, round, &mut random))]);
            for (old, new) in [(&old, &new), (&new, &old)] {
                n_taken += usize::from(check(old, new, forced(Codec::Elf)).1);
            }
        }
        // What has damaged headers may be no program any more; with a change elsewhere it is one.
        assert!(n_taken >= 2, "a library of {} bytes was predicted {n_taken} times of 8", library.len());
    }
}

#[test]
fn mutated_programs_survive_at_the_thorough_level() {
    let mut random = Random(14);
    let library = libraries().swap_remove(0);
    let old = tree([("a", library.clone())]);
    // An odd round changes what is behind the headers, too.
    let new = tree([("a", mutated(&library, 1, &mut random))]);
    let options = Options { level: Level::Small, codec: Some(Codec::Elf) };
    assert!(check(&old, &new, options).1 && check(&new, &old, options).1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn relinked_programs_survive(
        calls in proptest::collection::vec((proptest::collection::vec(0_usize..30, 0..4), 0_usize..80), 1..30),
        changed in proptest::collection::vec((0_usize..30, 0_usize..80), 0..5),
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
    ) {
        let mut after = calls.clone();
        for (number, body) in changed {
            let number = number % after.len();
            after[number].1 = body;
        }
        let (old, mut new) = (program(&calls, 5), program(&after, 5));
        for (at, value) in flips {
            let at = usize::from(at) % new.len();
            new[at] = value;
        }
        let (old, new) = (tree([("a", old)]), tree([("a", new)]));
        for codec in [Codec::Elf, Codec::Copy] {
            check(&old, &new, forced(codec));
            check(&new, &old, forced(codec));
        }
    }
}

#[test]
fn the_golden_pair_is_packed_as_a_program() {
    let (old, new) = pair();
    assert!(check(&old, &new, forced(Codec::Elf)).1);
}

/// Returns deltas of small pairs, one for each codec that predicts, at both levels.
fn small_deltas() -> Vec<(Tree, Tree, Vec<u8>)> {
    let (old, new) = pair();
    let text = |word: &str| {
        tree([("a", [&b"words that stay, ".repeat(20)[..], word.as_bytes(), &b"and more of them; ".repeat(20)].concat())])
    };
    let (old_text, new_text) = (text("old"), text("a new word"));
    let mut out = Vec::new();
    for level in [Level::Fast, Level::Small] {
        for (old, new, codec) in [(&old, &new, Codec::Elf), (&old, &new, Codec::Copy), (&old_text, &new_text, Codec::Copy)] {
            let options = Options { level, codec: Some(codec) };
            let (delta, encoded) = crate::trees::encode_with(Some(old), new, options).expect("encodes");
            assert!(encoded.codecs.of(codec).raw > 0, "{codec:?} was not taken");
            out.push((old.clone(), new.clone(), delta));
        }
    }
    out
}

#[test]
fn every_flipped_byte_of_a_prediction_is_refused_or_harmless() {
    for (old, new, delta) in small_deltas() {
        for at in 21..delta.len() {
            for flip in [1, 0x40, 0xff] {
                let mut damaged = delta.clone();
                damaged[at] ^= flip;
                if let Ok(made) = apply(Some(&old), &new, &damaged) {
                    assert_eq!(made, new, "byte {at} ^ {flip}");
                }
            }
        }
    }
}

#[test]
fn every_truncated_prediction_is_refused() {
    for (old, new, delta) in small_deltas() {
        for len in 0..delta.len() {
            apply(Some(&old), &new, &delta[..len]).expect_err("truncated");
        }
    }
}

#[test]
fn a_prediction_from_a_damaged_program_is_found() {
    let (old, new) = pair();
    let (delta, _) = crate::trees::encode_with(Some(&old), &new, forced(Codec::Elf)).expect("encodes");
    let mut random = Random(13);
    for _ in 0..200 {
        let mut program = old["bin/server"].clone();
        let at = random.below(0x200);
        program[at] ^= 1 + random.below(255) as u8;
        // Named as the good one, as on a failing disk.
        let damaged = crate::trees::Blobs::named_as(&old, tree([("bin/server", program)]));
        if let Ok(made) = crate::trees::apply_to(Some((crate::trees::manifest(&old), damaged)), &new, &delta) {
            assert_eq!(made, new);
        }
    }
}
