//! A bucket in which no head is found, and not both marks of a cache: it is new, or somebody removed them.

use std::collections::BTreeMap;

use super::super::BucketError;
use super::super::format::seal;
use super::conditions::reason;
use super::killed::{assert_there, at_every_request, put};
use super::{BOTH, Bench};
use crate::blobs::Nothing;
use crate::gc;
use crate::scrub::Damaged;
use crate::store::{PutError, Store};

fn without(bench: &Bench, prefixes: &[&str]) {
    let gone = bench.bucket.keys().into_iter().filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    gone.for_each(|key| bench.bucket.set(&key, None));
}

fn found(bench: &Bench) -> Vec<Damaged> {
    bench.store().verify().expect("read").into_iter().map(|damage| damage.what).collect()
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
fn no_cache_is_begun_where_one_lost_its_head_and_a_mark_and_a_repair_brings_it_back() {
    for kept_len in BOTH {
        for mark in ["df-cache.json", "log/cache.json"] {
            let bench = Bench::keeping(kept_len);
            (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
            without(&bench, &["head", mark]);
            assert!(matches!(reason(&refused(&bench)), Some(BucketError::HeadLost)));
            assert_eq!(found(&bench), [Damaged::Object("head".into())]);
            let words = bench.store().repair(&Nothing).expect("repaired").rebuilt;
            assert_eq!(words, ["the head, as commit 3 made it", mark]);
            assert_eq!(bench.bucket.peek("df-cache.json"), bench.bucket.peek("log/cache.json"));
            (1..3).for_each(|n| assert_there(&bench, n));
            assert_eq!(found(&bench), []);
            put(&bench.store(), 3).expect("put");
            assert_there(&bench, 3);
        }
    }
}

#[test]
fn a_mark_that_says_something_else_is_a_mark() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        without(&bench, &["head", "df-cache.json"]);
        let whole = bench.bucket.peek("log/cache.json").expect("there");
        for other in [&b""[..], b"{}", &[b'x'; 100_000]] {
            bench.bucket.set("log/cache.json", Some(other));
            assert!(matches!(reason(&refused(&bench)), Some(BucketError::HeadLost)));
        }
        let words = bench.store().repair(&Nothing).expect("repaired").rebuilt;
        assert_eq!(words, ["the head, as commit 2 made it", "df-cache.json", "log/cache.json"]);
        assert_eq!(bench.bucket.peek("log/cache.json"), Some(whole));
        assert_there(&bench, 1);
    }
}

#[test]
fn what_a_later_version_wrote_is_not_taken_for_damage_and_rolled_back_by_a_repair() {
    for kept_len in BOTH {
        let later = |key: &str| {
            let bench = Bench::keeping(kept_len);
            (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
            let key = bench.bucket.keys().into_iter().rfind(|it| it.starts_with(key)).expect("there");
            let mut magic = *bench.bucket.peek(&key).expect("there").first_chunk::<4>().expect("a frame");
            magic[3] = 0xff;
            bench.bucket.set(&key, Some(&seal(magic, b"more than this program knows")));
            bench
        };
        // The head; and, where that is lost, the newest record.
        let (head, record) = (later("head"), later("log/0"));
        without(&record, &["head"]);
        for bench in [head, record] {
            let before = bench.bucket.keys();
            let refused = bench.store().repair(&Nothing).expect_err("it is not this program's to repair");
            assert!(matches!(reason(&refused), Some(BucketError::Newer { .. })), "{refused:?}");
            assert!(bench.store().collect(&gc::Plan::default()).is_err(), "nor to collect");
            assert_eq!(bench.bucket.keys(), before);
        }
    }
}

#[test]
fn a_bucket_that_was_emptied_since_it_was_read_holds_nothing_and_nobody_says_that_it_does() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        let store = bench.store();
        assert_eq!(store.contents().expect("read").images.len(), 1);
        without(&bench, &[""]);
        let refused = put(&store, 1).expect_err("nothing is there any more");
        assert!(matches!(reason(&refused), Some(BucketError::HeadLost)), "{refused:?}");
    }
}

#[test]
fn whoever_dies_while_a_cache_is_begun_leaves_one_that_the_next_begins() {
    for kept_len in BOTH {
        at_every_request(
            || Bench::keeping(kept_len),
            |store| drop(put(store, 1)),
            |bench, n| {
                assert_eq!(found(bench), [], "after request {n}");
                put(&bench.store(), 2).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                assert_eq!(found(bench), [], "after request {n}");
                for marks in [["head", "df-cache.json"], ["head", "log/cache.json"]] {
                    without(bench, &marks);
                    assert!(matches!(reason(&refused(bench)), Some(BucketError::HeadLost)), "after request {n}");
                    bench.store().repair(&Nothing).expect("repaired");
                }
                assert_there(bench, 2);
            },
        );
    }
}

#[test]
fn a_cache_from_before_has_its_second_mark_after_the_next_collection_or_repair() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        let is_there = || bench.bucket.peek("log/cache.json").is_some();
        let older = || {
            without(&bench, &["log/cache.json"]);
            assert_eq!(found(&bench), [], "that is no damage");
            put(&bench.store(), 1).expect("put");
            assert!(!is_there());
        };
        older();
        bench.store().collect(&gc::plan(&bench.store().contents().expect("read"), &gc::NOTHING)).expect("collected");
        assert!(is_there());
        older();
        assert_eq!(bench.store().repair(&Nothing).expect("repaired").rebuilt, ["log/cache.json"]);
        assert!(is_there());
        assert_eq!(bench.store().repair(&Nothing).expect("repaired").rebuilt, [""; 0]);
    }
}

/// A cache that counted further than the next one will, without anything that says that it was one but its records.
fn forgotten(kept_len: usize) -> Bench {
    let bench = Bench::keeping(kept_len);
    (1..7).for_each(|n| put(&bench.store(), n).expect("put"));
    without(&bench, &["head", "df-cache.json", "log/cache.json"]);
    assert_eq!(found(&bench), [], "it looks like a bucket in which none was made yet");
    bench
}

#[test]
fn a_repair_finds_a_cache_of_which_only_the_records_say_that_it_was_one() {
    for kept_len in BOTH {
        let bench = forgotten(kept_len);
        let words = bench.store().repair(&Nothing).expect("repaired").rebuilt;
        assert_eq!(words, ["the head, as commit 7 made it", "df-cache.json", "log/cache.json"]);
        (1..7).for_each(|n| assert_there(&bench, n));
        // Without them nothing says what was in it.
        without(&bench, &["head", "df-cache.json", "log/"]);
        assert_eq!(bench.store().repair(&Nothing).expect("nothing there").rebuilt, [""; 0]);
    }
}

#[test]
fn a_cache_that_is_begun_over_a_forgotten_one_is_not_mixed_up_with_it() {
    for kept_len in BOTH {
        for log in ["log/cache.json", "log/"] {
            let bench = forgotten(kept_len);
            without(&bench, &[log]);
            (7..9).for_each(|n| put(&bench.store(), n).expect("a new cache"));
            let whole = || {
                (7..9).for_each(|n| assert_there(&bench, n));
                assert_eq!(bench.store().contents().expect("read").images.len(), 2, "what was forgotten stays so");
                assert_eq!(found(&bench), []);
            };
            whole();
            // Either mark says which of the caches it was.
            for (n, mark) in (3..).zip(["none", "df-cache.json", "log/cache.json"]) {
                without(&bench, &["head", mark]);
                let words = bench.store().repair(&Nothing).expect("repaired").rebuilt;
                assert_eq!(words[0], format!("the head, as commit {n} made it"), "and not as one of the other cache");
                whole();
            }
            let all = crate::Policy { count: 10, older: df_core::Timestamp(i64::MAX) };
            bench.store().collect(&gc::plan(&bench.store().contents().expect("read"), &all)).expect("collected");
            whole();
        }
    }
}

#[test]
fn what_strangers_have_in_a_bucket_is_no_cache() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        for key in ["log/notes", "p/readme", "packs/x", "t/y"] {
            bench.bucket.set(key, Some(b"not ours"));
        }
        put(&bench.store(), 1).expect("put");
        assert_there(&bench, 1);
    }
}

#[test]
fn the_first_put_of_all_lists_nothing() {
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
        ("get log", 1),
        ("put df-cache.json", 1),
        ("put head", 2),
        ("put i", 1),
        ("put log", 2),
        ("put p", 1),
        ("put probe", 3),
        ("put t", 1),
    ];
    assert_eq!(counts, rows.map(|(word, n)| (word.to_owned(), n)).into());
}
