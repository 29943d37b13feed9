//! What a put and a get cost, in requests.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use df_core::{Digest, Manifest, Release};

use super::super::format::head::KEPT_LEN;
use super::super::memory::{Action, Fate};
use super::super::objects::Objects as _;
use super::super::{Item, Options, S3Store};
use super::{BOTH, Bench, NOW};
use crate::blobs::{Blobs, Bytes, Nothing};
use crate::contract::{Source, assert_whole, image, release};
use crate::document::Document;
use crate::store::Store;

/// Counts what was asked since a moment, by action and first word of the key.
fn since(bench: &Bench, start: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in bench.bucket.calls().into_iter().skip(start) {
        let word = call.key.split('/').next().expect("a first word").to_owned();
        *counts.entry(format!("{:?} {word}", call.action).to_lowercase()).or_insert(0) += 1;
    }
    counts
}

fn counted(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
    rows.iter().map(|&(word, n)| (word.to_owned(), n)).collect()
}

/// Makes an image of many files that nothing can compress.
pub(super) fn files(n: usize, len: usize, salt: u64) -> (Manifest, Source) {
    let mut bytes = vec![0; n * len];
    let mut state = salt | 1;
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    image(&bytes.chunks_exact(len).collect::<Vec<_>>())
}

fn item<'a>(manifest: &'a Manifest, release: &'a Release) -> Item<'a> {
    Item { manifest, release: Some(release), documents: &[] }
}

#[test]
fn a_hundred_thousand_small_files_are_a_few_requests() {
    let bench = Bench { kept_len: KEPT_LEN, ..Bench::new() };
    let store = bench.store();
    let (small, blobs) = image(&[b"first"]);
    store.put(&release("other", 9, small.image()), &small, &blobs, NOW).expect("the cache is made");
    let (manifest, blobs) = files(100_000, 2048, 7);
    let bytes: u64 = manifest.total_len();
    let start = bench.bucket.calls().len();
    store.put(&release("greeter", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    let counts = since(&bench, start);
    let packs = counts["put p"];
    assert!(packs as u64 <= bytes / (56 << 20) + 1, "{packs} packs");
    assert_eq!(counts, counted(&[("get head", 1), ("put head", 1), ("put i", 1), ("put log", 1), ("put p", packs)]));
    assert!(counts.values().sum::<usize>() as u64 <= bytes.div_ceil(56 << 20) + 4);

    // Put again, by the same program and by a stranger.
    for known in [store.clone(), bench.store()] {
        let start = bench.bucket.calls().len();
        known.put(&release("greeter", 1, manifest.image()), &manifest, &Nothing, NOW).expect("there");
        assert_eq!(since(&bench, start), counted(&[("get head", 1)]));
    }
}

#[test]
fn a_stranger_who_looks_first_reads_the_head_once_and_what_is_small_with_it() {
    // With its tables in the head; beside it; a segment that is too long for it.
    type Rows<'a> = &'a [(&'a str, usize)];
    let cases: [(usize, usize, Rows<'_>, Rows<'_>); 3] = [
        (KEPT_LEN, 100, &[], &[]),
        (0, 100, &[("get i", 1), ("get t", 1), ("put i", 1), ("put t", 1)], &[("get i", 2), ("get t", 1)]),
        (KEPT_LEN, 400, &[("put i", 1)], &[("get i", 1)]),
    ];
    for (kept_len, n, more_of_put, more_of_get) in cases {
        let bench = Bench { kept_len, ..Bench::new() };
        let (small, blobs) = image(&[b"first"]);
        bench.store().put(&release("other", 9, small.image()), &small, &blobs, NOW).expect("the cache is made");
        let (manifest, blobs) = files(n, 2048, 7);
        let release = release("greeter", 1, manifest.image());
        let (stranger, start) = (bench.store(), bench.bucket.calls().len());
        assert_eq!(stranger.contents().expect("read").releases.len(), 1);
        assert_eq!(stranger.lacking(&manifest).expect("read").len(), n);
        let documents: [(Document, &[u8]); 2] = [(Document::Provenance, b"how"), (Document::Sbom, b"what of")];
        let item = Item { documents: &documents, ..item(&manifest, &release) };
        stranger.put_items(&[item], &blobs, NOW).expect("put");
        let each = [("get head", 1), ("put a", 1), ("put head", 1), ("put log", 1), ("put p", 1)];
        assert_eq!(since(&bench, start), counted(&[&each, more_of_put].concat()));

        let (stranger, start) = (bench.store(), bench.bucket.calls().len());
        assert_eq!(stranger.contents().expect("read").releases.len(), 2);
        for (document, bytes) in documents {
            let found = stranger.attached(&release.app, release.id(), document).expect("read");
            assert_eq!(found.as_deref(), Some(bytes));
        }
        let read = stranger.manifest(manifest.image()).expect("read");
        let reading = stranger.reading(&read.blobs()).expect("begun");
        for (digest, _) in read.blobs() {
            reading.blob(digest).and_then(Bytes::reader).expect("a blob");
        }
        let each = [("get a", 2), ("get head", 1), ("range p", 2)];
        assert_eq!(since(&bench, start), counted(&[&each, more_of_get].concat()));
    }
}

#[test]
fn one_commit_takes_many_images_and_one_request_their_documents() {
    let bench = Bench::new();
    let store = bench.store();
    let rows: Vec<_> = (0..20_u8).map(|n| image(&[b"shared", &[n; 100]])).collect();
    let releases: Vec<_> = (0..).zip(&rows).map(|(n, (manifest, _))| release(&format!("app-{n}"), n, manifest.image())).collect();
    let all: Source = rows.iter().flat_map(|(_, blobs)| blobs.clone()).collect();
    let (first, rest) = rows.split_first().expect("some");
    store.put(&releases[0], &first.0, &first.1, NOW).expect("put");
    let start = bench.bucket.calls().len();
    let documents: [(Document, &[u8]); 2] = [(Document::Sbom, b"what of"), (Document::Provenance, b"how")];
    let mut items: Vec<_> = rest.iter().zip(&releases[1..]).map(|((manifest, _), release)| item(manifest, release)).collect();
    items[3].documents = &documents;
    let added = store.put_items(&items, &all, NOW).expect("put");
    assert_eq!((added.n_blobs, added.bytes), (19, 1900));
    let expected = [("get head", 1), ("put a", 1), ("put head", 1), ("put i", 1), ("put log", 1), ("put p", 1), ("put t", 1)];
    assert_eq!(since(&bench, start), counted(&expected));
    for ((manifest, blobs), release) in rows.iter().zip(&releases) {
        assert_whole(&bench.store(), manifest, blobs);
        assert!(store.releases().expect("read").iter().any(|stored| stored.release == *release));
    }
    let attached = bench.store().attached(&releases[4].app, releases[4].id(), Document::Sbom);
    assert_eq!(attached.expect("read"), Some(b"what of".to_vec()));
    let start = bench.bucket.calls().len();
    store.put_items(&items, &Nothing, NOW).expect("all there");
    assert_eq!(since(&bench, start), counted(&[("get head", 1)]));
}

#[test]
fn nothing_but_a_collection_lists_and_nothing_asks_whether_something_is_there() {
    let bench = Bench::new();
    let store = bench.store();
    let (manifest, blobs) = files(100, 300, 3);
    let release = release("greeter", 1, manifest.image());
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    store.pin(manifest.image(), "for a test").expect("pinned");
    store.unpin(manifest.image()).expect("unpinned");
    store.attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
    store.verify().expect("read");
    store.repair(&blobs).expect("nothing to do");
    assert_whole(&bench.store(), &manifest, &blobs);
    let asked = |action| bench.bucket.calls().iter().filter(|call| call.action == action).count();
    assert_eq!((asked(Action::List), asked(Action::Delete)), (0, 0));
    let plan = crate::gc::plan(&store.contents().expect("read"), &crate::gc::NOTHING);
    store.collect(&plan).expect("collected");
    assert!(asked(Action::List) > 0 && asked(Action::Delete) > 0);
    assert_eq!(bench.bucket.keys().iter().filter(|key| key.starts_with("p/")).count(), 0);
}

#[test]
fn a_thousand_commits_leave_a_short_head() {
    let bench = Bench::new();
    let store = bench.store();
    for n in 0..300_u64 {
        let (manifest, blobs) = image(&[&n.to_le_bytes()]);
        store.put_image(&manifest, &blobs, NOW).expect("put");
    }
    let stranger = bench.store();
    let start = bench.bucket.calls().len();
    let (manifest, blobs) = image(&[&7_u64.to_le_bytes(), b"new"]);
    stranger.put_image(&manifest, &blobs, NOW).expect("put");
    assert!(since(&bench, start)["get i"] <= 16);
    assert_eq!(bench.store().read(Digest::of(&150_u64.to_le_bytes()), 8).expect("there"), 150_u64.to_le_bytes());
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_get_takes_few_requests_and_only_what_is_lacking() {
    let bench = Bench::new();
    let (manifest, blobs) = files(4_000, 2048, 5);
    let (longer, more) = {
        let long = vec![7; 20 << 20];
        let (manifest, mut more) = image(&[&long, b"few"]);
        more.insert(Digest::of(&long), long);
        (manifest, more)
    };
    let all: Source = blobs.iter().chain(&more).map(|(digest, bytes)| (*digest, bytes.clone())).collect();
    for one in [&manifest, &longer] {
        bench.store().put_image(one, &all, NOW).expect("put");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let disk = crate::DiskStore::open(&directory.path().join("disk")).expect("a store");
    let stranger = bench.store();
    for one in [&manifest, &longer, &manifest] {
        let start = bench.bucket.calls().len();
        let read = stranger.manifest(one.image()).expect("a manifest");
        crate::store::copy(&stranger, &disk, &read, NOW).expect("copied");
        assert_whole(&disk, one, &all);
        let sum = since(&bench, start).values().sum::<usize>();
        assert!(sum <= 9, "{:?}", since(&bench, start));
    }
    // Two blobs out of many: not all between them.
    let (partly, few) = {
        let take = |n: usize| blobs[&manifest.blobs()[n].0].clone();
        image(&[&take(10), &take(3_000)])
    };
    bench.store().put_image(&partly, &few, NOW).expect("there already, under another name");
    let before = bench.bucket.requests();
    let other = crate::DiskStore::open(&directory.path().join("other")).expect("a store");
    crate::store::copy(&stranger, &other, &partly, NOW).expect("copied");
    let took = bench.bucket.requests().bytes_down - before.bytes_down;
    assert!(took < 100_000, "{took}");
    assert_whole(&other, &partly, &few);
}

#[test]
fn a_put_takes_no_more_requests_than_were_told_whatever_it_is() {
    let documents: [(Document, &[u8]); 2] = [(Document::Sbom, b"what of"), (Document::Provenance, b"how")];
    for kept_len in BOTH {
        let bench = Bench::keeping(kept_len);
        let put = |images: &[(Manifest, Source)], first: u64, documents| {
            let all: Source = images.iter().flat_map(|(_, blobs)| blobs.clone()).collect();
            let releases: Vec<_> =
                (first..).zip(images).map(|(n, (manifest, _))| release("greeter", n, manifest.image())).collect();
            let items: Vec<_> = images
                .iter()
                .zip(&releases)
                .map(|((manifest, _), release)| Item { documents, ..item(manifest, release) })
                .collect();
            let told = bench.store().requests_of_put(&items).expect("read");
            let (store, start) = (bench.store(), bench.bucket.calls().len());
            store.contents().expect("read");
            items.iter().for_each(|item| drop(store.lacking(item.manifest).expect("read")));
            store.put_items(&items, &all, NOW).expect("put");
            let (taken, told) = (bench.bucket.calls().len() - start, (told.get + told.put) as usize);
            assert!(taken <= told, "{first}: {taken}, not {told}: {:?}", since(&bench, start));
            assert!(told <= taken + 4, "{first}: {taken}, and {told} are told");
        };
        let small = |n: u64| image(&[&n.to_le_bytes()]);
        put(&[small(1), small(2), small(3)], 1, &documents[..]);
        (4..24).for_each(|n| put(&[small(n)], n, &[]));
        put(&[files(400, 2048, 7)], 24, &documents);
        put(&[files(9, 8 << 20, 9), small(99)], 25, &[]);
        put(&[small(99)], 26, &documents);
    }
}

/// What is told of a put that is the only item, and what it and putting its release again take.
#[track_caller]
fn takes_no_more_than_told(bench: &Bench, options: impl Fn(u8) -> Options, n: u8) {
    let (manifest, blobs) = image(&[&[n; 100]]);
    let (release, older) = (release("greeter", n.into(), manifest.image()), release("greeter", 99, manifest.image()));
    let items = [item(&manifest, &release)];
    let open = |seed| S3Store::open(bench.bucket.clone(), &bench.directory.path().join(format!("told-{seed}")), options(seed));
    let told = open(n).requests_of_put(&items).expect("read");
    let (store, start) = (open(n + 100), bench.bucket.calls().len());
    store.contents().expect("read");
    store.lacking(&manifest).expect("read");
    store.put_items(&items, &blobs, NOW).expect("put");
    let (taken, told) = (bench.bucket.calls().len() - start, (told.get + told.put) as usize);
    assert!(taken <= told, "{taken}, not {told}: {:?}", since(bench, start));
    let (told, start) = (store.requests_of_release(), bench.bucket.calls().len());
    store.put_release(&older, NOW).expect("put");
    let (taken, told) = (bench.bucket.calls().len() - start, (told.get + told.put) as usize);
    assert_eq!(taken, told, "{:?}", since(bench, start));
}

#[test]
fn a_put_into_a_cache_whose_first_writer_died_early_takes_no_more_requests_than_were_told() {
    let bench = Bench::new();
    bench.bucket.decide(|call| if call.key.starts_with("p/") { Fate::Lost } else { Fate::Done });
    let (manifest, blobs) = image(&[b"never there"]);
    bench.store().put_image(&manifest, &blobs, NOW).expect_err("dead");
    bench.bucket.behave();
    assert_eq!(bench.store().view().expect("read").expect("a head").head.sequence, 1);
    takes_no_more_than_told(&bench, |seed| bench.options(seed), 1);
}

#[test]
fn a_single_writer_takes_no_more_requests_than_were_told() {
    let bench = Bench::new();
    for n in 1..4 {
        takes_no_more_than_told(&bench, |seed| Options { single_writer: true, ..bench.options(seed) }, n);
    }
}

/// A source that is told what arrived.
struct Told<'a>(&'a Source, AtomicU64);

impl Blobs for Told<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.0.blob(digest)
    }
    fn arrived(&self, len: u64) {
        self.1.fetch_add(len, Ordering::SeqCst);
    }
}

#[test]
fn what_was_read_has_not_arrived_before_its_pack_is_there() {
    let bench = Bench::new();
    let (manifest, blobs) = files(9, 8 << 20, 7);
    let release = release("greeter", 1, manifest.image());
    let put = || {
        let told = Told(&blobs, AtomicU64::new(0));
        let result = bench.store().put(&release, &manifest, &told, NOW);
        (result, told.1.into_inner())
    };
    let packs = AtomicU64::new(0);
    bench.bucket.decide(move |call| {
        match call.action == Action::Put && call.key.starts_with("p/") && packs.fetch_add(1, Ordering::SeqCst) > 0 {
            true => Fate::Lost,
            false => Fate::Done,
        }
    });
    let (result, arrived) = put();
    assert!(result.is_err());
    assert_eq!(arrived, 56 << 20, "one pack of several");

    bench.bucket.behave();
    let (result, arrived) = put();
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(arrived, 72 << 20, "each byte once");
    let (result, arrived) = put();
    assert!(result.is_ok_and(|added| added.n_blobs == 0));
    assert_eq!(arrived, 0, "nothing was lacking");
}

/// A pack of nothing but zeros had room for a hundred gigabytes of them.
#[test]
fn a_put_that_is_killed_has_not_more_to_send_again_because_it_compresses_well() {
    let bench = Bench::new();
    let zeros = vec![0; (300 << 20) + 1];
    let (manifest, blobs) = image(&[&zeros]);
    let packs = |bench: &Bench, start| since(bench, start).get("put p").copied().unwrap_or(0);
    let told = Told(&blobs, AtomicU64::new(0));
    bench.bucket.decide(|call| if call.key.starts_with("log/0") { Fate::Lost } else { Fate::Done });
    let directory = bench.directory.path().join("writer");
    let open = |seed| S3Store::open(bench.bucket.clone(), &directory, bench.options(seed));
    open(100).put_image(&manifest, &told, NOW).expect_err("killed");
    bench.bucket.behave();
    let start = bench.bucket.calls().len();
    assert_eq!(packs(&bench, 0), 2, "of 256 MiB, and the rest");
    open(101).put_image(&manifest, &told, NOW).expect("put");
    assert_eq!(packs(&bench, start), 0);
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn a_get_takes_no_more_requests_than_were_told_however_its_files_came() {
    let bench = Bench::new();
    // Each commit brings two files of the last image, and between them one that it does not have.
    let (all, blobs) = files(24, 100_000, 11);
    let bytes: Vec<&Vec<u8>> = all.blobs().iter().map(|(digest, _)| &blobs[digest]).collect();
    for (n, three) in bytes.chunks(3).enumerate() {
        let (manifest, own) = image(&[three[0], three[1], three[2]]);
        bench.store().put(&release("greeter", n as u64, manifest.image()), &manifest, &own, NOW).expect("put");
    }
    let wanted: Vec<&[u8]> = bytes.chunks(3).flat_map(|three| [three[0].as_slice(), three[2].as_slice()]).collect();
    let (manifest, own) = image(&wanted);
    bench.store().put(&release("greeter", 99, manifest.image()), &manifest, &own, NOW).expect("put");
    let told = bench.store().n_requests(&manifest.blobs()).expect("counted");
    let (store, start) = (bench.store(), bench.bucket.calls().len());
    store.releases().expect("read");
    store.manifest(manifest.image()).expect("read");
    let reading = store.reading(&manifest.blobs()).expect("begun");
    for (digest, _) in manifest.blobs() {
        reading.blob(digest).and_then(Bytes::reader).expect("a blob");
    }
    let taken = (bench.bucket.calls().len() - start) as u64;
    assert!(taken > 10 && taken <= told, "{taken} of {told}");
}
