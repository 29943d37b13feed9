//! Whatever request is the last one, the next run completes; and whoever comes between any two requests loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use df_core::{Manifest, Release};

use super::super::S3Store;
use super::super::format::head::KEPT_LEN;
use super::super::format::name::hex;
use super::super::memory::{Action, Fate};
use super::{BOTH, Bench, NOW};
use crate::contract::{Source, assert_whole, image, release};
use crate::gc;
use crate::store::Store;

pub(super) fn example(n: u8) -> (Manifest, Source, Release) {
    let (manifest, blobs) = image(&[b"shared", &[n; 1000], &[n; 2000]]);
    let release = release("greeter", u64::from(n), manifest.image());
    (manifest, blobs, release)
}

pub(super) fn put(store: &S3Store, n: u8) -> Result<(), crate::store::PutError> {
    let (manifest, blobs, release) = example(n);
    store.put(&release, &manifest, &blobs, NOW).map(drop)
}

#[track_caller]
pub(super) fn assert_there(bench: &Bench, n: u8) {
    let (manifest, blobs, release) = example(n);
    let store = bench.store();
    assert_whole(&store, &manifest, &blobs);
    let rows = store.releases().expect("read");
    assert_eq!(rows.iter().filter(|stored| stored.release == release).count(), 1, "{n}");
}

/// Runs `act` and stops everything at its n-th request, before or after that is done, for each n there is; `check` must hold once everything behaves again.
pub(super) fn at_every_request(make: impl Fn() -> Bench, act: impl Fn(&S3Store), check: impl Fn(&Bench, u64)) {
    for done in [false, true] {
        for n in 0.. {
            let bench = make();
            let store = bench.store();
            let seen = Arc::new(AtomicU64::new(0));
            let counted = seen.clone();
            bench.bucket.decide(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
                at if at < n => Fate::Done,
                at if at == n && done => Fate::Unanswered,
                _ => Fate::Lost,
            });
            act(&store);
            bench.bucket.behave();
            if seen.load(Ordering::Relaxed) <= n {
                assert!(n > 3, "only {n} requests");
                break;
            }
            check(&bench, n);
        }
    }
}

fn one(kept_len: usize) -> Bench {
    let bench = Bench::keeping(kept_len);
    put(&bench.store(), 1).expect("put");
    bench
}

fn with_one() -> Bench {
    one(0)
}

/// One whose next writers keep small tables in the head.
fn with_one_from_before() -> Bench {
    Bench { kept_len: KEPT_LEN, ..with_one() }
}

fn keeping() -> Bench {
    Bench::keeping(KEPT_LEN)
}

fn keeping_one() -> Bench {
    one(KEPT_LEN)
}

#[test]
fn a_put_that_is_killed_at_any_request_is_completed_by_the_next() {
    for first in [Bench::new as fn() -> Bench, with_one, keeping, keeping_one, with_one_from_before] {
        at_every_request(
            first,
            |store| drop(put(store, 2)),
            |bench, n| {
                // What was there before is there, and so is what comes now.
                put(&bench.store(), 2).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                assert_there(bench, 2);
                put(&bench.store(), 1).expect("put");
                assert_there(bench, 1);
                assert_eq!(bench.store().verify().expect("read"), []);
            },
        );
    }
}

#[test]
fn a_collection_that_is_killed_at_any_request_is_completed_by_the_next() {
    a_collection_that_is_killed(with_one);
    a_collection_that_is_killed(keeping_one);
}

fn a_collection_that_is_killed(first: fn() -> Bench) {
    let make = || {
        let bench = first();
        put(&bench.store(), 2).expect("put");
        bench
    };
    let plan = |store: &S3Store| {
        let contents = store.contents()?;
        Ok::<_, crate::store::ReadError>(gc::plan(&contents, &crate::Policy { count: 1, older: df_core::Timestamp(i64::MAX) }))
    };
    at_every_request(
        make,
        |store| drop(plan(store).map(|plan| store.collect(&plan))),
        |bench, n| {
            assert_there(bench, 2);
            let store = bench.store();
            store.collect(&plan(&store).expect("read")).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
            assert_there(bench, 2);
            assert_eq!(store.verify().expect("read"), []);
            assert_eq!(
                bench.bucket.keys().iter().filter(|key| key.starts_with("p/")).count(),
                store.stats().expect("read").n_packs as usize
            );
            put(&bench.store(), 1).expect("it can come back");
            assert_there(bench, 1);
        },
    );
}

#[test]
fn whatever_another_does_between_two_requests_nothing_is_lost() {
    let others: [fn(&S3Store); 4] = [
        |other| put(other, 3).expect("put"),
        |other| {
            let plan = gc::plan(&other.contents().expect("read"), &gc::NOTHING);
            other.collect(&plan).expect("collected");
        },
        |other| {
            let plan = gc::plan(&other.contents().expect("read"), &gc::NOTHING);
            other.collect(&plan).expect("collected");
            put(other, 1).expect("put");
        },
        |other| put(other, 2).expect("put"),
    ];
    let firsts = [with_one as fn() -> Bench, keeping_one, with_one_from_before];
    for (which, (first, other)) in firsts.into_iter().flat_map(|first| others.map(|other| (first, other))).enumerate() {
        let which = which % others.len();
        for n in 0.. {
            let bench = first();
            let (seen, intruder) = (Arc::new(AtomicU64::new(0)), bench.store());
            let store = bench.store();
            let counted = seen.clone();
            bench.bucket.decide(move |_| {
                if counted.fetch_add(1, Ordering::Relaxed) == n {
                    other(&intruder);
                }
                Fate::Done
            });
            // Whoever looked before puts what it saw; what is so no more the bucket says.
            store.contents().expect("read");
            put(&store, 2).unwrap_or_else(|error| panic!("{which} before request {n}: {error:?}"));
            bench.bucket.behave();
            if seen.load(Ordering::Relaxed) <= n {
                break;
            }
            assert_there(&bench, 2);
            if which == 0 {
                assert_there(&bench, 3);
                assert_there(&bench, 1);
            }
            assert_eq!(bench.store().verify().expect("read"), []);
        }
    }
}

#[test]
fn a_session_below_the_fence_does_not_commit_what_a_collection_takes_for_an_orphan() {
    for kept_len in BOTH {
        let bench = one(kept_len);
        let (store, collector) = (bench.store(), bench.store());
        let swaps = AtomicU64::new(0);
        bench.bucket.decide(move |call| {
            let is_swap = call.action == Action::Put && call.key == "head";
            // A collection swaps the head too: it is not interrupted itself.
            if is_swap && swaps.fetch_add(1, Ordering::Relaxed) < 2 {
                let before = swaps.swap(100, Ordering::Relaxed);
                let plan = gc::plan(&collector.contents().expect("read"), &gc::NOTHING);
                collector.collect(&plan).expect("collected");
                swaps.store(before, Ordering::Relaxed);
            }
            Fate::Done
        });
        put(&store, 2).expect("put");
        bench.bucket.behave();
        assert_there(&bench, 2);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn a_swap_whose_answer_was_lost_is_found_and_done_once_however_many_follow() {
    for kept_len in BOTH {
        for followers in [0, 1, 70] {
            let bench = one(kept_len);
            let (store, other) = (bench.store(), bench.store());
            let bucket = bench.bucket.clone();
            let once = AtomicU64::new(0);
            // The answer to the swap is lost; before the head is read again, others commit.
            bench.bucket.decide(move |call| match (call.action, call.key.as_str(), once.load(Ordering::Relaxed)) {
                (Action::Put, "head", 0) => {
                    once.store(1, Ordering::Relaxed);
                    Fate::Unanswered
                }
                (Action::Get, "head", 1) => {
                    once.store(2, Ordering::Relaxed);
                    for n in 0..followers {
                        put(&other, 10 + n).expect("put");
                    }
                    Fate::Done
                }
                _ => Fate::Done,
            });
            let (manifest, blobs, release) = example(2);
            let added = store.put(&release, &manifest, &blobs, NOW).expect("found");
            assert_eq!(added.n_blobs, 2, "what the lost swap did");
            bucket.behave();
            assert_there(&bench, 2);
            let releases = bench.store().releases().expect("read");
            assert_eq!(releases.len(), 2 + usize::from(followers));
            assert_eq!(releases[1].release, release, "it was the second, whatever followed");
            let packs: Vec<_> = bench.bucket.keys().into_iter().filter(|key| key.starts_with("p/")).collect();
            assert_eq!(packs.len(), 2 + usize::from(followers), "nothing was sent twice");
        }
    }
}

#[test]
fn eight_writers_at_once_lose_nothing() {
    for kept_len in BOTH {
        let bench = Arc::new(Bench::keeping(kept_len));
        std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let bench = bench.clone();
                scope.spawn(move || {
                    let store = bench.store();
                    for n in 0..6 {
                        put(&store, 10 * writer + n).expect("put");
                    }
                });
            }
        });
        assert_eq!(bench.store().releases().expect("read").len(), 48);
        for writer in 0..8_u8 {
            assert_there(&bench, 10 * writer + 5);
        }
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn what_a_killed_put_had_sent_is_not_sent_again() {
    // Three packs: two of one long blob, and one of the rest.
    let long: Vec<u8> = (0..(70_u32 << 18)).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (manifest, blobs) = image(&[&long, b"short", b"other"]);
    let packs = |bench: &Bench| {
        bench.bucket.calls().iter().filter(|call| call.action == Action::Put && call.key.starts_with("p/")).count()
    };
    let cases = [("nothing", 3), ("log/", 0), ("p/1", 2), ("p/2", 1)];
    for (at, again) in cases {
        let bench = with_one();
        let directory = bench.directory.path().join("writer");
        let open = |seed| S3Store::open(bench.bucket.clone(), &directory, super::options(seed));
        let sent = Arc::new(AtomicU64::new(0));
        bench.bucket.decide(move |call| {
            let n = if call.key.starts_with("p/") { sent.fetch_add(1, Ordering::Relaxed) } else { sent.load(Ordering::Relaxed) };
            let dead = match at {
                "nothing" => true,
                "log/" => call.key.starts_with("log/"),
                "p/1" => n >= 1,
                _ => n >= 2,
            };
            if dead && call.action == Action::Put { Fate::Lost } else { Fate::Done }
        });
        open(100).put_image(&manifest, &blobs, NOW).expect_err("killed");
        bench.bucket.behave();
        // What was sent counts only for who has the same bytes.
        let mut wrong = blobs.clone();
        wrong.get_mut(&df_core::Digest::of(&long)).expect("a blob")[5] ^= 1;
        open(101).put_image(&manifest, &wrong, NOW).expect_err("other bytes");
        let between = packs(&bench);
        open(102).put_image(&manifest, &blobs, NOW).expect("put");
        assert!(packs(&bench) - between <= again, "{at}: {}", packs(&bench) - between);
        assert_whole(&bench.store(), &manifest, &blobs);
        let head = open(103).view().expect("read").expect("there").head.clone();
        let left = std::fs::read_dir(directory.join(hex(&head.cache)).join("upload"));
        assert_eq!(left.map(Iterator::count).unwrap_or(0), 0, "{at}: journals are removed");
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn what_was_sent_before_a_collection_is_sent_again() {
    for kept_len in BOTH {
        let bench = one(kept_len);
        let directory = bench.directory.path().join("writer");
        let open = |seed| S3Store::open(bench.bucket.clone(), &directory, bench.options(seed));
        bench.bucket.decide(|call| if call.key.starts_with("log/") { Fate::Lost } else { Fate::Done });
        put(&open(100), 2).expect_err("killed");
        bench.bucket.behave();
        let other = bench.store();
        let plan = gc::plan(&other.contents().expect("read"), &gc::NOTHING);
        other.collect(&plan).expect("collected, and the orphan with it");
        put(&open(101), 2).expect("put");
        assert_there(&bench, 2);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}
