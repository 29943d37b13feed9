//! Collections: half-dead packs, the grace, leases, derived objects, and dying in between.

use std::time::Duration;

use df_core::{Digest, ImageId, Timestamp};

use super::super::derived::Derived;
use super::super::objects::Body;
use super::super::{Item, Options, S3Store};
use super::killed::{assert_there, at_every_request, example, put};
use super::{BOTH, Bench, NOW, lease};
use crate::contract::{Source, assert_whole, image, release};
use crate::gc::{self, Collected};
use crate::store::Store;
use df_core::Manifest;

fn plan(store: &S3Store, count: usize) -> gc::Plan {
    gc::plan(&store.contents().expect("read"), &crate::Policy { count, older: Timestamp(i64::MAX) })
}

fn collect(store: &S3Store, count: usize) -> Collected {
    store.collect(&plan(store, count)).expect("collected")
}

fn packs(bench: &Bench) -> Vec<String> {
    bench.bucket.keys().into_iter().filter(|key| key.starts_with("p/")).collect()
}

/// A release whose pack is mostly its own, and a newer one that needs little of it.
fn half_dead(kept_len: usize) -> (Bench, Manifest, Source) {
    let bench = Bench::keeping(kept_len);
    let noise = |salt: u32| {
        (0..3_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(salt).to_le_bytes()[1..3].to_vec())
            .collect::<Vec<u8>>()
    };
    let (old, shared) = (noise(1), noise(2)[..1_000].to_vec());
    let (manifest, blobs) = image(&[&old, &shared, b"a"]);
    bench.store().put(&release("greeter", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    let (manifest, blobs) = image(&[&shared, b"new"]);
    bench.store().put(&release("greeter", 2, manifest.image()), &manifest, &blobs, NOW).expect("put");
    (bench, manifest, blobs)
}

#[test]
fn a_half_dead_pack_is_written_again() {
    for kept_len in BOTH {
        let (bench, manifest, blobs) = half_dead(kept_len);
        let (before, len) = (packs(&bench), bench.bucket.len());
        let collected = collect(&bench.store(), 1);
        assert!(collected.bytes_repacked > 4_000 && collected.n_objects > 1 && collected.n_requests > 10, "{collected:?}");
        assert!(bench.bucket.len() < len);
        let after = packs(&bench);
        assert_eq!((before.len(), after.len()), (2, 2));
        assert_eq!(after.iter().filter(|pack| before.contains(pack)).count(), 1);
        assert_whole(&bench.store(), &manifest, &blobs);
        assert_eq!(bench.store().verify().expect("read"), []);
        let again = collect(&bench.store(), 1);
        assert_eq!((again.bytes_repacked, again.n_images, again.bytes), (0, 0, 0));
        assert_eq!(packs(&bench), after);
    }
}

/// Many half-dead packs of nothing but zeros went into one, which whoever is killed before it is there would send again.
#[test]
fn packs_that_are_written_again_are_no_longer_than_others_before_compression() {
    let bench = Bench::new();
    let (zeros, ones) = (vec![0; 160 << 20], vec![1; 160 << 20]);
    for (n, long) in [(1, &zeros), (2, &ones)] {
        let noise: Vec<u8> =
            (0..30_000_u32).flat_map(|i| (i + n * 100_000).wrapping_mul(2_654_435_761).to_le_bytes()[1..3].to_vec()).collect();
        let (manifest, blobs) = image(&[long, &noise]);
        bench.store().put(&release("greeter", u64::from(n), manifest.image()), &manifest, &blobs, NOW).expect("put");
    }
    let (manifest, blobs) = image(&[&zeros, &ones]);
    bench.store().put(&release("greeter", 3, manifest.image()), &manifest, &blobs, NOW).expect("put");
    let before = packs(&bench);
    collect(&bench.store(), 1);
    let new = packs(&bench).into_iter().filter(|pack| !before.contains(pack)).count();
    assert_eq!(new, 2, "packs for 320 MiB of zeros and ones");
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn a_collection_that_writes_packs_again_may_be_killed_at_any_request() {
    for kept_len in BOTH {
        at_every_request(
            || half_dead(kept_len).0,
            |store| {
                drop(
                    store.contents().map(|contents| {
                        store.collect(&gc::plan(&contents, &crate::Policy { count: 1, older: Timestamp(i64::MAX) }))
                    }),
                )
            },
            |bench, n| {
                let (_, manifest, blobs) = half_dead(kept_len);
                assert_whole(&bench.store(), &manifest, &blobs);
                let store = bench.store();
                store.collect(&plan(&store, 1)).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                assert_whole(&bench.store(), &manifest, &blobs);
                assert_eq!(bench.store().verify().expect("read"), []);
                assert_eq!(packs(bench).len(), store.stats().expect("read").n_packs as usize);
            },
        );
    }
}

#[test]
fn whoever_puts_between_two_requests_of_a_collection_loses_nothing() {
    for kept_len in BOTH {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};
        for n in 0.. {
            let (bench, manifest, blobs) = half_dead(kept_len);
            let (store, other) = (bench.store(), bench.store());
            let plan = plan(&store, 1);
            let (seen, old) = (Arc::new(AtomicU64::new(0)), example(1));
            let counted = seen.clone();
            let (again, bytes) = (manifest.clone(), blobs.clone());
            bench.bucket.decide(move |_| {
                if counted.fetch_add(1, Ordering::Relaxed) == n {
                    other.put(&old.2, &old.0, &old.1, NOW).expect("put");
                    other.put(&release("other", 9, again.image()), &again, &bytes, NOW).expect("put");
                }
                super::super::memory::Fate::Done
            });
            store.collect(&plan).unwrap_or_else(|error| panic!("before request {n}: {error:?}"));
            bench.bucket.behave();
            if seen.load(Ordering::Relaxed) <= n {
                break;
            }
            assert_there(&bench, 1);
            assert_whole(&bench.store(), &manifest, &blobs);
            assert_eq!(bench.store().verify().expect("read"), []);
        }
    }
}

#[test]
fn what_is_condemned_stays_for_the_grace_and_is_never_used_again() {
    for kept_len in BOTH {
        let mut bench = Bench::keeping(kept_len);
        bench.grace = Duration::from_secs(100);
        put(&bench.store(), 1).expect("put");
        put(&bench.store(), 2).expect("put");
        let reader = bench.store();
        let (manifest, blobs, _) = example(1);
        assert_whole(&reader, &manifest, &blobs);
        let before = packs(&bench);
        collect(&bench.store(), 1);
        assert!(before.iter().all(|pack| packs(&bench).contains(pack)), "nothing is deleted before its time");
        put(&bench.store(), 1).expect("put again");
        assert_there(&bench, 1);
        let again = packs(&bench);
        let at = |seconds| {
            let options = Options { now: Timestamp(NOW.0 + seconds), ..bench.options(200 + (seconds % 50) as u8) };
            S3Store::open(bench.bucket.clone(), &bench.directory.path().join(format!("late-{seconds}")), options)
        };
        let n = |seconds| collect(&at(seconds), 2).n_objects;
        n(99);
        assert_eq!(packs(&bench), again);
        n(101);
        assert!(packs(&bench).len() < again.len());
        assert_there(&bench, 1);
        assert_there(&bench, 2);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn what_a_node_has_is_kept_until_it_says_otherwise() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        put(&bench.store(), 2).expect("put");
        let images = [1, 2].map(|n| example(n).0.image());
        bench.store().lease(&lease("node-a", &images[..1])).expect("leased");
        assert_eq!(collect(&bench.store(), 1).n_images, 0);
        assert_there(&bench, 1);
        bench.store().lease(&lease("node-a", &images[1..])).expect("leased");
        assert_eq!(collect(&bench.store(), 1).n_images, 1);
    }
}

#[test]
fn derived_objects_of_images_that_are_gone_go_and_strangers_stay() {
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        put(&bench.store(), 1).expect("put");
        put(&bench.store(), 2).expect("put");
        let (old, new) = (example(1).0.image(), example(2).0.image());
        let other = ImageId(Digest::of(b"never put"));
        let derived = [
            (Derived::Delta { from: old, to: new }, false),
            (Derived::Delta { from: new, to: other }, false),
            (Derived::Whole(old), false),
            (Derived::Whole(new), true),
        ];
        for (one, _) in &derived {
            bench.store().derived_put(one, &Body::Bytes(b"derived"[..].into())).expect("put");
        }
        for stranger in ["p/aa/notes", "d/readme", "elsewhere/x", "log/x"] {
            bench.bucket.set(stranger, Some(b"not ours"));
        }
        collect(&bench.store(), 1);
        for (one, stays) in &derived {
            assert_eq!(bench.bucket.peek(one.key().as_str()).is_some(), *stays, "{one:?}");
        }
        for stranger in ["p/aa/notes", "d/readme", "elsewhere/x", "log/x"] {
            assert!(bench.bucket.peek(stranger).is_some(), "{stranger}");
        }
    }
}

/// `df cp --through-cache` puts only such objects; of the image itself the bucket need not know anything.
#[test]
fn a_collection_during_a_rollout_takes_nothing_that_nodes_are_about_to_fetch() {
    for kept_len in BOTH {
        let bench = Bench { grace: Duration::from_secs(100), ..Bench::keeping(kept_len) };
        (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
        let never = ImageId(Digest::of(b"never put"));
        let derived = [Derived::Whole(never), Derived::Delta { from: example(1).0.image(), to: never }];
        let there = || derived.each_ref().map(|one| bench.bucket.peek(one.key().as_str()).is_some());
        let put_at = |seconds| {
            bench.bucket.set_clock(Timestamp(NOW.0 + seconds));
            derived.iter().for_each(|one| bench.store().derived_put(one, &Body::Bytes(b"derived"[..].into())).expect("put"));
        };
        // The collector's clock stands still; the bucket's says how old an object is.
        put_at(-99);
        collect(&bench.store(), 1);
        assert_eq!(there(), [true; 2], "a rollout is going on");
        put_at(-100);
        collect(&bench.store(), 1);
        assert_eq!(there(), [false; 2], "they stay for ever");
        put_at(0);
        bench.store().flush().expect("flushed");
        assert_eq!(there(), [false; 2], "a cache that is emptied keeps them");
    }
}

#[test]
fn many_items_that_are_killed_at_any_request_are_all_there_or_none_and_the_next_run_completes() {
    for kept_len in BOTH {
        let examples: Vec<_> = (1..6).map(example).collect();
        let items: Vec<Item<'_>> =
            examples.iter().map(|(manifest, _, release)| Item { manifest, release: Some(release), documents: &[] }).collect();
        let all: Source = examples.iter().flat_map(|(_, blobs, _)| blobs.clone()).collect();
        at_every_request(
            || Bench::keeping(kept_len),
            |store| drop(store.put_items(&items, &all, NOW)),
            |bench, n| {
                let there = bench.store().releases().expect("read").len();
                assert!(there == 0 || there == items.len(), "{there} after request {n}");
                bench.store().put_items(&items, &all, NOW).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                (1..6).for_each(|n| assert_there(bench, n));
                assert_eq!(bench.store().verify().expect("read"), []);
            },
        );
    }
}
