//! What is diffed applies, and costs what it should.

use df_delta::Level;
use proptest::prelude::*;

use crate::trees::{Random, Tree, apply, check, encode, tree};

#[test]
fn an_empty_tree_and_back() {
    let (empty, full) = (Tree::new(), tree([("a", b"x".to_vec()), ("b/c", vec![])]));
    for target in [&empty, &full] {
        check(None, target);
        check(Some(&empty), target);
        check(Some(&full), target);
    }
}

#[test]
fn identical_trees_cost_little_more_than_the_header() {
    let mut random = Random(1);
    let same: Tree = (0..200).map(|n| (format!("d{}/file{n}", n % 7), random.bytes(n * 10))).collect();
    let cost = check(Some(&same), &same);
    assert!(cost < 200, "{cost} bytes");
}

#[test]
fn renames_and_moves_cost_almost_nothing() {
    let mut random = Random(2);
    let old: Tree = (0..50).map(|n| (format!("lib/module{n:02}.bin"), random.bytes(20_000))).collect();
    let renamed: Tree = old.iter().map(|(path, bytes)| (path.replace("lib/", "share/lib/"), bytes.clone())).collect();
    let cost = check(Some(&old), &renamed);
    assert!(cost < 500, "renamed: {cost} bytes");

    // Half of a file moves into another one: both change, and share a piece.
    let (a, b) = (random.bytes(100_000), random.bytes(100_000));
    let old = tree([("a", a.clone()), ("b", b.clone())]);
    let moved = tree([("a", a[..50_000].to_vec()), ("b", [&a[50_000..], &b].concat())]);
    let cost = check(Some(&old), &moved);
    assert!(cost < 500, "moved: {cost} bytes");
}

#[test]
fn a_small_change_costs_little_wherever_it_is() {
    let mut random = Random(3);
    let old = random.bytes(3_000_000);
    for at in [0, 1_500_000, 2_999_990] {
        let mut new = old.clone();
        new.splice(at..at + 5, *b"inserted bytes");
        let cost = check(Some(&tree([("bin/server-1.2.3", old.clone())])), &tree([("bin/server-1.3.0", new)]));
        assert!(cost < 700, "at {at}: {cost} bytes");
    }
}

#[test]
fn a_file_in_windows_still_costs_little_when_its_bytes_moved() {
    let mut random = Random(4);
    // Larger than what one piece may hold, and cheap to make: a block that differs a little each time.
    let block = random.bytes(1 << 20);
    let old: Vec<u8> = (0..70_u32).flat_map(|n| [&n.to_le_bytes()[..], &block].concat()).collect();
    let new = [b"moved by some bytes", &old[..]].concat();
    let cost = check(Some(&tree([("disk", old)])), &tree([("disk", new)]));
    assert!(cost < 100_000, "{cost} bytes");
}

#[test]
fn the_thorough_level_makes_a_delta_that_applies_too() {
    let mut random = Random(5);
    let old: Vec<u8> = (0..200_000).map(|_| b"abcdefgh"[random.below(8)]).collect();
    let mut new = old.clone();
    (0..500).for_each(|_| new[random.below(200_000)] = b'z');
    let (old, new) = (tree([("a", old)]), tree([("a", new)]));
    let (fast, small) =
        (encode(Some(&old), &new, Level::Fast).expect("encodes"), encode(Some(&old), &new, Level::Small).expect("encodes"));
    assert_eq!(apply(Some(&old), &new, &small).expect("applies"), new);
    assert!(small.len() <= fast.len(), "{} > {}", small.len(), fast.len());
}

#[test]
fn a_whole_copy_ignores_the_base() {
    let (old, new) = (tree([("a", b"old".to_vec())]), tree([("a", b"new".to_vec()), ("b", b"old".to_vec())]));
    let delta = encode(None, &new, Level::Fast).expect("encodes");
    assert_eq!(apply(Some(&old), &new, &delta).expect("applies"), new);
}

/// One file of a pair of trees: how it came to be in the second.
#[derive(Debug, Clone)]
enum Change {
    Keep,
    Delete,
    Add(Vec<u8>),
    Rename(u8),
    Splice { at: u16, remove: u8, insert: Vec<u8> },
    Append(Vec<u8>),
    Copy(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        Just(Change::Keep),
        Just(Change::Delete),
        bytes().prop_map(Change::Add),
        any::<u8>().prop_map(Change::Rename),
        (any::<u16>(), any::<u8>(), bytes()).prop_map(|(at, remove, insert)| Change::Splice { at, remove, insert }),
        bytes().prop_map(Change::Append),
        any::<u8>().prop_map(Change::Copy),
    ]
}

fn changed(base: &Tree, changes: &[Change]) -> Tree {
    let mut target = base.clone();
    for ((path, bytes), change) in base.iter().zip(changes) {
        match change {
            Change::Keep => {}
            Change::Delete => drop(target.remove(path)),
            Change::Add(new) => drop(target.insert(format!("new/{path}"), new.clone())),
            Change::Rename(to) => {
                target.remove(path);
                target.insert(format!("renamed{to}"), bytes.clone());
            }
            Change::Splice { at, remove, insert } => {
                let at = usize::from(*at).min(bytes.len());
                let end = (at + usize::from(*remove)).min(bytes.len());
                target.insert(path.clone(), [&bytes[..at], insert, &bytes[end..]].concat());
            }
            Change::Append(more) => drop(target.insert(path.clone(), [&bytes[..], more].concat())),
            Change::Copy(to) => drop(target.insert(format!("copied{to}.so"), bytes.clone())),
        }
    }
    target
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_diffed_applies(
        base in proptest::collection::btree_map("[a-c]{1,2}(/[x-z][0-9]?[.](so|js))", proptest::collection::vec(any::<u8>(), 0..3000), 0..12),
        changes in proptest::collection::vec(change(), 12),
    ) {
        let target = changed(&base, &changes);
        check(Some(&base), &target);
        check(Some(&target), &base);
        check(None, &target);
        crate::rsync::check(&base, &target);
    }
}
