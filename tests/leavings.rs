//! What a program starts ends with its version: also what left its process group, its session and its parents.

use std::path::Path;

use df_testkit::process::wait_until;
use df_testkit::survivors;

use crate::support::odd_versions::odd;
use crate::support::{DEADLINE, World};

/// Returns processes of the server that are not what serves.
fn leavings(world: &World) -> Vec<u32> {
    let body = df_testkit::net::http_get(world.at(1), "/", DEADLINE).map(|(_, body)| body).unwrap_or_default();
    let serving: Option<u32> = body.split("pid=").nth(1).and_then(|rest| rest.trim().parse().ok());
    let is_server = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("bin/odd"));
    survivors::running_under(&world.node(1)).into_iter().filter(|pid| is_server(pid) && Some(*pid) != serving).collect()
}

#[track_caller]
fn expect_leavings(world: &World, n: usize, when: &str) {
    let as_many = wait_until(DEADLINE, || (leavings(world).len() == n).then_some(()));
    assert!(as_many.is_some(), "{when}: {:?} are left, not {n}", leavings(world));
}

fn leaving(mode: &str, how: &str) -> String {
    odd().commit(mode, &format!("env: {{ LEAVES: \"{how}\" }}"), "")
}

#[test]
fn what_a_version_leaves_behind_ends_with_it() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    let leaves = leaving("good", "1");
    world.deploy(&leaves);
    expect_leavings(&world, 1, "while it serves, what it started is its own");
    world.deploy(odd.good());
    expect_leavings(&world, 0, "after another followed it");
    world.deploy(&leaves);
    expect_leavings(&world, 1, "once more");
    world.df(["stop"]).ok();
    expect_leavings(&world, 0, "after it was stopped");
}

#[test]
fn what_a_bad_version_leaves_behind_ends_with_it() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(odd.good());
    world.df(["deploy", "--commit-hash", &leaving("never-ready", "1")]).output().expect_code(1);
    expect_leavings(&world, 0, "it was never ready");
    world.df(["deploy", "--commit-hash", &leaving("exit-1", "1")]).output().expect_code(1);
    expect_leavings(&world, 0, "it ended by itself");
    let dies = leaving("dies-later", "1");
    world.df(["--config", &odd.soaking(), "deploy", "--commit-hash", &dies]).output().expect_code(7);
    expect_leavings(&world, 0, "it was taken back");
    world.expect_serving(odd.good());
}

#[test]
fn a_supervisor_that_was_killed_leaves_the_next_one_what_it_needs_to_know_them() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(&leaving("good", "1"));
    expect_leavings(&world, 1, "while it serves");
    // Without its holder, so that the next one knows nothing but what was written down; whatever asks the supervisor starts one.
    world.kill_both(1);
    world.df(["verify"]).ok();
    expect_leavings(&world, 1, "what serves was adopted, with what it started");
    world.deploy(odd.good());
    expect_leavings(&world, 0, "after another followed it");
}

#[test]
fn who_gave_up_its_environment_too_is_known_by_its_cgroup() {
    if !has_cgroups() {
        eprintln!("no cgroup can be made here");
        return;
    }
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(&leaving("good", "bare"));
    expect_leavings(&world, 1, "while it serves");
    world.deploy(odd.good());
    expect_leavings(&world, 0, "after another followed it");
}

/// Whether df-node can make cgroups here: it is root's business, or one's own where the tree was delegated.
fn has_cgroups() -> bool {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("..");
    roots.iter().map(|root| Path::new(root).join(own)).filter(|at| at.join("cgroup.procs").exists()).any(|at| {
        let probe = at.join(format!("df-test-{}", std::process::id()));
        std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok()
    })
}
