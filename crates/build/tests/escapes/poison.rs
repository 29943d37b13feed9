//! A build script of the commit changes what cargo made of a dependency: the next build does not see it.

use std::fs;
use std::path::Path;
use std::process::Command;

use df_testkit::Tree;

use crate::run::Sandboxed;
use crate::stage::Stage;

const GOOD: &str = "a word of the dependency";

/// Changes the word in every library that cargo has compiled by now, in place and without a trace in its times.
const SCRIPT: &str = r#"
use std::io::{Seek, SeekFrom, Write};
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let word = b"a word of the dependency";
    let own = std::env::var("OUT_DIR").unwrap();
    let mut n = 0;
    for entry in std::fs::read_dir(std::path::Path::new(&own).join("../../../deps")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("libword-") { continue; }
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        let modified = entry.metadata().unwrap().modified().unwrap();
        let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(entry.path()) else { continue };
        for at in (0..bytes.len().saturating_sub(word.len())).filter(|&at| bytes[at..].starts_with(word)) {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(b"EVIL").unwrap();
            n += 1;
        }
        file.set_modified(modified).unwrap();
    }
    println!("cargo::rustc-env=POISONED={n}");
}
"#;

/// A package with a vendored one of a registry, whose artifacts are kept between builds.
fn files(script: &str, main: &str, word: &str) -> Tree {
    let sum = "0123456789abcdef".repeat(4);
    // The registry by the name that cargo gave it in our own lock file.
    let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).expect("our own lock file");
    let index = ours.split("source = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("we have dependencies");
    let lock = format!(
        "version = 4\n\n[[package]]\nname = \"attempts\"\nversion = \"0.1.0\"\ndependencies = [\n \"word\",\n]\n\n[[package]]\nname = \"word\"\nversion = \"0.1.0\"\nsource = \"{index}\"\nchecksum = \"{sum}\"\n"
    );
    // Needed by the build script too, so that it is compiled before the script runs.
    let manifest = "[package]\nname = \"attempts\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nword = \"0.1.0\"\n[build-dependencies]\nword = \"0.1.0\"\n[profile.release.build-override]\nopt-level = 3\n[workspace]\n";
    Tree::of_files(&[
        ("Cargo.toml", manifest),
        ("Cargo.lock", &lock),
        (".cargo/config.toml", "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = \"vendor\"\n"),
        ("build.rs", script),
        ("src/main.rs", main),
        ("vendor/word/Cargo.toml", "[package]\nname = \"word\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
        ("vendor/word/.cargo-checksum.json", &format!("{{\"files\":{{}},\"package\":\"{sum}\"}}")),
        ("vendor/word/src/lib.rs", &format!("#[inline(never)]\npub fn word() -> String {{ String::from(\"{word}\") }}\n")),
    ])
}

const HARMLESS: &str = "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); }\n";
const FIRST: &str = "fn main() { println!(\"{} {}\", env!(\"POISONED\"), word::word()); }\n";
const SECOND: &str = "fn main() { println!(\"{}\", word::word()); }\n";

fn said(program: &Path) -> String {
    let output = Command::new(program).output().expect("the program runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn a_poisoned_dependency_is_not_there_in_the_next_build() {
    let stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    let (evil, harmless) = (files(SCRIPT, FIRST, GOOD), files(HARMLESS, SECOND, GOOD));
    let program = stage.path("package/target/release/attempts");
    evil.write(&stage.path("package"));
    crate::run::outside_of_all(&stage);
    assert!(!said(&program).starts_with("0 "), "the script found nothing to change: {}", said(&program));
    harmless.write(&stage.path("package"));
    crate::run::outside_of_all(&stage);
    assert_eq!(said(&program), GOOD.replacen("a wo", "EVIL", 1), "the control is poisoned");

    let built = stage.path("output/bin/attempts");
    for (tree, message) in [(&harmless, "one"), (&evil, "two"), (&harmless, "three")] {
        stage.repo.commit_over(tree, message);
        let outcome = Sandboxed::cargo().build(&stage);
        assert!(built.is_file(), "{message}: {}", outcome.said);
        if message != "two" {
            assert_eq!(said(&built), GOOD, "{message}");
        }
    }
}

/// The same, where the packages are reached through a link.
#[test]
fn what_lies_behind_a_link_counts_as_what_is_vendored() {
    let stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    let behind = |word: &str, is_file: bool| {
        let rows = files(HARMLESS, SECOND, word).0.into_iter();
        let mut tree = Tree(rows.map(|(path, entry)| (moved(&path, is_file), entry)).collect());
        let link = if is_file { ("vendor/word/src/lib.rs", "../../../packages/lib.rs") } else { ("vendor", "packages") };
        tree.0.extend(Tree::from_table(&[(link.0, link.1, df_testkit::Kind::Symlink)]).0);
        tree
    };
    let built = stage.path("output/bin/attempts");
    for is_file in [false, true] {
        for word in ["EVIL", GOOD, "EVIL"] {
            fs::remove_dir_all(stage.path("package")).ok();
            behind(word, is_file).write(&stage.path("package"));
            stage.repo.commit_tree(&stage.path("package"), word);
            let outcome = Sandboxed::cargo().build(&stage);
            assert!(built.is_file(), "{word}: {}", outcome.said);
            assert_eq!(said(&built), word);
        }
    }
}

fn moved(path: &Path, is_file: bool) -> std::path::PathBuf {
    match path.strip_prefix("vendor") {
        Ok(below) if !is_file => Path::new("packages").join(below),
        Ok(below) if below.ends_with("lib.rs") => "packages/lib.rs".into(),
        _ => path.to_owned(),
    }
}

/// A commit may bring a package by the name and checksum of one that others use, with other content.
#[test]
fn a_vendored_package_with_a_false_checksum_is_not_taken_for_the_true_one() {
    let stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    let (evil, good) = (files(HARMLESS, SECOND, "EVIL"), files(HARMLESS, SECOND, GOOD));
    let program = stage.path("package/target/release/attempts");
    evil.write(&stage.path("package"));
    crate::run::outside_of_all(&stage);
    good.write(&stage.path("package"));
    crate::run::outside_of_all(&stage);
    assert_eq!(said(&program), "EVIL", "the control is fooled");

    let built = stage.path("output/bin/attempts");
    for (tree, expected) in [(&evil, "EVIL"), (&good, GOOD), (&evil, "EVIL")] {
        stage.repo.commit_over(tree, expected);
        let outcome = Sandboxed::cargo().build(&stage);
        assert!(built.is_file(), "{expected}: {}", outcome.said);
        assert_eq!(said(&built), expected);
    }
}
