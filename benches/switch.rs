//! Where does the time of a deploy go?
//!
//! Two versions that three local nodes hold are deployed in turn: nothing is built or copied, so what is left is looking, starting the new version,
//! probing it, switching and confirming. Each row is the time from the start of `df` until that event was first and last printed.
//!
//!     cargo bench --bench switch
//!
//! Prints a table and writes target/bench/switch.json. The data is the tests' greeter, made anew from this repository's files.

#[allow(dead_code, reason = "written for the tests, which need more of it")]
#[path = "../tests/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "this bench times lines, not whole commands")]
mod timing;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use support::{World, versions};
use timing::{Row, command, report};

const N_NODES: usize = 3;
const N_RUNS: usize = 20;
/// In the order in which a deploy tells them.
const EVENTS: [&str; 7] = ["built", "copied", "started", "verified", "activated", "confirmed", "result"];

fn main() {
    let (versions, world) = (versions(), World::new(N_NODES));
    for commit in [&versions.v1, &versions.v2] {
        world.deploy(commit);
    }
    let mut took: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for n in 0..N_RUNS {
        let commit = [&versions.v1, &versions.v2][n % 2];
        for (event, ms) in deploy(&world, commit) {
            took.entry(event).or_default().push(ms);
        }
    }
    let names = EVENTS.iter().flat_map(|event| [format!("first {event}"), format!("last {event}")]);
    let rows: Vec<Row> = names.filter_map(|name| took.remove(&name).map(|took| Row::of(&name, None, took))).collect();
    report("switch", &rows);
}

/// Deploys a commit; returns when each event was printed first and last, in milliseconds.
fn deploy(world: &World, commit: &str) -> BTreeMap<String, f64> {
    let began = Instant::now();
    let mut deploy = command(&versions().repo, &world.path("state"), &["--json", "deploy", "--commit-hash", commit]);
    let mut child = deploy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("df starts");
    let mut seen = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().expect("piped above")).lines() {
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let event: serde_json::Value = serde_json::from_str(&line.expect("UTF-8")).expect("one JSON value a line");
        let kind = event["type"].as_str().expect("each event has a type");
        seen.entry(format!("first {kind}")).or_insert(ms);
        seen.insert(format!("last {kind}"), ms);
    }
    let status = child.wait().expect("a child of this process");
    assert!(status.success(), "df deploy: {status}");
    seen
}
