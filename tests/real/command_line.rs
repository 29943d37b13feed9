//! A published program for the command line: nothing runs on the node, `current` says which version people get.

use df_testkit::process::Run;

use super::fleet::Fleet;
use super::package::{Version, choose};

#[test]
fn a_published_program_is_copied_deployed_and_rolled_back() {
    let fleet = Fleet::local(choose(), 3);
    let [old, new] = &fleet.package.versions;
    fleet.df(["cp", "--version", &old.commit]).ok();
    for n in fleet.nodes() {
        assert!(!fleet.current(n, "").exists(), "a copy is not yet what people get");
    }
    fleet.deploy(old);
    expect_current(&fleet, old);
    for copied in fleet.deploy(new).events("copied") {
        println!("{}: {} of {} bytes as {}", copied["node"], copied["bytes_sent"], copied["image_bytes"], copied["codec"]);
    }
    expect_current(&fleet, new);
    fleet.df(["rollback"]).ok();
    expect_current(&fleet, old);
}

#[track_caller]
fn expect_current(fleet: &Fleet, version: &Version) {
    fleet.expect_current("bin/choose", version);
    for n in fleet.nodes() {
        let chosen = Run::new(fleet.current(n, "bin/choose")).arg("1").stdin("a b\n").ok();
        assert_eq!(chosen.stdout.trim(), "b", "n{n}");
    }
}
