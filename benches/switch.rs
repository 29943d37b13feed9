//! Where does the time of a deploy go, and what do clients notice of a switch, beside other ways to make one?
//!
//! First: two versions that three local nodes hold are deployed in turn: nothing is built or copied, so what is left is looking, starting the new version,
//! probing it, switching and confirming. Each row is the time from the start of `df` until that event was first and last printed.
//!
//! Then: one client asks one node all the time, and the longest time without an answer in the midst of a switch is its length for clients. The same once more under the load of
//! clients that open new connections and clients that keep theirs, where lost requests are counted. Other ways with the same program: it is ended and started again by hand; it has a
//! unit of systemd's and `systemctl restart` is typed, with and without a socket unit (left out where there is no machine with systemd: ci/fetch-systemd makes one, and DF_SYSTEMD_DIR says
//! where it lies); and haproxy in front of it is reloaded for the next version, which is on a port of its own (Debian: haproxy; left out where it is not).
//!
//!     cargo bench --bench switch              all
//!     cargo bench --bench switch -- steps     the first alone
//!
//! Prints tables; writes target/bench/switch.json (the first), benches/results/switch.json and the table of docs/journey.md (the rest). The data is the tests' greeter, made
//! anew from this repository's files.

#[allow(dead_code, reason = "written for the tests, which need more of it")]
#[path = "../tests/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "this bench times lines, not whole commands")]
mod timing;

#[path = "switch/page.rs"]
mod page;
#[path = "switch/systemd.rs"]
mod systemd;
#[path = "switch/watching.rs"]
mod watching;
#[path = "switch/ways.rs"]
mod ways;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use df_testkit::load::{Load, Plan};
use df_testkit::survivors;
use support::{World, versions};
use systemd::Systemctl;
use timing::{Row, command, report};
use watching::Watcher;
use ways::{Df, Haproxy, Restart, Way};

const N_NODES: usize = 3;
const N_RUNS: usize = 20;
/// Under load, each way switches so often.
const N_LOADED: usize = 20;
/// The load, if the machine gives so much.
const PER_SECOND: u32 = 5000;
/// In the order in which a deploy tells them.
const EVENTS: [&str; 7] = ["built", "copied", "started", "verified", "activated", "confirmed", "result"];

fn main() {
    steps_on_three_nodes();
    if std::env::args().any(|word| word == "steps") {
        return;
    }
    let world = World::new(1);
    world.deploy(&versions().v1);
    let current = world.node(1).join("apps/greeter/current/bin/greeter");
    let program = world.path("greeter");
    std::fs::copy(current, &program).expect("copied");
    let mut rows = vec![
        seen("`df deploy`", &mut Df { world: &world, rolls_back: false, n: 0 }),
        seen("`df rollback`", &mut Df { world: &world, rolls_back: true, n: 0 }),
        page::Row { name: "taken back while it soaks".into(), gaps_ms: taken_back(&world), load: None },
        seen("ended and started again", &mut Restart::new(&program)),
    ];
    rows.extend(Systemctl::new(&program).map(|mut way| seen("`systemctl restart`", &mut way)));
    rows.extend(Systemctl::with_socket(&program).map(|mut way| seen("`systemctl restart`, with a socket unit", &mut way)));
    rows.extend(Haproxy::new(&program).map(|mut way| seen("haproxy reloaded", &mut way)));
    page::report(&rows, steps_on_one_node(&world));
}

fn steps_on_three_nodes() {
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

/// How long the steps at the switch take: medians, in milliseconds.
fn steps_on_one_node(world: &World) -> serde_json::Value {
    // Else the first of them could be the one that serves, and nothing would be activated.
    world.deploy(&versions().v2);
    let mut activation = vec![];
    for n in 0..N_RUNS {
        let at = deploy(world, [&versions().v1, &versions().v2][n % 2]);
        activation.push(at["last activated"] - at["last verified"]);
    }
    activation.sort_by(f64::total_cmp);
    let (median, most) = (activation[N_RUNS / 2], activation[N_RUNS - 1]);
    println!("from verified to activated: median {median:.2} ms, longest {most:.2} ms");
    serde_json::json!({ "activation_median_ms": median, "activation_most_ms": most, "runs": N_RUNS })
}

/// Switches in a way many times, first seen by one client, then under load.
fn seen(name: &str, way: &mut dyn Way) -> page::Row {
    let gaps_ms: Vec<f64> = (0..N_RUNS).map(|_| gap(way)).collect();
    println!("{name}: {gaps_ms:.2?}");
    let per_second = Some(PER_SECOND);
    let plan = Plan { n_workers: 4, n_kept: 2, per_second, deadline: Duration::from_secs(30), ..Plan::to(way.at(), "/") };
    let load = Load::run(plan);
    for _ in 0..N_LOADED {
        load.wait_for_requests(500, Duration::from_secs(60));
        way.switch();
    }
    load.wait_for_requests(500, Duration::from_secs(60));
    let report = load.finish();
    let p999_ms = watching::millis(report.of_a_thousand(999));
    let load = page::Load { requests: report.requests, n_lost: report.n_lost, p999_ms, n_switches: N_LOADED };
    page::Row { name: name.to_owned(), gaps_ms, load: Some(load) }
}

fn gap(way: &mut dyn Way) -> f64 {
    let watcher = Watcher::start(way.at());
    let old = watcher.who();
    way.switch();
    let new = watcher.other_than(&old);
    let gap = watcher.gap_ms(&old, &new);
    watcher.stop();
    gap
}

/// A new version dies while it soaks: from its death to the first answer of the old one, in milliseconds.
fn taken_back(world: &World) -> Vec<f64> {
    let config = world.path("soaking.yaml");
    let build = "build: { cargo: { package: distributive-flow, examples: [greeter] } }";
    std::fs::write(&config, format!("app: greeter\n{build}\nrollout: {{ soak: 60s }}\n")).expect("written");
    let once = |n: usize| {
        let watcher = Watcher::start(world.at(1));
        let old = watcher.who();
        let commit = [&versions().v1, &versions().v2].into_iter().find(|commit| !old.contains(commit.as_str()));
        let words = ["--config", &config.display().to_string(), "deploy", "--commit-hash", commit.expect("one of two")];
        let mut df = command(&versions().repo, &world.path("state"), &words);
        let mut df = df.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("df starts");
        let new = watcher.other_than(&old);
        let pid = new.rsplit_once("pid=").and_then(|(_, pid)| pid.trim().parse().ok()).expect("it says its process");
        let killed = Instant::now();
        survivors::send(pid, libc::SIGKILL);
        watcher.other_than(&new);
        let took = watcher.since_ms(killed, &old);
        let status = df.wait().expect("a child of this process");
        assert_eq!(status.code(), Some(7), "run {n}: it was taken back");
        watcher.stop();
        took
    };
    (0..N_RUNS).map(once).collect()
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
