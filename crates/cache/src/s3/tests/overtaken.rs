//! Whoever is overtaken by others: a reader by a collection, a writer's journal by whoever condemns what it names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use df_core::{Digest, Timestamp};

use super::super::memory::{Action, Fate};
use super::super::{Options, S3Store};
use super::killed::{assert_there, example, put};
use super::{BOTH, Bench, NOW, lease};
use crate::contract::{assert_whole, image, release};
use crate::document::Document;
use crate::gc;
use crate::store::{PutError, Store};

fn collect(store: &S3Store, count: usize) {
    let policy = crate::Policy { count, older: Timestamp(i64::MAX) };
    store.collect(&gc::plan(&store.contents().expect("read"), &policy)).expect("collected");
}

#[test]
fn a_reader_whose_index_a_collection_takes_away_reads_the_newer_one() {
    for kept_len in BOTH {
        let readers: [fn(&S3Store); 5] = [
            |reader| {
                let (manifest, blobs, _) = example(2);
                assert_whole(reader, &manifest, &blobs);
            },
            |reader| {
                let (manifest, blobs, _) = example(2);
                let blobs_of = reader.reading(&manifest.blobs()).expect("begun");
                for (digest, bytes) in blobs {
                    let mut read = vec![];
                    let reader = blobs_of.blob(digest).and_then(crate::blobs::Bytes::reader);
                    std::io::Read::read_to_end(&mut reader.expect("a blob"), &mut read).expect("all of it");
                    assert_eq!(read, bytes);
                }
            },
            |reader| assert_eq!(reader.lacking(&example(2).0).expect("read"), []),
            |reader| assert!(reader.stats().expect("read").n_images > 0),
            |reader| {
                let (_, _, release) = example(2);
                assert!(reader.attached(&release.app, release.id(), Document::Sbom).expect("read").is_some());
                assert_eq!(reader.verify().expect("read"), []);
            },
        ];
        for (which, read) in readers.into_iter().enumerate() {
            for n in 0.. {
                let bench = Bench::keeping(kept_len);
                (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
                let (_, _, release) = example(2);
                bench.store().attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
                let (reader, other, seen) = (bench.store(), bench.store(), Arc::new(AtomicU64::new(0)));
                let counted = seen.clone();
                bench.bucket.decide(move |_| {
                    // Twice in a row: what was read the second time may be gone as well.
                    if (n..n + 2).contains(&counted.fetch_add(1, Ordering::Relaxed)) {
                        put(&other, 3).expect("put");
                        put(&other, 2).expect("put");
                        collect(&other, 1);
                        put(&other, 4).expect("put");
                        put(&other, 2).expect("put");
                        collect(&other, 1);
                    }
                    Fate::Done
                });
                read(&reader);
                bench.bucket.behave();
                if seen.load(Ordering::Relaxed) <= n {
                    assert!(n > u64::from(kept_len == 0), "reader {which} asked {n} times");
                    break;
                }
            }
        }
    }
}

/// Somebody reads a bucket back slice by slice while a collection deletes what is condemned: nothing is damaged.
#[test]
fn a_slice_that_a_collection_overtakes_finds_no_damage() {
    for kept_len in BOTH {
        for n in 0.. {
            let bench = Bench::keeping(kept_len);
            (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
            let (reader, other, seen) = (bench.store(), bench.store(), AtomicU64::new(0));
            let n_seen = Arc::new(AtomicU64::new(0));
            let told = n_seen.clone();
            bench.bucket.decide(move |_| {
                told.fetch_add(1, Ordering::Relaxed);
                if seen.fetch_add(1, Ordering::Relaxed) == n {
                    put(&other, 3).expect("put");
                    collect(&other, 1);
                }
                Fate::Done
            });
            let slice = reader.verify_slice(9).expect("read");
            bench.bucket.behave();
            assert_eq!(slice.damages, [], "a collection before request {n}");
            assert!(slice.is_last);
            if n_seen.load(Ordering::Relaxed) <= n {
                assert!(n > 3, "a slice has {n} requests");
                break;
            }
        }
    }
}

/// What is damaged is said although others commit all the time, and the next slice goes on behind it.
#[test]
fn a_slice_finds_what_is_damaged_while_others_commit() {
    let bench = Bench::new();
    (1..4).for_each(|n| put(&bench.store(), n).expect("put"));
    let pack = bench.bucket.keys().into_iter().find(|key| key.starts_with("p/")).expect("a pack");
    bench.bucket.set(&pack, None);
    let (reader, other, busy) = (bench.store(), bench.store(), AtomicU64::new(0));
    bench.bucket.decide(move |call| {
        if call.key.starts_with("p/") && busy.fetch_add(1, Ordering::Relaxed) < 20 {
            let image = example(3).0.image();
            other.pin(image, "for a test").expect("pinned");
            other.unpin(image).expect("unpinned");
        }
        Fate::Done
    });
    let slices = [reader.verify_slice(1).expect("read"), reader.verify_slice(9).expect("read")];
    assert!(!slices[0].damages.is_empty(), "{slices:?}");
    assert_eq!(slices.map(|slice| (slice.done, slice.packs)), [(1, 3), (3, 3)]);
}

/// Puts an image whose writer dies when its commit is done and before it knows: its journal names a pack that is live.
fn with_journal(bench: &Bench) -> std::path::PathBuf {
    let directory = bench.directory.path().join("writer");
    let died = Arc::new(AtomicU64::new(0));
    bench.bucket.decide(move |call| {
        let is_swap = call.action == Action::Put && call.key == "head";
        match died.load(Ordering::Relaxed) {
            0 if is_swap => {
                died.store(1, Ordering::Relaxed);
                Fate::Unanswered
            }
            0 => Fate::Done,
            _ => Fate::Lost,
        }
    });
    put(&S3Store::open(bench.bucket.clone(), &directory, bench.options(77)), 2).expect_err("dead");
    bench.bucket.behave();
    assert_there(bench, 2);
    directory
}

#[test]
fn a_pack_that_is_condemned_is_nobody_s_own_from_the_same_swap_on() {
    for kept_len in BOTH {
        // Whoever dies, or is overtaken, right after the swap that condemns raises no fence later.
        for n in 0.. {
            let mut bench = Bench::keeping(kept_len);
            bench.grace = Duration::from_secs(100);
            put(&bench.store(), 1).expect("put");
            let directory = with_journal(&bench);
            let collector = bench.store();
            let swaps = Arc::new(AtomicU64::new(0));
            let counted = swaps.clone();
            bench.bucket.decide(move |call| match call.action == Action::Put && call.key == "head" {
                true if counted.fetch_add(1, Ordering::Relaxed) < n => Fate::Done,
                false if counted.load(Ordering::Relaxed) < n.max(1) => Fate::Done,
                _ => Fate::Lost,
            });
            let plan = gc::plan(&collector.contents().expect("read"), &gc::NOTHING);
            let done = collector.collect(&plan).is_ok();
            bench.bucket.behave();
            // The next run goes by what the dead one sent.
            put(&S3Store::open(bench.bucket.clone(), &directory, bench.options(78)), 2).expect("put");
            assert_there(&bench, 2);
            let late = Options { now: Timestamp(NOW.0 + 1_000), ..bench.options(79) };
            collect(&S3Store::open(bench.bucket.clone(), &bench.directory.path().join("late"), late), 1);
            assert_there(&bench, 2);
            assert_eq!(bench.store().verify().expect("read"), [], "after {n} swaps of a collection");
            if done {
                assert!(n > 1, "a collection has {n} swaps");
                break;
            }
        }
    }
}

#[test]
fn a_pack_that_a_repair_condemns_is_nobody_s_own_from_the_same_swap_on() {
    for kept_len in BOTH {
        let mut bench = Bench::keeping(kept_len);
        bench.grace = Duration::from_secs(100);
        put(&bench.store(), 1).expect("put");
        let before = bench.bucket.keys();
        let directory = with_journal(&bench);
        let pack = bench.bucket.keys().into_iter().find(|key| key.starts_with("p/") && !before.contains(key)).expect("a pack");
        let whole = bench.bucket.peek(&pack).expect("there").to_vec();
        let mut bytes = whole.clone();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bench.bucket.set(&pack, Some(&bytes));
        bench.store().repair(&crate::blobs::Nothing).expect("repaired");
        assert_there(&bench, 2);
        // The release goes without a fence of its own, as by a hand: what its journal names seems to be lacking again.
        let store = bench.store();
        store
            .commit(|view, _| {
                let mut roots = (*view.roots).clone();
                roots.releases.retain(|row| row.stored.release.image != example(2).0.image());
                roots.images.remove(&example(2).0.image());
                let index = store.index(view)?;
                let gone: Vec<Digest> = example(2).1.into_keys().chain([example(2).0.image().0]).collect();
                let rows = index.rows().map(|(pack, mut slots)| {
                    slots.retain(|slot| !gone.contains(&slot.digest));
                    (pack, slots)
                });
                let index = Some(vec![super::super::format::segment::Segment::new(rows)]);
                let change = super::super::swap::Change { roots: Some(roots), index, ..Default::default() };
                Ok::<_, crate::store::PutError>(super::super::swap::Plan::Commit(Box::new(change), ()))
            })
            .expect("committed");
        put(&S3Store::open(bench.bucket.clone(), &directory, bench.options(78)), 2).expect("put");
        let late = Options { now: Timestamp(NOW.0 + 1_000), ..bench.options(79) };
        collect(&S3Store::open(bench.bucket.clone(), &bench.directory.path().join("late"), late), 2);
        assert_there(&bench, 2);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn a_pack_that_was_never_used_whole_is_nobody_s_own_once_it_was_written_again() {
    for kept_len in BOTH {
        let mut bench = Bench::keeping(kept_len);
        bench.grace = Duration::from_secs(100);
        put(&bench.store(), 1).expect("put");
        let directory = bench.directory.path().join("writer");
        let open = |seed| S3Store::open(bench.bucket.clone(), &directory, bench.options(seed));
        let noise: Vec<u8> = (0..3_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[1..3].to_vec()).collect();
        let (both, one) = (image(&[b"small", &noise]), image(&[b"small"]));
        // Its writer dies when the pack is there and nothing names it.
        bench.bucket.decide(|call| if call.key.starts_with("log/") { Fate::Lost } else { Fate::Done });
        open(77).put_image(&both.0, &both.1, NOW).expect_err("dead");
        bench.bucket.behave();
        // The next one needs little of it, and a collection moves that elsewhere, and dies.
        open(78).put(&release("greeter", 9, one.0.image()), &one.0, &one.1, NOW).expect("put");
        let collector = bench.store();
        let swaps = AtomicU64::new(0);
        bench.bucket.decide(move |call| {
            let is_swap = call.action == Action::Put && call.key == "head";
            if swaps.fetch_add(u64::from(is_swap), Ordering::Relaxed) < 1 { Fate::Done } else { Fate::Lost }
        });
        let keep = gc::plan(&collector.contents().expect("read"), &crate::Policy { count: 9, older: Timestamp(i64::MAX) });
        collector.collect(&keep).expect_err("dead");
        bench.bucket.behave();
        open(79).put(&release("greeter", 10, both.0.image()), &both.0, &both.1, NOW).expect("put");
        let late = Options { now: Timestamp(NOW.0 + 1_000), ..bench.options(80) };
        collect(&S3Store::open(bench.bucket.clone(), &bench.directory.path().join("late"), late), 9);
        assert_whole(&bench.store(), &both.0, &both.1);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn an_attestation_that_could_not_be_asked_for_is_not_forgotten_by_the_next() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        let (_, _, release) = example(1);
        let both = include_bytes!("../../../../core/testdata/attestations-v1.json");
        let both = df_core::Bundle::decode(both).expect("a bundle");
        let of = |n: usize| {
            let statement = df_core::attestation::Statement::release(&df_core::attestation::Subject::of(&release));
            df_core::Bundle::new(&statement, vec![both.attestations()[n].clone()]).encode()
        };
        let attach = |n: usize| bench.store().attach(&release.app, release.id(), Document::Attestations, &of(n));
        assert!(attach(0).expect("attached"));
        bench
            .bucket
            .decide(|call| if call.key.starts_with("a/") && call.action == Action::Get { Fate::Lost } else { Fate::Done });
        attach(1).expect_err("what is held is not known");
        bench.bucket.behave();
        assert!(attach(1).expect("attached"));
        let held = bench.store().attached(&release.app, release.id(), Document::Attestations).expect("read").expect("there");
        assert_eq!(df_core::Bundle::decode(&held).expect("a bundle").attestations(), both.attestations());
    }
}

/// What others do while somebody stands still: so much that no record is left of the commits that he saw, nor anything of what he put.
fn a_long_time(other: &S3Store) {
    put(other, 3).expect("put");
    let image = example(3).0.image();
    for _ in 0..220 {
        other.pin(image, "for a test").expect("pinned");
        other.unpin(image).expect("unpinned");
    }
    collect(other, 1);
}

/// His attempt may have been done, before or after; nothing says so any more.
#[test]
fn a_writer_that_stood_still_until_no_record_says_what_became_of_its_swap_puts_what_is_not_there() {
    for (kept_len, was_done) in BOTH.into_iter().flat_map(|kept_len| [(kept_len, false), (kept_len, true)]) {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        let (store, other, records) = (bench.store(), bench.store(), bench.bucket.clone());
        let requests = AtomicU64::new(0);
        bench.bucket.decide(move |call| {
            let at = requests.load(Ordering::Relaxed);
            // The swap, or the look at the head after it.
            let is_next = if at == 0 { call.action == Action::Put && call.key == "head" } else { at == 1 };
            if !is_next {
                return Fate::Done;
            }
            requests.store(at + 1, Ordering::Relaxed);
            if (at == 1) == was_done {
                requests.store(2, Ordering::Relaxed);
                a_long_time(&other);
                assert!(
                    !records.keys().iter().any(|key| key.starts_with("log/0000000000000003-")),
                    "else this would show nothing"
                );
            }
            if at == 0 && was_done { Fate::Unanswered } else { Fate::Done }
        });
        put(&store, 2).expect("put");
        bench.bucket.behave();
        [2, 3].iter().for_each(|n| assert_there(&bench, *n));
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

/// Does something whose swap is done and whose reply is lost; before he who did it can ask, others do a lot. Returns what he is told.
fn doubted<T>(bench: &Bench, others: impl Fn(&S3Store) + Send + Sync + 'static, act: impl FnOnce(&S3Store) -> T) -> T {
    let (store, other, requests) = (bench.store(), bench.store(), AtomicU64::new(0));
    bench.bucket.decide(move |call| {
        let at = requests.load(Ordering::Relaxed);
        let is_swap = at == 0 && call.action == Action::Put && call.key == "head";
        match at {
            _ if is_swap => {
                requests.store(1, Ordering::Relaxed);
                return Fate::Unanswered;
            }
            1 => {
                requests.store(2, Ordering::Relaxed);
                others(&other);
                a_long_time(&other);
            }
            _ => {}
        }
        Fate::Done
    });
    let told = act(&store);
    bench.bucket.behave();
    told
}

#[track_caller]
fn is_unsure<T: std::fmt::Debug>(told: Result<T, PutError>) {
    let error = told.expect_err("nobody knows");
    assert!(format!("{error:?}").contains("Unsure"), "{error:?}");
}

#[test]
fn a_flush_whose_reply_was_lost_takes_nothing_that_others_put_since() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        is_unsure(doubted(&bench, |_| {}, |store| store.flush()));
        assert_there(&bench, 3);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn an_unpin_whose_reply_was_lost_takes_no_pin_that_somebody_set_since() {
    for kept_len in BOTH {
        let (bench, image) = (Bench::keeping(kept_len), example(1).0.image());
        put(&bench.store(), 1).expect("put");
        bench.store().pin(image, "first").expect("pinned");
        is_unsure(doubted(&bench, move |other| other.pin(image, "again").expect("pinned"), |store| store.unpin(image)));
        assert!(bench.store().contents().expect("read").pins.contains(&image));
    }
}

#[test]
fn a_lease_whose_reply_was_lost_is_not_taken_over_a_newer_one() {
    for kept_len in BOTH {
        let (bench, images) = (Bench::keeping(kept_len), [1, 2].map(|n| example(n).0.image()));
        (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
        let newer = move |other: &S3Store| other.lease(&lease("node-a", &images[1..])).expect("leased");
        is_unsure(doubted(&bench, newer, |store| store.lease(&lease("node-a", &images[..1]))));
        let leases = bench.store().view().expect("read").expect("a head").roots.leases.clone();
        assert_eq!(leases.into_iter().map(|(_, image)| image).collect::<Vec<_>>(), images[1..]);
    }
}
