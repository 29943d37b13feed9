//! What nodes run stays in the bucket when somebody collects there who knows no node: each command that changes nodes tells the bucket, `df rm` ends it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use df_testkit::net;
use df_testkit::process::{Output, Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::s3::{Act, Fault, Server, Verb};

use crate::support::{self, World};

const BUCKET: &str = "s3://df-test/app";

/// An operator with nodes, a bucket, and versions that are only files.
struct Desk {
    world: World,
    source: tempfile::TempDir,
    server: Server,
    /// The commits, the oldest first.
    versions: [String; 3],
}

impl Desk {
    fn new(n_nodes: usize) -> Self {
        let source = tempfile::Builder::new().prefix("df-leases").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let config = format!(
            "app: files\nbuild: {{ command: \"mkdir out && cp a b out\", output: out }}\ncache: {{ remote: \"{BUCKET}\" }}\n"
        );
        let versions = [1, 2, 3].map(|n| {
            let text = format!("version {n}\n");
            repo.commit(&[("df.yaml", &config), ("a", &text), ("b", "the same\n")], &text)
        });
        let world = World::of(repo.dir(), n_nodes);
        let desk = Self { world, source, server: Server::start(), versions };
        for version in &desk.versions {
            desk.df(&["build", "--commit-hash", version]).ok();
        }
        desk
    }

    fn df(&self, words: &[&str]) -> Run {
        self.df_of("state", "cache", words)
    }

    /// As another operator: with a list of nodes, or a cache, of its own.
    fn df_of(&self, state: &str, cache: &str, words: &[&str]) -> Run {
        let repo = self.source.path().join("repo");
        let run = support::df(&repo, &self.world.path(state)).args(words).env("XDG_CACHE_HOME", self.world.path(cache));
        self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value)).env_remove("AWS_PROFILE")
    }

    fn deploy(&self, n: usize) -> Output {
        self.df(&["deploy", "--version", &self.versions[n]]).ok()
    }

    /// Keeps the newest version alone, from a machine that holds nothing and knows no node.
    fn collect(&self) -> Output {
        next_second();
        let words = ["cache", "gc", "--count", "1", "--older", "0s", "--why", "--address", BUCKET];
        self.df_of("nobody", "nothing", &words).ok()
    }

    /// Which versions the bucket holds.
    fn held(&self) -> Vec<usize> {
        let listed = self.df(&["--json", "ls", "versions", "--address", BUCKET]).ok().stdout;
        (0..self.versions.len()).filter(|&n| listed.contains(&self.versions[n])).collect()
    }

    /// How often the head was written since the server began to count, and what else was asked for.
    fn heads(&self) -> (usize, u64) {
        let heads = self.server.requests().iter().filter(|it| it.verb == Verb::Put && it.key.ends_with("/head")).count();
        (heads, self.server.counts().all() - heads as u64)
    }

    #[track_caller]
    fn expect_heads(&self, expected: usize, most: u64, act: impl FnOnce() -> Output) -> Output {
        self.server.forget();
        let output = act();
        let (heads, others) = self.heads();
        assert!(heads == expected && others <= most, "{heads} heads, {others} other requests: {:?}", self.server.requests());
        output
    }
}

/// What was put in this second is young: nobody knows shorter times.
fn next_second() {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let now = second();
    wait_until(Duration::from_secs(10), || (second() > now).then_some(())).expect("the clock goes on");
}

#[test]
fn what_nodes_run_outlives_a_collection_by_somebody_who_knows_no_node() {
    let desk = Desk::new(2);
    desk.df(&["cache", "persist"]).ok();
    desk.expect_heads(1, 3, || desk.deploy(0));
    desk.expect_heads(0, 2, || desk.deploy(0));
    let collected = desk.collect();
    let named = |name: &str| collected.stdout.contains(&format!("leased by {name} at local:{}", desk.world.path(name).display()));
    assert!(named("n1") && collected.stdout.contains(", n2 at local:"), "{collected}");
    assert_eq!(desk.held(), [0, 2], "what runs, and the newest");
    desk.deploy(2);
    desk.collect();
    assert_eq!(desk.held(), [0, 2], "what a rollback goes to is in a generation");
    desk.expect_heads(0, 2, || desk.df(&["rollback"]).ok());
    // One node goes: the other has the same.
    desk.expect_heads(1, 4, || desk.df(&["rm", "n1"]).ok());
    desk.collect();
    assert_eq!(desk.held(), [0, 2]);
    desk.df(&["rm", "n2"]).ok();
    let collected = desk.collect();
    assert!(!collected.stdout.contains("leased"), "{collected}");
    assert_eq!(desk.held(), [2], "nobody has it");
}

#[test]
fn what_nodes_let_go_of_the_bucket_may_let_go_of() {
    let desk = Desk::new(1);
    desk.df(&["cache", "persist"]).ok();
    (0..3).for_each(|n| drop(desk.deploy(n)));
    desk.collect();
    assert_eq!(desk.held(), [0, 1, 2]);
    let gc = ["gc", "--count", "0", "--older", "0s"];
    let planned = desk.df(&["--json", "--dry-run", "gc", "--count", "0", "--older", "0s"]).ok().events("planned");
    assert!(
        planned.iter().any(|it| it["action"] == format!("tell {BUCKET} what nodes have") && it["requests"] == 5),
        "{planned:?}"
    );
    next_second();
    desk.expect_heads(1, 4, || desk.df(&gc).ok());
    desk.collect();
    assert_eq!(desk.held(), [1, 2], "what serves, and what a rollback goes to");
}

#[test]
fn two_operators_who_call_a_node_differently_speak_of_one_node() {
    let desk = Desk::new(1);
    desk.df(&["cache", "persist"]).ok();
    desk.deploy(0);
    let other = |words: &[&str]| desk.df_of("other", "cache", words);
    let node = format!("local:{}", desk.world.node(1).display());
    let listen = net::own_loopback().to_string();
    other(&["add", &node, "--name", "www", "--listen", &listen]).ok();
    desk.expect_heads(0, 2, || other(&["deploy", "--version", &desk.versions[0]]).ok());
    other(&["deploy", "--version", &desk.versions[1]]).ok();
    let collected = desk.collect();
    assert!(collected.stdout.contains("leased by www at ") && !collected.stdout.contains("n1 at "), "{collected}");
    desk.df(&["rm", "n1"]).ok();
    desk.collect();
    assert_eq!(desk.held(), [2], "whoever takes it off a list ends it, whatever it is called by others");
}

#[test]
fn a_version_that_comes_to_the_bucket_after_it_was_deployed_is_kept_for_its_nodes() {
    let desk = Desk::new(2);
    desk.expect_heads(0, 3, || desk.deploy(0));
    assert!(desk.server.keys().is_empty(), "nothing is there of what nodes have");
    let persist = || desk.df(&["cache", "persist"]).ok();
    persist();
    // The first commit made it, so that no other one was needed.
    desk.expect_heads(0, 2, || desk.deploy(0));
    desk.collect();
    assert_eq!(desk.held(), [0, 2]);
}

/// Returns what a warning says to type.
#[track_caller]
fn typed(output: &Output) -> Vec<String> {
    let line = output.stderr.lines().find(|line| line.contains("was not told what n1 at local:"));
    let line = line.unwrap_or_else(|| panic!("nobody was told of it: {output}"));
    let next = line.rsplit(", then df ").next().expect("a last part");
    next.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_bucket_that_cannot_be_told_is_no_failure_of_what_serves_and_what_is_said_to_type_tells_it() {
    let desk = Desk::new(1);
    desk.df(&["cache", "persist"]).ok();
    let denied = |words: &[&str]| {
        desk.server.fault(Fault::new(Act::Refuse { status: 403, code: "AccessDenied" }).always());
        let output = desk.df(words).ok();
        desk.server.clear_faults();
        output
    };
    let again = |words: &[String]| desk.df(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    let [first, second] = [0, 1].map(|n| ["deploy", "--version", &desk.versions[n]]);
    let nobody = desk.df(&first).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").ok();
    assert!(nobody.stderr.contains("AWS_ACCESS_KEY_ID"), "{nobody}");
    let words = typed(&nobody);
    assert_eq!(typed(&desk.expect_heads(0, 9, || denied(&first))), words);
    desk.expect_heads(1, 3, || again(&words));
    denied(&second);
    let words = typed(&desk.expect_heads(0, 9, || denied(&["rollback"])));
    assert_eq!(words[..2], ["rollback", "--to"]);
    desk.expect_heads(1, 3, || again(&words));
    let made = |n: usize| desk.world.node(1).join(format!("apps/files/generations/{n}")).exists();
    assert!(made(1) && made(2) && !made(3), "what was typed changed nothing else");
}

#[test]
fn a_node_that_went_while_the_bucket_was_away_is_ended_when_it_goes_again() {
    let desk = Desk::new(1);
    desk.df(&["cache", "persist"]).ok();
    desk.deploy(0);
    let away = desk.df(&["--timeout", "1s", "rm", "n1"]).env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1").ok();
    let node = format!("local:{}", desk.world.node(1).display());
    assert!(away.stderr.contains("goes on keeping what n1 has"), "{away}");
    assert!(away.stderr.contains(&format!("then df add {node} --name n1, then df rm n1")), "{away}");
    desk.collect();
    assert_eq!(desk.held(), [0, 2]);
    // Also by somebody who never reached it.
    let other = |words: &[&str]| desk.df_of("other", "cache", words);
    other(&["add", &node, "--name", "www"]).ok();
    desk.expect_heads(1, 4, || other(&["rm", "www"]).ok());
    desk.collect();
    assert_eq!(desk.held(), [2]);
}

#[test]
fn without_a_bucket_nobody_is_told_anything() {
    let desk = Desk::new(1);
    let yaml = std::fs::read_to_string(desk.source.path().join("repo/df.yaml")).expect("read");
    let config = desk.world.path("df.yaml");
    std::fs::write(
        &config,
        yaml.lines().filter(|line| !line.starts_with("cache:")).map(|line| format!("{line}\n")).collect::<String>(),
    )
    .expect("written");
    let config = config.display().to_string();
    let deployed = desk.df(&["--config", &config, "deploy", "--version", &desk.versions[0]]).ok();
    assert!(deployed.stderr.find("not told").is_none() && desk.server.counts().all() == 0, "{deployed}");
    let seen = std::fs::read_to_string(Path::new(&desk.world.path("state")).join("seen.json")).expect("read");
    assert!(!seen.contains("identity"), "{seen}");
}
