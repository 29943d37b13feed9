//! From a commit to a service on three nodes, upgraded and rolled back.

use crate::support::{World, versions};

#[test]
fn a_commit_is_built_deployed_upgraded_rolled_back_and_stopped() {
    whole(&World::new(3));
}

#[test]
fn with_systemd_a_commit_is_built_deployed_upgraded_rolled_back_and_stopped() {
    if let Some(world) = World::with_systemd(&versions().repo, "root") {
        whole(&world);
    }
}

fn whole(world: &World) {
    let (versions, n_nodes) = (versions(), world.addresses.len());
    let deployed = world.df(["--json", "deploy", "--commit-hash", &versions.v1]).ok();
    assert_eq!(deployed.events("activated").len(), n_nodes, "{}", deployed.stdout);
    assert_eq!(deployed.events("result")[0]["exit"], 0);
    world.expect_serving(&versions.v1);

    let upgraded = world.df(["--json", "deploy", "--commit-hash", &versions.v2]).ok();
    for copied in upgraded.events("copied") {
        assert!(copied["base"].is_string() && copied["codec"] == "elf", "{copied}");
        let (sent, image) = (copied["bytes_sent"].as_u64().expect("a number"), copied["image_bytes"].as_u64().expect("a number"));
        assert!(sent * 5 < image, "a changed line costs {sent} of {image} bytes");
    }
    world.expect_serving(&versions.v2);
    assert!(world.get(1, "/").1.contains("Good day."));

    world.df(["verify"]).ok();
    world.df(["compare-checksums", "--json"]).output().expect_code(0);
    let status = world.df(["status", "--json"]).ok();
    for node in status.events("node") {
        assert_eq!(
            (node["generation"].as_u64(), node["commit"].as_str(), node["healthy"].as_bool()),
            (Some(2), Some(versions.v2.as_str()), Some(true)),
            "{node}"
        );
    }

    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
    world.df(["rollback", "--to", &versions.v2[..8]]).ok();
    world.expect_serving(&versions.v2);
    let history = world.df(["history"]).ok();
    assert!(history.stdout.contains("rollback"), "{}", history.stdout);

    world.df(["stop"]).ok();
    for n in 1..=n_nodes {
        let refused = std::net::TcpStream::connect(world.at(n)).expect_err("a stopped service refuses clients");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    world.df(["start"]).ok();
    world.expect_serving(&versions.v2);
    world.df(["restart"]).ok();
    world.expect_serving(&versions.v2);
}

#[test]
fn the_same_commit_twice_compiles_once() {
    let (versions, world) = (versions(), World::new(0));
    let again = world.df(["--json", "build", "--commit-hash", &versions.v1]).ok();
    assert_eq!(again.events("built")[0]["reused"], true, "{}", again.stdout);
}

#[test]
fn a_copy_of_what_is_there_sends_next_to_nothing() {
    let (versions, world) = (versions(), World::new(1));
    world.df(["cp", "--version", &versions.v1]).ok();
    let again = world.df(["--json", "cp", "--version", &versions.v1]).ok();
    let copied = &again.events("copied")[0];
    assert_eq!(copied["codec"], "none");
    assert!(copied["bytes_sent"].as_u64().expect("a number") < 1000, "{copied}");
    let full = world.df(["--json", "cp", "--full", "--version", &versions.v2]).ok();
    assert_eq!(full.events("copied")[0]["codec"], "whole");
}

#[test]
fn a_dry_run_changes_nothing() {
    let (versions, world) = (versions(), World::new(2));
    let planned =
        world.df(["--json", "--dry-run", "--detailed-exitcode", "deploy", "--commit-hash", &versions.v1]).output().expect_code(3);
    assert!(!planned.events("planned").is_empty(), "{}", planned.stdout);
    let status = world.df(["--json", "status"]).output();
    assert!(status.events("node").iter().all(|node| node["generation"].as_u64().unwrap_or(0) == 0), "{}", status.stdout);
}

#[test]
fn the_context_and_addresses_choose_nodes() {
    let (versions, world) = (versions(), World::new(2));
    world.df(["with", "n2"]).ok();
    world.deploy(&versions.v1);
    assert!(world.get(2, "/").1.contains(&versions.v1));
    assert!(std::net::TcpStream::connect(world.at(1)).is_err(), "n1 is not in the context");
    world.df(["deploy", "--commit-hash", &versions.v1, "--address", "n1"]).ok();
    world.df(["with", "--pop"]).ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn gc_keeps_what_serves_and_what_a_rollback_needs() {
    let (versions, world) = (versions(), World::new(1));
    for commit in [&versions.v1, &versions.v2, &versions.v1, &versions.v2] {
        world.deploy(commit);
    }
    // On the nodes alone: the cache here is shared with other tests.
    world.df(["gc", "--count", "1", "--older", "0s"]).env("XDG_CACHE_HOME", world.path("cache")).ok();
    world.expect_serving(&versions.v2);
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn what_succeeded_is_taken_back_when_another_node_fails() {
    let (versions, world) = (versions(), World::new(2));
    // The first version ever: afterwards there is none again.
    let held = std::net::TcpListener::bind(world.at(2)).expect("free");
    world.df(["deploy", "--commit-hash", &versions.v1]).output().expect_code(7);
    assert!(std::net::TcpStream::connect(world.at(1)).is_err(), "n1 serves what n2 could not");
    assert!(std::fs::symlink_metadata(world.node(1).join("apps/greeter/current")).is_err(), "n1 still has a current version");
    drop(held);
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}
