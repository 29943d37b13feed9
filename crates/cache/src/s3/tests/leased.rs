//! Leases of many nodes: how many commits they are, whose they are, and when they end.

use df_core::ImageId;

use super::super::memory::Action;
use super::super::{Holder, Item, Lease, word};
use super::killed::{example, put};
use super::{BOTH, Bench, NOW, lease};
use crate::contract::release;
use crate::roots::Why;
use crate::store::Store;
use crate::{Policy, gc};

/// A bucket with three images, and one image that it lacks.
fn three(kept_len: usize) -> (Bench, [ImageId; 4]) {
    let bench = Bench::keeping(kept_len);
    (0..3).for_each(|n| put(&bench.store(), n).expect("put"));
    (bench, [0, 1, 2, 9].map(|n| example(n).0.image()))
}

/// Names of who has each image, in the order of the images.
fn holders(bench: &Bench, images: &[ImageId]) -> Vec<Vec<String>> {
    let leases = bench.store().contents().expect("read").leases;
    images.iter().map(|image| leases.get(image).into_iter().flatten().cloned().collect()).collect()
}

/// How often the head was written, and how many other writes there were.
fn writes(bench: &Bench, since: usize) -> (usize, usize) {
    let calls = bench.bucket.calls();
    let written: Vec<_> = calls[since..].iter().filter(|call| call.action != Action::Get).collect();
    let heads = written.iter().filter(|call| call.key == "head").count();
    (heads, written.len() - heads)
}

#[test]
fn what_many_nodes_have_is_one_change_of_the_head_and_none_when_it_is_known() {
    for (kept_len, others) in BOTH.into_iter().zip([2, 1]) {
        let (bench, images) = three(kept_len);
        let nodes: Vec<Lease> = (0..50).flat_map(|n| lease(&format!("node-{n}"), &images[n % 2..])).collect();
        let since = bench.bucket.calls().len();
        bench.store().lease(&nodes).expect("leased");
        assert_eq!(writes(&bench, since), (1, others), "the record, and the table where it does not lie in the head");
        let held = holders(&bench, &images);
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [25, 50, 50, 0], "what the cache lacks is nobody's");
        let since = bench.bucket.calls().len();
        bench.store().lease(&nodes).expect("known");
        assert_eq!(writes(&bench, since), (0, 0));
        assert_eq!(bench.store().verify().expect("read"), []);
    }
}

#[test]
fn a_node_is_who_it_is_whatever_it_is_called() {
    let (bench, images) = three(0);
    let of = |identity: &str, name: &str, images: &[ImageId]| {
        let [one] = lease(identity, images);
        Lease { holder: Holder { name: name.to_owned(), ..one.holder }, ..one }
    };
    let store = bench.store();
    store.lease(&[of("a", "web1", &images[..1]), of("b", "web1", &images[1..2])]).expect("leased");
    assert_eq!(holders(&bench, &images[..3]), [vec!["web1"], vec!["web1"], vec![]], "two nodes of one name");
    let since = bench.bucket.calls().len();
    store.lease(&[of("a", "www", &images[..1])]).expect("known");
    assert_eq!(writes(&bench, since), (0, 0), "another name is no news");
    store.lease(&[of("a", "www", &images[1..])]).expect("leased");
    assert_eq!(holders(&bench, &images[..3]), [vec![], vec!["web1", "www"], vec!["www"]]);
    let b = word(lease("b", &[])[0].holder.identity);
    let ended = store.end_leases(|identity, _| identity == b).expect("ended");
    assert_eq!(ended, ["web1".to_owned()].into());
    assert_eq!(holders(&bench, &images[..3]), [vec![], vec!["www"], vec!["www"]]);
    assert_eq!(store.end_leases(|_, name| name == "web1").expect("none").len(), 0);
    assert_eq!(store.end_leases(|_, name| name == "www").expect("ended").len(), 1);
    assert_eq!(store.contents().expect("read").leases.len(), 0);
}

#[test]
fn an_image_that_comes_after_its_nodes_have_it_is_leased_with_the_commit_that_brings_it() {
    let (bench, images) = three(0);
    let store = bench.store();
    let nodes = [lease("a", &images), lease("b", &images[..1])].concat();
    let (manifest, source, _) = example(9);
    let (release, since) = (release("greeter", 9, manifest.image()), bench.bucket.calls().len());
    let items = [Item { manifest: &manifest, release: Some(&release), documents: &[] }];
    store.put_leased(&items, &nodes, &source, NOW).expect("put");
    assert_eq!(writes(&bench, since).0, 1);
    assert_eq!(holders(&bench, &images), [vec![], vec![], vec![], vec!["a"]], "of the others nobody said so now");
    let since = bench.bucket.calls().len();
    store.put_leased(&items, &nodes, &source, NOW).expect("there");
    assert_eq!(writes(&bench, since), (0, 0));
}

#[test]
fn what_is_leased_stays_and_says_who_has_it_in_words_that_steer_no_terminal() {
    let (bench, images) = three(0);
    let names = ["a", "b", "c", "d\x1b[2J"];
    bench.store().lease(&names.map(|name| lease(name, &images[..1])).concat()).expect("leased");
    let plan = gc::plan(&bench.store().contents().expect("read"), &Policy { count: 0, ..gc::NOTHING });
    assert_eq!(plan.images.len(), 2, "{plan:?}");
    let [(image, why)] = &plan.kept_images[..] else { panic!("one stays: {plan:?}") };
    assert_eq!((*image, why.to_string()), (images[0], "leased by a, b, c and 1 more".to_owned()));
    let words = Why::Leased(["d\x1b[2J".to_owned()].into()).to_string();
    assert!(!words.contains('\x1b'), "{words}");
    // One that was leased since the plan stays, too.
    bench.store().lease(&lease("e", &images[1..2])).expect("leased");
    assert_eq!(bench.store().collect(&plan).expect("collected").n_images, 1);
}
