//! Before each step of an activation, one after the other, and not at random: a deploy, a rollback, versions of which there may be only one, those that bind by themselves, those behind
//! a proxy; and of stopping and starting anew.

use std::time::Duration;

use df_testkit::calls::tree::{Followed, Watch, follow};
use df_testkit::load::{Load, Plan};
use df_testkit::net;
use df_testkit::process::{Run, wait_until};

use super::{Victim, deploy_once_it_is_over, impatient, is_full, serving};
use crate::proxy;
use crate::support::odd_versions::odd;
use crate::support::{DEADLINE, World, versions};

/// So many of the steps of a deploy are tried, evenly spread; all of them in the long campaign.
const N_STEPS: usize = 8;
/// So many of those of another sort, for each victim.
const N_OTHER_STEPS: usize = 3;

#[test]
fn killed_before_any_step_of_a_deploy_df_leaves_old_or_new_serving() {
    Activation::deploy().killed_before_each_step(Victim::Df, N_STEPS);
}

#[test]
fn killed_before_any_step_of_a_deploy_df_node_leaves_old_or_new_serving() {
    Activation::deploy().killed_before_each_step(Victim::Node, N_STEPS);
}

#[test]
fn killed_before_any_step_of_a_deploy_the_supervisor_leaves_old_or_new_serving() {
    Activation::deploy().killed_before_each_step(Victim::Supervisor, N_STEPS);
}

#[test]
fn killed_before_any_step_of_a_rollback_whoever_it_is_leaves_old_or_new_serving() {
    Activation { word: Word::Rollback, ..Activation::deploy() }.killed_before_each_step_whoever_it_is();
}

#[test]
fn killed_before_any_step_of_a_deploy_of_which_there_may_be_only_one_whoever_it_is_leaves_one_serving() {
    let run = |n: &str| format!("exclusive: true\n  env: {{ ALONE: \"1\", N: \"kills-{n}\" }}");
    let mut activation = Activation::of_odd(["1", "2"].map(|n| odd().commit("good", &run(n), "")));
    for victim in [Victim::Df, Victim::Node] {
        activation.killed_before_each_step(victim, N_OTHER_STEPS);
    }
    // One client was cut off in 69 such kills, most likely one whom the new version had just taken when the next supervisor brought the old one back.
    activation.loses = true;
    activation.killed_before_each_step(Victim::Supervisor, N_OTHER_STEPS);
    assert!(!activation.world.data(1).join("odd/two").exists(), "two at once");
}

#[test]
fn killed_before_any_step_of_a_deploy_of_versions_that_bind_by_themselves_whoever_it_is_leaves_old_or_new_serving() {
    let run = |n: &str| format!("handoff: restart\n  env: {{ N: \"kills-{n}\" }}");
    let versions = ["1", "2"].map(|n| odd().commit("binds", &run(n), ", \"{addr:http}\""));
    Activation { loses: true, ..Activation::of_odd(versions) }.killed_before_each_step_whoever_it_is();
}

#[test]
fn killed_before_any_step_of_a_deploy_behind_a_proxy_whoever_it_is_leaves_old_or_new_serving() {
    let repo = proxy::Versions::new("steps");
    // One that does not say that it is ready, as the one before did, would be waited for as long as `run.ready` says.
    let versions = ["[--early]", "[--early, --again]"].map(|args| repo.commit(args, "proxy", proxy::HTTP));
    let world = World::of(repo.dir(), 1);
    let config = impatient(&world, "proxied");
    // What runs the program is named in more command lines than its own; of proxies each version has one.
    Activation { world, versions, config, word: Word::Deploy, program: "haproxy\0-db", loses: false }
        .killed_before_each_step_whoever_it_is();
}

/// What is typed so that another version serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Deploy,
    Rollback,
}

/// A sort of activation: two versions, each of which comes in the place of the other.
struct Activation {
    world: World,
    versions: [String; 2],
    /// Whose nodes go back soon when nobody confirms.
    config: String,
    word: Word,
    /// What the command line of a version has in it.
    program: &'static str,
    /// Whether clients may notice it.
    loses: bool,
}

impl Activation {
    fn deploy() -> Self {
        let (all, world) = (versions(), World::new(1));
        let config = impatient(&world, "greeter");
        let versions = [all.v1.clone(), all.v2.clone()];
        Self { world, versions, config, word: Word::Deploy, program: "bin/greeter", loses: false }
    }

    fn of_odd(versions: [String; 2]) -> Self {
        let world = World::of(odd().repo(), 1);
        let config = impatient(&world, "odd");
        Self { world, versions, config, word: Word::Deploy, program: "bin/odd", loses: false }
    }

    #[track_caller]
    fn killed_before_each_step_whoever_it_is(&self) {
        Victim::ALL.into_iter().for_each(|victim| self.killed_before_each_step(victim, N_OTHER_STEPS));
    }

    #[track_caller]
    fn killed_before_each_step(&self, victim: Victim, n_steps: usize) {
        let (world, [one, other]) = (&self.world, &self.versions);
        // Both are there before the steps are counted: what is copied is another test's.
        [one, other, one].into_iter().for_each(|commit| drop(world.deploy(commit)));
        let all = self.until(other, victim, None);
        let (n, stride) = (all.steps.len(), if is_full() { 1 } else { all.steps.len().div_ceil(n_steps) });
        assert!(all.code == Some(0) && n >= n_steps, "{victim:?}: {all:?}");
        let load = Load::run(Plan { per_second: Some(100), deadline: Duration::from_secs(60), ..Plan::to(world.at(1), "/") });
        let (mut n_killed, mut ended) = (0, [0_usize; 2]);
        // A few more than there were: not every run takes as many.
        for (round, step) in (1..=n + 5).step_by(stride).enumerate() {
            let [wanted, former] = if round % 2 == 0 { [one, other] } else { [other, one] };
            let followed = self.until(wanted, victim, Some(step));
            n_killed += usize::from(followed.killed.is_some());
            let body = serving(world);
            let is_new = body.contains(wanted);
            assert!(is_new || body.contains(former), "{victim:?} killed before step {step}, {:?}: {body}", followed.steps.last());
            ended[usize::from(is_new)] += 1;
            deploy_once_it_is_over(world, wanted);
            world.expect_serving(wanted);
            let lost = load.so_far().lost;
            let log = || std::fs::read_to_string(world.node(1).join("log/supervisor.log")).unwrap_or_default();
            let at = followed.steps.last();
            assert!(lost.is_empty() || self.loses, "{victim:?} killed before step {step}, {at:?}: lost {lost:?}\n{}", log());
        }
        let report = load.finish();
        let [old, new] = ended;
        println!(
            "{victim:?}: killed before {n_killed} of {n} steps; {old} times old served, {new} times new; {} requests, {} lost",
            report.requests, report.n_lost
        );
        // Not every run takes as many steps as the one that was counted.
        assert!(n_killed >= n_steps / 2, "{victim:?}: only {n_killed} kills");
        if !self.loses {
            report.expect_no_loss();
        }
    }

    /// Makes a version serve, and kills before a step; without one, until the version that served before is gone.
    #[track_caller]
    fn until(&self, commit: &str, victim: Victim, kill_before: Option<usize>) -> Followed {
        let df = match self.word {
            Word::Deploy => self.world.df(["--config", &self.config, "deploy", "--commit-hash", commit]),
            Word::Rollback => self.world.df(["--config", &self.config, "rollback", "--to", commit]),
        };
        until(&self.world, &df, self.program, 1, victim, kill_before)
    }
}

/// Runs df, and kills before a step; without one, until so many programs are left.
#[track_caller]
fn until(world: &World, df: &Run, program: &str, n_left: usize, victim: Victim, kill_before: Option<usize>) -> Followed {
    let is_node = |words: &[String]| words[0].contains("df-node");
    let follows = |words: &[String]| is_node(words) || words[0] == env!("CARGO_BIN_EXE_df");
    let counts = |words: &[String]| match victim {
        Victim::Df => !is_node(words),
        Victim::Node => is_node(words) && words[1] == "serve",
        Victim::Supervisor => is_node(words) && words[1] == "supervise",
    };
    let n_programs = || {
        let has_it = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(program));
        world.processes(1).into_iter().filter(has_it).count()
    };
    if victim == Victim::Supervisor {
        // Each kill hits one activation: of sockets that close while nobody watches, the kernel's order is known as long as it is one.
        let is_alone = wait_until(DEADLINE, || (n_programs() <= 1).then_some(()));
        assert!(is_alone.is_some(), "a version that was followed does not end");
        // The next one is started by df, so that its steps are known from the first on.
        world.kill_both(1);
    }
    let is_over = || n_programs() <= n_left;
    follow(df, &Watch { counts: &counts, follows: &follows, kill_before, at_the_kill: &|| (), is_over: &is_over })
}

#[test]
fn killed_before_any_step_of_a_stop_or_a_start_whoever_it_is_the_next_start_has_it_serve() {
    let (commit, world) = (&versions().v1, World::new(1));
    let config = impatient(&world, "greeter");
    world.deploy(commit);
    for victim in Victim::ALL {
        for (word, n_left) in [("stop", 0), ("start", 1), ("restart", 1)] {
            let begin = || drop(if word == "start" { world.df(["stop"]).ok() } else { world.df(["start"]).ok() });
            begin();
            let df = world.df(["--config", &config, word]);
            let all = until(&world, &df, "bin/greeter", n_left, victim, None);
            assert!(all.code == Some(0) && all.steps.len() >= N_OTHER_STEPS, "{word}, {victim:?}: {all:?}");
            let stride = if is_full() { 1 } else { all.steps.len().div_ceil(N_OTHER_STEPS) };
            let mut n_killed = 0;
            for step in (1..=all.steps.len()).step_by(stride) {
                start_once_it_is_over(&world);
                begin();
                let followed = until(&world, &df, "bin/greeter", n_left, victim, Some(step));
                n_killed += usize::from(followed.killed.is_some());
                let at = || format!("{word}, {victim:?} killed before step {step}, {:?}", followed.steps.last());
                if word == "restart" {
                    assert!(serving(&world).contains(commit), "{}", at());
                }
                start_once_it_is_over(&world);
                let body = serving(&world);
                assert!(body.contains(commit), "{}: {body}", at());
            }
            println!("{word}, {victim:?}: killed before {n_killed} of {} steps", all.steps.len());
            assert!(n_killed > 0, "{word}, {victim:?}: nobody was killed");
        }
    }
}

/// Starts what is wanted; as long as the node is busy with what was killed, this says so, and is typed again.
#[track_caller]
fn start_once_it_is_over(world: &World) {
    let over = wait_until(Duration::from_secs(60), || {
        let started = world.df(["start"]).output();
        let busy = started.code == Some(4) && started.stderr.contains("is in progress");
        (!busy).then(|| started.expect_code(0))
    });
    assert!(over.is_some(), "an activation never ends");
    let answers = wait_until(Duration::from_secs(30), || net::http_get(world.at(1), "/", Duration::from_secs(5)).ok());
    assert!(answers.is_some(), "it was started, and does not answer");
}
