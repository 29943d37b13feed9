//! Texts that are no df.yaml, and files that are none.

use std::fs;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn texts_that_are_no_df_yaml_are_refused_with_a_place() {
    let table: &[(&[u8], &str)] = &[
        (b"", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"# nothing\n", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"--- \n", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"app: a\n---\napp: b\n", "2:1: a second document begins; only one is read"),
        (b"app: a\nbuild:\n\tcargo: {}\n", "3:1: a tab is used for indentation; YAML takes spaces only"),
        (b"app: a\nbuild:\n  \tcargo: {}\n", "3:3: a tab is used for indentation; YAML takes spaces only"),
        (b"- app\n", "1:1: a mapping of keys is needed, not a list"),
        (b"app\n", "1:1: a mapping of keys is needed, not a single value"),
        (b"app: a\n", "1:1: \"build\" is missing"),
        (b"app: [a]\nbuild: {cargo: }\n", "1:6: app: text is needed, not a list"),
        (b"app: \"a\\0b\"\n", "1:6: app: holds the character U+0000, which is a control or an invisible one"),
        (b"run: {env: {A: \"\\e[2J\"}}\n", "1:16: run.env.A: holds the character U+001B, which is a control or an invisible one"),
        (
            b"run: {args: [a, \"\\u202e\"]}\n",
            "1:17: run.args[1]: holds the character U+202E, which is a control or an invisible one",
        ),
        ("app: a\u{202e}b\n".as_bytes(), "1:6: app: holds the character U+202E, which is a control or an invisible one"),
        ("app: a # \u{2066}\n".as_bytes(), "1:10: the character U+2066 is a control or an invisible one"),
        (b"app: a\tb\n", "1:6: app: holds the character U+0009, which is a control or an invisible one"),
        (b"app: \"a\\nb\"\n", "1:6: app: must be one line"),
        (b"app: a\nrun: caf\xe9\n", "2:9: this is not UTF-8"),
        (b"app: !x a\n", "1:9: the tag !x is not read"),
        (b"a: &a {b: 1}\nc:\n  <<: *a\n", "3:3: merge keys (<<) are not read; write the keys out"),
        (b"app: &a [ *a ]\n", "1:11: this alias stands inside of what it stands for"),
    ];
    for (text, expected) in table {
        let error = Config::parse(text, "df.yaml").expect_err("a wrong text").to_string();
        assert_eq!(error.strip_prefix("df.yaml:").unwrap_or(&error), *expected, "{}", escape(text));
    }
    for text in [
        "app: [a\n",
        "app: 'a\n",
        "app: a\n b: c\n d\n",
        "a: b: c\n",
        "app: a\0\n",
        "%YAML 9\n---\n",
        "app: *a\n",
        "? [a]\n: b\n",
    ] {
        let error = parse(text).expect_err(text);
        let mut parts = error.split(':');
        assert_eq!(parts.next(), Some("df.yaml"));
        assert!(parts.next().is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0)), "{error}");
        assert!(parts.next().is_some_and(|column| column.parse::<usize>().is_ok_and(|column| column > 0)), "{error}");
    }
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_read() {
    let crlf = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(good(&crlf), good(EXAMPLE));
    refused("\u{feff}app: a\r\nbulid: x\r\n", "2:1: unknown key \"bulid\" (nearest: \"build\")");
}

#[test]
fn bombs_end_quickly() {
    let mut bomb = "x-a0: &a0 [l, l, l, l, l, l, l, l, l, l]\n".to_owned();
    for i in 1..10 {
        let alias = format!("*a{}", i - 1);
        bomb += &format!("x-a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    let deeper: String =
        (1..100).fold("x-0: &0 [[[[[[[[[[]]]]]]]]]]\n".to_owned(), |text, i| format!("{text}x-{i}: &{i} [*{}]\n", i - 1));
    let long = format!("x-a: &a {}\nx-b: [{}]\n", "a".repeat(500_000), ["*a"; 10_000].join(", "));
    let texts = [
        format!("{bomb}{LEAST}"),
        format!("{deeper}{LEAST}"),
        format!("{long}{LEAST}"),
        format!("{LEAST}x-a: {}\n", "[".repeat(100_000)),
        format!("{LEAST}x-a: {}\n", "{a: ".repeat(100_000)),
        format!("{LEAST}x-a: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{LEAST}x-a:\n{}a\n", "- ".repeat(100_000)),
        (0..1000).fold(String::new(), |text, i| format!("{text}{}a:\n", " ".repeat(i))),
        format!("{LEAST}x-a: [{}]\n", "1,".repeat(400_000)),
        format!("{LEAST}x-a: {}\n", "? ".repeat(100_000)),
        format!("{LEAST}x-a: {}\n", "'".repeat(900_001)),
    ];
    for text in texts {
        let start = Instant::now();
        let error = parse(&text).expect_err("a bomb");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?} for {error}", start.elapsed());
        assert!(error.len() < 300, "{error}");
    }
}

#[test]
fn only_a_regular_file_of_one_mebibyte_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("good"), LEAST).expect("write");
    assert_eq!(Config::read(&path("good")).expect("a good file"), good(LEAST));

    fs::write(path("long"), vec![b'#'; 10 << 20]).expect("write");
    std::os::unix::fs::symlink("good", path("link")).expect("link");
    fs::create_dir(path("dir")).expect("make a directory");
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("make a pipe");
    let table = [
        ("long", "is longer than 1048576 bytes"),
        ("link", "is a symbolic link, not a regular file"),
        ("dir", "is a directory, not a regular file"),
        ("fifo", "is a pipe, not a regular file"),
    ];
    for (name, expected) in table {
        let error = Config::read(&path(name)).expect_err(name).to_string();
        assert_eq!(error, format!("{}: {expected}", path(name).display()));
    }
    assert!(matches!(Config::read(&path("none")), Err(ConfigError::Read { .. })));
}
