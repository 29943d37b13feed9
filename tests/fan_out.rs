//! One image to many nodes: the delta is made once and held once, what is there costs a few bytes, and a node that is slow, dead or cut off holds up no other.
//!
//! The program for nodes is a script here, small enough for hundreds of nodes: it does what a test wrote into a node's directory, and then is df-node.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use df_testkit::net;
use df_testkit::process::{Child, Output, Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::seed::Seed;
use df_testkit::sshd::Sshd;
use df_testkit::survivors::{descendants, send};
use serde_json::Value;

use crate::support::{self, DEADLINE, World};

/// Bytes of the one file that differs between the versions; nothing makes them fewer.
const CHANGED_LEN: usize = 1 << 20;
/// Bytes that the newest version has and the one before it has not.
const ADDED_LEN: usize = 20 << 10;
/// An image of small files.
const FILES: &str = "mkdir out && cp -r a b out";
/// An image that travels in two pieces of about the same length, because one file is long.
const PIECES: &str = "mkdir out && cp a out/z && { cat a; head -c 16777216 /dev/zero; } > out/long";
/// Bytes after which a session is cut: the first piece is there then, and a part of the second.
const CUT: usize = CHANGED_LEN + CHANGED_LEN / 4;
/// Bytes of what a node writes down when a piece is there: its end in the delta comes first.
const MARK_LEN: usize = 48;
/// What df may need for each node beyond the first ten: a session, a window of bytes, a task. Measured: 40 to 60 KiB.
const NODE_LEN: u64 = 160 << 10;
/// What a question and its answer may be together when there is nothing to do.
const NOTHING_LEN: u64 = 200;

/// Nodes that are addresses, nothing else, and two versions of files.
struct Fleet {
    world: World,
    _source: tempfile::TempDir,
    /// The commits: the old one, a new one that has nothing of it, and a newer one that is nearly that.
    versions: [String; 3],
    nodes: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
}

impl Fleet {
    /// Makes a fleet of `local:` nodes.
    fn local(n_nodes: usize) -> Self {
        Self::building(FILES, n_nodes)
    }

    /// As [`Self::local`], with another image.
    fn building(command: &str, n_nodes: usize) -> Self {
        Self::of(command, |world| {
            (1..=n_nodes).map(|n| format!("local:{}", world.path("nodes").join(n.to_string()).display())).collect()
        })
    }

    fn of(command: &str, nodes: impl FnOnce(&World) -> Vec<String>) -> Self {
        let source = tempfile::Builder::new().prefix("df-fan").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let world = World::of(repo.dir(), 0);
        let nodes = nodes(&world);
        let build = format!(
            "app: files
build: {{ command: \"{command}\", output: out }}
"
        );
        let config = format!("{build}nodes:\n{}", nodes.iter().map(|node| format!("  - \"{node}\"\n")).collect::<String>());
        let mut random = Seed(7).random();
        let mut noise = |len: usize| (0..len).map(|_| char::from(b' ' + random.index(94) as u8)).collect::<String>();
        let (first, second, added) = (noise(CHANGED_LEN), noise(CHANGED_LEN), noise(ADDED_LEN));
        // The third is the second with a little more in its middle.
        let (before, after) = second.split_at(CHANGED_LEN / 2);
        let third = format!("{before}{added}{after}");
        let versions = [first, second.clone(), third]
            .map(|bytes| repo.commit(&[("df.yaml", &config), ("a", &bytes), ("b", "the same\n")], "another version"));
        let fleet = Self { env: vec![("XDG_CACHE_HOME", world.path("cache"))], world, _source: source, versions, nodes };
        let behave = "cd \"$3\" || exit 1\n[ -f behaviour ] && . ./behaviour\n";
        support::write_node_program(&fleet.world.path("programs"), behave);
        for version in &fleet.versions {
            fleet.df(&["build", "--commit-hash", version]).ok();
        }
        fleet
    }

    fn df(&self, words: &[&str]) -> Run {
        let run = self.world.df([]).args(words).env("DF_NODE_PROGRAMS", self.world.path("programs"));
        self.env.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// Copies a version, the old (0), the new (1) or the newest (2), to some of the nodes, counted from 1.
    fn copying(&self, version: usize, nodes: impl IntoIterator<Item = usize>, flags: &[&str]) -> Run {
        let addresses = nodes.into_iter().flat_map(|n| ["--address", &self.nodes[n - 1]]);
        self.df(&["--json", "cp", "--version", &self.versions[version]]).args(flags).args(addresses)
    }

    fn root(&self, n: usize) -> PathBuf {
        self.world.path("nodes").join(n.to_string())
    }

    /// Says what a node does from now on before it is a node.
    fn behave(&self, n: usize, script: &str) {
        fs::create_dir_all(self.root(n)).expect("made");
        fs::write(self.root(n).join("behaviour"), script).expect("written");
    }

    /// Returns the names of the deltas that are kept.
    fn kept(&self) -> BTreeSet<String> {
        fs::read_dir(self.world.path("cache/df/v1/d"))
            .expect("deltas are kept")
            .map(|entry| entry.expect("read").file_name().to_string_lossy().into())
            .collect()
    }
}

/// Returns what a node does that hears so many bytes and then what follows them, which says how it goes on.
fn hearing(n_bytes: usize, then: &str) -> String {
    // Not dd: it counts a short read as a whole block, so how much it hears depends on the scheduler.
    let hear = format!("stdbuf -o0 head -c {n_bytes}");
    format!("{{ {hear}; {then} }} | '{}' \"$@\"; exit\n", env!("CARGO_BIN_EXE_df-node"))
}

/// Runs a program to its end; returns the most memory it held, in bytes, besides what it did.
fn measured(run: &Run) -> (Output, u64) {
    let mut child: Child = run.spawn();
    let mut most = 0;
    let ended = wait_until(DEADLINE, || {
        most = most.max(high_water(child.pid()).unwrap_or(0));
        (!child.is_running()).then_some(())
    });
    assert!(ended.is_some(), "not in time");
    (child.finish(DEADLINE).expect_code(0), most)
}

fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("{field} in {event}"))
}

#[test]
fn two_hundred_nodes_get_one_delta_and_df_needs_no_more_memory_for_it() {
    const N: usize = 200;
    let fleet = Fleet::local(N);
    let (few, memory_of_few) = measured(&fleet.copying(0, 1..=10, &["--parallel", "10", "--level", "fast"]));
    assert_eq!(few.events("copied").len(), 10, "{few}");
    let made = fleet.kept();
    // All others at once, so that each has its window.
    let (many, memory_of_many) = measured(&fleet.copying(0, 11..=N, &["--parallel", "200", "--level", "fast"]));
    let copied = many.events("copied");
    assert_eq!(copied.len(), N - 10, "{many}");
    let sent: BTreeSet<u64> = copied.iter().map(|event| number(event, "bytes_sent")).collect();
    assert!(sent.len() == 1 && sent.iter().all(|&len| len > CHANGED_LEN as u64 / 2), "each gets the same bytes: {sent:?}");
    assert_eq!((made.len(), fleet.kept()), (1, made), "one delta for all");
    println!(
        "df held {} KiB for 10 nodes, {} KiB for {}, which took {:?}",
        memory_of_few >> 10,
        memory_of_many >> 10,
        N - 10,
        many.elapsed
    );
    let allowed = memory_of_few + NODE_LEN * (N as u64 - 20);
    assert!(memory_of_many < allowed, "{memory_of_many} bytes for {} nodes, {memory_of_few} for 10", N - 10);
    // And once more: nothing to do.
    let again = fleet.copying(0, 1..=N, &[]).ok();
    for event in again.events("copied") {
        assert_eq!(event["codec"], "none", "{event}");
        assert!(number(&event, "bytes_sent") + number(&event, "bytes_received") < NOTHING_LEN, "{event}");
    }
    assert_eq!(again.events("copied").len(), N, "{again}");
    println!("{N} nodes that have it took {:?}", again.elapsed);
}

#[test]
fn two_hundred_nodes_that_hold_one_version_share_one_delta_to_the_next() {
    const N: usize = 200;
    let fleet = Fleet::local(N);
    fleet.copying(1, 1..=N, &["--parallel", "200", "--level", "fast"]).ok();
    let before = fleet.kept();
    let copied = fleet.copying(2, 1..=N, &["--parallel", "200"]).ok().events("copied");
    assert_eq!(copied.len(), N);
    let base = &copied[0]["base"];
    assert!(base.is_string() && copied.iter().all(|event| event["base"] == *base && event["codec"] == "copy"), "{}", copied[0]);
    let sent: BTreeSet<u64> = copied.iter().map(|event| number(event, "bytes_sent")).collect();
    assert!(sent.len() == 1, "each gets the same bytes: {sent:?}");
    assert!(sent.iter().all(|&len| len > ADDED_LEN as u64 / 2 && len < 2 * ADDED_LEN as u64), "what is new of it: {sent:?}");
    let made: Vec<_> = fleet.kept().difference(&before).cloned().collect();
    assert_eq!(made.len(), 1, "made once, and nothing whole beside it: {made:?}");
}

#[test]
fn nodes_that_stand_still_hold_up_no_other() {
    // More of them than df works on at once.
    const STOPPED: usize = 17;
    const WELL: usize = 6;
    let fleet = Fleet::local(STOPPED + WELL + 1);
    (1..=STOPPED).for_each(|n| fleet.behave(n, "kill -STOP $$\n"));
    let dead = STOPPED + WELL + 1;
    fleet.behave(dead, "exit 255\n");
    let output = fleet.copying(0, 1..=dead, &["--timeout", "10s"]).output().expect_code(9);
    let ends: Vec<Value> =
        output.json_lines().into_iter().filter(|line| line["type"] == "copied" || line["type"] == "error").collect();
    let at =
        |is: &dyn Fn(&Value) -> bool| ends.iter().enumerate().filter(|(_, end)| is(end)).map(|(at, _)| at).collect::<Vec<_>>();
    let copied = at(&|end| end["type"] == "copied");
    let stopped = at(&|end| end["message"].as_str().is_some_and(|said| said.contains("no answer within 10 s")));
    assert_eq!((copied.len(), stopped.len(), ends.len()), (WELL, STOPPED, dead), "{output}");
    assert!(copied.iter().max() < stopped.iter().min(), "a node that is well waited for one that stands still: {output}");
}

#[test]
fn a_node_that_stops_while_bytes_travel_fails_by_its_timeout_and_alone() {
    let fleet = Fleet::local(4);
    // It takes a part of what comes, and then nothing more for ever.
    fleet.behave(1, &hearing(300_000, "exec sleep 1000;"));
    fleet.behave(2, &hearing(300_000, "kill -STOP $$; exec sleep 1000;"));
    let output = fleet.copying(0, 1..=4, &["--timeout", "1s"]).output().expect_code(9);
    let ends: Vec<Value> =
        output.json_lines().into_iter().filter(|line| line["type"] == "copied" || line["type"] == "error").collect();
    assert_eq!(
        ends.iter().map(|end| end["type"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
        ["copied", "copied", "error", "error"],
        "{output}"
    );
    assert!(ends[2..].iter().all(|end| end["message"] == "no word for 4 s"), "{output}");
}

#[test]
fn a_connection_that_breaks_is_opened_again_and_goes_on_with_what_is_not_there() {
    let fleet = Fleet::building(PIECES, 2);
    fleet.behave(1, &format!("rm behaviour\n{}", hearing(CUT, "")));
    let copied = fleet.copying(0, [1], &[]).ok().events("copied").remove(0);
    let whole = number(&fleet.copying(0, [2], &[]).ok().events("copied")[0], "bytes_sent");
    assert!(number(&copied, "bytes_resumed") > whole / 3, "{copied}, in one go {whole}");
    assert!(number(&copied, "bytes_sent") < whole + whole / 3, "{copied}, in one go {whole}");
}

#[test]
fn a_copy_that_was_given_up_goes_on_at_the_next() {
    let fleet = Fleet::building(PIECES, 1);
    // Cut once, and then it is not there.
    fleet.behave(1, &format!("[ -f cut ] && exit 255\ntouch cut\n{}", hearing(CUT, "")));
    fleet.copying(0, [1], &[]).output().expect_code(9);
    fs::remove_file(fleet.root(1).join("behaviour")).expect("it was there");
    let copied = fleet.copying(0, [1], &[]).ok().events("copied").remove(0);
    let (sent, resumed) = (number(&copied, "bytes_sent"), number(&copied, "bytes_resumed"));
    assert!(resumed > sent / 2 && sent < CHANGED_LEN as u64, "{copied}");
}

/// A fleet of directories behind one ssh server.
struct Remote {
    fleet: Fleet,
    sshd: Sshd,
}

impl Remote {
    fn new(n_nodes: usize) -> Self {
        Self::of(FILES, n_nodes)
    }

    fn of(command: &str, n_nodes: usize) -> Self {
        let mut server = None;
        let mut fleet = Fleet::of(command, |world| {
            let sshd = server.insert(Sshd::start(&world.path("sshd"), net::own_loopback()));
            (1..=n_nodes).map(|n| format!("ssh://{}{}", sshd.host(), world.path("nodes").join(n.to_string()).display())).collect()
        });
        let sshd = server.expect("started above");
        let run = fleet.world.path("run");
        fs::DirBuilder::new().mode(0o700).create(&run).expect("made");
        fleet.env.extend([("DF_SSH_CONFIG", sshd.ssh_config.clone()), ("XDG_RUNTIME_DIR", run)]);
        Self { fleet, sshd }
    }

    fn sockets(&self, dir: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.fleet.world.path(dir)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket())).map(|entry| entry.path()).collect()
    }
}

#[test]
fn twenty_nodes_over_ssh_share_connections_and_the_next_command_has_them_still() {
    const N: usize = 20;
    let remote = Remote::new(N);
    let fleet = &remote.fleet;
    let first = fleet.copying(0, 1..=N, &["--parallel", "20"]).ok();
    assert_eq!(first.events("copied").len(), N, "{first}");
    let n_connections = remote.sockets("run/df").len();
    assert!((1..=N.div_ceil(8)).contains(&n_connections), "{n_connections} connections");
    // Whoever has to log in again cannot.
    fs::remove_file(remote.sshd.home().join("../etc/client_key")).expect("it was there");
    let second = fleet.copying(1, 1..=8, &["--parallel", "8"]).ok();
    assert_eq!(second.events("copied").len(), 8, "{second}");
    println!("{N} nodes took {:?}, 8 of them once more {:?}", first.elapsed, second.elapsed);
}

#[test]
fn no_connection_carries_more_than_eight_sessions() {
    const N: usize = 20;
    let remote = Remote::new(N);
    let fleet = &remote.fleet;
    // Who comes first has a connection of its own where several become the shared one at once.
    fleet.copying(0, 1..=N, &["--parallel", "20"]).ok();
    let gate = fleet.world.path("gate");
    Run::new("mkfifo").arg(&gate).ok();
    // Every node says whose child it is, and stands at the gate until all are there.
    (1..=N).for_each(|n| fleet.behave(n, &format!("echo $PPID > started; : < '{}'\n", gate.display())));
    let mut copying = fleet.copying(1, 1..=N, &["--parallel", "20", "--timeout", "60s"]).spawn();
    let connection_of = |n: usize| fs::read_to_string(fleet.root(n).join("started")).ok()?.trim().parse::<u32>().ok();
    let all = wait_until(DEADLINE, || {
        assert!(copying.is_running(), "df ended before all nodes were there");
        (1..=N).map(connection_of).collect::<Option<Vec<u32>>>()
    });
    let all = all.expect("all nodes begin");
    let _open = fs::OpenOptions::new().write(true).open(&gate).expect("somebody waits");
    let copied = copying.finish(DEADLINE).expect_code(0).events("copied");
    let carried: Vec<usize> =
        all.iter().collect::<BTreeSet<_>>().into_iter().map(|it| all.iter().filter(|other| *other == it).count()).collect();
    println!("sessions of each connection: {carried:?}");
    assert!(carried.iter().all(|n| *n <= 8) && carried.contains(&8), "{carried:?}");
    assert_eq!(copied.len(), N);
}

#[test]
fn an_ssh_that_is_killed_in_the_middle_costs_only_what_was_not_there() {
    let remote = Remote::of(PIECES, 2);
    let fleet = &remote.fleet;
    let whole = number(&fleet.copying(0, [2], &[]).ok().events("copied")[0], "bytes_sent");
    // Heard is a part, and then it is waited for more, although df has said all; after the cut the machine is not there for a while.
    let gate = fleet.world.path("gate");
    Run::new("mkfifo").arg(&gate).ok();
    let waiting = format!("cat > /dev/null; : < '{}';", gate.display());
    fleet.behave(1, &format!("[ -f cut ] && exit 255\ntouch cut\n{}", hearing(CUT, &waiting)));
    let mut copying = fleet.copying(0, [1], &[]).spawn();
    let marks = || {
        let incoming = fs::read_dir(fleet.root(1).join("incoming")).ok()?.flatten().next()?;
        fs::read(incoming.path().join("marks")).ok().filter(|marks| marks.len() >= 2 * MARK_LEN)
    };
    let is_there = wait_until(DEADLINE, || marks().map(|_| true).or((!copying.is_running()).then_some(false)));
    assert_eq!(is_there, Some(true), "no piece comes to its end");
    let is_ssh = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ssh");
    let sshs: Vec<u32> = descendants(copying.pid()).into_iter().filter(is_ssh).collect();
    assert!(!sshs.is_empty() && copying.is_running(), "df is at work through ssh");
    sshs.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
    copying.finish(DEADLINE).expect_code(9);
    // For reading too: then it opens at once, whoever is there.
    let _open = fs::OpenOptions::new().read(true).write(true).open(&gate).expect("opened");
    let verified = marks().expect("what came is kept");
    let last = verified.len() / MARK_LEN * MARK_LEN - MARK_LEN;
    let verified = u64::from_le_bytes(verified[last..last + 8].try_into().expect("eight bytes"));
    fs::remove_file(fleet.root(1).join("behaviour")).expect("it was there");
    let copied = fleet.copying(0, [1], &[]).ok().events("copied").remove(0);
    let (sent, resumed) = (number(&copied, "bytes_sent"), number(&copied, "bytes_resumed"));
    assert_eq!(resumed, verified, "from the last byte that was checked: {copied}");
    assert!(resumed > whole / 3 && sent < whole - resumed + 4096, "{copied}, in one go {whole}");
}

#[test]
fn a_shared_connection_that_hangs_costs_some_seconds_and_no_command() {
    let remote = Remote::new(1);
    remote.fleet.copying(0, [1], &[]).ok();
    let socket = remote.sockets("run/df").remove(0);
    let keeper = keeper_of(&socket).expect("a process that keeps the connection");
    send(keeper, libc::SIGSTOP);
    let copied = remote.fleet.copying(1, [1], &[]).output();
    send(keeper, libc::SIGKILL);
    assert_eq!(copied.expect_code(0).events("copied").len(), 1);
    // What it left behind is in nobody's way.
    assert!(socket.exists());
    remote.fleet.copying(0, [1], &["--full"]).ok();
}

/// Returns the process that keeps a connection open after its sessions: ssh writes the socket into its own name.
fn keeper_of(socket: &Path) -> Option<u32> {
    let is_keeper = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with(&format!("ssh: {} [mux]", socket.display()))
    };
    fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_keeper)
}

#[test]
fn a_directory_that_others_can_use_holds_no_connection() {
    let remote = Remote::new(1);
    let planted = remote.fleet.world.path("run/df");
    fs::create_dir(&planted).expect("made");
    fs::set_permissions(&planted, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let output = remote.fleet.df(&["-v", "cp", "--version", &remote.fleet.versions[0]]).ok();
    assert!(output.stderr.contains("run/df is not this user's alone"), "{output}");
    assert_eq!(remote.sockets("run/df"), Vec::<PathBuf>::new());
}

#[test]
fn who_shares_connections_by_an_own_configuration_keeps_doing_so() {
    let remote = Remote::new(1);
    let own = remote.fleet.world.path("own");
    fs::create_dir(&own).expect("made");
    let config = fs::read_to_string(&remote.sshd.ssh_config).expect("written by the server");
    let more = format!(" ControlMaster auto\n ControlPersist 20\n ControlPath {}/m\n", own.display());
    fs::write(&remote.sshd.ssh_config, config + &more).expect("written");
    let output = remote.fleet.df(&["-v", "cp", "--version", &remote.fleet.versions[0]]).ok();
    assert!(output.stderr.contains("ssh is configured to share connections by itself"), "{output}");
    assert_eq!((remote.sockets("run/df").len(), remote.sockets("own").len()), (0, 1));
}
