//! Ports that are not of TCP go from version to version as those do: sockets in the file system, and datagrams. Nothing is lost, and nobody reaches a version on trial.
//! What programs lose that bind by themselves is said.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use df_testkit::process::{Run, wait_until};
use df_testkit::repo::Repo;

use crate::support::{PORT, World, df, shared, versions};

/// Deploys in a row.
const ROUNDS: usize = 4;
/// An answer that takes longer is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);
const WORKERS: usize = 4;

#[test]
fn a_socket_in_the_file_system_loses_no_client_over_deploys_and_rollbacks() {
    let place = socket_dir();
    let path = place.path().join("made/http.sock");
    let versions = Versions::new("unix");
    let ports = format!("ports: {{ http: {{ listen: \"unix:{}\", mode: 0640 }} }}", path.display());
    let verify = "verify:\n  - http: { port: http, path: / }\n";
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "unix", &ports, verify)).collect();
    let sick = versions.commit(3, "unix, sick", &ports, verify);
    let world = World::of(versions.repo.dir(), 1);
    let ask = {
        let path = path.clone();
        move || get(&path)
    };
    switch_under_load(&world, &commits, &sick, ask);
    let found = std::fs::symlink_metadata(&path).expect("it is there");
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o640);
    world.df(["stop"]).ok();
    assert!(!path.exists(), "what was stopped leaves no name");
}

#[test]
fn a_socket_that_somebody_listens_on_is_refused_before_anything_moves() {
    let place = socket_dir();
    let path = place.path().join("http.sock");
    let versions = Versions::new("held");
    let ports = format!("ports: {{ http: \"unix:{}\" }}", path.display());
    let commit = versions.commit(1, "unix", &ports, "");
    let world = World::of(versions.repo.dir(), 1);
    let held = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let refused = world.df(["deploy", "--commit-hash", &commit]).output().expect_code(1);
    let said = format!("the socket {} is held by", path.display());
    assert!(refused.stderr.contains(&said) && refused.stderr.contains(&format!("(pid {})", std::process::id())), "{refused}");
    drop(held);
    // Nobody listens any more: the name is stale.
    world.deploy(&commit);
    assert_eq!(get(&path), Ok(commit));
}

#[test]
fn a_version_that_binds_its_path_by_itself_loses_some_in_the_same_harness() {
    let place = socket_dir();
    let path = place.path().join("http.sock");
    let versions = Versions::new("unix-binds");
    let words = format!("unix-binds, \"{}\"", path.display());
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, &words, "exclusive: true", "")).collect();
    let world = World::of(versions.repo.dir(), 1);
    world.deploy(&commits[0]);
    wait_until(PATIENCE, || get(&path).ok()).expect("it serves");
    let load = Load::start(move || get(&path));
    load.wait_for(50);
    world.deploy(&commits[1]);
    load.wait_for_losses();
}

#[test]
fn datagrams_are_answered_over_deploys_and_rollbacks() {
    let versions = Versions::new("udp");
    let ports = format!("ports: {{ echo: \"udp:{PORT}\" }}");
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "udp", &ports, "")).collect();
    let sick = versions.commit(3, "udp, sick", &ports, "verify:\n  - command: bin/no-such-program\n");
    let world = World::of(versions.repo.dir(), 1);
    let (at, numbers) = (world.at(1), Arc::new(AtomicU32::new(0)));
    switch_under_load(&world, &commits, &sick, move || ask(at, numbers.fetch_add(1, Relaxed)));
    let shown = world.df(["status"]).ok().stdout;
    assert!(shown.contains(&format!("echo=udp:{at}")), "{shown}");
}

#[test]
fn a_version_that_binds_its_udp_port_by_itself_loses_some_in_the_same_harness() {
    let versions = Versions::new("udp-binds");
    let run = format!("ports: {{ echo: \"udp:{PORT}\" }}\n  handoff: restart");
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "udp-binds, \"{addr:echo}\"", &run, "")).collect();
    let world = World::of(versions.repo.dir(), 1);
    world.deploy(&commits[0]);
    let at = world.at(1);
    wait_until(PATIENCE, || ask(at, 0).ok()).expect("it serves");
    let load = Load::start(move || ask(at, 1));
    load.wait_for(50);
    world.deploy(&commits[1]);
    load.wait_for_losses();
}

#[test]
fn what_programs_lose_that_bind_by_themselves_is_said_by_the_deploy() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.binding[0]);
    let deployed = world.df(["--json", "deploy", "--commit-hash", &versions.binding[1]]).ok();
    let handoffs = deployed.events("handoff");
    assert_eq!(handoffs.len(), 1, "{}", deployed.stdout);
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    let becomes = if setting.is_ok_and(|setting| setting.trim() == "1") { "moved" } else { "lost" };
    assert_eq!((&handoffs[0]["port"], &handoffs[0]["own_queue"]), (&"http".into(), &becomes.into()), "{}", handoffs[0]);
    assert!(
        handoffs[0]["lost"].is_null() && handoffs[0]["requests"].is_null(),
        "nobody counts what is lost later: {}",
        handoffs[0]
    );
    let again = world.deploy(&versions.binding[0]);
    assert!(again.stderr.contains("port http: both versions bind it by themselves"), "{again}");
}

/// Deploys and rolls back in turns while clients ask, then deploys a version that fails: nobody is lost, and only versions that serve answer.
pub fn switch_under_load(
    world: &World,
    commits: &[String],
    sick: &str,
    ask: impl Fn() -> Result<String, String> + Clone + Send + Sync + 'static,
) {
    world.deploy(&commits[0]);
    let load = Load::start(ask.clone());
    load.wait_for(50);
    for round in 0..ROUNDS {
        match round % 2 {
            0 => drop(world.deploy(&commits[1])),
            _ => drop(world.df(["rollback"]).ok()),
        }
        assert_eq!(ask().as_ref(), Ok(&commits[(round + 1) % 2]));
    }
    world.df(["deploy", "--commit-hash", sick]).output().expect_code(1);
    let seen = load.finish();
    println!("{} requests over {ROUNDS} switches", seen.values().sum::<u32>());
    assert!(seen.keys().all(|commit| commits.contains(commit)), "only versions that serve answer: {seen:?}");
}

/// A repository of the server, one commit a version.
pub struct Versions {
    pub repo: Repo,
    files: PathBuf,
    name: &'static str,
}

impl Versions {
    pub fn new(name: &'static str) -> Self {
        let dir = shared().join(format!("carrier-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        let files = dir.join("files");
        std::fs::create_dir_all(files.join("bin")).expect("made");
        std::fs::copy(program(), files.join("bin/carrier")).expect("copied");
        Self { repo: Repo::new(&dir.join("repo")), files, name }
    }

    pub fn commit(&self, n: usize, words: &str, run: &str, verify: &str) -> String {
        let yaml = format!(
            "app: carrier\nbuild: {{ include: {{ bin: bin }} }}\nrun:\n  exec: bin/carrier\n  args: [{words}]\n  env: {{ N: \"{n}\" }}\n  \
             ready: 3s\n  drain: 5s\n  {run}\n{verify}rollout: {{ soak: 0s }}\n"
        );
        std::fs::write(self.files.join("df.yaml"), yaml).expect("written");
        let commit = self.repo.commit_tree(&self.files, words);
        let state = shared().join(format!("carrier-{}/state", self.name));
        df(self.repo.dir(), &state).args(["build", "--commit-hash", &commit]).ok();
        commit
    }
}

/// The server, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = shared().join("carrier");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/carrier.rs");
        Run::new("rustc").args(["--edition", "2024", "-O", "-C", "strip=symbols", "-o"]).arg(&program).arg(source).ok();
        program
    })
}

/// A directory for sockets, on a short path that nobody else can change.
fn socket_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("df-s").tempdir_in("/tmp").expect("a directory")
}

/// Clients that ask again as soon as they have an answer.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: Mutex<BTreeMap<String, u32>>,
    lost: Mutex<Vec<String>>,
}

impl Load {
    pub fn start(ask: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        let (shared, ask) = (Arc::new(Shared::default()), Arc::new(ask));
        let work = |_| {
            let (shared, ask) = (shared.clone(), ask.clone());
            std::thread::spawn(move || {
                while !shared.stop.load(Relaxed) {
                    // A pace that leaves the processor to others.
                    std::thread::park_timeout(Duration::from_millis(1));
                    match ask() {
                        Ok(commit) => *shared.answers.lock().expect("no panic").entry(commit).or_default() += 1,
                        Err(why) => shared.lost.lock().expect("no panic").push(why),
                    }
                }
            })
        };
        let workers = (0..WORKERS).map(work).collect();
        Self { shared, workers }
    }

    fn n_answers(&self) -> u32 {
        self.shared.answers.lock().expect("no panic").values().sum()
    }

    #[track_caller]
    pub fn wait_for(&self, n: u32) {
        let enough = self.n_answers() + n;
        wait_until(PATIENCE, || (self.n_answers() >= enough).then_some(())).expect("answers");
    }

    #[track_caller]
    pub fn wait_for_losses(self) {
        let lost = || (!self.shared.lost.lock().expect("no panic").is_empty()).then_some(());
        wait_until(2 * PATIENCE, lost).expect("the control lost nothing: the harness would not see a loss");
        self.stop();
    }

    /// Stops, expects that nothing was lost, and returns who answered how often.
    #[track_caller]
    fn finish(self) -> BTreeMap<String, u32> {
        let shared = self.shared.clone();
        self.stop();
        let lost = shared.lost.lock().expect("no panic");
        assert!(lost.is_empty(), "{} lost, first: {:?}", lost.len(), lost.first());
        let answers = shared.answers.lock().expect("no panic").clone();
        assert!(answers.values().sum::<u32>() >= 50, "no load");
        answers
    }

    fn stop(self) {
        self.shared.stop.store(true, Relaxed);
        self.workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    }
}

/// Asks over HTTP at a path, over a connection of its own; returns the commit that answers.
fn get(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 "));
    body.map(|(_, body)| body.to_owned()).filter(|body| body.len() == 40).ok_or_else(|| format!("answered {answer:?}"))
}

/// Sends a datagram from a socket of its own; returns the commit that sends it back.
pub fn ask(at: SocketAddr, number: u32) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind((at.ip(), 0)).map_err(failed)?;
    socket.connect(at).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.send(&number.to_le_bytes()).map_err(failed)?;
    let mut back = [0; 512];
    let len = socket.recv(&mut back).map_err(failed)?;
    let commit = back[..len].strip_prefix(&number.to_le_bytes()).ok_or("another number came back")?;
    String::from_utf8(commit.to_vec()).map_err(|error| error.to_string())
}
