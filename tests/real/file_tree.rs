//! A published tree of Python files, taken as it is: what lies on the nodes is what was published.

use std::path::Path;

use df_core::ImageId;
use df_testkit::process::Output;
use df_testkit::tree;

use super::fleet::Fleet;
use super::package::{Version, networkx};

#[test]
fn a_published_tree_arrives_as_it_is_and_its_next_version_costs_little() {
    let fleet = Fleet::local(networkx(), 3);
    let [old, new] = &fleet.package.versions;
    expect_copied(&fleet, old);
    for copied in expect_copied(&fleet, new).events("copied") {
        let (sent, image) = (copied["bytes_sent"].as_u64().expect("a number"), copied["image_bytes"].as_u64().expect("a number"));
        println!("networkx {} to {}: {sent} of {image} bytes to {}", old.number, new.number, copied["node"]);
        assert!(sent * 50 < image, "the next version of {image} bytes costs {sent}");
    }
    fleet.df(["compare-checksums", "--json"]).output().expect_code(0);
}

#[track_caller]
fn expect_copied(fleet: &Fleet, version: &Version) -> Output {
    let output = fleet.df(["--json", "cp", "--version", &version.commit]).ok();
    let copied = output.events("copied");
    assert_eq!(copied.len(), fleet.nodes().count(), "{output}");
    for n in fleet.nodes() {
        let image: ImageId = copied[n - 1]["image"].as_str().and_then(|text| text.parse().ok()).expect("an image");
        let store_path = fleet.root(n).join("store").join(image.to_string());
        expect_equal(&version.source, &store_path);
    }
    output
}

#[track_caller]
fn expect_equal(published: &Path, found: &Path) {
    let differences = tree::compare(published, found);
    assert!(differences.is_empty(), "{} is not what was published: {differences:?}", found.display());
}
