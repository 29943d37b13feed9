//! Connections that are open stay open over deploys: each client goes on counting, whichever version answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use df_testkit::process::Output;
use df_testkit::repo::Repo;
use df_testkit::tree::{Kind, Tree};

use serde_json::Value;

use crate::support::{PORT, World, service_files, shared};

/// An answer takes no longer, deploy or not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions of a client.
const PACE: Duration = Duration::from_millis(20);

/// How many clients and deploys: the promise in the long campaign, fewer of both otherwise.
fn scale() -> (usize, u64) {
    if std::env::var_os("DF_FULL").is_some() { (1000, 100) } else { (100, 10) }
}

#[test]
fn open_connections_live_through_deploys() {
    let (counters, (n_clients, n_deploys)) = (counters(), scale());
    let world = World::of(&counters.repo, 1);
    world.deploy(&counters.hand_over[0]);
    let clients = Clients::start(world.at(1), n_clients);
    for n in 1..n_deploys {
        let deployed = deploy(&world, &counters.hand_over[(n % 2) as usize]);
        assert_eq!(went_and_stayed(&deployed), (n_clients.into(), 0.into()), "deploy {n}: {}", deployed.stdout);
    }
    clients.await_generation(n_deploys);
    let seen = clients.stop();
    println!("{n_clients} connections over {n_deploys} deploys: {} answers, {} dropped", seen.n_answers, seen.dropped.len());
    assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
}

#[test]
fn open_connections_go_back_with_a_rollback() {
    let counters = counters();
    let world = World::of(&counters.repo, 1);
    world.deploy(&counters.hand_over[0]);
    world.deploy(&counters.hand_over[1]);
    let clients = Clients::start(world.at(1), 10);
    clients.await_generation(2);
    let back = world.df(["--json", "rollback"]).ok();
    assert_eq!(went_and_stayed(&back), (10.into(), 0.into()), "{}", back.stdout);
    clients.await_answers_of(1);
    assert!(clients.stop().dropped.is_empty());
}

#[test]
fn connections_that_are_not_handed_over_are_dropped_in_the_same_harness() {
    let counters = counters();
    let world = World::of(&counters.repo, 1);
    world.deploy(&counters.drain[0]);
    let clients = Clients::start(world.at(1), 10);
    let deployed = deploy(&world, &counters.drain[1]);
    let handoffs = deployed.events("handoff");
    let fields: Vec<_> =
        handoffs.iter().map(|event| (&event["connections_handed_over"], &event["connections_drained"])).collect();
    assert_eq!(fields, [(&0.into(), &10.into())], "{}", deployed.stdout);
    clients.await_the_end();
    assert_eq!(clients.stop().dropped.len(), 10, "the control dropped nothing: the harness would not see it");
}

#[test]
fn connections_that_the_next_version_refuses_are_counted_as_those_that_stay() {
    let counters = counters();
    let world = World::of(&counters.repo, 1);
    world.deploy(&counters.hand_over[0]);
    let clients = Clients::start(world.at(1), 10);
    let deployed = deploy(&world, &counters.choosy);
    assert_eq!(went_and_stayed(&deployed), (6.into(), 4.into()), "{}", deployed.stdout);
    assert!(clients.stop().dropped.is_empty(), "who was refused is served on");
}

#[test]
fn a_deploy_says_on_a_terminal_how_many_connections_went_along() {
    let counters = counters();
    let world = World::of(&counters.repo, 1);
    world.deploy(&counters.hand_over[0]);
    let clients = Clients::start(world.at(1), 10);
    let deployed = world.deploy(&counters.hand_over[1]);
    assert!(deployed.to_string().contains("port lines: 10 connections went along"), "{deployed}");
    let last = deployed.stdout.trim_end().lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("10 connections went along; "), "{deployed}");
    assert!(clients.stop().dropped.is_empty());
}

fn deploy(world: &World, commit: &str) -> Output {
    world.df(["--json", "deploy", "--commit-hash", commit]).ok()
}

/// Returns how many connections the old version gave away and how many it kept, as the node has told when that version left; the event before it does not know that yet.
#[track_caller]
fn went_and_stayed(output: &Output) -> (Value, Value) {
    let handoffs = output.events("handoff");
    let [switch, leave] = &handoffs[..] else { panic!("the switch and the end of it: {}", output.stdout) };
    assert_eq!(
        (&switch["step"], &switch["connections_handed_over"], &switch["connections_drained"]),
        (&"switch".into(), &Value::Null, &Value::Null)
    );
    assert_eq!((&leave["step"], &leave["port"]), (&"leave".into(), &"lines".into()));
    (leave["connections_handed_over"].clone(), leave["connections_drained"].clone())
}

/// A repository with versions of the counter that differ in a setting only.
pub struct Counters {
    /// Where it is.
    pub repo: PathBuf,
    /// Those that hand their connections over.
    pub hand_over: [String; 2],
    /// Those that do not.
    pub drain: [String; 2],
    /// One that takes six connections of the version before and no more.
    pub choosy: String,
    /// One of each kind that is well on trial; once it serves, its probe waits for a file `go` among its data, then fails.
    pub sick: [String; 2],
}

/// Returns the shared repository.
pub fn counters() -> &'static Counters {
    static COUNTERS: OnceLock<Counters> = OnceLock::new();
    COUNTERS.get_or_init(|| make_counters(&shared().join("counter")))
}

fn make_counters(dir: &Path) -> Counters {
    let _ = std::fs::remove_dir_all(dir);
    let repo = Repo::new(dir);
    let files = service_files("counter");
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    repo.commit(&files, "the service");
    let versions = |connections: &str| {
        ["one", "two"].map(|n| repo.commit(&[("df.yaml", df_yaml(connections, n).as_str())], &format!("{connections}, {n}")))
    };
    let sick = ["hand over", "drain"].map(|connections| {
        let yaml = df_yaml(connections, "sick").replace("build:\n", "build:\n  include: { probe: probe }\n");
        let yaml = yaml.replace("verify:\n", "verify:\n  - command: probe/later\n");
        let files = [("df.yaml", yaml.as_str(), Kind::File), ("probe/later", SICK_LATER, Kind::Executable)];
        repo.commit_over(&Tree::from_table(&files), &format!("{connections}, sick later"))
    });
    let yaml = df_yaml("hand over", "choosy").replace("  exec: bin/counter\n", "  exec: bin/counter\n  args: [--take, \"6\"]\n");
    let choosy = repo.commit(&[("df.yaml", yaml.as_str())], "takes six");
    Counters { repo: dir.to_owned(), hand_over: versions("hand over"), drain: versions("drain"), choosy, sick }
}

/// On trial the port is reached by a way of the prober's own.
const SICK_LATER: &str = "#!/bin/sh\n\
    case \"$DF_PROBE_LINES\" in *:8080) ;; *) exit 0 ;; esac\n\
    until [ -e \"$DF_DATA/go\" ]; do sleep 0.05; done\n\
    exit 1\n";

fn df_yaml(connections: &str, n: &str) -> String {
    // Enough for a thousand connections on a busy machine; what drains is to be seen to end.
    let drain = if connections == "drain" { "2s" } else { "30s" };
    format!(
        "app: counter\n\
         build:\n  cargo: {{ package: distributive-flow, examples: [counter] }}\n\
         run:\n  exec: bin/counter\n  ports: {{ lines: {PORT} }}\n  connections: {connections}\n  ready: 5s\n  drain: {drain}\n  env: {{ N: {n} }}\n\
         verify:\n  - tcp: {{ port: lines }}\n\
         rollout: {{ soak: 0s }}\n"
    )
}

/// One connection that counts. A part of the next question is always on its way already: bytes that were read travel along.
struct Client {
    stream: BufReader<TcpStream>,
    count: u64,
}

/// A question in two parts; the second part of one is sent with the first part of the next.
const QUESTION: (&str, &str) = ("ne", "xt\n");

impl Client {
    fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        (&stream).write_all(QUESTION.0.as_bytes()).expect("a connection that was accepted, or waits for it");
        Self { stream: BufReader::new(stream), count: 0 }
    }

    /// Asks for the next number; returns the generation that said it, or what was wrong.
    fn next(&mut self) -> Result<u64, String> {
        let parts = [QUESTION.1, QUESTION.0].concat();
        self.stream.get_mut().write_all(parts.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).map_err(|error| error.to_string())?;
        self.count += 1;
        let words: Vec<u64> = answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match words[..] {
            [count, generation] if count == self.count && answer.ends_with('\n') && self.stream.buffer().is_empty() => {
                Ok(generation)
            }
            _ => Err(format!("{answer:?} in place of {}", self.count)),
        }
    }
}

/// Returns the generation that answers a new connection.
pub fn generation_at(at: SocketAddr) -> Option<u64> {
    Client::connect(at).next().ok()
}

/// Clients that ask all the time, one after the other.
pub struct Clients {
    stop: Sender<()>,
    /// The generation whose answers the last round had all of, or 0.
    agreed: Arc<AtomicU64>,
    thread: JoinHandle<Seen>,
}

/// What they saw.
#[derive(Default)]
pub struct Seen {
    /// Answers.
    pub n_answers: u64,
    /// What ended each client that was ended.
    pub dropped: Vec<String>,
}

impl Clients {
    /// Starts so many, and waits until each was answered.
    pub fn start(at: SocketAddr, n: usize) -> Self {
        let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(at)).collect();
        let (stop, stopped) = channel::<()>();
        let agreed = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let agreed = agreed.clone();
            move || {
                let mut seen = Seen::default();
                loop {
                    let mut generations = vec![];
                    clients.retain_mut(|client| match client.next() {
                        Ok(generation) => {
                            generations.push(generation);
                            true
                        }
                        Err(why) => {
                            seen.dropped.push(why);
                            false
                        }
                    });
                    seen.n_answers += generations.len() as u64;
                    generations.dedup();
                    agreed.store(if let [generation] = generations[..] { generation } else { 0 }, Ordering::SeqCst);
                    if clients.is_empty() || !matches!(stopped.recv_timeout(PACE), Err(RecvTimeoutError::Timeout)) {
                        return seen;
                    }
                }
            }
        });
        let clients = Self { stop, agreed, thread };
        clients.await_round(|generation| generation > 0, "an answer");
        clients
    }

    /// Waits until one version answers all of them.
    fn await_generation(&self, generation: u64) {
        self.await_round(|agreed| agreed >= generation, "the last version");
    }

    /// Waits until this version answers all of them.
    pub fn await_answers_of(&self, generation: u64) {
        self.await_round(|agreed| agreed == generation, "the version gone back to");
    }

    /// Waits until no connection is left.
    pub fn await_the_end(&self) {
        self.await_until(|| self.thread.is_finished(), "the end of all connections");
    }

    fn await_round(&self, is_it: impl Fn(u64) -> bool, what: &str) {
        self.await_until(|| is_it(self.agreed.load(Ordering::SeqCst)) || self.thread.is_finished(), what);
    }

    fn await_until(&self, is_it: impl Fn() -> bool, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !is_it() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; answers of {}", self.agreed.load(Ordering::SeqCst));
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends them.
    pub fn stop(self) -> Seen {
        // It may have ended by itself.
        let _ = self.stop.send(());
        self.thread.join().expect("the clients do not panic")
    }
}
