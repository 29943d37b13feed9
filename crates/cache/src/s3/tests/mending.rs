//! Repairs and what is made again: from another copy, from the log, from the ends of packs, whoever dies in between.

use std::collections::BTreeSet;

use df_core::Digest;

use super::super::S3Store;
use super::super::format::name::Space;
use super::killed::{assert_there, at_every_request, example, put};
use super::{BOTH, Bench, NOW};
use crate::blobs::Nothing;
use crate::contract::{Source, assert_whole};
use crate::document::Document;
use crate::gc;
use crate::scrub::{Damaged, Repaired};
use crate::store::Store;

/// A cache with three releases.
pub(super) fn three(kept_len: usize) -> Bench {
    let bench = Bench::keeping(kept_len);
    for n in 1..4 {
        put(&bench.store(), n).expect("put");
    }
    bench
}

pub(super) fn source() -> Source {
    (1..4).map(example).fold(Source::new(), |mut all, (manifest, blobs, _)| {
        all.insert(manifest.image().0, manifest.encode());
        all.extend(blobs);
        all
    })
}

pub(super) fn all_there(bench: &Bench) {
    (1..4).for_each(|n| assert_there(bench, n));
    assert_eq!(bench.store().verify().expect("read"), []);
}

/// Returns the keys of the packs that hold a blob.
fn packs_of(bench: &Bench, digest: Digest) -> Vec<String> {
    let store = bench.store();
    let view = store.view().expect("read").expect("there");
    let found = store.index(&view).expect("read").find(digest, None).expect("there");
    found.parts.iter().flatten().map(|place| place.pack.name.key(Space::Pack).to_string()).collect()
}

/// Changes a byte of the only row of a blob.
pub(super) fn spoil(bench: &Bench, digest: Digest) {
    let store = bench.store();
    let view = store.view().expect("read").expect("there");
    let found = store.index(&view).expect("read").find(digest, None).expect("there");
    let place = &found.parts[0][0];
    flip(bench, place.pack.name.key(Space::Pack).as_str(), place.slot.offset as usize + 5);
}

pub(super) fn flip(bench: &Bench, key: &str, at: usize) {
    let mut bytes = bench.bucket.peek(key).expect("there").to_vec();
    bytes[at] ^= 1;
    bench.bucket.set(key, Some(&bytes));
}

pub(super) fn keys(bench: &Bench, prefix: &str) -> Vec<String> {
    bench.bucket.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
}

#[test]
fn a_repair_brings_back_the_same_bytes_whatever_was_damaged() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let n = bench.bucket.peek(&packs_of(&bench, Digest::of(b"shared"))[0]).expect("there").len();
        for at in (0..n).step_by(23) {
            let bench = three(kept_len);
            let pack = &packs_of(&bench, Digest::of(b"shared"))[0];
            flip(&bench, pack, at);
            assert!(
                bench.store().verify().expect("read").iter().any(|damage| matches!(damage.what, Damaged::Pack(_))),
                "byte {at}"
            );
            let repaired = bench.store().repair(&source()).expect("repaired");
            assert_eq!(
                (repaired.lost, repaired.images, repaired.rebuilt, repaired.gone),
                (vec![], vec![], vec![], vec![]),
                "byte {at}"
            );
            all_there(&bench);
        }
        let bench = three(kept_len);
        for key in keys(&bench, "p/") {
            bench.bucket.set(&key, None);
        }
        let repaired = bench.store().repair(&source()).expect("repaired");
        assert_eq!((repaired.lost, repaired.images), (vec![], vec![]));
        all_there(&bench);
    }
}

#[test]
fn what_is_whole_in_a_damaged_pack_needs_no_other_copy() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let pack = &packs_of(&bench, Digest::of(b"shared"))[0];
        // The end of the trailer: every blob is whole.
        flip(&bench, pack, bench.bucket.peek(pack).expect("there").len() - 1);
        let repaired = bench.store().repair(&Nothing).expect("repaired");
        assert_eq!((repaired.lost, repaired.images), (vec![], vec![]));
        all_there(&bench);
    }
}

#[test]
fn a_repair_that_is_killed_at_any_request_is_completed_by_the_next_and_never_makes_it_worse() {
    for kept_len in BOTH {
        let damage = |bench: &Bench| {
            spoil(bench, Digest::of(&[1; 1000]));
            bench.bucket.set(&packs_of(bench, Digest::of(&[3; 1000]))[0], None);
        };
        let make = || {
            let bench = three(kept_len);
            damage(&bench);
            bench
        };
        at_every_request(
            make,
            |store| drop(store.repair(&source())),
            |bench, n| {
                // What was whole before is whole now.
                assert_there(bench, 2);
                let repaired = bench.store().repair(&source()).unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                assert_eq!(repaired.lost, []);
                all_there(bench);
            },
        );
    }
}

#[test]
fn nothing_that_is_whole_goes_when_nobody_has_another_copy() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        spoil(&bench, Digest::of(&[1; 1000]));
        let before: BTreeSet<String> = keys(&bench, "p/").into_iter().collect();
        bench.store().repair(&Nothing).expect("repaired as far as can be");
        assert!(before.is_subset(&keys(&bench, "p/").into_iter().collect()), "a repair deletes no pack");
        for n in 2..4 {
            assert_there(&bench, n);
        }
    }
}

/// What is lost, and then what a repair says that it made again.
fn lose(bench: &Bench, keys: &[String]) -> Vec<String> {
    let repaired = lose_more(bench, keys);
    assert_eq!(repaired.gone, [""; 0]);
    repaired.rebuilt
}

/// As `lose`, where not all comes back.
fn lose_more(bench: &Bench, keys: &[String]) -> Repaired {
    keys.iter().for_each(|key| bench.bucket.set(key, None));
    assert!(!bench.store().verify().expect("read").is_empty(), "{keys:?}");
    let repaired = bench.store().repair(&Nothing).expect("repaired");
    assert!(!repaired.rebuilt.is_empty());
    assert_eq!(bench.store().rebuild().expect("nothing to do"), Repaired::default());
    repaired
}

#[test]
fn a_lost_or_damaged_head_is_made_again_from_the_log() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let sequence = bench.store().view().expect("read").expect("there").head.sequence;
        put(&bench.store(), 4).expect("put");
        bench.bucket.set("head", None);
        // Nobody takes it for a new cache.
        put(&bench.store(), 5).expect_err("the head is lost");
        let words = lose(&bench, &["head".into()]);
        assert_eq!(words, [format!("the head, as commit {} made it", sequence + 1)]);
        all_there(&bench);
        assert_there(&bench, 4);
        assert_eq!(bench.store().view().expect("read").expect("there").head.sequence, sequence + 2);
        flip(&bench, "head", 30);
        bench.store().contents().expect_err("damaged");
        lose(&bench, &[]);
        all_there(&bench);
        put(&bench.store(), 5).expect("put");
        assert_there(&bench, 5);
    }
}

#[test]
fn a_lost_index_is_made_again_from_the_ends_of_packs() {
    let bench = three(0);
    let start = bench.bucket.calls().len();
    let words = lose(&bench, &keys(&bench, "i/"));
    assert_eq!(words, ["the index, from the ends of 3 packs"]);
    let lists = bench
        .bucket
        .calls()
        .split_off(start)
        .into_iter()
        .filter(|call| call.action == super::super::memory::Action::List)
        .count();
    assert_eq!(lists, 1);
    all_there(&bench);
    // All else goes on: what is put, what goes, what is damaged.
    put(&bench.store(), 4).expect("put");
    let plan =
        gc::plan(&bench.store().contents().expect("read"), &crate::Policy { count: 2, older: df_core::Timestamp(i64::MAX) });
    assert_eq!(bench.store().collect(&plan).expect("collected").n_images, 2);
    (3..5).for_each(|n| assert_there(&bench, n));
    flip(&bench, &packs_of(&bench, Digest::of(&[3; 1000]))[0], 20);
    assert!(!bench.store().verify().expect("read").is_empty());
    bench.store().repair(&source()).expect("repaired");
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn a_lost_root_table_is_that_of_an_older_commit() {
    let bench = three(0);
    let view = bench.store().view().expect("read").expect("there");
    let Repaired { rebuilt, gone, .. } =
        lose_more(&bench, &[view.head.roots.expect("a table").name.key(Space::Table).to_string()]);
    assert!(rebuilt[0].starts_with("the root table, as it was after commit"), "{rebuilt:?}");
    assert!(gone[0].ends_with("no other copy has what a test put; put it again"), "{gone:?}");
    assert!(gone[1].starts_with("pins and leases since commit 3 are not known"), "{gone:?}");
    assert_eq!((rebuilt.len(), gone.len()), (1, 2));
    assert_there(&bench, 1);
    assert_there(&bench, 2);
    let (manifest, blobs, _) = example(3);
    assert_whole(&bench.store(), &manifest, &blobs);
    put(&bench.store(), 3).expect("put again");
    all_there(&bench);
}

/// The cache of somebody who has all that is in the bucket, one more, and a document of each.
pub(super) fn elsewhere(bench: &Bench) -> crate::DiskStore {
    let disk = crate::DiskStore::open(&bench.directory.path().join("disk")).expect("a store");
    for n in 1..5 {
        let (manifest, blobs, release) = example(n);
        disk.put(&release, &manifest, &blobs, NOW).expect("put");
        disk.attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
    }
    disk
}

#[test]
fn a_lost_document_comes_back_from_another_copy_or_is_said_to_be_lost() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let other = elsewhere(&bench);
        let (_, _, release) = example(2);
        let attach = |document, bytes| bench.store().attach(&release.app, release.id(), document, bytes).expect("attached");
        attach(Document::Sbom, b"what of".as_slice());
        attach(Document::Provenance, b"how".as_slice());
        for key in keys(&bench, "a/") {
            bench.bucket.set(&key, None);
        }
        assert_eq!(bench.store().verify().expect("read").len(), 2);
        let repaired = bench.store().repair(&other).expect("repaired");
        let id = release.id();
        let lost = format!("the provenance of release {id} is lost: no other copy has it; a build of its commit makes it again");
        assert_eq!((repaired.rebuilt, repaired.gone), (vec![format!("the sbom of release {id}, from another copy")], vec![lost]));
        let attached = |document| bench.store().attached(&release.app, id, document).expect("read");
        assert_eq!((attached(Document::Sbom), attached(Document::Provenance)), (Some(b"what of".to_vec()), None));
        all_there(&bench);
    }
}

#[test]
fn what_this_machine_remembers_is_enough() {
    let bench = three(0);
    let store = bench.store();
    all_there(&bench);
    let view = store.view().expect("read").expect("there");
    store.index(&view).expect("read");
    for key in [keys(&bench, "t/"), keys(&bench, "i/")].concat() {
        bench.bucket.set(&key, None);
    }
    let repaired = store.repair(&Nothing).expect("repaired");
    assert_eq!(repaired.lost, []);
    all_there(&bench);
}

#[test]
fn the_head_and_the_index_may_go_at_once() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let (_, _, release) = example(2);
        bench.store().attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
        lose(&bench, &[keys(&bench, "i/"), vec!["head".into()]].concat());
        all_there(&bench);
        let words = lose(&bench, &["df-cache.json".into()]);
        assert_eq!(words, ["df-cache.json"]);
        all_there(&bench);
        assert_eq!(bench.store().attached(&release.app, release.id(), Document::Sbom).expect("read"), Some(b"what of".to_vec()));
    }
}

#[test]
fn two_records_of_one_moment_are_both_kept() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        // Both plan against the same head; one swap holds, the other one's writer dies before it tries again.
        let (other, bucket) = (bench.store(), bench.bucket.clone());
        let once = std::sync::atomic::AtomicBool::new(false);
        bucket.decide(move |call| {
            use super::super::memory::{Action, Fate};
            if call.action == Action::Put && call.key == "head" && !once.swap(true, std::sync::atomic::Ordering::Relaxed) {
                put(&other, 4).expect("put");
                return Fate::Lost;
            }
            Fate::Done
        });
        put(&bench.store(), 5).expect_err("dead");
        bucket.behave();
        let words = lose(&bench, &["head".into()]);
        assert!(words.iter().any(|word| word.starts_with("what 2 commits")), "{words:?}");
        all_there(&bench);
        assert_there(&bench, 4);
        assert_there(&bench, 5);
    }
}

#[test]
fn making_it_again_may_be_killed_at_any_request() {
    for kept_len in BOTH {
        let make = || {
            let bench = three(kept_len);
            let lost = [keys(&bench, "i/"), vec!["head".into()]].concat();
            lost.iter().for_each(|key| bench.bucket.set(key, None));
            bench
        };
        at_every_request(
            make,
            |store: &S3Store| drop(store.rebuild()),
            |bench, n| {
                bench.store().rebuild().unwrap_or_else(|error| panic!("after request {n}: {error:?}"));
                all_there(bench);
            },
        );
    }
}

#[test]
fn who_is_under_way_while_it_is_made_again_loses_nothing() {
    for kept_len in BOTH {
        for n in 0.. {
            let bench = three(kept_len);
            let (store, mender) = (bench.store(), bench.store());
            let bucket = bench.bucket.clone();
            let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
            let counted = asked.clone();
            bench.bucket.decide(move |_| {
                if counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == n {
                    bucket.set("head", None);
                    mender.rebuild().expect("made again");
                }
                super::super::memory::Fate::Done
            });
            let _ = put(&store, 4);
            bench.bucket.behave();
            if asked.load(std::sync::atomic::Ordering::Relaxed) <= n {
                break;
            }
            all_there(&bench);
            put(&bench.store(), 4).expect("put");
            assert_there(&bench, 4);
            assert_eq!(bench.store().verify().expect("read"), []);
        }
    }
}

#[test]
fn blobs_that_a_source_has_wrongly_are_not_taken() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        spoil(&bench, Digest::of(&[1; 1000]));
        let wrong: Source = source().into_keys().map(|digest| (digest, b"wrong".to_vec())).collect();
        let repaired = bench.store().repair(&wrong).expect("as far as can be");
        assert_eq!(repaired.healed, []);
        (2..4).for_each(|n| assert_there(&bench, n));
        let (manifest, blobs, release) = example(1);
        bench.store().put(&release, &manifest, &blobs, NOW).expect("put again");
        all_there(&bench);
        assert_whole(&bench.store(), &manifest, &blobs);
    }
}
