//! A published HTTP server that takes its listening socket: upgraded and rolled back on three nodes, and no client notices.

use std::time::Duration;

use df_testkit::load::{Load, Plan};

use super::fleet::Fleet;
use super::package::{LARGE_LEN, Version, static_web_server};

const DEADLINE: Duration = Duration::from_secs(60);
const PROGRAM: &str = "bin/static-web-server";

#[test]
fn a_published_server_is_upgraded_and_rolled_back_under_load_on_local_nodes() {
    check(&Fleet::local(static_web_server(), 3));
}

#[test]
fn a_published_server_is_upgraded_and_rolled_back_under_load_over_ssh() {
    check(&Fleet::ssh(static_web_server(), 3));
}

#[track_caller]
fn check(fleet: &Fleet) {
    let [old, new] = &fleet.package.versions;
    let deployed = fleet.deploy(old);
    assert_eq!(deployed.events("activated").len(), 3, "{deployed}");
    expect_whole(fleet, old.number);
    fleet.expect_current(PROGRAM, old);

    let loads: Vec<Load> = fleet.nodes().map(|n| start_load(fleet, n)).collect();
    expect_seen(&loads, old);
    let upgraded = fleet.deploy(new);
    expect_seen(&loads, new);
    fleet.expect_current(PROGRAM, new);
    for copied in upgraded.events("copied") {
        println!("{}: {} of {} bytes as {}", copied["node"], copied["bytes_sent"], copied["image_bytes"], copied["codec"]);
        assert_eq!(copied["codec"], "elf", "{copied}");
        let (sent, image) = (copied["bytes_sent"].as_u64(), copied["image_bytes"].as_u64());
        assert!(sent.expect("a number") * 20 < image.expect("a number"), "a relinked program is predicted: {copied}");
    }
    fleet.df(["verify"]).ok();

    fleet.df(["rollback"]).ok();
    expect_seen(&loads, old);
    for load in loads {
        let report = load.finish().expect_no_loss();
        println!("{} requests, none lost, the longest took {} ms", report.requests, report.worst_ms);
        assert_eq!(report.bodies.len(), 2, "clients saw the two versions and nothing else: {:?}", report.bodies);
    }
    expect_whole(fleet, old.number);
    fleet.expect_current(PROGRAM, old);
    fleet.df(["stop"]).ok();
}

/// Three nodes share the machine with everything else that is tested, so the rate is one that leaves room.
fn start_load(fleet: &Fleet, n: usize) -> Load {
    let plan = Plan::to(fleet.at(n), "/version.txt");
    Load::run(Plan { n_workers: 2, n_kept: 2, per_second: Some(200), deadline: Duration::from_secs(20), ..plan })
}

/// Clients of every node get this version, and a while longer: what drains afterwards could still lose some.
#[track_caller]
fn expect_seen(loads: &[Load], version: &Version) {
    loads.iter().for_each(|load| load.wait_for_body(version.number, DEADLINE));
    loads.iter().for_each(|load| load.wait_for_requests(100, DEADLINE));
}

/// Small and large files come whole from every node.
#[track_caller]
fn expect_whole(fleet: &Fleet, number: &str) {
    for n in fleet.nodes() {
        assert_eq!(fleet.get(n, "/version.txt"), format!("{number}\n").as_bytes());
        assert_eq!(fleet.get(n, "/large.bin").len(), LARGE_LEN);
        fleet.get(n, "/health");
    }
}
