//! A bad new version never takes the traffic: the old one goes on, and the error says why.

use crate::support::{World, versions};

#[test]
fn each_bad_version_leaves_the_old_one_serving_and_says_why() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let pid_before = world.get(1, "/").1;
    for (bad, said) in [(&versions.exits, "status 3"), (&versions.never_ready, "ready"), (&versions.sick, "/health")] {
        let failed = world.df(["deploy", "--commit-hash", bad]).output().expect_code(1);
        assert!(failed.stderr.contains(said), "expected \"{said}\" in: {}", failed.stderr);
        assert!(failed.stderr.contains("n1"), "the node is named: {}", failed.stderr);
        assert!(failed.stderr.contains(&versions.v1[..8]), "what serves is named: {}", failed.stderr);
        assert_eq!(world.get(1, "/").1, pid_before, "the same process goes on");
    }
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

#[test]
fn a_first_version_that_is_bad_answers_nobody_and_leaves_nothing_running() {
    let (versions, world) = (versions(), World::new(1));
    let deploy = world.df(["deploy", "--commit-hash", &versions.never_ready]).spawn();
    let mut answered = 0;
    df_testkit::process::wait_until(std::time::Duration::from_secs(60), || {
        let asked = df_testkit::net::http_get(world.at(1), "/", std::time::Duration::from_millis(50));
        answered += u32::from(asked.is_ok());
        deploy_ended(&world).then_some(())
    });
    deploy.finish(std::time::Duration::from_secs(60)).expect_code(1);
    assert_eq!(answered, 0, "a client reached a version on trial");
    world.df(["deploy", "--commit-hash", &versions.exits]).output().expect_code(1);
    assert!(std::net::TcpStream::connect(world.at(1)).is_err());
    world.deploy(&versions.v1);
    world.expect_serving(&versions.v1);
}

#[test]
fn a_version_that_dies_in_its_soak_is_taken_back() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let config = world.path("soaking.yaml");
    // Everything but build, run and verify comes from the file on disk.
    let text = "app: greeter\nbuild: { cargo: { package: distributive-flow, examples: [greeter] }, sandbox: off }\nrollout: { soak: 10s }\n";
    std::fs::write(&config, text).expect("written");
    let config = config.display().to_string();
    let failed = world.df(["--config", &config, "deploy", "--commit-hash", &versions.dies]).output().expect_code(7);
    assert!(failed.stderr.contains(&versions.v1[..8]), "what serves is named: {}", failed.stderr);
    world.expect_serving(&versions.v1);
}

#[test]
fn what_certainly_cannot_start_is_refused_before_the_old_version_is_stopped() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    let refused = world.df(["deploy", "--commit-hash", &versions.no_env]).output().expect_code(1);
    assert!(refused.stderr.contains("missing.env"), "{}", refused.stderr);
    assert_eq!(world.get(1, "/").1, before, "the same process goes on");
    let history = world.df(["history"]).ok();
    assert_eq!(history.stdout.matches("activate").count(), 1, "nothing was attempted: {}", history.stdout);
}

#[test]
fn a_deploy_while_the_old_version_is_down_leaves_no_listener_behind() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    kill_service(&world, &versions.v1);
    world.deploy(&versions.v2);
    for _ in 0..50 {
        assert!(world.get(1, "/").1.contains(&versions.v2), "a client waits where nobody takes it");
    }
    world.df(["stop"]).ok();
    assert!(std::net::TcpStream::connect(world.at(1)).is_err(), "a listener is left");
}

#[test]
fn a_crashed_version_starts_again_by_itself() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    kill_service(&world, &versions.v1);
    // Clients that come meanwhile wait in the listener, which the supervisor holds.
    let after = world.get(1, "/").1;
    assert!(after.contains(&versions.v1) && after != before, "{after}");
    assert!(world.df(["history"]).ok().stdout.contains("crash"));
}

/// Kills the program that serves a commit.
fn kill_service(world: &World, commit: &str) {
    let body = world.get(1, "/").1;
    assert!(body.contains(commit), "{body}");
    let pid = body
        .split("pid=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("the greeter tells its pid");
    df_testkit::survivors::send(pid, libc::SIGKILL);
}

/// Returns whether the node has a first line in its history.
fn deploy_ended(world: &World) -> bool {
    std::fs::read_to_string(world.node(1).join("apps/greeter/history.jsonl")).is_ok_and(|history| history.contains('\n'))
}
