//! Deltas made long ago still apply. If these files and the format's doc disagree with the code, the commit is wrong.

use df_delta::Level;

use crate::trees::{Tree, apply, encode, tree};

fn old() -> Tree {
    tree([("bin/server-1.0", b"the quick brown fox jumps over the lazy dog; ".repeat(12)), ("etc/conf", b"port=1\n".to_vec())])
}

fn new() -> Tree {
    let mut server = old()["bin/server-1.0"].clone();
    server.splice(100..103, *b"golden");
    tree([("bin/server-1.1", server), ("etc/conf", b"port=1\n".to_vec()), ("etc/empty", vec![])])
}

#[test]
fn the_example_of_the_doc() {
    let golden = include_bytes!("../../testdata/whole-v2.bin");
    let target = tree([("a", b"hi\n".to_vec())]);
    assert_eq!(encode(None, &target, Level::Fast).expect("encodes"), golden);
    assert_eq!(apply(None, &target, golden).expect("applies"), target);
}

// How small zstd makes them may change with its version, so only reading is fixed.
#[test]
fn a_patch_applies() {
    assert_eq!(apply(Some(&old()), &new(), include_bytes!("../../testdata/patch-v2.bin")).expect("applies"), new());
}

#[test]
fn an_rsync_delta_applies() {
    assert_eq!(apply(Some(&old()), &new(), include_bytes!("../../testdata/rsync-v2.bin")).expect("applies"), new());
}

#[test]
fn a_copy_applies() {
    assert_eq!(apply(Some(&old()), &new(), include_bytes!("../../testdata/copy-v2.bin")).expect("applies"), new());
}

#[test]
fn an_elf_applies() {
    let (old, new) = crate::programs::pair();
    assert_eq!(apply(Some(&old), &new, include_bytes!("../../testdata/elf-v2.bin")).expect("applies"), new);
}
