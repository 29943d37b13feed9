//! What is said of two trees that differ.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// Two trees, one changed, and what is said of them.
struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        ["here", "there"].iter().for_each(|side| fs::create_dir(dir.path().join(side)).expect("made"));
        Self { dir }
    }

    fn file(self, path: &str, here: impl AsRef<[u8]>, there: impl AsRef<[u8]>) -> Self {
        for (side, bytes) in [("here", here.as_ref()), ("there", there.as_ref())] {
            let file = self.path(side, path);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, bytes).expect("written");
        }
        self
    }

    fn path(&self, side: &str, path: &str) -> PathBuf {
        self.dir.path().join(side).join(path)
    }

    fn compare(&self, varied: &[Varied]) -> Vec<Difference> {
        compare(&self.dir.path().join("here"), &self.dir.path().join("there"), varied).expect("compared")
    }

    fn lines(&self) -> Vec<String> {
        self.compare(&[]).iter().flat_map(Difference::lines).collect()
    }
}

/// Makes a small ELF file of these sections.
fn elf_of(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut body = vec![0_u8; 64];
    let mut headers = vec![[0_u8; 64]];
    let mut add = |name: &str, bytes: &[u8], names: &mut Vec<u8>, body: &mut Vec<u8>| {
        let mut header = [0_u8; 64];
        header[..4].copy_from_slice(&u32::try_from(names.len()).expect("short").to_le_bytes());
        header[4] = if name == ".shstrtab" { 3 } else { 1 };
        names.extend([name.as_bytes(), b"\0"].concat());
        header[24..32].copy_from_slice(&(body.len() as u64).to_le_bytes());
        let bytes = if name == ".shstrtab" { names.clone() } else { bytes.to_vec() };
        header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        body.extend(bytes);
        headers.push(header);
    };
    for (name, bytes) in sections.iter().chain(&[(".shstrtab", &b""[..])]) {
        add(name, bytes, &mut names, &mut body);
    }
    let (at, n) = (body.len() as u64, u16::try_from(headers.len()).expect("few"));
    headers.iter().for_each(|header| body.extend(header));
    body[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    body[16] = 2;
    body[18] = 62;
    body[20] = 1;
    body[40..48].copy_from_slice(&at.to_le_bytes());
    body[52] = 64;
    body[58] = 64;
    body[60..62].copy_from_slice(&n.to_le_bytes());
    body[62..64].copy_from_slice(&(n - 1).to_le_bytes());
    body
}

#[test]
fn equal_trees_do_not_differ_whatever_their_modes_and_times() {
    let pair = Pair::new().file("bin/a", "same", "same");
    fs::set_permissions(pair.path("there", "bin/a"), fs::Permissions::from_mode(0o444)).expect("mode");
    fs::set_permissions(pair.path("there", "bin"), fs::Permissions::from_mode(0o555)).expect("mode");
    assert_eq!(pair.compare(&[]), []);
}

#[test]
fn each_kind_of_difference_is_said_of_its_path() {
    let pair = Pair::new().file("x", "1", "1").file("both", "1", "1").file("kind", "1", "1").file("d/f\x1b", "1", "2");
    fs::write(pair.path("here", "gone"), "").expect("written");
    fs::create_dir_all(pair.path("there", "new/deep")).expect("made");
    fs::set_permissions(pair.path("there", "x"), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::remove_file(pair.path("there", "kind")).expect("removed");
    fs::create_dir(pair.path("there", "kind")).expect("made");
    symlink("a", pair.path("here", "link")).expect("a link");
    symlink("b\n", pair.path("there", "link")).expect("a link");
    let expected = [
        "d/f\\u{1b}: differs, 1 bytes",
        "  at 0x0",
        "    here   hex 31",
        "    there  hex 32",
        "gone: is only in the first build",
        "kind: is a file, then a directory",
        "link: is a link to a, then to b\\n",
        "new: is only in the second build",
        "x: is not executable, then it is",
    ];
    assert_eq!(pair.lines(), expected);
}

#[test]
fn a_time_in_a_program_is_shown_with_its_section() {
    let program = |time: &str, id: &[u8]| {
        let texts = format!("called `unwrap` on a `None` valuebuilt at {time}\0usage: app");
        elf_of(&[(".text", b"\x90\x90"), (".note.gnu.build-id", id), (".rodata", texts.as_bytes())])
    };
    let pair = Pair::new().file("bin/app", program("1763701234", b"\x01\x02"), program("1763701299", b"\x03\x04"));
    let len = program("1763701234", b"\x01\x02").len();
    let expected = [
        format!("bin/app: differs, {len} bytes (looks like a time)"),
        "  in .rodata, .note.gnu.build-id".to_owned(),
        "  .rodata at 0x32".to_owned(),
        "    here   called `unwrap` on a `None` valuebuilt at 1763701234".to_owned(),
        "    there  called `unwrap` on a `None` valuebuilt at 1763701299".to_owned(),
    ];
    assert_eq!(pair.lines(), expected);
}

#[test]
fn a_longer_text_that_moves_all_behind_it_is_still_found() {
    let program = |text: &str| {
        let offsets: Vec<u8> = (0..200_u32).flat_map(|n| (n + u32::try_from(text.len()).expect("short")).to_le_bytes()).collect();
        elf_of(&[(".rodata", &[&offsets, text.as_bytes(), b"\0the same behind it"].concat())])
    };
    let pair = Pair::new().file("lib.so", program("/tmp/.tmpAbc/out"), program("/tmp/.tmpAbcdef/out"));
    let [difference] = &pair.compare(&[])[..] else { panic!("one difference") };
    assert_eq!(difference.guess, Some(Guess::Path));
    let sections: Vec<_> = difference.sections.iter().map(ToString::to_string).collect();
    assert_eq!(sections, [".rodata (835 bytes, then 838)"]);
    assert_eq!(difference.places[0].here, "/tmp/.tmpAbc/out");
    assert_eq!(difference.places[0].there, "/tmp/.tmpAbcdef/out");
}

#[test]
fn texts_that_a_linker_sorted_otherwise_are_shown_beside_the_ones_they_belong_to() {
    let program = |texts: &[&str]| elf_of(&[(".rodata", texts.join("\0").as_bytes())]);
    let here = program(&["first", "built by 2 jobs", "entity not found", "last"]);
    let there = program(&["first", "entity not found", "built by 1 jobs", "last"]);
    let pair = Pair::new().file("f", here, there);
    let [difference] = &pair.compare(&[])[..] else { panic!("one difference") };
    let texts: Vec<_> = difference.places.iter().map(|place| (place.here.as_str(), place.there.as_str())).collect();
    assert_eq!(texts, [("built by 2 jobs", "built by 1 jobs")]);
}

#[track_caller]
fn guesses(here: &str, there: &str, expected: Option<Guess>) {
    let varied = [
        Varied { what: Guess::Cores, here: "8".into(), there: "3".into() },
        Varied { what: Guess::HostName, here: "df".into(), there: "elsewhere".into() },
    ];
    let plain = Pair::new().file("f", here, there);
    assert_eq!(plain.compare(&varied)[0].guess, expected, "{here} and {there} as text");
    let program = |text: &str| elf_of(&[(".rodata", text.as_bytes())]);
    let pair = Pair::new().file("f", program(here), program(there));
    assert_eq!(pair.compare(&varied)[0].guess, expected, "{here} and {there} in a program");
}

#[test]
fn a_guess_is_made_only_when_it_is_evident() {
    guesses("at 1763701234 s", "at 1763701235 s", Some(Guess::Time));
    guesses("at 1763701234567 ms", "at 1763701234999 ms", Some(Guess::Time));
    guesses("on 2026-11-21 it was", "on 2026-11-22 it was", Some(Guess::Time));
    guesses("clock 05:12:33 said", "clock 05:12:41 said", Some(Guess::Time));
    guesses("made Nov 21 2026 here", "made Nov 22 2026 here", Some(Guess::Time));
    guesses("panicked at /home/ada/src/x.rs:1", "panicked at /home/bob/src/x.rs:1", Some(Guess::Path));
    guesses("valuepanicked/tmp/a1/x.rs", "valuepanicked/tmp/b2/x.rs", Some(Guess::Path));
    guesses("with 8 jobs", "with 3 jobs", Some(Guess::Cores));
    guesses("built on df today", "built on elsewhere today", Some(Guess::HostName));
    guesses("alpha beta gamma delta\n", "gamma beta delta alpha\n", Some(Guess::Order));
    guesses("a number 81 here", "a number 93 here", None);
    guesses("a number 9876543210 is", "a number 9876543211 is", None);
    guesses("token/ab+cd/e", "token/ab+cx/e", None);
    guesses("the words are these", "the words are those", None);
    guesses("ratio 99:88:77 of", "ratio 99:88:78 of", None);
}

#[test]
fn a_time_as_a_number_is_seen() {
    let word = |seconds: u64| [&[0xff; 8][..], &seconds.to_le_bytes(), &[0xff; 8]].concat();
    let pair = Pair::new().file("f", word(1_763_701_234), word(1_763_701_250));
    assert_eq!(pair.compare(&[])[0].guess, Some(Guess::Time));
}

#[test]
fn thousands_of_sections_over_each_other_cost_no_more_than_a_few_readings() {
    let names: Vec<String> = (0..900).map(|n| format!(".s{n}")).collect();
    let mut sections: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let filling = vec![7; 1 << 20];
    sections.push((".rodata", &filling));
    let mut here = elf_of(&sections);
    let (len, at) = (here.len() as u64, u64::from_le_bytes(*here[40..].first_chunk().expect("eight bytes")) as usize);
    for header in here[at..].chunks_exact_mut(64).skip(1).take(900) {
        header[24..32].fill(0);
        header[32..40].copy_from_slice(&len.to_le_bytes());
    }
    let mut there = here.clone();
    there[here.len() / 2] ^= 1;
    assert!(elf::explain(&here, &there, &[]).is_none(), "it is not read as one");
    assert_eq!(text::explain(&here, &there, &[]).places.len(), 1);
}

#[test]
fn bytes_that_steer_a_terminal_are_escaped_and_long_texts_cut() {
    let text = |end: &str| format!("{}\x1b[2J{}{end}", "x".repeat(500), "y".repeat(500));
    let pair = Pair::new().file("f", text("1"), text("2"));
    let lines = pair.lines().join("\n");
    assert!(!lines.contains('\x1b') && lines.len() < 500, "{lines}");
    assert!(lines.contains("...yyyy"), "{lines}");
}

#[test]
fn many_differences_are_listed_and_the_first_of_them_explained() {
    let mut pair = Pair::new();
    for n in 0..N_EXPLAINED + 5 {
        pair = pair.file(&format!("f{n:04}"), "first text", "other text");
    }
    let found = pair.compare(&[]);
    assert_eq!(found.len(), N_EXPLAINED + 5);
    assert_eq!(found.iter().filter(|difference| !difference.places.is_empty()).count(), N_EXPLAINED);
}

#[test]
fn a_file_that_goes_on_is_said_to_differ_where_the_other_ends() {
    let pair = Pair::new().file("f", "line one\n", "line one\nline two\n");
    let expected = ["f: differs, 9 bytes, then 18", "  at 0x9", "    here   (its end)", "    there  line two"].map(str::to_owned);
    assert_eq!(pair.lines(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever a build leaves, there is an answer, and it is short.
    #[test]
    fn damaged_programs_are_compared_all_the_same(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let good = elf_of(&[(".text", &[0x90; 40]), (".rodata", b"some text in it"), (".data", &[7; 30]), (".comment", b"rustc")]);
        let mut bad = good.clone();
        for (at, byte) in changes {
            let at = at.index(bad.len());
            bad[at] = byte;
        }
        if is_cut {
            bad.truncate(cut.index(good.len()));
        }
        for (here, there) in [(&good, &bad), (&bad, &good)] {
            if here == there {
                continue;
            }
            let explained = elf::explain(here, there, &[]).unwrap_or_else(|| text::explain(here, there, &[]));
            prop_assert!(!explained.places.is_empty() || !explained.sections.is_empty());
            prop_assert!(explained.places.len() <= 8 && explained.sections.len() <= 64);
            for place in &explained.places {
                prop_assert!(place.here.len() <= 700 && place.here.is_ascii());
            }
        }
    }

    #[test]
    fn any_two_strings_of_bytes_are_compared(here in prop::collection::vec(any::<u8>(), 0..300), there in prop::collection::vec(any::<u8>(), 0..300)) {
        let explained = text::explain(&here, &there, &[]);
        prop_assert_eq!(explained.places.is_empty(), here == there);
    }
}
