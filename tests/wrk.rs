//! What wrk says of an upgrade: a client that nobody here wrote, which counts what it calls socket errors.

use std::time::Duration;

use df_testkit::process::{Child, Output, Run, wait_until};

use crate::support::{DEADLINE, World, versions};

/// Deploys and rollbacks under its load.
const ROUNDS: usize = 6;

#[test]
fn wrk_counts_no_error_over_deploys_and_rollbacks() {
    let (versions, world) = (versions(), World::new(1));
    let said = under_wrk(&world, [&versions.v1, &versions.v2]);
    println!("{}", said.stdout);
    assert!(!complains(&said), "{said}");
    assert!(n_requests(&said) > 100, "{said}");
}

#[test]
fn wrk_counts_errors_of_versions_that_bind_by_themselves() {
    let world = World::new(1);
    let binding = &versions().binding;
    // Each switch loses what is in a queue at that moment, if anything is.
    let seen = (0..20).any(|_| complains(&under_wrk(&world, [&binding[0], &binding[1]])));
    assert!(seen, "the control lost nothing: wrk would not see a loss");
}

/// Deploys the versions in turn while wrk asks as fast as it can; returns what it says in the end.
fn under_wrk(world: &World, versions: [&str; 2]) -> Output {
    world.deploy(versions[0]);
    let url = format!("http://{}/", world.at(1));
    let mut wrk: Child = Run::new("wrk").args(["--threads", "1", "--connections", "16", "--duration", "1h", &url]).spawn();
    let greeted = || world.get(1, "/").1.contains(versions[0]).then_some(());
    assert!(wait_until(DEADLINE, greeted).is_some() && wrk.is_running());
    for round in 1..=ROUNDS {
        world.deploy(versions[round % 2]);
    }
    wrk.signal(libc::SIGINT);
    wrk.finish(Duration::from_secs(60)).expect_code(0)
}

/// Returns whether a connection was refused, reset or closed too early, or an answer was no success.
fn complains(said: &Output) -> bool {
    ["Socket errors", "Non-2xx"].iter().any(|word| said.stdout.contains(word))
}

fn n_requests(said: &Output) -> u64 {
    let line = said.stdout.lines().find(|line| line.contains(" requests in ")).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}
