//! Deltas made long ago still apply. If these files and the format's doc disagree with the code, the commit is wrong.
//!
//! A new version of the format needs new files: `GOLDEN=write cargo test -p df-delta --test delta golden` makes them.

use std::path::Path;

use df_delta::{Codec, Level, Options};

use crate::trees::{Tree, apply, encode, encode_with, tree};

fn old() -> Tree {
    tree([("bin/server-1.0", b"the quick brown fox jumps over the lazy dog; ".repeat(12)), ("etc/conf", b"port=1\n".to_vec())])
}

fn new() -> Tree {
    let mut server = old()["bin/server-1.0"].clone();
    server.splice(100..103, *b"golden");
    tree([("bin/server-1.1", server), ("etc/conf", b"port=1\n".to_vec()), ("etc/empty", vec![])])
}

/// Returns a file of testdata; writes what `make` makes there before, if that is asked for.
fn golden(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, make()).expect("testdata is there");
    }
    std::fs::read(&path).expect("the golden file is there")
}

/// Applies a golden file. How small codecs make deltas may change with the version of zstd or of an aligner, so only reading is fixed.
#[track_caller]
fn check(name: &str, old: &Tree, new: &Tree, codec: Codec) {
    let options = Options { level: Level::Fast, codec: Some(codec) };
    let delta = golden(name, || encode_with(Some(old), new, options).expect("encodes").0);
    assert_eq!(&apply(Some(old), new, &delta).expect("applies"), new);
}

#[test]
fn the_example_of_the_doc() {
    let target = tree([("a", b"hi\n".to_vec())]);
    let made = encode(None, &target, Level::Fast).expect("encodes");
    let golden = golden("whole-v3.bin", || made.clone());
    assert_eq!(made, golden);
    assert_eq!(apply(None, &target, &golden).expect("applies"), target);
    assert_eq!(made[..5], *b"dfd\x03\x00");
    assert_eq!(made[made.len() - 4..], *b"\x00hi\n");
}

#[test]
fn a_patch_applies() {
    check("patch-v3.bin", &old(), &new(), Codec::Zstd);
}

#[test]
fn a_copy_applies() {
    check("copy-v3.bin", &old(), &new(), Codec::Copy);
}

#[test]
fn an_elf_applies() {
    let (old, new) = crate::programs::pair();
    check("elf-v3.bin", &old, &new, Codec::Elf);
}

#[test]
fn an_rsync_delta_applies() {
    let delta = golden("rsync-v3.bin", || crate::rsync::delta(&old(), &new()));
    assert_eq!(apply(Some(&old()), &new(), &delta).expect("applies"), new());
}
