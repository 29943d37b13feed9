//! No request is lost by an upgrade or a rollback, and no client reaches a version on trial.
//!
//! `DF_FULL` makes the campaigns long, and `DF_SWITCH_REPORT` names a file that what they came to is added to.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use df_testkit::load::{Load, Plan, Report};

use crate::support::{World, versions};

/// Clients that open a new connection for each request.
const WORKERS: usize = 8;
/// Clients that keep theirs.
const KEPT: usize = 4;
/// Clients that wait five seconds for each answer.
const SLOW: usize = 4;
/// Nobody waits longer, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

on_both! {
    deploys_and_rollbacks_lose_no_request_though_who_owns_the_sockets_is_killed_again_and_again on &versions().repo;
    a_version_on_trial_never_answers_a_client on &versions().repo;
}

/// Deploys and rollbacks in turn.
struct Campaign {
    what: &'static str,
    n_rounds: u64,
    /// The load that has to be there in the mean: so many requests for each round.
    requests_a_round: u64,
    /// The load in all, if the machine gives so much.
    per_second: u32,
    /// After so many rounds what owns the sockets is killed; 0: never.
    kill_every: u64,
}

impl Campaign {
    fn run(&self, world: &World) -> Report {
        let versions = versions();
        world.deploy(&versions.v1);
        let (started, load) = (Instant::now(), mixed_load(world.at(1), self.per_second));
        let mut n_killed = 0;
        for round in 0..self.n_rounds {
            if self.kill_every > 0 && round % self.kill_every == self.kill_every - 1 {
                n_killed += world.disturb(round / self.kill_every);
            }
            if round % 2 == 0 {
                world.deploy(&versions.v2);
            } else {
                world.df(["rollback"]).ok();
            }
            load.wait_until_requests((round + 1) * self.requests_a_round, PATIENCE);
        }
        let took = started.elapsed();
        let report = load.finish().expect_no_loss();
        let place = if world.has_systemd() { " on a machine with systemd" } else { "" };
        tell(&format!("{}{place}", self.what), self.n_rounds, n_killed, took, &report);
        assert_eq!(n_killed > 0, self.kill_every > 0, "somebody was there to be killed");
        assert!(report.n_kept > 0 && report.n_slow > 0, "the load was not mixed: {} kept, {} slow", report.n_kept, report.n_slow);
        report
    }
}

/// Says what a campaign came to, and adds it to the report.
fn tell(what: &str, n_rounds: u64, n_killed: usize, took: Duration, report: &Report) {
    let a_second = report.requests as f64 / took.as_secs_f64();
    let (requests, kept, slow) = (report.requests, report.n_kept, report.n_slow);
    let most = report.of_a_thousand(999).as_secs_f64() * 1000.0;
    let text = format!(
        "{what}: {n_rounds} deploys and rollbacks, {n_killed} kills, {:.0} s\n  \
         {requests} requests, {a_second:.0} a second: {} lost; 99.9 % within {most:.1} ms, worst {} ms\n  \
         {kept} of them over kept connections, of which {} were closed between two requests; {slow} of them answered after 5 s\n",
        took.as_secs_f64(),
        report.n_lost,
        report.worst_ms,
        report.n_closed
    );
    print!("{text}");
    if let Some(path) = std::env::var_os("DF_SWITCH_REPORT") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the report is written");
    }
}

/// Clients of every kind, together so many requests a second.
fn mixed_load(at: SocketAddr, per_second: u32) -> Load {
    let (slow, per_second) = ((SLOW, "/slow?ms=5000".to_owned()), Some(per_second));
    Load::run(Plan { n_workers: WORKERS, n_kept: KEPT, slow, per_second, deadline: PATIENCE, ..Plan::to(at, "/") })
}

/// How many deploys and rollbacks make a long campaign; `DF_SWITCH_ROUNDS` says otherwise.
fn rounds() -> u64 {
    std::env::var("DF_SWITCH_ROUNDS").map_or(1000, |rounds| rounds.parse().expect("a number"))
}

fn is_full() -> bool {
    std::env::var_os("DF_FULL").is_some()
}

#[test]
fn deploys_and_rollbacks_under_load_lose_no_request() {
    let (n_rounds, requests_a_round, per_second) = if is_full() { (rounds(), 1000, 6000) } else { (50, 50, 1000) };
    Campaign { what: "switches", n_rounds, requests_a_round, per_second, kill_every: 0 }.run(&World::new(1));
}

fn deploys_and_rollbacks_lose_no_request_though_who_owns_the_sockets_is_killed_again_and_again(world: &World) {
    let (n_rounds, requests_a_round, per_second) = if is_full() { (rounds(), 1000, 6000) } else { (21, 50, 1000) };
    Campaign { what: "switches with kill -9", n_rounds, requests_a_round, per_second, kill_every: 10 }.run(world);
}

#[test]
fn a_version_that_binds_by_itself_loses_some_in_the_same_harness() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.binding[0]);
    let load = Load::start(world.at(1), "/", 4 * WORKERS);
    let mut lost = 0;
    for round in 1..=50 {
        world.deploy(&versions.binding[round % 2]);
        lost = load.so_far().n_lost;
        if lost > 0 {
            break;
        }
    }
    println!("{lost} requests lost by versions that bind by themselves");
    assert!(lost > 0, "the control lost nothing: the harness would not see a loss");
}

fn a_version_on_trial_never_answers_a_client(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let load = mixed_load(world.at(1), 500);
    for bad in [&versions.sick, &versions.never_ready, &versions.exits] {
        world.df(["deploy", "--commit-hash", bad]).output().expect_code(1);
        load.wait_for_requests(100, PATIENCE);
    }
    let report = load.finish().expect_no_loss();
    assert!(report.bodies.keys().all(|body| body.contains(&versions.v1)), "{:?}", report.bodies.keys());
    world.expect_serving(&versions.v1);
}
