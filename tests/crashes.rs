//! A program that ends by itself is started again, later each time, until it is given up; then somebody has to say that it is to be tried again.

use std::time::Duration;

use df_testkit::process::wait_until;
use serde_json::Value;

use crate::support::World;
use crate::support::odd_versions::odd;

/// Two minutes, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(400);
/// How long it is left alone after each of its crashes but the last, in whole seconds.
const PAUSES: [u64; 9] = [0, 1, 2, 4, 8, 16, 30, 30, 30];

on_both! {
    a_program_that_ends_again_and_again_is_started_later_each_time_and_given_up_at_its_limit on odd().repo();
}

fn a_program_that_ends_again_and_again_is_started_later_each_time_and_given_up_at_its_limit(world: &World) {
    if std::env::var_os("DF_FULL").is_none() {
        return eprintln!("left out: it takes two minutes of waiting, which only the long campaign has (DF_FULL)");
    }
    world.deploy(&odd().commit("told", "env: { N: \"crashes\" }", ""));
    let dies = world.data(1).join("odd/dies");
    std::fs::write(&dies, "").expect("written");
    let given_up = wait_until(PATIENCE, || (!times(world, "give-up").is_empty()).then_some(()));
    assert!(given_up.is_some(), "{}", world.df(["history"]).output());

    let crashes = times(world, "crash");
    let pauses: Vec<u64> = crashes.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(crashes.len(), PAUSES.len() + 1);
    // The history tells whole seconds.
    assert!(pauses.iter().zip(PAUSES).all(|(pause, least)| pause + 1 >= least), "{pauses:?}");
    let status = world.df(["status"]).output();
    assert!(status.stdout.contains("down") && status.stdout.contains("given up: it crashed 10 times"), "{status}");
    assert!(world.df(["logs", "-n", "1"]).ok().stdout.contains("given up"), "the log ends with it");
    assert!(std::net::TcpStream::connect(world.at(1)).is_err(), "clients are left waiting");

    // Nobody tries again by himself.
    std::fs::remove_file(&dies).expect("removed");
    world.df(["start"]).ok();
    assert_eq!(world.get(1, "/").0, 200);
}

/// Returns when something was done, as the history of the application has it, in seconds.
fn times(world: &World, what: &str) -> Vec<u64> {
    let history = std::fs::read_to_string(world.node(1).join("apps/odd/history.jsonl")).expect("a history");
    let entries = history.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["what"] == what).filter_map(|entry| entry["at"].as_u64()).collect()
}
