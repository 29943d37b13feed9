//! Every byte of a bucket that changes is noticed.

use df_core::{Digest, Timestamp};

use super::super::format::head::KEPT_LEN;
use super::super::format::name::Space;
use super::super::verify::Findings;
use super::super::{Depth, S3Store};
use super::{Bench, NOW};
use crate::blobs::Nothing;
use crate::contract::{Source, assert_whole, image, release};
use crate::document::Document;
use crate::gc;
use crate::scrub::{Damage, Damaged};
use crate::store::Store;
use df_core::Manifest;

/// A cache with everything in it that a cache has: two releases, documents, something condemned, several segments. Returns it and its images.
fn small() -> (Bench, Vec<(Manifest, Source)>) {
    small_keeping(0)
}

fn small_keeping(kept_len: usize) -> (Bench, Vec<(Manifest, Source)>) {
    let mut bench = Bench { kept_len, ..Bench::new() };
    // Long enough that what is condemned stays.
    bench.grace = std::time::Duration::from_secs(1_000);
    let store = bench.store();
    let mut images = vec![];
    for n in 0..3_u8 {
        let (manifest, blobs) = image(&[b"shared", &[n; 300], &[n, 1, 2]]);
        let release = release("greeter", u64::from(n), manifest.image());
        store.put(&release, &manifest, &blobs, NOW).expect("put");
        store.attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
        images.push((manifest, blobs));
    }
    let policy = crate::Policy { count: 2, older: Timestamp(i64::MAX) };
    store.collect(&gc::plan(&store.contents().expect("read"), &policy)).expect("collected");
    let (manifest, blobs) = image(&[b"alone"]);
    store.put_image(&manifest, &blobs, NOW).expect("put");
    store.pin(manifest.image(), "for a test").expect("pinned");
    images.push((manifest, blobs));
    images.remove(0);
    assert!(bench.bucket.keys().iter().any(|key| key.starts_with("a/")));
    (bench, images)
}

/// Returns the objects that a head leads to: those that count.
fn counting(bench: &Bench) -> Vec<String> {
    let store = bench.store();
    let view = store.view().expect("read").expect("there");
    let (condemned, live) = (store.condemned(&view.head).expect("read").0, store.index(&view).expect("read").packs());
    assert!(!condemned.is_empty(), "something is condemned");
    let documents = view
        .roots
        .releases
        .iter()
        .flat_map(|row| row.documents.values().map(move |d| d.object.name.documents(row.stored.id).to_string()));
    let tables = view.head.roots.iter().chain(&view.head.condemned).map(|r| r.name.key(Space::Table).to_string());
    let segments = view.head.segments.iter().map(|r| r.name.key(Space::Segment).to_string());
    let packs = live.iter().map(|r| r.name.key(Space::Pack).to_string());
    let records = bench.bucket.keys().into_iter().filter(|key| key.starts_with("log/"));
    let fixed = ["head", "df-cache.json"].map(String::from);
    fixed.into_iter().chain(documents).chain(tables).chain(segments).chain(packs).chain(records).collect()
}

#[test]
fn every_byte_of_every_object_that_changes_is_found() {
    assert_every_byte_counts(&small().0, &["p/", "i/", "t/", "a/", "log/0", "log/cache.json", "head", "df-cache.json"]);
    // With tables in the head and in the records of it.
    assert_every_byte_counts(&small_keeping(KEPT_LEN).0, &["p/", "a/", "log/0", "log/cache.json", "head", "df-cache.json"]);
}

fn assert_every_byte_counts(bench: &Bench, words: &[&str]) {
    let keys: Vec<String> = counting(bench).into_iter().filter(|key| bench.bucket.peek(key).is_some()).collect();
    for word in words {
        assert!(keys.iter().any(|key| key.starts_with(word)), "{word}");
    }
    assert_eq!(bench.store().verify().expect("read"), []);
    let (store, mut n) = (bench.store(), 0);
    let view = store.view().expect("read").expect("there");
    let index = store.index(&view).expect("read");
    // What of a reading looks at such an object: all of it, once for each byte, would read the others as often.
    let found = |key: &str| {
        let mut findings = Findings::default();
        match key.split('/').next() {
            Some("p") => {
                let rows =
                    super::super::gc::by_pack(&index).into_iter().filter(|(pack, _)| pack.name.key(Space::Pack).as_str() == key);
                store.read_rows(&index, &rows.collect::<Vec<_>>(), &mut findings).expect("read");
            }
            Some("a") => store.read_documents(&view, &mut findings).expect("read"),
            _ => findings = store.check_structure().expect("read"),
        }
        !findings.damages().is_empty()
    };
    for key in keys {
        let whole = bench.bucket.peek(&key).unwrap_or_else(|| panic!("{key} is there"));
        let mut bytes = whole.to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            bench.bucket.set(&key, Some(&bytes));
            bytes[at] = whole[at];
            assert!(found(&key), "byte {at} of {key}");
            n += 1;
        }
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 2;
        bench.bucket.set(&key, Some(&flipped));
        assert!(!bench.store().verify().expect("read").is_empty(), "{key}");
        for other in [Some(&whole[..whole.len() - 1]), Some(&[&whole, &b"x"[..]].concat()[..]), None] {
            bench.bucket.set(&key, other);
            let found = bench.store().verify().expect("read");
            // Of records only the newest must be there; a cache from before has one mark.
            assert!(
                !found.is_empty() || (other.is_none() && key.starts_with("log/")),
                "{key}: {:?} bytes",
                other.map(<[u8]>::len)
            );
        }
        bench.bucket.set(&key, Some(&whole));
    }
    assert!(n > 3_000, "only {n} bytes");
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn damage_is_named_as_what_it_is() {
    let (bench, images) = small();
    let flip = |key: &str| {
        let mut bytes = bench.bucket.peek(key).expect("there").to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        bench.bucket.set(key, Some(&bytes));
    };
    let pack_of = |manifest: &Manifest| {
        let store = bench.store();
        let view = store.view().expect("read").expect("there");
        let found = store.index(&view).expect("read").find(manifest.blobs()[0].0, None).expect("there");
        found.parts[0][0].pack.name.key(Space::Pack).to_string()
    };
    let alone = &images[2].0;
    let pack = pack_of(alone);
    let knowing = bench.store();
    knowing.manifest(alone.image()).expect("there");
    bench.bucket.set(&pack, None);
    // Who does not know the manifest cannot say what it names.
    assert!(bench.store().verify().expect("read").iter().any(|damage| damage.what == Damaged::Manifest(alone.image())));
    let found = knowing.verify().expect("read");
    let what: Vec<&Damaged> = found.iter().map(|damage| &damage.what).collect();
    assert!(what.contains(&&Damaged::Manifest(alone.image())), "{found:?}");
    assert!(what.contains(&&Damaged::Blob(Digest::of(b"alone"))), "{found:?}");
    assert!(found.iter().any(|damage| damage.images == [alone.image()]), "{found:?}");
    assert!(
        matches!(&found[0], Damage { what: Damaged::Pack(_), place: Some(place), .. } if place.starts_with("p")),
        "{found:?}"
    );
    let table = counting(&bench).into_iter().find(|key| key.starts_with("t/")).expect("a table");
    flip(&table);
    let found = bench.store().verify().expect("read");
    assert!(found.iter().any(|damage| damage.what == Damaged::Object(table.clone())), "{found:?}");
}

/// Puts images of many packs, one for each.
fn many(n: usize) -> (Bench, Vec<(Manifest, Source)>) {
    let bench = Bench::new();
    let store = bench.store();
    let images: Vec<_> = (0..n as u64).map(|i| image(&[&i.to_le_bytes(), &[i as u8; 900]])).collect();
    for (manifest, blobs) in &images {
        store.put_image(manifest, blobs, NOW).expect("put");
    }
    (bench, images)
}

#[test]
fn slices_reach_every_pack_once_and_go_on_where_they_stopped() {
    let (bench, _) = many(10);
    let pack = bench.bucket.keys().into_iter().rfind(|key| key.starts_with("p/")).expect("a pack");
    let mut bytes = bench.bucket.peek(&pack).expect("there").to_vec();
    bytes[9] ^= 1;
    bench.bucket.set(&pack, Some(&bytes));
    let directory = bench.directory.path().join("slices");
    // Each by a process of its own.
    let open = |n| S3Store::open(bench.bucket.clone(), &directory, super::options(n));
    for round in 0..2 {
        let slices: Vec<_> = (0..4).map(|n| open(100 + 10 * round + n).verify_slice(3).expect("read")).collect();
        assert_eq!(
            slices.iter().map(|slice| (slice.done, slice.packs)).collect::<Vec<_>>(),
            [(3, 10), (6, 10), (9, 10), (10, 10)]
        );
        assert_eq!(slices.iter().map(|slice| slice.is_last).collect::<Vec<_>>(), [false, false, false, true]);
        let named = |damage: &&Damage| matches!(damage.what, Damaged::Pack(_));
        assert_eq!(slices.iter().flat_map(|slice| &slice.damages).filter(named).count(), 1);
    }
    // Whoever cannot ask does not go on.
    open(200).verify_slice(3).expect("read");
    bench.bucket.decide(|call| {
        if call.key.starts_with("p/") { super::super::memory::Fate::Lost } else { super::super::memory::Fate::Done }
    });
    open(201).verify_slice(3).expect_err("the bucket was not reached");
    bench.bucket.behave();
    assert_eq!(open(202).verify_slice(3).expect("read").done, 6);
}

#[test]
fn quick_asks_once_for_each_pack_and_a_sample_reads_some() {
    let (bench, _) = many(12);
    let asked = |depth: &Depth| {
        let start = bench.bucket.calls().len();
        let found = bench.store().verify_by(depth).expect("read");
        let calls = bench.bucket.calls().split_off(start);
        let count = |action| calls.iter().filter(|call| call.key.starts_with("p/") && call.action == action).count();
        (found.len(), count(super::super::memory::Action::Range), count(super::super::memory::Action::Get))
    };
    // The manifests are read by ranges too, by whoever was never here.
    assert_eq!(asked(&Depth::Quick), (0, 24, 0));
    assert_eq!(asked(&Depth::Sample { packs: 5, seed: 3 }), (0, 24, 5));
    assert_eq!(asked(&Depth::Everything).2, 12);
    let pack = bench.bucket.keys().into_iter().find(|key| key.starts_with("p/")).expect("a pack");
    let whole = bench.bucket.peek(&pack).expect("there");
    for other in [Some(&whole[..whole.len() - 1]), None] {
        bench.bucket.set(&pack, other);
        assert!(asked(&Depth::Quick).0 > 0);
    }
}

#[test]
fn ten_thousand_bytes_of_a_larger_bucket_that_change_are_found() {
    let bench = Bench::new();
    let store = bench.store();
    let mut state = 7_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for _ in 0..100 {
        let files: Vec<Vec<u8>> = (0..20).map(|_| (0..next() % 1_200).map(|_| next() as u8).collect()).collect();
        let (manifest, blobs) = image(&files.iter().map(Vec::as_slice).collect::<Vec<_>>());
        store.put_image(&manifest, &blobs, NOW).expect("put");
    }
    let view = store.view().expect("read").expect("there");
    let index = store.index(&view).expect("read");
    let packs: Vec<_> = super::super::gc::by_pack(&index)
        .into_iter()
        .map(|(pack, slots)| ((pack, slots), bench.bucket.peek(pack.name.key(Space::Pack).as_str()).expect("there")))
        .collect();
    let sum: usize = packs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(sum > 1 << 20, "{sum} bytes");
    // One at a time, in its own object: what is looked at is that object, as everything would be.
    for _ in 0..10_000 {
        let (mut at, bit) = (next() as usize % sum, next() % 8);
        let (row @ (pack, _), bytes) = packs
            .iter()
            .find(|(_, bytes)| {
                at < bytes.len() || {
                    at -= bytes.len();
                    false
                }
            })
            .expect("within the sum");
        let key = pack.name.key(Space::Pack);
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << bit;
        bench.bucket.set(key.as_str(), Some(&flipped));
        let mut findings = Findings::default();
        store.read_rows(&index, std::slice::from_ref(row), &mut findings).expect("read");
        let found = findings.damages();
        assert!(found.iter().any(|damage| damage.what == Damaged::Pack(pack.digest)), "byte {at} of {key}");
        bench.bucket.set(key.as_str(), Some(bytes));
    }
    assert_eq!(store.verify().expect("read"), []);
}

/// Through the verify that `df cache verify` calls: a byte of each pack at a time, in one reading of everything; and every tenth time one pack alone, which is mended. `DF_FULL` makes it
/// 10,000 bytes of a bucket of 100 MiB, whose longest blob lies in two packs.
#[test]
fn a_verify_names_each_pack_of_a_large_bucket_with_one_other_bit_and_a_repair_gives_the_same_bytes_again() {
    let (n_images, long, n_flips) =
        if std::env::var_os("DF_FULL").is_some() { (120, 72 << 20, 10_000) } else { (20, 9 << 20, 300) };
    let (bench, mut random) = (Bench::new(), Random(11));
    let mut images: Vec<(Manifest, Source)> = (0..n_images)
        .map(|_| {
            let files: Vec<Vec<u8>> = (0..20).map(|_| random.bytes(20_000)).collect();
            image(&files.iter().map(Vec::as_slice).collect::<Vec<_>>())
        })
        .collect();
    let noise: Vec<u8> =
        (0..long / 4_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    images.push(image(&[&noise, b"short"]));
    for (manifest, blobs) in &images {
        bench.store().put_image(manifest, blobs, NOW).expect("put");
    }
    let all: Source = images.iter().flat_map(|(_, blobs)| blobs.clone()).collect();
    let (store, mut flipped) = (bench.store(), 0);
    for round in 1.. {
        let view = store.view().expect("read").expect("there");
        let mut packs: Vec<_> = store.index(&view).expect("read").packs().into_iter().collect();
        packs.sort_unstable();
        assert!(packs.len() as u64 > n_images, "{} packs", packs.len());
        let mends = round % 10 == 0;
        if mends {
            packs = vec![packs[random.below(packs.len())]];
        }
        let before: Vec<_> =
            packs.iter().map(|pack| (*pack, flip_one(&bench, &pack.name.key(Space::Pack).to_string(), &mut random))).collect();
        flipped += packs.len();
        let found = store.verify().expect("read");
        let mut named: Vec<Digest> =
            found.iter().filter_map(|damage| if let Damaged::Pack(pack) = damage.what { Some(pack) } else { None }).collect();
        let mut expected: Vec<Digest> = packs.iter().map(|pack| pack.digest).collect();
        [&mut named, &mut expected].into_iter().for_each(|packs| packs.sort_unstable());
        assert_eq!(named, expected, "round {round}");
        if mends {
            let repaired = bench.store().repair(&all).expect("repaired");
            assert!(repaired.lost.is_empty(), "{repaired:?}");
            images.iter().for_each(|(manifest, blobs)| assert_whole(&bench.store(), manifest, blobs));
        } else {
            before.iter().for_each(|(pack, bytes)| bench.bucket.set(pack.name.key(Space::Pack).as_str(), Some(bytes)));
        }
        if flipped >= n_flips {
            break;
        }
    }
    assert_eq!(store.verify().expect("read"), []);
}

/// Changes one bit of an object; returns what it was.
fn flip_one(bench: &Bench, key: &str, random: &mut Random) -> std::sync::Arc<[u8]> {
    let whole = bench.bucket.peek(key).expect("there");
    let mut bytes = whole.to_vec();
    bytes[random.below(whole.len())] ^= 1 << random.below(8);
    bench.bucket.set(key, Some(&bytes));
    whole
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

#[test]
fn a_bad_source_is_refused_and_what_nobody_has_is_said() {
    let (bench, images) = small();
    let (manifest, blobs) = &images[2];
    let store = bench.store();
    let pack = counting(&bench).into_iter().filter(|key| key.starts_with("p/")).find(|key| {
        let view = store.view().expect("read").expect("there");
        let found = store.index(&view).expect("read").find(Digest::of(b"alone"), None).expect("there");
        found.parts[0][0].pack.name.key(Space::Pack).as_str() == *key
    });
    bench.bucket.set(&pack.expect("a pack"), None);
    let mut wrong = blobs.clone();
    wrong.insert(Digest::of(b"alone"), b"al0ne".to_vec());
    for source in [&wrong as &dyn crate::Blobs, &Nothing] {
        let repaired = bench.store().repair(source).expect("repaired as far as can be");
        assert!(repaired.healed.is_empty());
        assert!(!bench.store().has(manifest.image()).expect("read"), "no name claims it");
    }
    for (manifest, blobs) in &images[..2] {
        assert_whole(&bench.store(), manifest, blobs);
    }
    bench.store().put_image(manifest, blobs, NOW).expect("put again");
    assert_whole(&bench.store(), manifest, blobs);
    assert_eq!(bench.store().verify().expect("read"), []);
}
