//! ELF files made of the few parts that matter, real ones, and broken ones.

use std::io::Cursor;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// An x86-64 file to be: one loadable segment that holds all of it, an interpreter, a dynamic section.
pub(crate) struct Made {
    pub machine: u16,
    pub e_type: u16,
    pub interpreter: Option<&'static str>,
    pub libraries: Vec<&'static str>,
    /// Versions and whether they are weak.
    pub versions: Vec<(&'static str, bool)>,
    pub flags: u64,
}

impl Made {
    pub fn library() -> Self {
        Self { machine: 62, e_type: 3, interpreter: None, libraries: vec![], versions: vec![], flags: 0 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let n_headers = 2 + u64::from(self.interpreter.is_some());
        let mut strings = vec![0];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend([text.as_bytes(), b"\0"].concat());
            at
        };
        let libraries: Vec<u64> = self.libraries.iter().map(|name| string(name)).collect();
        let versions: Vec<(u64, bool)> = self.versions.iter().map(|(name, weak)| (string(name), *weak)).collect();
        let interpreter = string(self.interpreter.unwrap_or_default());
        let strings_at = 64 + n_headers * 56;
        let needs_at = (strings_at + strings.len() as u64).next_multiple_of(8);
        let needs = needs(&versions);
        let dynamic_at = needs_at + needs.len() as u64;
        let mut dynamic: Vec<u64> = libraries.iter().flat_map(|at| [1, *at]).collect();
        dynamic.extend([5, strings_at, 10, strings.len() as u64, 0x6fff_fffb, self.flags]);
        if !versions.is_empty() {
            dynamic.extend([0x6fff_fffe, needs_at, 0x6fff_ffff, 1]);
        }
        dynamic.extend([0, 0]);
        let len = dynamic_at + 8 * dynamic.len() as u64;
        let mut bytes = self.header(n_headers as u16);
        bytes.extend(segment(1, 0, len));
        bytes.extend(segment(2, dynamic_at, 8 * dynamic.len() as u64));
        if let Some(name) = self.interpreter {
            bytes.extend(segment(3, strings_at + interpreter, name.len() as u64 + 1));
        }
        bytes.extend(strings);
        bytes.resize(needs_at as usize, 0);
        bytes.extend(needs);
        bytes.extend(dynamic.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    fn header(&self, n_headers: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([self.e_type, self.machine].iter().flat_map(|half| half.to_le_bytes()));
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend([64, 56, n_headers, 0, 0, 0].iter().flat_map(|half: &u16| half.to_le_bytes()));
        bytes
    }
}

fn needs(versions: &[(u64, bool)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [1_u16, versions.len() as u16].iter().flat_map(|half| half.to_le_bytes()).collect();
    bytes.extend([0_u32, 16, 0].iter().flat_map(|word| word.to_le_bytes()));
    for (at, (name, weak)) in versions.iter().enumerate() {
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend([u16::from(*weak) * 2, 2 + at as u16].iter().flat_map(|half| half.to_le_bytes()));
        let next = if at + 1 == versions.len() { 0 } else { 16 };
        bytes.extend([*name as u32, next].iter().flat_map(|word: &u32| word.to_le_bytes()));
    }
    bytes
}

fn segment(p_type: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = [p_type, 4].iter().flat_map(|half| half.to_le_bytes()).collect();
    bytes.extend([offset, offset, offset, len, len, 8].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// A program that needs a version of the C library.
pub(crate) fn libc_program(version: &'static str) -> Made {
    Made {
        interpreter: Some("/lib64/ld-linux-x86-64.so.2"),
        libraries: vec!["libc.so.6"],
        versions: vec![("GLIBC_2.2.5", false), (version, false)],
        ..Made::library()
    }
}

fn read_bytes(bytes: &[u8]) -> Option<Elf> {
    read(Cursor::new(bytes))
}

fn libc_of(versions: &[(&'static str, bool)]) -> Option<String> {
    read_bytes(&Made { versions: versions.to_vec(), ..libc_program("") }.bytes()).expect("well formed").libc
}

#[test]
fn a_program_says_what_loads_it_and_what_it_names() {
    let elf = read_bytes(&libc_program("GLIBC_2.34").bytes()).expect("well formed");
    let expected = Elf {
        machine: "x86_64".into(),
        is_program: true,
        interpreter: Some("/lib64/ld-linux-x86-64.so.2".into()),
        libc: Some("2.34".into()),
        libraries: vec!["libc.so.6".into()],
    };
    assert_eq!(elf, expected);
}

#[test]
fn the_newest_version_counts_by_its_numbers() {
    assert_eq!(libc_of(&[("GLIBC_2.9", false), ("GLIBC_2.34", false), ("GLIBC_2.2.5", false)]).as_deref(), Some("2.34"));
    assert_eq!(libc_of(&[("GLIBC_2.2.5", false), ("GLIBC_2.2", false)]).as_deref(), Some("2.2.5"));
    assert_eq!(libc_of(&[("GLIBC_2.17", false), ("GLIBC_ABI_DT_RELR", false)]).as_deref(), Some("2.36"));
    assert_eq!(libc_of(&[("GLIBC_2.38", false), ("GLIBC_ABI_DT_RELR", false)]).as_deref(), Some("2.38"));
}

#[test]
fn what_says_nothing_about_the_c_library_is_passed_over() {
    let others = [
        ("GLIBC_PRIVATE", false),
        ("GLIBC_2.x", false),
        ("GLIBC_", false),
        ("GLIBC_2.123456", false),
        ("GLIBC_2", false),
        ("GLIBC_2.-1", false),
        ("GLIBC_+2.3", false),
        ("GCC_3.0", false),
        ("GLIBC_2.99", true),
    ];
    assert_eq!(libc_of(&others), None);
    assert_eq!(libc_of(&[]), None);
}

#[test]
fn machines_have_their_names() {
    let of = |machine| read_bytes(&Made { machine, ..Made::library() }.bytes()).expect("well formed").machine;
    assert_eq!((of(62), of(183), of(243), of(9999)), ("x86_64".into(), "aarch64".into(), "riscv64".into(), "elf-9999".into()));
}

#[test]
fn libraries_programs_and_static_ones_are_told_apart() {
    let is_program = |made: Made| read_bytes(&made.bytes()).expect("well formed").is_program;
    assert!(!is_program(Made::library()));
    assert!(is_program(Made { e_type: 2, ..Made::library() }));
    assert!(is_program(Made { flags: 0x0800_0000, ..Made::library() }));
    assert_eq!(read_bytes(&Made { e_type: 1, ..Made::library() }.bytes()), None, "an object file");
    assert_eq!(read_bytes(&Made { e_type: 4, ..Made::library() }.bytes()), None, "a core dump");
}

#[test]
fn foreign_text_is_escaped_and_short() {
    let elf = read_bytes(&Made { interpreter: Some("/lib/\u{1b}[2Jx"), ..Made::library() }.bytes()).expect("well formed");
    assert_eq!(elf.interpreter.as_deref(), Some("/lib/\\u{1b}[2Jx"));
    let long: &'static str = Box::leak("/x".repeat(3000).into_boxed_str());
    let elf = read_bytes(&Made { interpreter: Some(long), ..Made::library() }.bytes()).expect("well formed");
    assert!(elf.interpreter.expect("it has one").len() <= NAME_LEN);
}

#[test]
fn this_very_test_is_a_program() {
    let file = std::fs::File::open("/proc/self/exe").expect("it can be read");
    let elf = read(file).expect("well formed");
    assert!(elf.is_program);
    assert_eq!(elf.machine, std::env::consts::ARCH);
    if cfg!(all(target_env = "gnu", not(target_feature = "crt-static"))) {
        assert!(elf.libc.expect("it names versions").starts_with("2."));
        assert!(elf.libraries.contains(&"libc.so.6".to_owned()));
    }
}

#[test]
fn versions_that_follow_one_another_in_a_circle_come_to_an_end() {
    let mut bytes = libc_program("GLIBC_2.34").bytes();
    let at = bytes.windows(8).position(|window| window == [1, 0, 2, 0, 0, 0, 0, 0]).expect("the first need");
    // 65,535 versions, each the same, and then the same again.
    bytes[at + 2..at + 4].copy_from_slice(&u16::MAX.to_le_bytes());
    bytes[at + 16 + 12..at + 16 + 16].copy_from_slice(&0_u32.to_le_bytes());
    let begun = Instant::now();
    assert_eq!(read_bytes(&bytes), None);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cut_file_is_no_program_and_takes_no_memory() {
    let bytes = libc_program("GLIBC_2.34").bytes();
    for len in 0..bytes.len() {
        assert_eq!(read_bytes(&bytes[..len]), None, "{len} bytes");
    }
    // A sparse file whose dynamic section is said to be most of it.
    let mut huge = bytes.clone();
    let dynamic_len_at = 64 + 56 + 32;
    huge[dynamic_len_at..dynamic_len_at + 8].copy_from_slice(&(64_u64 << 20).to_le_bytes());
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("huge"), &huge).expect("written");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(dir.path().join("huge")).expect("it is there");
    file.set_len(1 << 27).expect("a sparse file");
    assert_eq!(read(file), None);
}

proptest! {
    #[test]
    fn broken_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut bytes = libc_program("GLIBC_2.34").bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_bytes(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_bytes(&bytes);
    }

    #[test]
    fn a_real_program_with_broken_headers_never_panics(changes in prop::collection::vec((0..4096_usize, any::<u8>()), 1..8)) {
        let head = real();
        let mut bytes = head.to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        read_bytes(&bytes);
    }
}

/// The system's shell: a real program of moderate size.
fn real() -> &'static [u8] {
    static REAL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    REAL.get_or_init(|| std::fs::read("/bin/sh").expect("every system has one"))
}
