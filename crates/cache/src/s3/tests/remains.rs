//! A bucket in which neither a head nor the mark of a cache is found: it is new, or somebody removed them.

use std::collections::BTreeMap;

use super::super::BucketError;
use super::Bench;
use super::conditions::reason;
use super::killed::{assert_there, put};
use crate::blobs::Nothing;
use crate::scrub::Damaged;
use crate::store::{PutError, Store};

fn without(bench: &Bench, prefixes: &[&str]) {
    let gone = bench.bucket.keys().into_iter().filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    gone.for_each(|key| bench.bucket.set(&key, None));
}

#[track_caller]
fn refused(bench: &Bench) -> PutError {
    let before = bench.bucket.keys();
    let error = put(&bench.store(), 3).expect_err("there was a cache");
    assert_eq!(bench.bucket.keys(), before, "nothing is written");
    assert!(bench.store().contents().is_err() && bench.store().stats().is_err(), "nor is it taken for an empty one");
    error
}

#[test]
fn no_cache_is_begun_where_one_lost_its_head_and_its_mark_and_a_repair_brings_it_back() {
    let bench = Bench::new();
    (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
    without(&bench, &["head", "df-cache.json"]);
    assert!(matches!(reason(&refused(&bench)), Some(BucketError::HeadLost)));
    let damages = bench.store().verify().expect("read");
    assert_eq!(damages.iter().map(|damage| &damage.what).collect::<Vec<_>>(), [&Damaged::Object("head".into())]);
    let words = bench.store().repair(&Nothing).expect("repaired").rebuilt;
    assert_eq!(words, ["the head, as commit 3 made it", "df-cache.json"]);
    (1..3).for_each(|n| assert_there(&bench, n));
    assert_eq!(bench.store().verify().expect("read"), []);
    put(&bench.store(), 3).expect("put");
    assert_there(&bench, 3);
}

#[test]
fn packs_of_which_nothing_says_whose_they_are_are_not_built_upon_and_that_is_said() {
    let bench = Bench::new();
    put(&bench.store(), 1).expect("put");
    without(&bench, &["head", "df-cache.json", "log/"]);
    assert!(matches!(reason(&refused(&bench)), Some(BucketError::HeadLost)));
    let error = bench.store().repair(&Nothing).expect_err("from nothing");
    assert!(matches!(reason(&error), Some(BucketError::LogLost)), "{error:?}");
    // Somebody decides that it shall go.
    without(&bench, &["p/"]);
    put(&bench.store(), 1).expect("a new one");
    assert_there(&bench, 1);
}

#[test]
fn what_strangers_have_in_a_bucket_is_no_cache() {
    let bench = Bench::new();
    for key in ["log/notes", "p/readme", "packs/x", "t/y"] {
        bench.bucket.set(key, Some(b"not ours"));
    }
    put(&bench.store(), 1).expect("put");
    assert_there(&bench, 1);
}

#[test]
fn the_first_put_of_all_costs_three_looks_more() {
    let bench = Bench::new();
    put(&bench.store(), 1).expect("put");
    let mut counts = BTreeMap::new();
    for call in bench.bucket.calls() {
        let word = call.key.split('/').next().expect("a first word").to_owned();
        *counts.entry(format!("{:?} {word}", call.action).to_lowercase()).or_insert(0) += 1;
    }
    let rows = [
        ("get df-cache.json", 1),
        ("get head", 2),
        ("list log", 1),
        ("list p", 1),
        ("put df-cache.json", 1),
        ("put head", 2),
        ("put i", 1),
        ("put log", 1),
        ("put p", 1),
        ("put probe", 3),
        ("put t", 1),
    ];
    assert_eq!(counts, rows.map(|(word, n)| (word.to_owned(), n)).into());
}
