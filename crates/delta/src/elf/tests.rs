//! What all of it together promises, on a file made here and on this very test program.

use proptest::prelude::*;

use super::*;

mod moved;

/// Puts together an ELF file with one load of all its sections, from a name, a type, flags and bytes for each, at the address of their offset.
fn file(sections: &[(&str, u32, u64, Vec<u8>)]) -> Vec<u8> {
    loaded(sections, sections.len())
}

/// The same with a load of so many sections that holds code, and one of the others that does not.
fn loaded(sections: &[(&str, u32, u64, Vec<u8>)], n_code: usize) -> Vec<u8> {
    let n_loads = if n_code < sections.len() { 2 } else { 1 };
    let mut names = vec![0];
    let mut bytes = vec![0; 64 + 56 * n_loads];
    let mut data = 0;
    let mut headers = vec![0; 64];
    let mut header = |name: u32, kind: u32, flags: u64, at: usize, len: usize| {
        let address = if flags & 2 != 0 { at as u64 } else { 0 };
        headers.extend([name.to_le_bytes(), kind.to_le_bytes()].concat());
        headers.extend([flags, address, at as u64, len as u64, 0, 8, 0].map(u64::to_le_bytes).concat());
    };
    for (nth, (name, kind, flags, content)) in sections.iter().enumerate() {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        data = if nth == n_code { bytes.len() as u64 } else { data };
        header(names.len() as u32, *kind, *flags, bytes.len(), content.len());
        names.extend([name.as_bytes(), b"\0"].concat());
        bytes.extend(content);
    }
    let name = names.len() as u32;
    names.extend(b".shstrtab\0");
    header(name, 3, 0, bytes.len(), names.len());
    bytes.extend(&names);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let (at, n) = (bytes.len() as u64, (headers.len() / 64) as u16);
    bytes.extend(headers);
    let len = bytes.len() as u64;
    bytes[..24].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0");
    bytes[32..48].copy_from_slice(&[64, at].map(u64::to_le_bytes).concat());
    bytes[52..64].copy_from_slice(&[64, 56, n_loads as u16, 64, n, n - 1].map(u16::to_le_bytes).concat());
    let code = if n_loads > 1 { (0, data, data) } else { (0, len, len + 64) };
    for (nth, (flags, (from, to, end))) in [(5_u32, code), (4, (data, len, len + 64))].into_iter().enumerate().take(n_loads) {
        let header = [&1_u32.to_le_bytes()[..], &flags.to_le_bytes()].concat();
        let numbers = [from, from, from, to - from, end - from, 0x1000].map(u64::to_le_bytes).concat();
        bytes[64 + 56 * nth..][..56].copy_from_slice(&[header, numbers].concat());
    }
    bytes
}

/// A function that calls itself and takes an address, and two relocated words.
fn program() -> Vec<u8> {
    let code = [&[0xe8, 0xfb, 0xff, 0xff, 0xff, 0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff, 0xc3][..], &[0xcc; 19]].concat();
    let relocations = |words: u64| [words, 8, 120, words + 8, 8, 125].map(u64::to_le_bytes).concat();
    let sections =
        |words| [(".text", 1, 6, code.clone()), (".rela.dyn", 4, 2, relocations(words)), (".data.rel.ro", 1, 3, vec![0; 24])];
    file(&sections(120 + 32 + 48))
}

#[track_caller]
fn check_round_trip(bytes: &[u8]) -> (Transformed, Vec<u8>) {
    let mut there = bytes.to_vec();
    let transformed = forward(&mut there).expect("a program");
    let mut back = there.clone();
    inverse(&mut back, transformed.flags).expect("the way back");
    assert!(back == bytes, "what comes back is something else");
    (transformed, there)
}

#[test]
fn relocated_words_hold_their_addresses_and_the_table_nothing() {
    let (transformed, there) = check_round_trip(&program());
    assert_eq!(transformed.pointers, [200, 208]);
    assert_eq!(there[200..206], [120, 0, 0, 0, 0, 0]);
    assert!(there[168..200].iter().all(|byte| *byte == 0));
}

#[test]
fn a_relocation_that_reads_as_a_count_of_others_leaves_all_where_they_are() {
    let mut bytes = program();
    // The first relocation's type becomes one that does not exist; the second one stays relative.
    bytes[152 + 8..152 + 16].copy_from_slice(&0x0308_u64.to_le_bytes());
    let (transformed, there) = check_round_trip(&bytes);
    assert!(transformed.pointers.is_empty() && there == bytes);
}

#[test]
fn words_that_are_at_two_addresses_stay_where_they_are() {
    let mut bytes = program();
    // The same stretch of the file twice in memory, and relocations for the words at its second address.
    let (loads, shift) = (bytes.len() as u64, 0x10_0000_u64);
    let load: Vec<u8> = bytes[64..120].to_vec();
    bytes.extend(&load);
    bytes.extend(&load);
    let second = loads as usize + 56;
    bytes[second + 16..second + 24].copy_from_slice(&shift.to_le_bytes());
    bytes[32..40].copy_from_slice(&loads.to_le_bytes());
    bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
    for at in [152, 176] {
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        bytes[at..at + 8].copy_from_slice(&(word + shift).to_le_bytes());
    }
    assert!(check_round_trip(&bytes).0.pointers.is_empty());
}

#[test]
fn calls_addresses_and_words_refer_to_what_they_mean() {
    let (mut transformed, there) = check_round_trip(&program());
    let image = Image::read(&program()).expect("a program");
    let found = references(&image, &there, &mut transformed);
    let targets: Vec<_> =
        found.iter().filter(|r| (120..224).contains(&r.at)).map(|r| (r.at, r.kind, r.target(image.layout(), &there))).collect();
    let expected = [
        (121, Kind::Operand, Some(120)),
        (128, Kind::Operand, Some(116)),
        (200, Kind::Address, Some(120)),
        (208, Kind::Address, Some(125)),
    ];
    assert_eq!(targets, expected);
}

#[test]
fn a_moved_reference_reads_what_its_target_became() {
    let image = Image::read(&program()).expect("a program");
    let call = Reference { at: 121, base: 121, kind: Kind::Operand, width: 4, bias: 4 };
    let mut out = vec![0; 200];
    assert!(call.write(image.layout(), 140, 140, 120, &mut out));
    assert_eq!(out[140..144], (-24i32).to_le_bytes());
    assert!(!call.write(image.layout(), 140, 140, u32::MAX, &mut out));
}

#[test]
fn this_program_goes_there_and_back_and_its_references_read_themselves() {
    let path = std::env::current_exe().expect("a test has a program");
    let bytes = std::fs::read(path).expect("the program can be read");
    let (mut transformed, there) = check_round_trip(&bytes);
    let image = Image::read(&there).expect("still a program");
    let found = references(&image, &there, &mut transformed);
    assert!(found.len() > 10_000, "{} references", found.len());
    let mut end = 0;
    let mut again = there.clone();
    for reference in &found {
        assert!(reference.at >= end);
        end = reference.at + u32::from(reference.width);
        if let Some(target) = reference.target(image.layout(), &there) {
            reference.write(image.layout(), reference.at, reference.base, target, &mut again);
        }
    }
    assert!(again == there);
}

#[test]
fn layouts_of_this_program_travel() {
    let bytes = std::fs::read(std::env::current_exe().expect("a test has a program")).expect("the program can be read");
    let (new, old) = (Image::read(&bytes).expect("a program"), Image::read(&program()).expect("a program"));
    let mut encoded = Vec::new();
    new.layout().encode(old.layout(), &mut encoded);
    assert_eq!(Layout::decode(old.layout(), &encoded, &mut 0).as_ref(), Some(new.layout()));
}

/// A unit with one function, its names, its lines and its ranges.
fn debugged() -> Vec<u8> {
    let text = vec![0x90; 64];
    let abbreviations = vec![
        1, 0x11, 1, 0x03, 0x0e, 0x10, 0x17, 0x11, 0x01, 0x12, 0x06, 0x55, 0x17, 0, 0, 2, 0x2e, 0, 0x03, 0x0e, 0x3a, 0x0b, 0x31,
        0x13, 0, 0, 0,
    ];
    let mut entries = vec![0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    entries.extend([120u64.to_le_bytes().to_vec(), vec![32, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 1, 11, 0, 0, 0, 0]].concat());
    entries[0] = entries.len() as u8 - 4;
    let mut lines = vec![0, 0, 0, 0, 4, 0, 2, 0, 0, 0, 1, 1, 1, 0xfb, 14, 13, 0, 0, 0];
    lines.extend([vec![0, 9, 2], 120u64.to_le_bytes().to_vec(), vec![4, 1, 3, 2, 0, 1, 1]].concat());
    lines[0] = lines.len() as u8 - 4;
    file(&[
        (".text", 1, 6, text),
        (".debug_abbrev", 1, 0, abbreviations),
        (".debug_info", 1, 0, entries),
        (".debug_ranges", 1, 0, [120u64, 130, 0, 0].map(u64::to_le_bytes).concat()),
        (".debug_str", 1, 0, b"a\0main\0".to_vec()),
        (".debug_line", 1, 0, lines),
    ])
}

#[test]
fn entries_refer_to_names_code_and_each_other() {
    let bytes = debugged();
    let image = Image::read(&bytes).expect("a program");
    let entries = image.section(".debug_info").expect("made above").clone();
    let found = references(&image, &bytes, &mut Transformed::default());
    let inside = found.iter().filter(|r| r.at >= entries.at && r.at < entries.end());
    let kinds: Vec<_> = inside.map(|r| (r.at - entries.at, r.kind, r.width)).collect();
    let expected = [
        (0, Kind::Within, 4),
        (6, Kind::Part, 4),
        (11, Kind::Number, 1),
        (12, Kind::Part, 4),
        (16, Kind::Part, 4),
        (20, Kind::Address, 8),
        (28, Kind::From, 4),
        (32, Kind::Part, 4),
        (36, Kind::Number, 1),
        (37, Kind::Part, 4),
        (41, Kind::Number, 1),
        (42, Kind::Entry, 4),
    ];
    assert_eq!(kinds, expected);
}

proptest! {
    /// Whatever the bytes are: what goes there either comes back or is refused, and nothing panics.
    #[test]
    fn damaged_programs_are_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), debug in any::<bool>()) {
        let mut bytes = if debug { debugged() } else { program() };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut there = bytes.clone();
        let mut transformed = forward(&mut there).unwrap_or_default();
        for flags in 0..32 {
            let _ = inverse(&mut there.clone(), Flags(flags));
        }
        if let Some(image) = Image::read(&there) {
            let mut encoded = Vec::new();
            image.layout().encode(&Layout::default(), &mut encoded);
            let decoded = Layout::decode(&Layout::default(), &encoded, &mut 0);
            prop_assert_eq!(decoded.as_ref(), Some(image.layout()));
            let found = references(&image, &there, &mut transformed);
            let mut out = there.clone();
            for reference in found {
                let target = reference.target(image.layout(), &there).unwrap_or(7);
                reference.write(image.layout(), reference.at, reference.base, target, &mut out);
            }
        }
    }
}
