//! Three nodes for one package: directories of this machine, or real ssh servers on loopback addresses.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use df_testkit::process::{Output, Run};
use df_testkit::{net, sshd, survivors};

use super::package::{self, Package, Version};
use crate::support::PORT;

/// Nodes at work for one test; what they run ends with it.
pub struct Fleet {
    /// What they are for.
    pub package: &'static Package,
    /// Where each listens, in order: n1, n2, ...
    addresses: Vec<Ipv4Addr>,
    roots: Vec<PathBuf>,
    /// The client's configuration, when the nodes are ssh servers.
    config: Option<PathBuf>,
    dir: tempfile::TempDir,
    _servers: Vec<sshd::Sshd>,
}

impl Fleet {
    /// Makes nodes in directories.
    pub fn local(package: &'static Package, n_nodes: usize) -> Self {
        let mut fleet = Self::empty(package);
        for n in 1..=n_nodes {
            let root = fleet.path(&format!("n{n}"));
            fleet.add(&format!("local:{}", root.display()), net::own_loopback(), root);
        }
        fleet
    }

    /// Starts ssh servers and makes each a node, with a root below the test's directory.
    pub fn ssh(package: &'static Package, n_nodes: usize) -> Self {
        let mut fleet = Self::empty(package);
        let start = |n| sshd::Sshd::start(&fleet.path(&format!("sshd{n}")), net::own_loopback());
        let servers: Vec<_> = (1..=n_nodes).map(start).collect();
        fleet.config = Some(sshd::config_for(&fleet.path("ssh_config"), &servers.iter().collect::<Vec<_>>()));
        for (n, server) in (1..).zip(&servers) {
            let root = fleet.path(&format!("n{n}"));
            let listen = server.ip.to_string().parse().expect("it was started on an IPv4 address");
            fleet.add(&format!("ssh://{}{}", server.host(), root.display()), listen, root);
        }
        fleet._servers = servers;
        fleet
    }

    /// Returns `df` with these words, acting on these nodes.
    pub fn df<const N: usize>(&self, words: [&str; N]) -> Run {
        let mut run = package::df(&self.package.repo, &self.path("state")).args(words);
        if let Some(config) = &self.config {
            run = run.env("DF_SSH_CONFIG", config);
            run = static_programs().iter().fold(run, |run, dir| run.env("DF_NODE_PROGRAMS", dir));
        }
        run
    }

    /// Deploys a version and expects success.
    #[track_caller]
    pub fn deploy(&self, version: &Version) -> Output {
        self.df(["--json", "deploy", "--commit-hash", &version.commit]).ok()
    }

    /// Returns a path in a directory for this test alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the nodes' numbers.
    pub fn nodes(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.roots.len()
    }

    /// Returns where a node keeps things, counted from 1.
    pub fn root(&self, n: usize) -> &Path {
        &self.roots[n - 1]
    }

    /// Returns a path below what `current` says on a node.
    pub fn current(&self, n: usize, path: &str) -> PathBuf {
        self.root(n).join("apps").join(self.package.app).join("current").join(path)
    }

    /// Returns where a node's application is reached.
    pub fn at(&self, n: usize) -> SocketAddr {
        SocketAddr::from((self.addresses[n - 1], PORT))
    }

    /// Asks a node over HTTP and returns the body.
    #[track_caller]
    pub fn get(&self, n: usize, path: &str) -> Vec<u8> {
        let answer = net::get(self.at(n), path, Duration::from_secs(10));
        let answer = answer.unwrap_or_else(|loss| panic!("n{n} does not answer {path}: {loss:?}"));
        assert_eq!(answer.status, 200, "n{n} {path}");
        answer.body
    }

    /// Asks a node over HTTP and returns the head of the answer, in lower case; `None` when there was no answer.
    pub fn head(&self, n: usize, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.at(n), Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.at(n)).ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.split_once("\r\n\r\n").map(|(head, _)| head.to_ascii_lowercase())
    }

    /// Expects `current` on every node to hold a program that calls itself by this version.
    #[track_caller]
    pub fn expect_current(&self, program: &str, version: &Version) {
        for n in self.nodes() {
            let said = Run::new(self.current(n, program)).arg("--version").ok().stdout;
            assert!(said.contains(version.number), "{program} on n{n} is {said:?}, expected {}", version.number);
        }
    }

    fn empty(package: &'static Package) -> Self {
        let dir = tempfile::Builder::new().prefix("df-real").tempdir().expect("a directory");
        Self { package, addresses: vec![], roots: vec![], config: None, dir, _servers: vec![] }
    }

    fn add(&mut self, address: &str, listen: Ipv4Addr, root: PathBuf) {
        let name = format!("n{}", self.roots.len() + 1);
        self.df(["add", address, "--name", &name, "--listen", &listen.to_string()]).ok();
        self.addresses.push(listen);
        self.roots.push(root);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        survivors::kill_under(self.dir.path());
    }
}

/// Returns the directory of the static df-node, when `ci/dist` has built one of these very sources; else df takes the df-node beside it.
fn static_programs() -> Option<PathBuf> {
    if std::env::var_os("DF_NODE_PROGRAMS").is_some() {
        return None; // df finds it by itself
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo puts it into the target directory");
    let programs = target.join("dist/programs");
    let built = modified(&programs.join("df-node-x86_64"))?;
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let sources = ["core", "wire", "delta", "cache", "deploy", "reload"].map(|name| newest(&crates.join(name)));
    // An older one may speak another protocol, which would say nothing about these sources.
    (sources.into_iter().flatten().max()? < built).then_some(programs)
}

fn newest(dir: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    entries.filter_map(|entry| if entry.path().is_dir() { newest(&entry.path()) } else { modified(&entry.path()) }).max()
}

fn modified(file: &Path) -> Option<SystemTime> {
    file.metadata().ok()?.modified().ok()
}
