//! No request is lost by an upgrade or a rollback, and no client reaches a version on trial.

use df_testkit::load::Load;

use crate::support::{World, versions};

/// Workers that open a new connection for each request.
const WORKERS: usize = 8;

/// How many deploys and rollbacks: 50, and 1,000 in the long campaign.
fn rounds() -> usize {
    if std::env::var_os("DF_FULL").is_some() { 1000 } else { 50 }
}

#[test]
fn deploys_and_rollbacks_under_load_lose_no_request() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let load = Load::start(world.at(1), "/", WORKERS);
    for round in 0..rounds() {
        if round % 2 == 0 {
            world.deploy(&versions.v2);
        } else {
            world.df(["rollback"]).ok();
        }
    }
    let report = load.finish().expect_no_loss();
    println!("{} requests over {} switches, 0 lost, worst {} ms", report.requests, rounds(), report.worst_ms);
    assert!(report.requests > 100 * rounds() as u64 / 10, "the load was no load: {} requests", report.requests);
}

#[test]
fn a_version_that_binds_by_itself_loses_some_in_the_same_harness() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.binding[0]);
    let load = Load::start(world.at(1), "/", 4 * WORKERS);
    let mut lost = 0;
    for round in 1..=rounds() {
        world.deploy(&versions.binding[round % 2]);
        lost = load.so_far().n_lost;
        if lost > 0 {
            break;
        }
    }
    println!("{lost} requests lost by versions that bind by themselves");
    assert!(lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn a_version_on_trial_never_answers_a_client() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let load = Load::start(world.at(1), "/", WORKERS);
    for bad in [&versions.sick, &versions.never_ready, &versions.exits] {
        world.df(["deploy", "--commit-hash", bad]).output().expect_code(1);
        load.wait_for_requests(100, std::time::Duration::from_secs(30));
    }
    let report = load.finish().expect_no_loss();
    assert!(report.bodies.keys().all(|body| body.contains(&versions.v1)), "{:?}", report.bodies.keys());
    world.expect_serving(&versions.v1);
}
