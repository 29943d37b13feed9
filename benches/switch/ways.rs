//! Ways to put one version in the place of another: df's, and those of others with the same program.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use df_testkit::{net, survivors, wait_until};

use super::support::{World, versions};
use super::timing::command;

const PATIENCE: Duration = Duration::from_secs(60);

/// A way.
pub trait Way {
    /// Where clients ask.
    fn at(&self) -> SocketAddr;
    /// Puts the next version in the place of the one that serves; returns when somebody else will answer soon.
    fn switch(&mut self);
}

/// `df deploy` of two versions in turn, or `df rollback`.
pub struct Df<'a> {
    pub world: &'a World,
    pub rolls_back: bool,
    pub n: usize,
}

impl Way for Df<'_> {
    fn at(&self) -> SocketAddr {
        self.world.at(1)
    }

    fn switch(&mut self) {
        self.n += 1;
        let commit = [&versions().v1, &versions().v2][self.n % 2].as_str();
        let words = if self.rolls_back { vec!["rollback"] } else { vec!["deploy", "--commit-hash", commit] };
        let output = command(&versions().repo, &self.world.path("state"), &words).output().expect("df starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The program is ended and started again at once, as by any supervisor that holds no socket.
pub struct Restart {
    program: PathBuf,
    at: SocketAddr,
    child: Served,
}

impl Restart {
    pub fn new(program: &Path) -> Self {
        let at = net::free_addr();
        let child = Served::start(program, at);
        Self { program: program.to_owned(), at, child }
    }
}

impl Way for Restart {
    fn at(&self) -> SocketAddr {
        self.at
    }

    fn switch(&mut self) {
        self.child.end();
        self.child = Served::start(&self.program, self.at);
    }
}

/// The next version starts on a port of its own; haproxy in front of both gets another configuration and is reloaded, its sockets handed over by itself.
pub struct Haproxy {
    program: PathBuf,
    dir: tempfile::TempDir,
    at: SocketAddr,
    proxy: Child,
    serving: Served,
    leaving: Option<Served>,
}

impl Haproxy {
    /// Returns nothing where there is no haproxy.
    pub fn new(program: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let (at, behind) = (net::free_addr(), net::free_addr());
        let serving = Served::start(program, behind);
        serving.wait(behind);
        configure(dir.path(), at, behind);
        let mut haproxy = Command::new("/usr/sbin/haproxy");
        haproxy.arg("-W").arg("-f").arg(dir.path().join("haproxy.cfg")).stdin(Stdio::null());
        let proxy = haproxy.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        wait_until(PATIENCE, || net::http_get(at, "/health", PATIENCE).ok()).expect("haproxy serves");
        Some(Self { program: program.to_owned(), dir, at, proxy, serving, leaving: None })
    }
}

impl Way for Haproxy {
    fn at(&self) -> SocketAddr {
        self.at
    }

    fn switch(&mut self) {
        // Whoever left before has had the time of a whole switch to finish.
        drop(self.leaving.take());
        let behind = net::free_addr();
        let new = Served::start(&self.program, behind);
        new.wait(behind);
        configure(self.dir.path(), self.at, behind);
        survivors::send(self.proxy.id(), libc::SIGUSR2);
        self.leaving = Some(std::mem::replace(&mut self.serving, new));
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        for pid in survivors::descendants(self.proxy.id()).into_iter().chain([self.proxy.id()]) {
            survivors::send(pid, libc::SIGKILL);
        }
        let _ = self.proxy.wait();
    }
}

fn configure(dir: &Path, at: SocketAddr, behind: SocketAddr) {
    let socket = dir.join("haproxy.sock");
    let text = format!(
        "global\n  stats socket {} mode 600 level admin expose-fd listeners\n  hard-stop-after 30s\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         frontend in\n  bind {at}\n  default_backend out\nbackend out\n  server one {behind}\n",
        socket.display()
    );
    fs::write(dir.join("haproxy.cfg"), text).expect("written");
}

/// The program, started by hand; ended when this goes.
struct Served(Child);

impl Served {
    fn start(program: &Path, at: SocketAddr) -> Self {
        let mut command = Command::new(program);
        command.arg("--listen").arg(at.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the greeter starts"))
    }

    fn wait(&self, at: SocketAddr) {
        wait_until(PATIENCE, || net::http_get(at, "/health", PATIENCE).ok()).expect("it serves");
    }

    fn end(&mut self) {
        survivors::send(self.0.id(), libc::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}
