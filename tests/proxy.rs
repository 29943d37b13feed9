//! Programs that take no socket and only know a port: behind a proxy they are upgraded and taken back, and no client notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use df_testkit::load::{Load, Plan, Report};
use df_testkit::process::wait_until;
use df_testkit::repo::Repo;
use df_testkit::survivors;

use crate::support::{PORT, World, shared};

const DEADLINE: Duration = Duration::from_secs(60);

/// As most people write one: it ends at once when it is told to, whatever is open, and its queue is short. `--early` says READY=1 before it listens, `--never` never listens,
/// `--hidden` hides what it has open from its own user, and none does while there is a file `closed`.
const SERVER: &str = r#"#!/usr/bin/python3
import http.server, os, socket, sys, time

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)
        body = str(self.headers["X-Forwarded-For"]) if self.path == "/who" else os.environ["DF_COMMIT"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words):
        pass

if "--early" in sys.argv:
    name = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", name)
    time.sleep(0.2)
if "--hidden" in sys.argv:
    import ctypes
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
if "--never" in sys.argv:
    time.sleep(1000)
closed = os.path.join(os.environ["DF_DATA"], "closed")
if os.path.exists(closed):
    open(closed + ".seen", "w").close()
    while os.path.exists(closed):
        time.sleep(0.01)
port = os.environ.get("PORT") or os.environ["PORT_HTTP"]
open(os.path.join(os.environ["DF_DATA"], "port"), "w").write(port)
http.server.ThreadingHTTPServer((os.environ["HOST_HTTP"], int(port)), Answer).serve_forever()
"#;

/// Is well where it is told the port that the server was told.
const CHECK: &str = "#!/bin/sh\ntest \"$PORT\" = \"$(cat \"$DF_DATA/port\")\"\n";

#[test]
fn a_program_that_only_knows_a_port_loses_nothing_behind_a_proxy() {
    let versions = Versions::new("http");
    let commits = ["[]", "[--early]"].map(|args| versions.commit(args, "proxy", HTTP));
    let world = World::of(versions.dir(), 1);
    let n_rounds = if std::env::var_os("DF_FULL").is_some() { 100 } else { 4 };
    let report = campaign(&world, &commits, n_rounds, 3).expect_no_loss();
    assert!(report.n_kept > 0 && report.n_slow > 0, "the load was not mixed");
    assert_eq!(report.n_closed, 0, "a kept connection is closed by an answer that says so, and not between two");
    assert!(report.bodies.keys().all(|body| commits.contains(body)), "{:?}", report.bodies);
    println!("{} requests over {n_rounds} switches, 0 lost, the longest took {} ms", report.requests, report.worst_ms);
    let who = world.get(1, "/who").1;
    assert!(who.parse::<std::net::IpAddr>().is_ok(), "the program is told whose request it is: {who}");
    world.df(["stop"]).ok();
    expect_nothing_left(&world);
}

#[test]
fn a_program_that_speaks_anything_else_loses_nothing_behind_a_proxy() {
    let versions = Versions::new("tcp");
    let commits = ["[]", "[--early]"].map(|args| versions.commit(args, "proxy", "verify:\n  - tcp: { port: http }\n"));
    let world = World::of(versions.dir(), 1);
    campaign(&world, &commits, 2, 0).expect_no_loss();
    assert_eq!(world.get(1, "/who").1, "None", "nothing is put into what is not known to be HTTP");
}

#[test]
fn the_same_program_alone_loses_some_in_the_same_harness() {
    let versions = Versions::new("alone");
    let commits = ["[]", "[--again]"].map(|args| versions.commit(args, "restart", HTTP));
    let world = World::of(versions.dir(), 1);
    let report = campaign(&world, &commits, 1, 3);
    assert!(report.n_lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn a_version_that_never_opens_its_port_gets_no_client_and_leaves_nothing() {
    let versions = Versions::new("never");
    let commits = ["[]", "[--early, --never]"].map(|args| versions.commit(args, "proxy", HTTP));
    let world = World::of(versions.dir(), 1);
    world.deploy(&commits[0]);
    let load =
        Load::run(Plan { n_workers: 2, n_kept: 1, per_second: Some(100), deadline: DEADLINE, ..Plan::to(world.at(1), "/") });
    load.wait_for_body(&commits[0], DEADLINE);
    let before = processes(&world);
    world.df(["deploy", "--commit-hash", &commits[1]]).output().expect_code(1);
    let report = load.finish().expect_no_loss();
    assert_eq!(report.bodies.keys().collect::<Vec<_>>(), [&commits[0]], "only the old one answers");
    assert_eq!(processes(&world), before, "nothing of it is left, and the old one was not touched");
}

#[test]
fn whoever_is_killed_of_a_proxied_version_the_rest_ends_with_it_and_it_is_started_again() {
    let versions = Versions::new("killed");
    let commit = versions.commit("[]", "proxy", HTTP);
    let world = World::of(versions.dir(), 1);
    world.deploy(&commit);
    for victim in ["haproxy", "df-front", "serve"] {
        let before = processes(&world);
        let pids = |name: &str| before.iter().filter(|(found, _)| found == name).map(|(_, pid)| *pid).collect::<Vec<u32>>();
        assert_eq!([pids("haproxy").len(), pids("df-front").len(), pids("serve").len()], [1, 1, 1], "{before:?}");
        survivors::send(pids(victim)[0], libc::SIGKILL);
        let ended = || before.iter().all(|(_, pid)| survivors::has_ended(*pid)).then_some(());
        wait_until(DEADLINE, ended).unwrap_or_else(|| panic!("{victim} was killed, and of {before:?} some live on"));
        // Those who come meanwhile wait for the next one.
        world.expect_serving(&commit);
    }
    world.df(["stop"]).ok();
    expect_nothing_left(&world);
}

#[test]
fn who_comes_before_the_program_accepts_waits_for_it() {
    let versions = Versions::new("late");
    let commit = versions.commit("[]", "proxy", HTTP);
    let world = World::of(versions.dir(), 1);
    world.deploy(&commit);
    let closed = world.node(1).join("data/proxied/closed");
    std::fs::write(&closed, "").expect("written");
    let program = processes(&world).into_iter().find(|(name, _)| name == "serve").expect("it runs").1;
    survivors::send(program, libc::SIGKILL);
    // Started again, it does not listen yet.
    wait_until(DEADLINE, || closed.with_extension("seen").exists().then_some(())).expect("it is started again");
    let mut client = TcpStream::connect(world.at(1)).expect("nobody is refused");
    client.write_all(b"GET / HTTP/1.1\r\nHost: late\r\nConnection: close\r\n\r\n").expect("sent");
    client.set_read_timeout(Some(DEADLINE)).expect("set");
    let found = processes(&world);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["df-front", "serve"], "nobody takes a client before the program does");
    expect_secret_port(&found);
    std::fs::remove_file(&closed).expect("removed");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&commit), "{answer}");
}

/// Expects that nobody can read the program's port in a list of processes: it does not listen yet, and whoever knows the port could.
#[track_caller]
fn expect_secret_port(processes: &[(String, u32)]) {
    let read = |pid: u32, what: &str| {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(what)).expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let program = processes.iter().find(|(name, _)| name == "serve").expect("it runs").1;
    let environment = read(program, "environ");
    let port = environment.split('\0').find_map(|variable| variable.strip_prefix("PORT=")).expect("it is told");
    for (name, pid) in processes {
        let line = read(*pid, "cmdline");
        assert!(!line.contains(port), "{name}: {line:?} says {port}");
    }
    assert!(!environment.contains("DF_FRONT"), "what only the front is told: {environment}");
}

#[test]
fn a_program_behind_a_proxy_may_be_another_user_and_hide_what_it_has_open() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run programs as others");
        return;
    }
    let versions = Versions::new("nobody");
    let commits = ["[--early]", "[--hidden]"].map(|args| versions.commit(args, "proxy\n  user: nobody", HTTP));
    let world = World::of(versions.dir(), 1);
    // That user has to get at its image.
    std::fs::set_permissions(world.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    for commit in &commits {
        world.deploy(commit);
        world.expect_serving(commit);
        let found = processes(&world);
        assert!(["df-front", "haproxy", "serve"].iter().all(|name| found.iter().any(|(other, _)| other == name)), "{found:?}");
        found.iter().for_each(|(name, pid)| assert_eq!(uids(*pid), NOBODY, "{name}"));
    }
    world.df(["stop"]).ok();
    expect_nothing_left(&world);
}

/// nobody, whom every system has: real, effective, saved and for files.
const NOBODY: &str = "65534 65534 65534 65534";

fn uids(pid: u32) -> String {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it is somebody's");
    line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// How it is asked whether it is well.
pub const HTTP: &str = "verify:\n  - http: { port: http, path: / }\n";

/// Deploys the first, then deploys the second and goes back in turn while clients ask; the supervisor is killed once.
fn campaign(world: &World, commits: &[String; 2], n_rounds: usize, n_kept: usize) -> Report {
    world.deploy(&commits[0]);
    let plan = Plan {
        n_workers: 3,
        n_kept,
        slow: (2, "/slow".into()),
        per_second: Some(150),
        deadline: DEADLINE,
        ..Plan::to(world.at(1), "/")
    };
    let load = Load::run(plan);
    load.wait_for_body(&commits[0], DEADLINE);
    for round in 0..n_rounds {
        if round == 1 {
            assert!(world.kill(1, "supervise") > 0, "somebody was there to be killed");
        }
        match round % 2 {
            0 => drop(world.deploy(&commits[1])),
            _ => drop(world.df(["rollback"]).ok()),
        }
        load.wait_for_body(&commits[(round + 1) % 2], DEADLINE);
    }
    load.finish()
}

/// A repository of the server, one commit a version.
pub struct Versions(Repo);

impl Versions {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let dir = shared().join(format!("proxied-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        Self(Repo::new(&dir))
    }

    /// Returns where it is.
    pub fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// Makes a version.
    pub fn commit(&self, args: &str, handoff: &str, verify: &str) -> String {
        let tree = tempfile::tempdir_in(shared()).expect("a directory");
        // Only who never is ready is not waited for long.
        let ready = if args.contains("--never") { "5s" } else { "30s" };
        let yaml = format!(
            "app: proxied\nbuild: {{ include: {{ bin: bin }} }}\nrun:\n  exec: bin/serve\n  args: {args}\n  ports: {{ http: {PORT} }}\n  \
             handoff: {handoff}\n  ready: {ready}\n  drain: 10s\n{verify}rollout: {{ soak: 0s }}\n"
        );
        let program = tree.path().join("bin/serve");
        std::fs::create_dir(tree.path().join("bin")).expect("made");
        std::fs::write(tree.path().join("df.yaml"), yaml).expect("written");
        for (program, text) in [(program, SERVER), (tree.path().join("bin/check"), CHECK)] {
            std::fs::write(&program, text).expect("written");
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        }
        self.0.commit_tree(tree.path(), args)
    }
}

/// Lists what belongs to versions on a node: the name and the number of each process, in order. The program has the name of its script.
fn processes(world: &World) -> Vec<(String, u32)> {
    let name = |pid: u32| {
        let line = std::fs::read(Path::new("/proc").join(pid.to_string()).join("comm")).unwrap_or_default();
        (String::from_utf8_lossy(&line).trim().to_owned(), pid)
    };
    let running = survivors::running_under(&world.node(1)).into_iter().map(name);
    let mut found: Vec<(String, u32)> =
        running.filter(|(name, _)| ["haproxy", "df-front", "serve"].contains(&name.as_str())).collect();
    found.sort();
    found
}

#[test]
fn doctor_says_where_a_node_has_the_proxy_that_is_asked_for() {
    let versions = Versions::new("doctor");
    versions.commit("[]", "proxy", HTTP);
    let world = World::of(versions.dir(), 1);
    let doctor = |handoff: &str| {
        let config = world.path("df.yaml");
        let text = format!(
            "app: proxied\nbuild: {{ include: {{ bin: bin }} }}\nrun: {{ exec: bin/serve, handoff: {handoff}, ports: {{ http: {PORT} }} }}\n"
        );
        std::fs::write(&config, text).expect("written");
        world.df(["--config", &config.display().to_string(), "doctor"]).output().stdout
    };
    let line = |said: &str| said.lines().find(|line| line.contains("n1: haproxy")).map(str::to_owned);
    let said = doctor("proxy");
    assert!(line(&said).is_some_and(|line| line.contains("/haproxy")), "{said}");
    assert_eq!(line(&doctor("listener")), None);
}

#[test]
fn a_command_is_told_the_port_of_a_program_behind_a_proxy_also_by_a_supervisor_that_did_not_start_it() {
    let versions = Versions::new("asked");
    // Nobody else knows the port: it is drawn at each start.
    let commit = versions.commit("[]", "proxy", "verify:\n  - command: bin/check\n");
    let world = World::of(versions.dir(), 1);
    world.deploy(&commit);
    world.df(["verify"]).ok();
    assert!(world.kill(1, "supervise") > 0, "somebody was there to be killed");
    world.df(["verify"]).ok();
}

/// Waits until no process of any version is there.
#[track_caller]
fn expect_nothing_left(world: &World) {
    let left = wait_until(DEADLINE, || processes(world).is_empty().then_some(()));
    assert!(left.is_some(), "{:?} live on", processes(world));
}
