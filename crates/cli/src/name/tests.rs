use std::cell::Cell;

use super::Decision::{HelpThenNext, Next, NextAfterHint, Ours, VersionBoth};
use super::*;

/// A machine of a few facts: where a df.yaml is found, and which words are paths.
struct Machine {
    config: bool,
    paths: &'static [&'static str],
    asked: Cell<usize>,
}

impl Facts for Machine {
    fn config_found(&self, dir: Option<&OsStr>, config: Option<&OsStr>) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.config || dir == Some(OsStr::new("with-df-yaml")) || config == Some(OsStr::new("my.yaml"))
    }
    fn path_exists(&self, word: &OsStr) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.paths.iter().any(|path| word == *path)
    }
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(|word| if word == "''" { OsString::new() } else { word.into() }).collect()
}

#[track_caller]
fn check_on(config: bool, paths: &'static [&'static str], lines: &[(&str, Decision)]) {
    let machine = Machine { config, paths, asked: Cell::new(0) };
    for (line, expected) in lines {
        assert_eq!(decide(&words(line), &machine), *expected, "df {line}");
    }
}

#[test]
fn what_scripts_call_goes_on() {
    let lines = [
        "",
        "-h",
        "/tmp",
        "--output=source /",
        "--output source",
        "-v",
        "-h build",
        "-a",
        "-hT",
        "-B1M /",
        "-B 1 build",
        "-k",
        "-P /",
        "-t ext4",
        "-x tmpfs",
        "--total",
        "-i",
        "-l",
        "--sync",
        "--no-sync build",
        "--si",
        ".",
        "./build",
        "/build",
        "build/",
        "-",
        "--",
        "-- build",
        "''",
        "'' build",
        "-V",
        "--vers",
        "--hel",
        "-vh build",
        "-hv build",
        "--human-readable deploy",
        "-T build",
    ];
    let all: Vec<_> = lines.into_iter().map(|line| (line, Next)).collect();
    check_on(true, &["./build", "/build", "."], &all);
    check_on(false, &["./build", "/build", "."], &all);
}

#[test]
fn our_words_are_ours() {
    let lines = [
        "build",
        "build -h",
        "build /tmp",
        "deploy --json",
        "ls",
        "ls nodes",
        "list versions",
        "rm a",
        "remove a",
        "cache put",
        "init",
        "man /x",
        "completions bash",
        "doctor",
        "help build",
        "with --pop",
        "compare-checksums",
        "__complete nodes",
        "__prepare",
        "-v build",
        "-q build",
        "-vq build",
        "-vv build",
        "--verbose ls",
        "--json --yes deploy",
        "--dry-run cp",
        "--detailed-exitcode --dry-run deploy",
    ];
    let all: Vec<_> = lines.into_iter().map(|line| (line, Ours)).collect();
    check_on(true, &["build", "ls", "cache"], &all);
    check_on(false, &[], &all);
}

#[test]
fn the_value_of_a_flag_is_no_command() {
    let lines = [
        ("-C build ls", Ours),
        ("-C build", Next),
        ("-C", Next),
        ("-Cbuild ls", Ours),
        ("-C=build ls", Ours),
        ("-Cbuild", Next),
        ("-qC build ls", Ours),
        ("-qCbuild ls", Ours),
        ("-vC build", Next),
        ("--config x ls", Ours),
        ("--config=x ls", Ours),
        ("--config= ls", Ours),
        ("--config ls", Next),
        ("--config", Next),
        ("--conf x ls", Next),
        ("--configs=x ls", Next),
        ("--state build build", Ours),
        ("--address a --address b status", Ours),
        ("--address=a /tmp", Next),
        ("--parallel 4 deploy", Ours),
        ("--color never build", Ours),
        ("--timeout 30s build", Ours),
        ("--timeout build", Next),
        ("--dry-run=yes build", Next),
        ("--json", Next),
        ("--json /tmp", Next),
        ("-q --help", Next),
        ("--json --version", Next),
        ("-q -h build", Next),
        ("-C build -- ls", Next),
    ];
    check_on(true, &[], &lines);
}

#[test]
fn a_command_that_names_a_path_and_has_no_df_yaml_goes_on() {
    check_on(
        false,
        &["build", "cache", "logs", "man", "init", "doctor", "help"],
        &[
            ("build", Next),
            ("build -h", Next),
            ("cache logs", Next),
            ("-v build", Next),
            ("-C elsewhere build", Next),
            ("-C with-df-yaml build", Ours),
            ("--config my.yaml build", Ours),
            ("--config=my.yaml build", Ours),
            ("--config none.yaml build", Next),
            ("build --help", Ours),
            ("build -- --help", Next),
            ("deploy", Ours),
            ("man /x", Ours),
            ("init", Ours),
            ("doctor", Ours),
            ("help build", Ours),
        ],
    );
    check_on(true, &["build"], &[("build", Ours), ("./build", Next)]);
}

#[test]
fn help_and_version_name_both() {
    let lines = [
        ("--version", VersionBoth),
        ("--version x", VersionBoth),
        ("--help", HelpThenNext),
        ("--help build", HelpThenNext),
        ("help", HelpThenNext),
        ("-v help", HelpThenNext),
        ("--help=x", Next),
        ("--versionx", Next),
    ];
    check_on(true, &["help"], &lines);
    check_on(false, &[], &lines);
}

#[test]
fn a_near_miss_is_hinted_and_goes_on() {
    let lines = [
        ("bild", NextAfterHint("build")),
        ("biuld", NextAfterHint("build")),
        ("deplyo", NextAfterHint("deploy")),
        ("compare-checksum", NextAfterHint("compare-checksums")),
        ("-C x statsu", NextAfterHint("status")),
        ("lst", NextAfterHint("list")),
        ("gcc", NextAfterHint("gc")),
        ("BUILD", Next),
        ("sda1", Next),
        ("xy", Next),
        ("tmp", Next),
        ("c", Next),
        ("./bild", Next),
        ("bild/", Next),
        ("builder", Next),
    ];
    check_on(true, &["builder"], &lines);
}

#[test]
fn words_need_not_be_text() {
    let raw = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let machine = Machine { config: true, paths: &[], asked: Cell::new(0) };
    assert_eq!(decide(&[raw(b"\xff\xfe")], &machine), Next);
    assert_eq!(decide(&[raw(b"-\xff"), raw(b"build")], &machine), Next);
    assert_eq!(decide(&[raw(b"--config=\xff"), raw(b"build")], &machine), Ours);
    assert_eq!(decide(&[raw(b"-C\xff"), raw(b"build")], &machine), Ours);
    assert_eq!(decide(&[raw(b"-C"), raw(b"\xff"), raw(b"build"), raw(b"\xff")], &machine), Ours);
    assert_eq!(decide(&[raw(b"build\xff")], &machine), Next);
}

#[test]
fn calls_for_the_next_df_ask_nothing_of_the_disk() {
    let machine = Machine { config: false, paths: &[], asked: Cell::new(0) };
    for line in ["", "-h", "/tmp", "-h build", "--output=source /", "-v", "--version", "--help", "init", "doctor"] {
        decide(&words(line), &machine);
    }
    assert_eq!(machine.asked.get(), 0);
}

#[test]
fn df_yaml_is_found_here_or_in_a_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("it was just made");
    std::fs::create_dir_all(root.join("a/b")).expect("directories");
    std::fs::create_dir(root.join("a/b/df.yaml")).expect("a directory of that name is no configuration");
    std::fs::write(root.join("df.yaml"), "app: x\n").expect("a file");
    assert_eq!(find_config(&root.join("a/b")), Some(root.join("df.yaml")));
    assert_eq!(find_config(&root.join("absent")), None);
    assert!(Here.config_found(Some(root.join("a").as_os_str()), None));
    assert!(Here.config_found(Some(root.as_os_str()), Some(OsStr::new("df.yaml"))));
    assert!(!Here.config_found(Some(root.as_os_str()), Some(OsStr::new("other.yaml"))));
    assert!(Here.path_exists(root.as_os_str()));
}

#[test]
fn edits_are_counted() {
    for (a, b, n) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("biuld", "build", 2), ("gcc", "gc", 1)] {
        assert_eq!(edits(a.as_bytes(), b.as_bytes()), n, "{a} {b}");
    }
}
