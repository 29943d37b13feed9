//! kill -9 of df, of df-node and of the supervisor, at random moments of a deploy and before each step of every sort of activation: the node serves the old or the new
//! version, whole, and the next deploy succeeds.

mod steps;

use std::thread;
use std::time::{Duration, Instant};

use df_testkit::process::wait_until;
use df_testkit::seed::Seed;
use df_testkit::{faults, net, survivors};

use crate::support::{World, versions};

/// Moments in all: 60, and 1,000 in the long campaign.
fn n_moments() -> usize {
    if is_full() { 1000 } else { 60 }
}

fn is_full() -> bool {
    std::env::var_os("DF_FULL").is_some()
}

#[test]
fn killed_at_random_moments_the_node_serves_old_or_new_and_the_next_deploy_succeeds() {
    let (versions, world) = (versions(), World::new(1));
    let mut random = Seed::from_env_or(20_261_121).random();
    world.deploy(&versions.v1);
    let longest = typical(&world).mul_f64(1.2);
    let config = impatient(&world, "greeter");
    let moments = faults::kill_moments(&mut random, n_moments(), longest);
    let mut ended = [0_usize; 2];
    for (round, moment) in moments.into_iter().enumerate() {
        let wanted = if round % 2 == 0 { &versions.v2 } else { &versions.v1 };
        let victim = Victim::ALL[random.index(Victim::ALL.len())];
        let df = world.df(["--config", &config, "deploy", "--commit-hash", wanted]).spawn();
        let started = Instant::now();
        // The moment itself is what is random here; nothing is waited for.
        thread::park_timeout(moment.saturating_sub(started.elapsed()));
        victim.kill(&world, df.pid());
        df.finish(Duration::from_secs(60));
        let body = serving(&world);
        let is_new = body.contains(wanted);
        let is_old = [&versions.v1, &versions.v2].iter().any(|commit| *commit != wanted && body.contains(commit.as_str()));
        assert!(is_new || is_old, "round {round}, {victim:?} killed after {moment:?}: {body}");
        ended[usize::from(is_new)] += 1;
        deploy_once_it_is_over(&world, wanted);
        world.expect_serving(wanted);
    }
    println!("{} kills: {} times the old version went on, {} times the new one served", n_moments(), ended[0], ended[1]);
    assert!(ended[0] > 0 && ended[1] > 0, "all kills fell to one side: the moments were not random");
}

/// Deploys; as long as the node is busy with what was killed, this says so, and is typed again.
#[track_caller]
fn deploy_once_it_is_over(world: &World, commit: &str) {
    let over = wait_until(Duration::from_secs(60), || {
        let deployed = world.df(["deploy", "--commit-hash", commit]).output();
        let busy = deployed.code == Some(4) && deployed.stderr.contains("is in progress");
        (!busy).then(|| deployed.expect_code(0))
    });
    assert!(over.is_some(), "an activation never ends");
}

/// A df.yaml whose nodes go back soon when nobody confirms: until then the next deploy is told that one is in progress.
fn impatient(world: &World, app: &str) -> String {
    let path = world.path("impatient.yaml");
    // Nothing of `build` counts: every version here is built already, by what its commit says.
    let text = format!("app: {app}\nbuild: {{ include: {{ bin: bin }} }}\nrollout: {{ soak: 0s, confirm: 1s }}\n");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Df,
    Node,
    Supervisor,
}

impl Victim {
    const ALL: [Self; 3] = [Self::Df, Self::Node, Self::Supervisor];

    /// Kills it, if it runs at this moment.
    fn kill(self, world: &World, df: u32) {
        match self {
            Self::Df => survivors::send(df, libc::SIGKILL),
            Self::Node => _ = world.kill(1, "serve"),
            Self::Supervisor => _ = world.kill(1, "supervise"),
        }
    }
}

/// Returns how long a deploy takes here: the span of the random moments.
fn typical(world: &World) -> Duration {
    let versions = versions();
    let started = Instant::now();
    world.deploy(&versions.v2);
    world.deploy(&versions.v1);
    started.elapsed() / 2
}

/// Returns what the node answers. A client that comes while nothing listens is refused; the service itself is never gone for long.
fn serving(world: &World) -> String {
    let answer = wait_until(Duration::from_secs(30), || {
        net::http_get(world.at(1), "/", Duration::from_secs(5)).ok().filter(|(status, _)| *status == 200)
    });
    answer.expect("the node serves").1
}
