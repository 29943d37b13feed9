//! Each deploy proves that its switch lost nothing: the node is a client of its own ports meanwhile, and a loss is told, or takes the deploy back.

use std::time::Duration;

use df_testkit::load::{Load, Plan};

use crate::support::odd_versions::odd;
use crate::support::{World, versions};

on_both! {
    every_bad_version_leaves_the_old_one_serving_and_no_request_is_lost on odd().repo();
}

/// The only event of a kind.
#[track_caller]
fn only(output: &df_testkit::process::Output, kind: &str) -> serde_json::Value {
    let mut events = output.events(kind);
    assert_eq!(events.len(), 1, "{kind} in {}", output.stdout);
    events.remove(0)
}

#[test]
fn a_deploy_says_how_many_requests_it_made_itself_and_that_none_was_lost() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let deployed = world.df(["--json", "deploy", "--commit-hash", &versions.v2]).ok();
    let handoff = only(&deployed, "handoff");
    assert_eq!((&handoff["port"], &handoff["lost"]), (&"http".into(), &0.into()), "{handoff}");
    assert!(handoff["requests"].as_u64() >= Some(10) && handoff["worst_ms"].is_u64(), "{handoff}");
    assert_eq!(handoff["connection_kept"], true, "the one that was open before was of use after it: {handoff}");
    let back = world.deploy(&versions.v1);
    let last = back.stdout.trim_end().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains(" requests, 0 failed, worst "), "the last line tells: {}", back.stdout);
}

#[test]
fn a_version_that_takes_no_client_after_its_trial_loses_some_and_is_taken_back() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(odd.good());
    let closes = odd.commit("closes-later", "require_zero_loss: true", "");
    let failed = world.df(["--json", "deploy", "--commit-hash", &closes]).output().expect_code(7);
    let handoff = only(&failed, "handoff");
    assert!(handoff["lost"].as_u64() > Some(0) && handoff["first_loss"].is_string(), "{handoff}");
    assert!(failed.stdout.contains("lost in the switch") && failed.stdout.contains("run.require_zero_loss"), "{}", failed.stdout);
    world.expect_serving(odd.good());
    // The same version where a loss is only told: it stays, and nobody says that nothing was lost.
    let closes = odd.commit("closes-later", "require_zero_loss: false", "");
    let deployed = world.df(["--json", "deploy", "--commit-hash", &closes]).ok();
    assert!(only(&deployed, "handoff")["lost"].as_u64() > Some(0), "{}", deployed.stdout);
}

#[test]
fn a_version_that_binds_by_itself_loses_some_and_is_taken_back() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    let binding = |n: u32, required: bool| {
        let run = format!("handoff: restart\n  env: {{ N: \"{n}\" }}\n  require_zero_loss: {required}");
        odd.commit("binds", &run, ", \"{addr:http}\"")
    };
    let first = binding(1, true);
    world.deploy(&first);
    let failed = world.df(["--json", "deploy", "--commit-hash", &binding(2, true)]).output().expect_code(7);
    assert!(only(&failed, "handoff")["lost"].as_u64() > Some(0), "{}", failed.stdout);
    world.expect_serving(&first);
    let told = binding(3, false);
    world.deploy(&told);
    world.expect_serving(&told);
}

#[test]
fn a_program_that_wants_no_client_of_the_nodes_own_gets_none() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(odd.good());
    let deployed = world.df(["--json", "deploy", "--commit-hash", &odd.commit("good", "prove: false", "")]).ok();
    let handoff = only(&deployed, "handoff");
    assert!(handoff["requests"].is_null() && handoff["lost"].is_null(), "{handoff}");
}

/// Bad versions, each in its own way, and what is said of them.
const BAD: [(&str, &str); 22] = [
    ("exit-0", "exit status 0"),
    ("exit-1", "exit status 1"),
    ("panics", "exit status 101"),
    ("killed", "signal 9"),
    ("never-ready", "ready"),
    ("ready-then-dies", "exit status 4"),
    ("forks-and-leaves", "exit status 0"),
    ("ignores-term", "status 500"),
    ("eats-memory", "out of memory: run.limits.memory is 256M for all its processes together"),
    ("fills-log", "status 503"),
    ("closes-at-once", "not all probes passed"),
    ("wrong-port", "not all probes passed"),
    ("sick", "status 500"),
    ("moved", "status 302"),
    ("garbage", "not HTTP"),
    ("cut", "ends after 4 of 1000 bytes"),
    ("silent", "not all probes passed"),
    ("closes-connections", "closed without an answer"),
    ("no-program", "no program"),
    ("no-format", "exec"),
    ("dies-later", "exit status 5"),
    ("closes-later", "lost in the switch"),
];

fn every_bad_version_leaves_the_old_one_serving_and_no_request_is_lost(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let before = world.get(1, "/").1;
    // The versions that failed after they served are taken back by a switch, and lose what they had taken: they are not among those that serve here.
    let (served, trial): (Vec<_>, Vec<_>) = BAD.iter().partition(|(how, _)| matches!(*how, "dies-later" | "closes-later"));
    let rate = Plan { n_workers: 4, per_second: Some(200), deadline: Duration::from_secs(20), ..Plan::to(world.at(1), "/") };
    let load = Load::run(rate);
    for (how, said) in trial {
        // Where nobody counts, each process may map so much; then the program itself gives up.
        let said = if how == "eats-memory" && !world.counts() { "signal 6" } else { said };
        let failed = world.df(["deploy", "--commit-hash", &odd.bad(how)]).output().expect_code(1);
        assert!(failed.stderr.contains(said), "{how}: expected \"{said}\" in: {}", failed.stderr);
        assert_eq!(world.get(1, "/").1, before, "{how}: the same process goes on");
    }
    let report = load.finish().expect_no_loss();
    println!("{} requests during {} bad versions, 0 lost", report.requests, BAD.len() - served.len());
    assert!(report.bodies.keys().all(|body| body.contains(odd.good())), "{:?}", report.bodies.keys());
    for (how, said) in served {
        let failed = world.df(["--config", &odd.soaking(), "deploy", "--commit-hash", &odd.bad(how)]).output().expect_code(7);
        assert!(failed.stderr.contains(said), "{how}: expected \"{said}\" in: {}", failed.stderr);
        assert_eq!(world.get(1, "/").1, before, "{how}: the same process serves again");
    }
    nothing_is_left_of(world, &before);
}

/// Of what was tried only what serves runs.
#[track_caller]
fn nothing_is_left_of(world: &World, before: &str) {
    let programs = || {
        let odd = world
            .processes(1)
            .into_iter()
            .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("bin/odd\0")));
        odd.collect::<Vec<_>>()
    };
    let alone = df_testkit::process::wait_until(Duration::from_secs(20), || (programs().len() == 1).then_some(()));
    let lines =
        || programs().iter().map(|pid| (*pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")))).collect::<Vec<_>>();
    assert!(alone.is_some(), "{:?} run", lines());
    assert_eq!(programs(), [world.process(before)], "{before}");
}
