//! What is lost with what held a cache together: it comes back as far as records and another copy know it, and the rest is said.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use df_core::{AppName, Digest, Release, ReleaseId};

use super::super::put::Item;
use super::killed::{assert_there, example, put};
use super::mending::{all_there, elsewhere, flip, keys, source, spoil, three};
use super::{BOTH, Bench, NOW};
use crate::blobs::{Blobs, Bytes, Nothing};
use crate::contract::{Source, assert_whole};
use crate::document::Document;
use crate::gc;
use crate::scrub::Repaired;
use crate::store::Store;

/// Said of every table that is made again.
fn unknown(since: u64) -> String {
    format!(
        "pins and leases since commit {since} are not known, nor documents that no other copy has: pin and attach again what is missing"
    )
}

fn remove(bench: &Bench, keys: &[String]) {
    keys.iter().for_each(|key| bench.bucket.set(key, None));
}

/// Removes the tables that were written since some were there.
fn remove_tables_but(bench: &Bench, before: &[String]) {
    let later: Vec<String> = keys(bench, "t/").into_iter().filter(|key| !before.contains(key)).collect();
    assert!(!later.is_empty());
    remove(bench, &later);
}

fn ids(store: &dyn Store) -> Vec<ReleaseId> {
    store.releases().expect("read").iter().map(|stored| stored.id).collect()
}

#[test]
fn releases_that_a_lost_root_table_named_come_back_from_another_copy_in_their_order_and_with_their_documents() {
    let bench = Bench::new();
    put(&bench.store(), 1).expect("put");
    let first = keys(&bench, "t/");
    (2..4).for_each(|n| put(&bench.store(), n).expect("put"));
    let (before, other) = (ids(&bench.store()), elsewhere(&bench));
    // Of two commits only the records are left.
    remove_tables_but(&bench, &first);
    let repaired = bench.store().repair(&other).expect("repaired");
    let rebuilt = vec!["the root table, as it was after commit 2 of 4".to_owned()];
    assert_eq!(repaired, Repaired { rebuilt, gone: vec![unknown(2)], ..Repaired::default() });
    all_there(&bench);
    assert_eq!(ids(&bench.store()), before);
    for n in 1..4 {
        let (_, _, release) = example(n);
        let found = bench.store().attached(&release.app, release.id(), Document::Sbom).expect("read");
        assert_eq!(found, Some(b"what of".to_vec()), "of release {n}");
    }
    bench.store().collect(&gc::Plan::default()).expect("collected");
    all_there(&bench);
    assert_eq!(bench.store().repair(&Nothing).expect("nothing to do"), Repaired::default());
}

#[test]
fn a_head_that_is_lost_with_the_newest_table_takes_no_image_with_it_and_no_release_that_another_copy_has() {
    for has_copy in [true, false] {
        let bench = three(0);
        let before = keys(&bench, "t/");
        put(&bench.store(), 4).expect("put");
        let other = elsewhere(&bench);
        remove_tables_but(&bench, &before);
        remove(&bench, &["head".into()]);
        let other: &dyn Blobs = if has_copy { &other } else { &Nothing };
        let repaired = bench.store().repair(other).expect("repaired");
        assert_eq!(repaired.rebuilt, ["the head, as commit 5 made it", "the root table, as it was after commit 4 of 5"]);
        let (manifest, blobs, release) = example(4);
        let lost = format!("release {} is lost: no other copy has what a test put; put it again", release.id());
        let gone = if has_copy { vec![unknown(4)] } else { vec![lost, unknown(4)] };
        assert_eq!(repaired.gone, gone);
        all_there(&bench);
        assert_whole(&bench.store(), &manifest, &blobs);
        if !has_copy {
            bench.store().put_release(&release, NOW).expect("its image is there");
        }
        assert_there(&bench, 4);
    }
}

#[test]
fn a_cache_of_one_commit_comes_back_without_its_table() {
    let bench = Bench::new();
    put(&bench.store(), 1).expect("put");
    remove(&bench, &[keys(&bench, "t/"), vec!["head".into()]].concat());
    let repaired = bench.store().repair(&elsewhere(&bench)).expect("repaired");
    assert_eq!(repaired.gone, [unknown(1)]);
    assert_there(&bench, 1);
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn releases_of_one_commit_come_back_in_the_order_in_which_they_were_put() {
    let bench = three(0);
    let (before, examples) = (keys(&bench, "t/"), [7, 6, 5, 9, 8, 4].map(example));
    let items = examples.iter().map(|(manifest, _, release)| Item { manifest, release: Some(release), documents: &[] });
    let blobs: Source = examples.iter().flat_map(|(_, blobs, _)| blobs.clone()).collect();
    bench.store().put_items(&items.collect::<Vec<_>>(), &blobs, NOW).expect("put");
    let order = ids(&bench.store());
    assert!(!order[3..].is_sorted(), "else this would show nothing");
    let other = elsewhere(&bench);
    for (manifest, blobs, release) in &examples {
        other.put(release, manifest, blobs, NOW).expect("put");
    }
    remove_tables_but(&bench, &before);
    let repaired = bench.store().repair(&other).expect("repaired");
    assert_eq!(repaired.rebuilt, ["the root table, as it was after commit 4 of 5"]);
    assert_eq!(ids(&bench.store()), order);
}

#[test]
fn what_a_later_commit_let_go_of_is_not_said_to_be_lost() {
    let bench = three(0);
    put(&bench.store(), 4).expect("put");
    let keep = crate::Policy { count: 2, older: df_core::Timestamp(i64::MAX) };
    bench.store().collect(&gc::plan(&bench.store().contents().expect("read"), &keep)).expect("collected");
    let order = ids(&bench.store());
    assert_eq!(order.len(), 2);
    remove(&bench, &keys(&bench, "t/"));
    let repaired = bench.store().repair(&elsewhere(&bench)).expect("repaired");
    assert_eq!(repaired.gone, [unknown(1)]);
    assert_eq!(ids(&bench.store()), order);
    (3..5).for_each(|n| assert_there(&bench, n));
}

#[test]
fn a_commit_of_which_only_a_damaged_record_is_left_is_said_to_be_lost() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        flip(&bench, &keys(&bench, "log/0000000000000004-")[0], 30);
        remove(&bench, &["head".into()]);
        let repaired = bench.store().repair(&Nothing).expect("repaired");
        assert_eq!(repaired.rebuilt[0], "the head, as commit 3 made it");
        assert_eq!(repaired.gone, ["what commit 4 did is lost: its record is damaged"]);
        (1..3).for_each(|n| assert_there(&bench, n));
    }
}

/// Another copy that does something before it hands out its first blob, and cannot always be asked.
struct Other<'a> {
    blobs: Source,
    first: &'a (dyn Fn() + Sync),
    was_asked: AtomicBool,
}

impl<'a> Other<'a> {
    fn new(first: &'a (dyn Fn() + Sync)) -> Self {
        Self { blobs: source(), first, was_asked: AtomicBool::new(false) }
    }
}

impl Blobs for Other<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        if !self.was_asked.swap(true, Ordering::Relaxed) {
            (self.first)();
        }
        self.blobs.blob(digest)
    }

    fn release(&self, _: ReleaseId) -> io::Result<Option<Release>> {
        Err(io::Error::other("no network"))
    }

    fn document(&self, _: &AppName, _: ReleaseId, _: Document) -> io::Result<Option<Vec<u8>>> {
        Err(io::Error::other("no network"))
    }
}

#[test]
fn a_document_that_somebody_attaches_during_a_repair_is_not_thrown_away() {
    for kept_len in BOTH {
        let (bench, bundle) = (three(kept_len), include_bytes!("../../../../core/testdata/attestations-v1.json"));
        let (_, _, release) = example(2);
        let attach = || {
            let is_new = bench.store().attach(&release.app, release.id(), Document::Attestations, bundle).expect("attached");
            assert!(is_new);
        };
        attach();
        remove(&bench, &keys(&bench, "a/"));
        spoil(&bench, Digest::of(&[1; 1000]));
        let repaired = bench.store().repair(&Other::new(&attach)).expect("repaired");
        assert_eq!((repaired.healed, repaired.gone), (vec![Digest::of(&[1; 1000])], vec![]));
        let found = bench.store().attached(&release.app, release.id(), Document::Attestations).expect("read");
        assert!(found.is_some(), "it was acknowledged");
        all_there(&bench);
    }
}

#[test]
fn what_another_copy_cannot_be_asked_for_is_not_taken_for_gone() {
    let bench = three(0);
    let (_, _, release) = example(2);
    bench.store().attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
    let first = keys(&bench, "t/");
    put(&bench.store(), 4).expect("put");
    let (mute, other) = (Other::new(&|| {}), elsewhere(&bench));
    remove(&bench, &keys(&bench, "a/"));
    for _ in 0..2 {
        let repaired = bench.store().repair(&mute).expect("as far as can be");
        assert_eq!(repaired.gone, [format!("the sbom of release {} is damaged still: no network", release.id())]);
    }
    remove_tables_but(&bench, &first);
    bench.store().repair(&mute).expect_err("nobody knows whether the release is lost");
    let repaired = bench.store().repair(&other).expect("repaired");
    assert_eq!(repaired.gone, [unknown(5)]);
    all_there(&bench);
    assert_there(&bench, 4);
    assert_eq!(bench.store().attached(&release.app, release.id(), Document::Sbom).expect("read"), Some(b"what of".to_vec()));
}
