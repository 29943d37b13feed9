//! A published HTTP server that binds its port by itself: the old version stops before the new one starts, and clients wait for it.

use std::time::Duration;

use df_testkit::process::wait_until;

use super::fleet::Fleet;
use super::package::{Version, simple_http_server};

const DEADLINE: Duration = Duration::from_secs(60);
const PROGRAM: &str = "bin/simple-http-server";
/// What only the newer version sends.
const NEW_HEADER: &str = "x-content-type-options: nosniff";

#[test]
fn a_server_that_binds_by_itself_is_restarted_with_each_version_on_local_nodes() {
    check(&Fleet::local(simple_http_server(), 3));
}

#[test]
fn a_server_that_binds_by_itself_is_restarted_with_each_version_over_ssh() {
    check(&Fleet::ssh(simple_http_server(), 3));
}

#[track_caller]
fn check(fleet: &Fleet) {
    let [old, new] = &fleet.package.versions;
    fleet.deploy(old);
    expect_serving(fleet, old, false);
    fleet.deploy(new);
    expect_serving(fleet, new, true);
    fleet.df(["verify"]).ok();
    fleet.df(["rollback"]).ok();
    expect_serving(fleet, old, false);
    fleet.df(["stop"]).ok();
}

/// The handoff interrupts, so a node may need a moment; then it serves this version, and says so in its own way.
#[track_caller]
fn expect_serving(fleet: &Fleet, version: &Version, sends_header: bool) {
    for n in fleet.nodes() {
        let answered = wait_until(DEADLINE, || fleet.head(n, "/version.txt"));
        let head = answered.unwrap_or_else(|| panic!("n{n} does not serve {}", version.number));
        assert_eq!(head.contains(NEW_HEADER), sends_header, "n{n} should serve {}: {head}", version.number);
        assert_eq!(fleet.get(n, "/version.txt"), format!("{}\n", version.number).as_bytes());
    }
    fleet.expect_current(PROGRAM, version);
}
