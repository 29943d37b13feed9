//! What the promises share: a repository with versions of the greeter, and worlds of nodes to deploy them to.

mod machine;
#[macro_use]
mod places;

pub mod odd_versions;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use df_testkit::process::{Child, Output, Run};
use df_testkit::repo::Repo;
use df_testkit::{net, survivors};

use machine::Machine;

/// The port of every application here; each node has an address of its own.
pub const PORT: u16 = 8080;
/// No command of a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// A repository of the greeter: one commit a version. Built once, shared by all tests; nobody changes it after that.
pub struct Versions {
    /// Where it is.
    pub repo: PathBuf,
    /// Answers `Hello.`.
    pub v1: String,
    /// Answers `Good day.`.
    pub v2: String,
    /// Ends at once.
    pub exits: String,
    /// Never says READY=1 and answers its probe with 503.
    pub never_ready: String,
    /// Says READY=1 and answers its probe with 500.
    pub sick: String,
    /// Ends one second after it was ready.
    pub dies: String,
    /// Two versions that bind by themselves with SO_REUSEPORT: the negative control.
    pub binding: [String; 2],
    /// Never beside another, and it needs a file of variables that no node has.
    pub no_env: String,
    /// Its build fails.
    pub broken: String,
}

/// Returns the shared repository, every version of it built into the shared cache.
pub fn versions() -> &'static Versions {
    static VERSIONS: OnceLock<Versions> = OnceLock::new();
    VERSIONS.get_or_init(|| {
        let versions = make_versions();
        for commit in
            [&versions.v1, &versions.v2, &versions.exits, &versions.never_ready, &versions.sick, &versions.dies, &versions.no_env]
                .into_iter()
                .chain(&versions.binding)
        {
            df(&versions.repo, &shared().join("state")).args(["build", "--commit-hash", commit]).ok();
        }
        versions
    })
}

/// Returns a directory that all tests of this run share, on the disk of the build.
pub fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("promises");
        let _ = std::fs::create_dir_all(&dir);
        dir
    })
}

/// Copies the cache that all tests build into, for a test that changes its own. Others may be building meanwhile: their rooms are left out, and what vanishes on the way is nothing
/// that counts.
#[track_caller]
pub fn copy_shared_cache(to: &Path) {
    let from = format!("{}/", shared().join("cache").display());
    let copied = Run::new("rsync").args(["-a", "--exclude=/df/build/rooms", &from, &to.display().to_string()]).output();
    const SOME_VANISHED: i32 = 24;
    assert!(matches!(copied.code, Some(0 | SOME_VANISHED)), "{copied}");
}

/// Returns `df`, in a repository, with its own state and the shared cache.
pub fn df(repo: &Path, state: &Path) -> Run {
    let run = Run::new(env!("CARGO_BIN_EXE_df")).arg("-C").arg(repo).arg("--state").arg(state);
    run.env("XDG_CACHE_HOME", shared().join("cache"))
        .env("NO_COLOR", "1")
        .env("DF_NO_BACKGROUND", "1")
        .env_remove("DF_SSH_CONFIG")
        .deadline(DEADLINE)
}

/// Writes a program for nodes into a new directory, for `DF_NODE_PROGRAMS`: `df-node`, after what the shell is to do first.
pub fn write_node_program(dir: &Path, first: &str) {
    std::fs::create_dir(dir).expect("made");
    let (digest, program) = (dir.join("digest"), env!("CARGO_BIN_EXE_df-node"));
    let script = format!("#!/bin/sh\n[ \"$1\" = digest ] && exec cat '{}'\n{first}exec '{program}' \"$@\"\n", digest.display());
    std::fs::write(dir.join("df-node-x86_64"), &script).expect("written");
    std::fs::write(digest, df_core::Digest::of(script.as_bytes()).to_string()).expect("written");
}

/// Nodes for one test: in directories of their own, or one that is a machine with systemd (`places`).
pub struct World {
    dir: tempfile::TempDir,
    repo: PathBuf,
    /// The node's addresses, in order: named n1, n2, ...
    pub addresses: Vec<Ipv4Addr>,
    machine: Option<Machine>,
    /// Supervisors that were started as a boot starts them.
    booted: Mutex<Vec<Child>>,
}

impl World {
    /// Makes nodes and adds them, for the shared repository.
    pub fn new(n_nodes: usize) -> Self {
        Self::of(&versions().repo, n_nodes)
    }

    /// Makes nodes and adds them, for another repository.
    pub fn of(repo: &Path, n_nodes: usize) -> Self {
        let mut world = Self::empty(repo, None);
        for n in 1..=n_nodes {
            let address = net::own_loopback();
            let local = format!("local:{}", world.node(n).display());
            world.df(["add", &local, "--name", &format!("n{n}"), "--listen", &address.to_string()]).ok();
            world.addresses.push(address);
        }
        world
    }

    fn empty(repo: &Path, machine: Option<Machine>) -> Self {
        let dir = tempfile::Builder::new().prefix("df-world").tempdir().expect("a directory");
        Self { dir, repo: repo.to_owned(), addresses: vec![], machine, booted: Mutex::default() }
    }

    /// Returns `df` with these words.
    pub fn df<const N: usize>(&self, words: [&str; N]) -> Run {
        self.df_in(&self.repo).args(words)
    }

    /// Returns `df` in another repository, for the same nodes.
    pub fn df_in(&self, repo: &Path) -> Run {
        let df = df(repo, &self.dir.path().join("state"));
        match &self.machine {
            Some(machine) => machine.reached_by(df),
            None => df,
        }
    }

    /// Returns a directory for this test alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns where a node lies, counted from 1; as seen from here, while a machine runs.
    pub fn node(&self, n: usize) -> PathBuf {
        self.machine.as_ref().map_or_else(|| self.path(&format!("n{n}")), |machine| machine.path(machine::ROOT))
    }

    /// Returns where a node's application is reached.
    pub fn at(&self, n: usize) -> SocketAddr {
        SocketAddr::from((self.addresses[n - 1], PORT))
    }

    /// Deploys a commit and expects success.
    pub fn deploy(&self, commit: &str) -> Output {
        self.df(["deploy", "--commit-hash", commit]).ok()
    }

    /// Asks a node over HTTP.
    pub fn get(&self, n: usize, path: &str) -> (u16, String) {
        net::http_get(self.at(n), path, Duration::from_secs(10)).expect("the node answers")
    }

    /// Lists every df-node of a node that does this.
    pub fn pids(&self, n: usize, doing: &str) -> Vec<u32> {
        let does = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            words.next().is_some_and(|program| program.contains("df-node")) && words.next().is_some_and(|word| word == doing)
        };
        self.processes(n).into_iter().filter(does).collect()
    }

    /// Kills every df-node of a node that does this, and waits for its end: until then it holds its locks. Returns how many there were.
    #[track_caller]
    pub fn kill(&self, n: usize, doing: &str) -> usize {
        let pids = self.pids(n, doing);
        kill_all(&pids);
        pids.len()
    }

    /// Kills the supervisor of a node and its holder, neither of which can start the other again.
    #[track_caller]
    pub fn kill_both(&self, n: usize) {
        if let Some(machine) = &self.machine {
            return machine.kill_for_good();
        }
        loop {
            let pids: Vec<u32> = ["supervise", "hold"].into_iter().flat_map(|doing| self.pids(n, doing)).collect();
            if pids.is_empty() {
                return;
            }
            pids.iter().for_each(|pid| survivors::send(*pid, libc::SIGSTOP));
            kill_all(&pids);
        }
    }

    /// Expects every node to serve a commit.
    #[track_caller]
    pub fn expect_serving(&self, commit: &str) {
        for n in 1..=self.addresses.len() {
            let (status, body) = self.get(n, "/");
            assert_eq!(status, 200);
            assert!(body.contains(commit), "n{n} serves {body}, expected {commit}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let cgroups = self.cgroups();
        survivors::kill_under(self.dir.path());
        // Whoever is killed leaves its own a moment later. What cannot be removed is not ours, or the next supervisor's to sweep.
        let is_removed = |path: &PathBuf| !path.exists() || std::fs::remove_dir(path).is_ok();
        df_testkit::wait_until(Duration::from_secs(2), || cgroups.iter().all(is_removed).then_some(()));
        open_directories(self.dir.path());
    }
}

impl World {
    /// Lists the cgroups that the supervisors have written down.
    fn cgroups(&self) -> Vec<PathBuf> {
        if self.machine.is_some() {
            return vec![];
        }
        (1..=self.addresses.len()).flat_map(|n| cgroups_of(&self.node(n))).collect()
    }
}

/// Lists the cgroups that the supervisor of a node has written down.
pub fn cgroups_of(node: &Path) -> Vec<PathBuf> {
    let records = std::fs::read_dir(node.join("run")).into_iter().flatten().flatten();
    let texts = records.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let values = texts.filter_map(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let versions = values.filter_map(|value| value["versions"].as_array().cloned()).flatten();
    let groups = |version: serde_json::Value| {
        let members = &version["process"]["members"];
        let kept = [&members["kept"]["memory"]["group"], &members["kept"]["pids"]["group"]];
        [&members["cgroup"]].into_iter().chain(kept).filter_map(|path| path.as_str().map(PathBuf::from)).collect::<Vec<_>>()
    };
    versions.flat_map(groups).collect()
}

/// Returns whether a node of this machine can count what all processes of a version use together: as root, in the trees of the first version of control groups, or below the root of the
/// second where no systemd has it.
pub fn counts() -> bool {
    let at = |path: &str| Path::new("/sys/fs/cgroup").join(path);
    let may = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let first = ["memory", "pids"].iter().all(|name| at(name).join("cgroup.procs").exists() && may(&at(name)));
    let is_ours = || at("cgroup.procs").exists() && !at("cgroup.type").exists() && !Path::new("/run/systemd/system").exists();
    let is_at_root = || std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.lines().any(|line| line == "0::/"));
    let offers = || {
        let offered = std::fs::read_to_string(at("cgroup.controllers")).unwrap_or_default();
        ["memory", "pids"].iter().all(|name| offered.split_whitespace().any(|offered| offered == *name))
    };
    rustix::process::geteuid().is_root() && (first || (is_ours() && is_at_root() && offers() && may(&at(""))))
}

#[track_caller]
fn kill_all(pids: &[u32]) {
    pids.iter().for_each(|pid| survivors::send(*pid, libc::SIGKILL));
    let ended = df_testkit::wait_until(DEADLINE, || pids.iter().all(|pid| survivors::has_ended(*pid)).then_some(()));
    assert!(ended.is_some(), "{pids:?} do not end");
}

/// Makes directories writable, so that whoever is not root can remove them: those of images are not.
fn open_directories(dir: &Path) {
    let _ = std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_directories(&entry.path());
        }
    }
}

/// Lets the time that was given for a confirmation be over so soon, without waiting for it; that of the soak is over.
pub fn shorten(armed: &Path, ms: u64) {
    let text = std::fs::read_to_string(armed).expect("read");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let uptime = std::fs::read_to_string("/proc/uptime").expect("read");
    let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    value["until_ms"] = ((seconds * 1000.0) as u64 + ms).into();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("well_ms");
    }
    std::fs::write(armed, value.to_string()).expect("written");
}

fn make_versions() -> Versions {
    let dir = shared().join("greeter");
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir);
    let mut files = service_files("greeter");
    let greeter = files.iter().find(|(path, _)| path.ends_with("/greeter.rs")).expect("just read").1.clone();
    let commit = |files: &[(String, String)], message: &str| {
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        repo.commit(&files, message)
    };
    let with = |settings: &str, message: &str| commit(&[("df.yaml".into(), df_yaml(settings, "listener"))], message);
    files.push(("df.yaml".into(), df_yaml("", "listener")));
    let v1 = commit(&files, "v1");
    let polite = greeter.replace("\"Hello.\"", "\"Good day.\"");
    assert_ne!(polite, greeter, "the greeter has a greeting to change");
    let v2 = commit(&[("crates/reload/examples/greeter.rs".into(), polite)], "v2");
    let exits = with("args: [--fail, exit]", "exits");
    let never_ready = with("args: [--fail, never-ready]", "never ready");
    let sick = with("args: [--fail, sick]", "sick");
    let dies = with("args: [--fail, die-after-ready]", "dies");
    let no_env = with("exclusive: true\n  env_file: missing.env", "no env");
    let binding = ["one", "two"].map(|n| {
        let settings = format!("args: [--bind, \"{{addr:http}}\"]\n  env: {{ N: {n} }}");
        commit(&[("df.yaml".into(), df_yaml(&settings, "reuseport"))], &format!("binds by itself, {n}"))
    });
    let broken =
        commit(&[("crates/reload/examples/greeter.rs".into(), "fn main() { this does not compile }\n".into())], "broken");
    Versions { repo: dir, v1, v2, exits, never_ready, sick, dies, no_env, binding, broken }
}

/// Returns the files of a repository that builds one example of the library, by path.
pub fn service_files(example: &str) -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/reload");
    let read = |path: &str| std::fs::read_to_string(source.join(path)).expect("a file of this repository");
    let ours = sources(&source, "src").into_iter().chain([format!("examples/{example}.rs")]);
    let mut files: Vec<(String, String)> = ours.map(|path| (format!("crates/reload/{path}"), read(&path))).collect();
    files.push(("Cargo.toml".into(), workspace()));
    files.push(("crates/reload/Cargo.toml".into(), without_options(&read("Cargo.toml"))));
    files.push(("Cargo.lock".into(), lock_file()));
    files
}

/// Returns the library's Cargo.toml without its features and what only they need: the fixture locks nothing of that.
fn without_options(cargo_toml: &str) -> String {
    let ours = |section: &&str| !["features]", "dev-dependencies]", "[example]]"].iter().any(|name| section.starts_with(name));
    let sections = cargo_toml.split("\n[").filter(ours);
    let whole = sections.collect::<Vec<_>>().join("\n[");
    let lines = whole.lines().filter(|line| !line.contains("optional = true"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Returns the files below a directory of a crate, with paths in the crate.
fn sources(of: &Path, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(of.join(directory)).expect("a directory of this repository");
    let paths = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let paths = paths.map(|name| format!("{directory}/{name}"));
    paths.flat_map(|path| if of.join(&path).is_dir() { sources(of, &path) } else { vec![path] }).collect()
}

fn df_yaml(settings: &str, handoff: &str) -> String {
    format!(
        "app: greeter\n\
         build:\n  cargo: {{ package: distributive-flow, examples: [greeter] }}\n\
         run:\n  exec: bin/greeter\n  ports: {{ http: {PORT} }}\n  handoff: {handoff}\n  ready: 5s\n  drain: 20s\n  {settings}\n\
         verify:\n  - http: {{ port: http, path: /health, status: 200 }}\n\
         rollout: {{ soak: 0s }}\n"
    )
}

/// The root of the fixture's workspace: what `crates/reload` inherits, from this repository's own.
fn workspace() -> String {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("our own Cargo.toml");
    let section = |name: &str| {
        let start = root.find(&format!("[{name}]")).unwrap_or_else(|| panic!("[{name}] in Cargo.toml"));
        let end = root[start + 1..].find("\n[").map_or(root.len(), |end| start + 1 + end);
        root[start..end].to_owned()
    };
    let libc = root.lines().find(|line| line.starts_with("libc = ")).expect("libc in Cargo.toml");
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/reload\"]\n\n{}\n\n{}\n\n{}\n\n[workspace.dependencies]\n{libc}\n",
        section("workspace.package"),
        section("workspace.lints.rust"),
        section("workspace.lints.clippy")
    )
}

/// A lock file with what this repository has locked of it.
fn lock_file() -> String {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("our own Cargo.lock");
    let wanted = |block: &&str| block.contains("name = \"libc\"") || block.contains("name = \"distributive-flow\"");
    let packages: Vec<&str> = lock.split("\n\n").filter(wanted).collect();
    // Those of its features, which the fixture has none of.
    let packages = packages.join("\n\n").replace(" \"hyper\",\n", "").replace(" \"tokio\",\n", "");
    format!("version = 4\n\n{packages}\n")
}
