//! A head that keeps small tables and segments in it, and a view that was read before a commit began.

use df_core::{Release, Timestamp};

use super::super::Item;
use super::super::format::head::{Head, KEPT_LEN};
use super::killed::{assert_there, example, put};
use super::{Bench, NOW};
use crate::blobs::Nothing;
use crate::contract::{Source, assert_whole, image, release};
use crate::gc;
use crate::store::Store;

fn keeping() -> Bench {
    Bench::keeping(KEPT_LEN)
}

fn head(bench: &Bench) -> Head {
    Head::decode(&bench.bucket.peek("head").expect("there")).expect("a head")
}

fn objects(bench: &Bench, prefix: &str) -> usize {
    bench.bucket.keys().iter().filter(|key| key.starts_with(prefix)).count()
}

fn let_go_of_all(store: &dyn Store) {
    let policy = crate::Policy { count: 1, older: Timestamp(i64::MAX) };
    store.collect(&gc::plan(&store.contents().expect("read"), &policy)).expect("collected");
}

#[test]
fn tables_grow_out_of_the_head_and_the_segments_in_it_become_one() {
    let bench = keeping();
    let mut all = vec![];
    let mut roots_are_kept = vec![];
    for n in 0..40_u64 {
        let blobs: Vec<Vec<u8>> = (0..9).map(|m| (100 * n + m).to_le_bytes().to_vec()).collect();
        let (manifest, source) = image(&blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let releases: Vec<Release> = (0..9).map(|m| release("greeter", 9 * n + m, manifest.image())).collect();
        let item = |release| Item { manifest: &manifest, release: Some(release), documents: &[] };
        bench.store().put_items(&releases.iter().map(item).collect::<Vec<_>>(), &source, NOW).expect("put");
        let head = head(&bench);
        let roots = head.kept(&head.roots.expect("a table")).is_some();
        let segments = head.segments.iter().filter(|segment| head.kept(segment).is_some()).count();
        assert!(segments <= 1, "{n}: {segments} segments");
        assert_eq!(head.kept.len(), segments + usize::from(roots), "{n}: nothing else lies there");
        roots_are_kept.push(roots);
        all.push((manifest, source, releases));
    }
    let n_kept = roots_are_kept.iter().take_while(|kept| **kept).count();
    assert!((1..40).contains(&n_kept) && !roots_are_kept[n_kept..].contains(&true), "{roots_are_kept:?}");
    assert_eq!(objects(&bench, "t/"), 40 - n_kept, "each is in the head or beside it");
    assert_eq!(head(&bench).segments.len(), objects(&bench, "i/") + 1, "so are segments");
    assert!(objects(&bench, "i/") > 0 && head(&bench).segments.len() < 6);
    let there = bench.store().releases().expect("read");
    assert!(there.iter().map(|stored| &stored.release).eq(all.iter().flat_map(|(_, _, releases)| releases)), "in their order");
    for (manifest, source, _) in &all {
        assert_whole(&bench.store(), manifest, source);
    }
    assert_eq!(bench.store().verify().expect("read"), []);
    // And back into it.
    let_go_of_all(&bench.store());
    assert!(head(&bench).kept(&head(&bench).roots.expect("a table")).is_some());
    assert_eq!((objects(&bench, "t/"), objects(&bench, "i/")), (0, 0));
    let (manifest, source, _) = all.last().expect("some");
    assert_whole(&bench.store(), manifest, source);
}

#[test]
fn a_lost_head_comes_back_from_its_record_with_the_tables_that_it_kept() {
    let bench = keeping();
    (1..4).for_each(|n| put(&bench.store(), n).expect("put"));
    assert_eq!((objects(&bench, "t/"), objects(&bench, "i/")), (0, 0));
    let pinned = example(2).0.image();
    bench.store().pin(pinned, "for a test").expect("pinned");
    for lost in [None, Some(&b"other bytes"[..])] {
        bench.bucket.set("head", lost);
        let n = bench.store().repair(&Nothing).expect("repaired");
        assert!(n.gone.is_empty() && n.rebuilt.len() == 1 && n.rebuilt[0].starts_with("the head, as commit"), "{n:?}");
        (1..4).for_each(|n| assert_there(&bench, n));
        assert_eq!(bench.store().contents().expect("read").pins, [pinned].into(), "what an older table would not know");
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn whoever_keeps_nothing_goes_on_with_a_head_that_keeps_and_the_other_way_round() {
    let (bench, plain) = (keeping(), Bench::new());
    let plain = Bench { bucket: bench.bucket.clone(), ..plain };
    for n in 0..8 {
        put(&if n % 2 == 0 { plain.store() } else { bench.store() }, n).expect("put");
        (0..=n).for_each(|n| assert_there(&bench, n));
        assert_eq!(bench.store().verify().expect("read"), [], "after {n}");
    }
    let_go_of_all(&bench.store());
    assert_there(&plain, 7);
    assert_eq!(bench.store().contents().expect("read").images.len(), 1);
    let_go_of_all(&plain.store());
    assert_there(&bench, 7);
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn what_was_there_when_somebody_looked_is_put_again_when_it_is_there_no_more() {
    for bench in [keeping(), Bench::new()] {
        (1..3).for_each(|n| put(&bench.store(), n).expect("put"));
        let (store, other) = (bench.store(), bench.store());
        assert_eq!(store.contents().expect("read").releases.len(), 2);
        put(&other, 1).expect("put");
        put(&other, 3).expect("put");
        let_go_of_all(&other);
        put(&store, 2).expect("put");
        assert_there(&bench, 2);
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn what_was_not_there_when_somebody_looked_is_there_when_it_came_since() {
    for bench in [keeping(), Bench::new()] {
        put(&bench.store(), 1).expect("put");
        let (store, other) = (bench.store(), bench.store());
        assert_eq!(store.contents().expect("read").releases.len(), 1);
        let (manifest, blobs, release) = example(2);
        other.put_image(&manifest, &blobs, NOW).expect("put");
        store.put_release(&release, NOW).expect("its image is there");
        assert_there(&bench, 2);
        let n = bench.bucket.keys().len();
        assert_eq!(store.contents().expect("read").releases.len(), 2);
        put(&other, 3).expect("put");
        store.put(&example(3).2, &example(3).0, &Source::new(), NOW).expect("nobody has to send it");
        assert_there(&bench, 3);
        assert!(bench.bucket.keys().len() > n);
    }
}
