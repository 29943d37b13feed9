//! The suite that every store passes, and the values its tests are made of.
//!
//! For tests only: it panics where a store breaks its promises.

use std::collections::HashMap;
use std::io::{self, Read};

use df_core::spec::Sandbox;
use df_core::{Digest, Entry, ImageId, Kind, Manifest, RecipeKey, Release, Timestamp};

use crate::blobs::{Bytes, Nothing};
use crate::document::{self, Document};
use crate::gc;
use crate::roots::Policy;
use crate::scrub::Damaged;
use crate::store::{Added, PutError, ReadError, Store};

/// Runs the contract against a kind of store; `make` returns an empty one each time.
pub fn run<S: Store>(make: impl Fn() -> S) {
    what_is_put_is_there(&make());
    putting_twice_costs_nothing(&make());
    bad_sources_put_nothing(&make());
    releases_need_their_image(&make());
    releases_are_found_by_recipe_newest_first(&make());
    parts_of_blobs_are_read_within_their_bounds(&make());
    a_collection_keeps_what_it_must(&make());
    documents_live_as_long_as_their_release(&make());
    attestations_gather(&make());
    a_pin_keeps_an_image(&make());
    a_flush_leaves_nothing(&make());
    a_good_store_verifies(&make());
    the_empty_image_is_an_image(&make());
}

/// Blobs in memory.
pub type Source = HashMap<Digest, Vec<u8>>;

/// Makes an image of files of these bytes, named in their order, and its blobs.
pub fn image(files: &[&[u8]]) -> (Manifest, Source) {
    let entry = |(i, bytes): (usize, &&[u8])| {
        let kind = Kind::File { executable: i % 2 == 1, len: bytes.len() as u64, digest: Digest::of(bytes) };
        Entry { path: format!("f{i:06}").parse().expect("a path"), kind }
    };
    let manifest = Manifest::new(files.iter().enumerate().map(entry).collect()).expect("a tree");
    (manifest, files.iter().map(|bytes| (Digest::of(bytes), bytes.to_vec())).collect())
}

/// Makes the n-th release of an application.
pub fn release(app: &str, n: u64, image: ImageId) -> Release {
    Release {
        format: 1,
        app: app.parse().expect("a name"),
        commit: format!("{n:040x}").parse().expect("a commit"),
        committed: Timestamp(315_532_800),
        recipe_key: RecipeKey(Digest::of(&n.to_le_bytes())),
        sandbox: Sandbox::Off,
        image,
        image_len: 0,
        needs: vec![],
        run: None,
        verify: vec![],
    }
}

/// A blob large enough to be a file of its own on disk.
pub fn big(fill: u8) -> Vec<u8> {
    vec![fill; (1 << 20) + 3]
}

const NOW: Timestamp = Timestamp(1_000);

/// Reads every blob of an image in every way and compares.
#[track_caller]
pub fn assert_whole(store: &dyn Store, manifest: &Manifest, blobs: &Source) {
    let image = manifest.image();
    assert!(store.has(image).expect("read"));
    assert_eq!(store.manifest(image).expect("a manifest"), *manifest);
    for (digest, len) in manifest.blobs() {
        let expected = &blobs[&digest];
        assert_eq!(store.read(digest, len).expect("a blob"), *expected);
        let mut streamed = vec![];
        store.blob(digest).and_then(Bytes::reader).expect("a blob").read_to_end(&mut streamed).expect("read");
        assert_eq!(streamed, *expected);
    }
}

fn what_is_put_is_there(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one", &big(7), b"", b"one"]);
    assert!(!store.has(manifest.image()).expect("read"));
    assert!(matches!(store.manifest(manifest.image()), Err(ReadError::NoImage { .. })));
    let added = store.put_image(&manifest, &blobs, NOW).expect("put");
    assert_eq!(added, Added { n_blobs: 3, bytes: 3 + big(7).len() as u64 });
    assert_whole(store, &manifest, &blobs);
    assert!(matches!(store.read(Digest::of(b"no"), 2), Err(ReadError::NoBlob { .. })));
    let stats = store.stats().expect("read");
    assert_eq!((stats.n_images, stats.n_releases, stats.n_blobs), (1, 0, 3));
    assert_eq!(stats.blob_bytes, added.bytes);
}

fn putting_twice_costs_nothing(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one", b"two"]);
    store.put_image(&manifest, &blobs, NOW).expect("put");
    assert_eq!(store.put_image(&manifest, &Nothing, NOW).expect("nothing is asked for"), Added::default());
    let (larger, more) = image(&[b"one", b"two", b"three"]);
    let only_new = |digest: Digest| -> io::Result<Box<dyn Read + Send>> {
        assert_eq!(digest, Digest::of(b"three"), "only what is missing is asked for");
        Ok(Box::new(&b"three"[..]))
    };
    assert_eq!(store.put_image(&larger, &only_new, NOW).expect("put"), Added { n_blobs: 1, bytes: 5 });
    assert_whole(store, &larger, &more);
}

fn bad_sources_put_nothing(store: &dyn Store) {
    for bytes in [b"small".to_vec(), big(1)] {
        let (manifest, good) = image(&[&bytes]);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bad = bytes.clone();
            change(&mut bad);
            Source::from([(Digest::of(&bytes), bad)])
        };
        for bad in [with(&|b| b[2] ^= 1), with(&|b| b.truncate(4)), with(&|b| b.push(0)), with(&Vec::clear)] {
            assert!(matches!(store.put_image(&manifest, &bad, NOW), Err(PutError::WrongBytes { .. })));
            assert!(!store.has(manifest.image()).expect("read"));
        }
        assert!(matches!(store.put_image(&manifest, &Nothing, NOW), Err(PutError::Source { .. })));
        assert!(!store.has(manifest.image()).expect("read"));
        store.put_image(&manifest, &good, NOW).expect("a good source after bad ones");
        assert_whole(store, &manifest, &good);
    }
}

fn releases_need_their_image(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one"]);
    let release = release("greeter", 1, manifest.image());
    assert!(matches!(store.put_release(&release, NOW), Err(PutError::NoImage { .. })));
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    let releases = store.releases().expect("read");
    assert_eq!(releases.iter().map(|s| (&s.release, s.id, s.stored)).collect::<Vec<_>>(), [(&release, release.id(), NOW)]);
}

fn releases_are_found_by_recipe_newest_first(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one"]);
    let mut releases: Vec<Release> = (1..=3).map(|n| release("greeter", n, manifest.image())).collect();
    releases[1].recipe_key = releases[0].recipe_key;
    for release in &releases {
        store.put(release, &manifest, &blobs, NOW).expect("put");
    }
    let find = |app: &str, release: &Release| {
        let found = store.release_by_recipe(&app.parse().expect("a name"), release.recipe_key).expect("read");
        found.map(|stored| stored.id)
    };
    assert_eq!(find("greeter", &releases[0]), Some(releases[1].id()));
    assert_eq!(find("greeter", &releases[2]), Some(releases[2].id()));
    assert_eq!(find("other", &releases[2]), None);
    store.put_release(&releases[0], NOW).expect("put again");
    assert_eq!(find("greeter", &releases[0]), Some(releases[0].id()));
    assert_eq!(store.releases().expect("read").len(), 3);
}

fn parts_of_blobs_are_read_within_their_bounds(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"0123456789", &big(9)]);
    store.put_image(&manifest, &blobs, NOW).expect("put");
    let small = Digest::of(b"0123456789");
    assert_eq!(store.read_blob(small, 3, 4).expect("a part"), b"3456");
    assert_eq!(store.read_blob(small, 10, 0).expect("nothing at the end"), b"");
    assert_eq!(store.read_blob(Digest::of(&big(9)), 1 << 20, 3).expect("a part"), [9, 9, 9]);
    for (digest, offset, len) in [(small, 8, 3), (small, u64::MAX, 1), (Digest::of(&big(9)), 1 << 20, 4), (small, 1, usize::MAX)]
    {
        assert!(matches!(store.read_blob(digest, offset, len), Err(ReadError::Range { .. })), "{len} at {offset}");
    }
    assert!(matches!(store.read_blob(Digest::of(b"no"), 0, 0), Err(ReadError::NoBlob { .. })));
}

fn a_collection_keeps_what_it_must(store: &dyn Store) {
    let rows: Vec<_> = (1..=4_u8).map(|n| image(&[b"shared", &[n; 100], &big(n)])).collect();
    for (n, (manifest, blobs)) in (1..).zip(&rows) {
        store.put(&release("greeter", n, manifest.image()), manifest, blobs, NOW).expect("put");
    }
    let plan = gc::plan(&store.contents().expect("read"), &Policy { count: 2, older: Timestamp(i64::MAX) });
    assert_eq!((plan.releases.len(), plan.images.len()), (2, 2));
    store.put_release(&release("greeter", 1, rows[0].0.image()), NOW).expect("put again, after the plan");
    let collected = gc::perform(store, &plan).expect("collected");
    assert_eq!((collected.n_releases, collected.n_images, collected.n_blobs), (1, 1, 2));
    assert!(collected.bytes > 1 << 20);
    for (i, (manifest, blobs)) in rows.iter().enumerate() {
        if i == 1 {
            assert!(!store.has(manifest.image()).expect("read"));
            assert!(store.blob(Digest::of(&big(2))).is_err());
        } else {
            assert_whole(store, manifest, blobs);
        }
    }
    assert_eq!(store.verify().expect("read"), []);
    store.put_image(&rows[1].0, &rows[1].1, NOW).expect("what was collected can come back");
    assert_whole(store, &rows[1].0, &rows[1].1);
}

fn attestations_gather(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one"]);
    let release = release("greeter", 1, manifest.image());
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    let attach = |bytes: &[u8]| store.attach(&release.app, release.id(), Document::Attestations, bytes).expect("attached");
    let held = || store.attached(&release.app, release.id(), Document::Attestations).expect("read");
    // By two keys: of each, what it proves is another release, which is nothing to a store.
    let both = include_bytes!("../../core/testdata/attestations-v1.json");
    let both = df_core::Bundle::decode(both).expect("a bundle");
    let of = |n: usize| {
        let statement = df_core::attestation::Statement::release(&df_core::attestation::Subject::of(&release));
        df_core::Bundle::new(&statement, vec![both.attestations()[n].clone()]).encode()
    };
    assert!(!attach(b"no bundle") && held().is_none());
    assert!(attach(&of(0)));
    assert!(!attach(&of(0)), "the same again");
    assert!(!attach(b"no bundle"));
    assert!(attach(&of(1)));
    let gathered = df_core::Bundle::decode(&held().expect("there")).expect("a bundle");
    assert_eq!(gathered.attestations(), both.attestations());
    assert!(!attach(&of(0)) && !attach(&both.encode()), "nothing new, or about something else");
    assert_eq!(store.verify().expect("read"), []);
    store.flush().expect("flushed");
}

fn documents_live_as_long_as_their_release(store: &dyn Store) {
    let app = "greeter".parse().expect("a name");
    let rows: Vec<_> = (1..=2_u8).map(|n| image(&[&[n; 100]])).collect();
    let releases: Vec<Release> = (1..).zip(&rows).map(|(n, (manifest, _))| release("greeter", n, manifest.image())).collect();
    let attach = |n: usize, bytes: &[u8]| store.attach(&app, releases[n].id(), Document::Sbom, bytes);
    let attached = |n: usize, document| store.attached(&app, releases[n].id(), document).expect("read");
    assert!(matches!(attach(0, b"early"), Err(PutError::NoRelease { .. })));
    for (release, (manifest, blobs)) in releases.iter().zip(&rows) {
        store.put(release, manifest, blobs, NOW).expect("put");
    }
    assert_eq!(attached(0, Document::Sbom), None);
    assert!(attach(0, b"one").expect("attached"));
    assert!(!attach(0, b"other").expect("the first one stays"));
    assert!(attach(1, b"").expect("attached"));
    assert!(store.attach(&app, releases[0].id(), Document::Provenance, b"how").expect("attached"));
    let all = |n| Document::ALL.map(|document| attached(n, document));
    assert_eq!(all(0), [Some(b"how".to_vec()), Some(b"one".to_vec()), None, None]);
    assert_eq!(all(1), [None, Some(vec![]), None, None]);
    let other = store.attach(&"other".parse().expect("a name"), releases[0].id(), Document::Sbom, b"x");
    assert!(matches!(other, Err(PutError::NoRelease { .. })));
    let long = vec![0; document::LEN + 1];
    assert!(matches!(attach(1, &long), Err(PutError::LongDocument { .. })));
    assert_eq!(store.verify().expect("read"), []);

    let plan = gc::plan(&store.contents().expect("read"), &Policy { count: 1, older: Timestamp(i64::MAX) });
    assert_eq!(gc::perform(store, &plan).expect("collected").n_releases, 1);
    assert_eq!((all(0), all(1)), ([None, None, None, None], [None, Some(vec![]), None, None]));
    store.put(&releases[0], &rows[0].0, &rows[0].1, NOW).expect("put again");
    assert_eq!(all(0), [None, None, None, None]);
    store.flush().expect("flushed");
    assert_eq!(all(1), [None, None, None, None]);
}

fn a_pin_keeps_an_image(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"pinned"]);
    let image = manifest.image();
    assert!(matches!(store.pin(image, "for a test"), Err(PutError::NoImage { .. })));
    store.put_image(&manifest, &blobs, NOW).expect("put");
    store.pin(image, "for a test").expect("pinned");
    store.pin(image, "twice").expect("pinned");
    let collect = || gc::perform(store, &gc::plan(&store.contents().expect("read"), &gc::NOTHING)).expect("collected").n_images;
    assert_eq!(collect(), 0);
    assert_whole(store, &manifest, &blobs);
    assert_eq!((store.unpin(image).expect("unpinned"), store.unpin(image).expect("no pin")), (true, false));
    assert_eq!(collect(), 1);
    assert!(!store.has(image).expect("read"));
}

fn a_flush_leaves_nothing(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one", &big(3)]);
    store.put(&release("greeter", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    store.pin(manifest.image(), "for a test").expect("pinned");
    store.flush().expect("flushed");
    assert_eq!(store.contents().expect("read"), Default::default());
    assert_eq!(store.stats().expect("read").n_blobs, 0);
    assert!(!store.has(manifest.image()).expect("read"));
    store.put_image(&manifest, &blobs, NOW).expect("put again");
    assert_whole(store, &manifest, &blobs);
}

fn a_good_store_verifies(store: &dyn Store) {
    let (manifest, blobs) = image(&[b"one", &big(3)]);
    store.put(&release("greeter", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    assert_eq!(store.verify().expect("read"), []);
    assert_eq!(store.repair(&Nothing).expect("nothing to do"), Default::default());
    assert_whole(store, &manifest, &blobs);
}

fn the_empty_image_is_an_image(store: &dyn Store) {
    let (manifest, blobs) = image(&[]);
    store.put(&release("greeter", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    assert_whole(store, &manifest, &blobs);
}

/// Checks what a store says and does after `damage` hit the blobs with these digests.
#[track_caller]
pub fn assert_healed(store: &dyn Store, manifest: &Manifest, blobs: &Source, damaged: &[Digest]) {
    let found = store.verify().expect("read");
    for digest in damaged {
        let row = found.iter().find(|d| matches!(d.what, Damaged::Blob(x) | Damaged::MissingBlob(x) if x == *digest));
        let row = row.unwrap_or_else(|| panic!("verify names {digest}: {found:?}"));
        assert_eq!(row.images, [manifest.image()]);
    }
    let repaired = store.repair(blobs).expect("repaired");
    assert_eq!((repaired.lost, repaired.images), (vec![], vec![]));
    assert_eq!(store.verify().expect("read"), []);
    assert_whole(store, manifest, blobs);
}

#[test]
fn damage_is_named_and_healed_or_honestly_lost() {
    let store = crate::memory::MemoryStore::new();
    let (manifest, blobs) = image(&[b"one", b"two"]);
    store.put_image(&manifest, &blobs, NOW).expect("put");
    store.damage(Digest::of(b"one"), b"0ne");
    assert!(matches!(store.read(Digest::of(b"one"), 3), Err(ReadError::Damaged { .. })));
    assert_healed(&store, &manifest, &blobs, &[Digest::of(b"one")]);
    store.damage(Digest::of(b"one"), b"0ne");
    let repaired = store.repair(&Nothing).expect("repaired");
    assert_eq!((repaired.lost, repaired.images), (vec![Digest::of(b"one")], vec![manifest.image()]));
    assert!(!store.has(manifest.image()).expect("read"));
}
