//! kill -9 of df, of df-node and of the supervisor, at random moments of a deploy and before each step of it: the node serves the old or the new version, whole,
//! and the next deploy succeeds.

use std::thread;
use std::time::{Duration, Instant};

use df_testkit::calls::tree::{Followed, Watch, follow};
use df_testkit::load::{Load, Plan};
use df_testkit::process::wait_until;
use df_testkit::seed::Seed;
use df_testkit::{faults, net, survivors};

use crate::support::{DEADLINE, World, versions};

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
    let config = impatient(&world);
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

#[test]
fn killed_before_any_step_of_a_deploy_df_leaves_old_or_new_serving() {
    killed_before_each_step(Victim::Df);
}

#[test]
fn killed_before_any_step_of_a_deploy_df_node_leaves_old_or_new_serving() {
    killed_before_each_step(Victim::Node);
}

#[test]
fn killed_before_any_step_of_a_deploy_the_supervisor_leaves_old_or_new_serving() {
    killed_before_each_step(Victim::Supervisor);
}

/// So many of the steps are tried, evenly spread; all of them in the long campaign.
const N_STEPS: usize = 8;

#[track_caller]
fn killed_before_each_step(victim: Victim) {
    let (versions, world) = (versions(), World::new(1));
    let config = impatient(&world);
    // Both are there before the steps are counted: what is copied is another test's.
    [&versions.v1, &versions.v2, &versions.v1].into_iter().for_each(|commit| drop(world.deploy(commit)));
    let all = deploy_until(&world, &config, &versions.v2, victim, None);
    let (n, stride) = (all.steps.len(), if is_full() { 1 } else { all.steps.len().div_ceil(N_STEPS) });
    assert!(all.code == Some(0) && n >= N_STEPS, "{victim:?}: {all:?}");
    let load = Load::run(Plan { per_second: Some(100), deadline: Duration::from_secs(60), ..Plan::to(world.at(1), "/") });
    let (mut n_killed, mut ended) = (0, [0_usize; 2]);
    // A few more than there were: not every run takes as many.
    for (round, step) in (1..=n + 5).step_by(stride).enumerate() {
        let [wanted, other] = if round % 2 == 0 { [&versions.v1, &versions.v2] } else { [&versions.v2, &versions.v1] };
        let followed = deploy_until(&world, &config, wanted, victim, Some(step));
        n_killed += usize::from(followed.killed.is_some());
        let body = serving(&world);
        let is_new = body.contains(wanted);
        assert!(is_new || body.contains(other), "{victim:?} killed before step {step}, {:?}: {body}", followed.steps.last());
        ended[usize::from(is_new)] += 1;
        deploy_once_it_is_over(&world, wanted);
        world.expect_serving(wanted);
        let lost = load.so_far().lost;
        let log = || std::fs::read_to_string(world.node(1).join("log/supervisor.log")).unwrap_or_default();
        assert!(lost.is_empty(), "{victim:?} killed before step {step}, {:?}: lost {lost:?}\n{}", followed.steps.last(), log());
    }
    let report = load.finish();
    let [old, new] = ended;
    println!(
        "{victim:?}: killed before {n_killed} of {n} steps; {old} times old served, {new} times new; {} requests, {} lost",
        report.requests, report.n_lost
    );
    // Not every run takes as many steps as the one that was counted.
    assert!(n_killed >= N_STEPS / 2, "{victim:?}: only {n_killed} kills");
    report.expect_no_loss();
}

/// Deploys, and kills before a step; without one, until the version that served before is gone.
#[track_caller]
fn deploy_until(world: &World, config: &str, commit: &str, victim: Victim, kill_before: Option<usize>) -> Followed {
    let is_node = |words: &[String]| words[0].contains("df-node");
    let follows = |words: &[String]| is_node(words) || words[0] == env!("CARGO_BIN_EXE_df");
    let counts = |words: &[String]| match victim {
        Victim::Df => !is_node(words),
        Victim::Node => is_node(words) && words[1] == "serve",
        Victim::Supervisor => is_node(words) && words[1] == "supervise",
    };
    let is_over = || {
        let programs = survivors::running_under(&world.node(1)).into_iter();
        let services = programs
            .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("bin/greeter")));
        services.count() <= 1
    };
    if victim == Victim::Supervisor {
        // Each kill hits one deploy: of sockets that close while nobody watches, the kernel's order is known as long as it is one.
        assert!(wait_until(DEADLINE, || is_over().then_some(())).is_some(), "a version that was followed does not end");
        // The next one is started by the deploy, so that its steps are known from the first on.
        world.kill_both(1);
    }
    let df = world.df(["--config", config, "deploy", "--commit-hash", commit]);
    follow(&df, &Watch { counts: &counts, follows: &follows, kill_before, at_the_kill: &|| (), is_over: &is_over })
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
fn impatient(world: &World) -> String {
    let path = world.path("impatient.yaml");
    let build = "build: { cargo: { package: distributive-flow, examples: [greeter] } }";
    std::fs::write(&path, format!("app: greeter\n{build}\nrollout: {{ soak: 0s, confirm: 1s }}\n")).expect("written");
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
