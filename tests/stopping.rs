//! What stopping and starting anew does to those who are being served.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use df_testkit::load::Load;
use df_testkit::process::wait_until;

use crate::support::{DEADLINE, World, versions};
use crate::withdrawn::deploy_with_a_long_soak;

on_both! {
    a_stop_lets_requests_finish_and_a_stop_now_does_not on &versions().repo;
    a_stop_of_all_ends_versions_that_drain_too on &versions().repo;
    a_restart_is_noticed_by_nobody_also_without_the_cache_here on &versions().repo;
    what_an_application_may_lose_is_gone_when_it_starts_and_stays_while_a_version_runs on &versions().repo;
}

/// Asks for an answer that takes its time; returns the thread that waits for it once the program works on it.
fn slow(at: SocketAddr, ms: u64) -> JoinHandle<std::io::Result<String>> {
    let mut stream = TcpStream::connect(at).expect("it serves");
    write!(stream, "GET /slow?ms={ms} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asked");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let asked = thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    // The connection is taken before any that comes after it; this one is answered.
    let answered = wait_until(DEADLINE, || df_testkit::net::http_get(at, "/health", DEADLINE).ok());
    assert!(answered.is_some() && !asked.is_finished());
    asked
}

/// Returns whether nobody answered.
fn is_cut(asked: JoinHandle<std::io::Result<String>>) -> bool {
    !asked.join().expect("no panic").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

fn a_stop_lets_requests_finish_and_a_stop_now_does_not(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let asked = slow(world.at(1), 4000);
    world.df(["stop"]).ok();
    let answer = asked.join().expect("no panic").expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    world.df(["start"]).ok();
    let asked = slow(world.at(1), 20_000);
    let begun = Instant::now();
    let stopped = world.df(["--json", "stop", "--now"]).ok();
    assert_eq!(stopped.events("stopped").len(), 1, "{stopped}");
    assert!(is_cut(asked), "a program that was killed answers nobody");
    assert!(begun.elapsed() < Duration::from_secs(20), "nobody was waited for");
}

#[test]
fn a_stop_now_in_the_soak_of_a_deploy_is_not_told_to_wait_and_ends_it() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let deploying = deploy_with_a_long_soak(&world, &versions.v2);
    // Who does not say now waits for whoever has the lock.
    let refused = world.df(["stop"]).output().expect_code(4);
    assert!(refused.stderr.contains("df stop --now"), "{refused}");
    world.expect_serving(&versions.v2);

    let stopped = world.df(["--json", "stop", "--now"]).ok();
    let mut generations: Vec<_> = stopped.events("stopped").iter().filter_map(|event| event["generation"].as_u64()).collect();
    generations.sort_unstable();
    assert_eq!(generations, [1, 2], "the one that soaked and the one that was warm: {stopped}");
    assert!(TcpStream::connect(world.at(1)).is_err(), "nobody listens");

    let deployed = deploying.finish(DEADLINE).expect_code(7);
    assert!(deployed.stderr.contains("stopped the application"), "{deployed}");
    assert!(deployed.stderr.contains("generation 1") && deployed.stderr.contains("not running"), "{deployed}");
    let status = world.df(["--json", "status"]).output();
    let node = &status.events("node")[0];
    assert_eq!((&node["state"], &node["generation"]), (&"stopped".into(), &1.into()), "{status}");
    world.kill_both(1);
    // What was soaking does not come back, and what served before it only when somebody says so.
    world.df(["start"]).ok();
    world.expect_serving(&versions.v1);
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

#[test]
fn a_stop_now_while_somebody_has_the_lock_for_something_else_is_told_to_wait() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let lock = std::fs::File::open(world.node(1).join("run/lock")).expect("it is there");
    lock.try_lock().expect("nobody has it");
    world.df(["stop", "--now"]).output().expect_code(4);
    world.expect_serving(&versions.v1);
    drop(lock);
    world.df(["stop", "--now"]).ok();
    assert!(TcpStream::connect(world.at(1)).is_err(), "nobody listens");
}

fn a_stop_of_all_ends_versions_that_drain_too(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let asked = slow(world.at(1), 30_000);
    world.deploy(&versions.v2);
    // The first version still has a request to finish, and the 5 s that it gives itself for that.
    let stopped = world.df(["--json", "stop", "--all", "--now"]).ok();
    let generations: Vec<_> = stopped.events("stopped").iter().filter_map(|event| event["generation"].as_u64()).collect();
    assert!(generations.contains(&1) && generations.contains(&2), "{stopped}");
    assert!(is_cut(asked));
}

fn a_restart_is_noticed_by_nobody_also_without_the_cache_here(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    let load = Load::start(world.at(1), "/", 4);
    let bare = world.path("bare");
    std::fs::create_dir(&bare).expect("made");
    std::fs::write(bare.join("df.yaml"), "app: greeter\nbuild: { include: { a: a } }\nrollout: { soak: 0s }\n").expect("written");
    let restarted = world.df_in(&bare).args(["restart"]).env("XDG_CACHE_HOME", world.path("empty")).ok();
    assert!(restarted.stdout.contains("generation 2 serves"), "{restarted}");
    load.finish().expect_no_loss();
    let after = world.get(1, "/").1;
    assert!(after != before && after.contains(&versions.v1), "{before} {after}");
    // The same by hand is noticed.
    let load = Load::start(world.at(1), "/", 4);
    load.wait_for_requests(20, DEADLINE);
    world.df(["stop"]).ok();
    world.df(["start"]).ok();
    assert!(load.finish().n_lost > 0, "the control lost nothing: the harness would not see a loss");
}

fn what_an_application_may_lose_is_gone_when_it_starts_and_stays_while_a_version_runs(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let scratch = world.tmp(1).join("greeter/scratch");
    std::fs::create_dir(&scratch).expect("made");
    std::fs::write(scratch.join("file"), "").expect("written");
    // The version that serves may still read it.
    world.deploy(&versions.v2);
    assert!(scratch.join("file").exists());
    world.df(["stop", "--all"]).ok();
    assert!(scratch.join("file").exists(), "whoever looks why it ended finds it");
    world.df(["start"]).ok();
    assert!(!scratch.exists() && scratch.parent().is_some_and(std::path::Path::exists));
}
