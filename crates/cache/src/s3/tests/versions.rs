//! Successive versions of a program: each is stored as what changed, read back through what it is a change of, and kept whole by a collection.

use std::io::Read as _;

use df_core::{Manifest, Release};

use super::super::Item;
use super::super::memory::{Action, Call};
use super::{BOTH, Bench, NOW};
use crate::blobs::{Blobs as _, Bytes};
use crate::contract::{Source, assert_whole, image, release};
use crate::store::Store;
use crate::{DiskStore, Policy, gc};

/// Versions of a program of so many bytes, a few of which differ from one to the next.
fn versions(n: u8, len: usize) -> Vec<(Manifest, Source, Release)> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut program: Vec<u8> = (0..len).map(|_| next()).collect();
    let one = |n: u8| {
        for at in 0..len / 50_000 {
            program[at * 50_000 + usize::from(n)] ^= 0x5a;
        }
        let (manifest, blobs) = image(&[&program, b"unchanged"]);
        let release = release("greeter", u64::from(n), manifest.image());
        (manifest, blobs, release)
    };
    (1..=n).map(one).collect()
}

fn all(versions: &[(Manifest, Source, Release)]) -> Source {
    versions.iter().flat_map(|(_, blobs, _)| blobs.clone()).collect()
}

#[test]
fn ten_versions_take_little_more_than_one_and_each_is_whole_by_itself() {
    let versions = versions(12, 500_000);
    let source = all(&versions);
    for at_once in [false, true] {
        let bench = Bench::new();
        let store = bench.store();
        if at_once {
            let items: Vec<_> =
                versions.iter().map(|(manifest, _, release)| Item { manifest, release: Some(release), documents: &[] }).collect();
            store.put_items(&items, &source, NOW).expect("put");
        } else {
            for (manifest, _, release) in &versions {
                store.put(release, manifest, &source, NOW).expect("put");
            }
        }
        let stored = store.stats().expect("read").stored_bytes;
        assert!(stored < 550_000, "{stored}");
        for (manifest, blobs, _) in &versions {
            assert_whole(&bench.store(), manifest, blobs);
        }
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn a_collection_keeps_what_a_kept_version_is_a_change_of() {
    for kept_len in BOTH {
        let versions = versions(9, 200_000);
        let source = all(&versions);
        let bench = Bench::keeping(kept_len);
        let store = bench.store();
        for (manifest, _, release) in &versions {
            store.put(release, manifest, &source, NOW).expect("put");
        }
        let policy = Policy { count: 1, older: df_core::Timestamp(i64::MAX) };
        for _ in 0..2 {
            store.collect(&gc::plan(&store.contents().expect("read"), &policy)).expect("collected");
            let (manifest, blobs, _) = versions.last().expect("some");
            assert_whole(&bench.store(), manifest, blobs);
            assert_eq!(bench.store().verify().expect("read"), []);
        }
        // What its older versions are gone is stored whole again by whoever puts it.
        let policy = gc::NOTHING;
        store.collect(&gc::plan(&store.contents().expect("read"), &policy)).expect("collected");
        assert!(!bench.bucket.keys().iter().any(|key| key.starts_with("p/")));
        let (manifest, blobs, release) = &versions[8];
        store.put(release, manifest, blobs, NOW).expect("put");
        assert_whole(&bench.store(), manifest, blobs);
    }
}

#[test]
fn a_get_of_a_change_brings_what_it_is_a_change_of_in_the_same_requests() {
    let versions = versions(9, 200_000);
    let source = all(&versions);
    let bench = Bench::new();
    let store = bench.store();
    let items: Vec<_> =
        versions.iter().map(|(manifest, _, release)| Item { manifest, release: Some(release), documents: &[] }).collect();
    store.put_items(&items, &source, NOW).expect("put");
    let directory = tempfile::tempdir().expect("a directory");
    let disk = DiskStore::open(&directory.path().join("disk")).expect("a store");
    let start = bench.bucket.calls().len();
    let (manifest, blobs, _) = &versions[8];
    crate::store::copy(&bench.store(), &disk, manifest, NOW).expect("copied");
    assert_whole(&disk, manifest, blobs);
    let ranges = bench.bucket.calls()[start..].iter().filter(|call| call.action == Action::Range).count();
    assert_eq!(ranges, 1);
}

/// Each piece of a change needs all of what it is a change of: read anew for each, the last of these took a thousand requests.
#[test]
fn a_long_blob_at_the_end_of_many_changes_is_not_read_over_and_over() {
    let n_versions = 8;
    let versions = versions(n_versions, (8 << 20) + (1 << 20));
    let source = all(&versions);
    let bench = Bench::new();
    let items: Vec<_> =
        versions.iter().map(|(manifest, _, release)| Item { manifest, release: Some(release), documents: &[] }).collect();
    bench.store().put_items(&items, &source, NOW).expect("put");
    let (manifest, blobs, _) = versions.last().expect("some");
    let (&long, program) = blobs.iter().find(|(_, bytes)| bytes.len() > 1 << 20).expect("a program");
    let store = bench.store();
    let start = bench.bucket.calls().len();
    assert_whole(&store, manifest, blobs);
    let of_packs = |call: &&Call| call.action == Action::Range && call.key.starts_with("p/");
    let ranges = || bench.bucket.calls()[start..].iter().filter(of_packs).count();
    // Once whole and once streamed; the small one; the manifest.
    assert!(ranges() <= 2 * usize::from(n_versions) + 8, "{}", ranges());
    // Those that are loaded ahead are asked for once, and let go when they were taken.
    let before = ranges();
    let fetch = bench.store().fetch(&[(long, program.len() as u64)]).expect("known");
    assert_eq!(fetch.n_left(), 2 * usize::from(n_versions));
    let mut read = vec![];
    fetch.blob(long).and_then(Bytes::reader).expect("a blob").read_to_end(&mut read).expect("read");
    assert!(read == *program, "it is what was put");
    assert_eq!(fetch.n_left(), 0);
    assert!(ranges() - before <= 3, "{}", ranges() - before);
}
