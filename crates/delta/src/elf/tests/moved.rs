//! Each sort of reference, in two versions of a small file: when what it means moves, the new file follows from the old one, without a wrong byte.

use super::*;

type Sections = Vec<(&'static str, u32, u64, Vec<u8>)>;

/// By how much what grows does: a multiple of what sections are aligned to.
const GROWN: usize = 64;
/// Code before what grows in it, and behind.
const TEXT: usize = 32;

/// Where sections begin behind one program header.
const START: u64 = 64 + 56;

/// Code that grew in its middle.
fn text(first: &[u8], grown: usize) -> (&'static str, u32, u64, Vec<u8>) {
    let mut code = first.to_vec();
    code.resize(TEXT, 0x90);
    (".text", 1, 6, [code, vec![0xcc; grown], vec![0x90; TEXT]].concat())
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.map(u64::to_le_bytes).concat()
}

fn halves<const N: usize>(halves: [u64; N]) -> Vec<u8> {
    halves.map(|half| (half as u32).to_le_bytes()).concat()
}

/// Moves everything in the old file that is behind one of these places by [`GROWN`], writes what references mean now, and compares with the new file.
#[track_caller]
fn check_moved(old: &[u8], new: &[u8], grown: &[u64]) -> Transformed {
    let ((mut transformed, old), (_, new)) = (check_round_trip(old), check_round_trip(new));
    assert_eq!(new.len(), old.len() + grown.len() * GROWN);
    let (image, after) = (Image::read(&old).expect("a program"), Image::read(&new).expect("a program"));
    let map = |place: u32| place + (grown.iter().filter(|at| u64::from(place) >= **at).count() * GROWN) as u32;
    // What is new is as it is; a byte that is forgotten here would be right by chance.
    let mut made = new.clone();
    (0..old.len()).for_each(|at| made[map(at as u32) as usize] = old[at]);
    assert!(made != new, "nothing moved");
    for reference in references(&image, &old, &mut transformed) {
        if let Some(target) = reference.target(image.layout(), &old) {
            let base = map(reference.base_place().unwrap_or(reference.at));
            assert!(reference.write(after.layout(), map(reference.at), base, map(target), &mut made), "{reference:?}");
        }
    }
    let wrong: Vec<usize> = (0..new.len()).filter(|at| made[*at] != new[*at]).collect();
    assert!(wrong.is_empty(), "wrong at {wrong:?} of {:?}", after.sections().iter().map(|s| (s.at, s.len)).collect::<Vec<_>>());
    transformed
}

/// The same of sections, of which the code is the first and grows.
#[track_caller]
fn check(sections: impl Fn(usize) -> Sections) -> Transformed {
    check_moved(&file(&sections(0)), &file(&sections(GROWN)), &[START + TEXT as u64])
}

/// Where the first section behind the code begins, and where the last bytes of the code do.
fn places(grown: usize) -> (u64, u64) {
    (START + (2 * TEXT + grown) as u64, START + (TEXT + grown) as u64 + 8)
}

#[test]
fn entries_of_jump_tables_move() {
    // In a load of its own, as code may not hold tables: two program headers before the code.
    let start = START + 56;
    for (is_read, n) in [(true, 2), (false, 3)] {
        let of = |grown: usize| {
            let table = start + (2 * TEXT + grown) as u64;
            let take = [&[0x48, 0x8d, 0x15][..], &((table - start - 7) as u32).to_le_bytes()].concat();
            let read: &[u8] = if is_read { &[0x48, 0x63, 0x04, 0x82, 0x48, 0x01, 0xd0, 0xff, 0xe0] } else { &[] };
            let to = |nth: u64| [start + (TEXT + grown) as u64 + nth, start + nth][nth as usize % 2].wrapping_sub(table);
            let entries = (0..n).flat_map(|nth| (to(nth) as u32).to_le_bytes()).chain([0x7f; 8]).collect();
            loaded(&[text(&[&take, read].concat(), grown), (".rodata", 1, 2, entries)], 1)
        };
        check_moved(&of(0), &of(GROWN), &[start + TEXT as u64]);
    }
}

/// Frames at a place with a handler and exception tables there, of functions of eight bytes.
fn frames(at: u64, there: u64, functions: &[u64]) -> Vec<u8> {
    let mut bytes = vec![28, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'P', b'L', b'R', 0, 1, 0x78, 16, 7, 0x1b];
    bytes.extend([&((there - at - 19) as u32).to_le_bytes()[..], &[0x1b, 0x1b], &[0; 7]].concat());
    for function in functions {
        let frame = at + bytes.len() as u64;
        bytes.extend(halves([20, frame + 4 - at, function.wrapping_sub(frame + 8), 8]));
        bytes.extend([&[4][..], &(there.wrapping_sub(frame + 17) as u32).to_le_bytes(), &[0; 3]].concat());
    }
    bytes.extend([0; 8]);
    bytes
}

/// A search table at the start, the code, and its frames with what they refer to in the code behind them.
fn unwound(grown: usize, is_sorted: bool) -> Vec<u8> {
    let code = START + 32;
    let (at, functions) = (code + (2 * TEXT + grown) as u64, [code, code + (TEXT + grown) as u64]);
    let frames = frames(at, at + 96, &functions);
    let mut entries = [(functions[0], at + 32), (functions[1], at + 56)];
    if !is_sorted {
        entries.reverse();
    }
    let entries = entries.map(|(function, frame)| halves([function - START, frame - START])).concat();
    let table = [&[1, 0x1b, 3, 0x3b][..], &halves([at - START - 4, 2]), &entries].concat();
    file(&[(".eh_frame_hdr", 1, 2, table), text(&[], grown), (".eh_frame", 1, 2, frames), (".tables", 1, 2, vec![7; 16])])
}

#[test]
fn frames_and_a_search_table_that_follows_from_them_move() {
    let transformed = check_moved(&unwound(0, true), &unwound(GROWN, true), &[START + 32 + TEXT as u64]);
    assert!(transformed.flags.numbered() && transformed.flags.derived_search_table());
}

#[test]
fn a_search_table_that_does_not_follow_from_frames_moves() {
    let transformed = check_moved(&unwound(0, false), &unwound(GROWN, false), &[START + 32 + TEXT as u64]);
    assert!(!transformed.flags.derived_search_table());
}

#[test]
fn symbols_and_their_names_move() {
    for (kind, flags, names) in [(11, 2, ".dynstr"), (2, 0, ".strtab")] {
        let of = |grown: usize| {
            let code = START + (TEXT + grown) as u64;
            // The name's offset and kind, where it is defined, its address, its length. The last one spans what grows.
            let symbol =
                |name: usize, at: u64, len: u64| [&(name as u32).to_le_bytes()[..], &[2, 0, 1, 0], &words([at, len])].concat();
            let symbols = [symbol(0, 0, 0), symbol(1, code, 4), symbol(5 + grown, START, (TEXT + grown + 4) as u64)].concat();
            let strings = [&b"\0one"[..], &vec![b'x'; grown], b"\0two\0......."].concat();
            file(&[text(&[], grown), (".symbols", kind, flags, symbols), (names, 3, flags, strings)])
        };
        check_moved(&of(0), &of(GROWN), &[START + TEXT as u64, START + 2 * TEXT as u64 + 72 + 4]);
    }
}

#[test]
fn addresses_and_lengths_of_the_dynamic_section_move() {
    check(|grown| {
        let (at, code) = places(grown);
        // The start and the end of a program's life, and relocations from before the code's end to the end of the section.
        let values = [(12, code), (13, code + 8), (7, START), (8, (2 * TEXT + grown) as u64), (9, 24), (5, at + 8), (0, 0)];
        vec![text(&[], grown), (".dynamic", 6, 3, values.map(|(tag, value)| words([tag, value])).concat())]
    });
}

#[test]
fn words_that_a_packed_table_lists_move() {
    check(|grown| {
        let (at, code) = places(grown);
        let data = at + 16;
        // The first word, then of those behind it the first and the third.
        let table = words([data, 0b1011]);
        vec![text(&[], grown), (".relr.dyn", 19, 2, table), (".data.rel.ro", 1, 3, words([code, code + 1, 5, code + 2]))]
    });
}

#[test]
fn relocations_by_symbols_and_resolvers_move() {
    check(|grown| {
        let (at, code) = places(grown);
        let table = words([at + 48, 6, 0, at + 56, 37, code]);
        vec![text(&[], grown), (".rela.dyn", 4, 2, table), (".got", 1, 3, vec![0; 16])]
    });
}

#[test]
fn words_of_a_program_that_is_never_relocated_move() {
    let of = |grown: usize| {
        // Beyond what numbers mostly are, so the code is long.
        let code = (".text", 1, 6, [vec![0x90; 0x2000], vec![0xcc; grown], vec![0x90; TEXT]].concat());
        let mut bytes = file(&[code, (".data", 1, 3, words([START + (0x2000 + grown) as u64, 7, u64::MAX]))]);
        bytes[16] = 2;
        bytes
    };
    check_moved(&of(0), &of(GROWN), &[START + 0x2000]);
}

#[test]
fn names_of_sections_move() {
    let of = |name: &str| file(&[text(&[], 0), (name, 1, 2, vec![1; 8]), (".rodata", 1, 2, vec![2; 8])]);
    // Behind the sections are their names: nothing, the code's, and the one that grows.
    let end = START + 2 * TEXT as u64 + 16 + "\0.text\0.data".len() as u64;
    check_moved(&of(".data"), &of(&format!(".data{}", "x".repeat(GROWN))), &[end]);
}
