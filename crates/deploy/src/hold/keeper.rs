//! The holder, as the supervisor sees it: found, started again when it dies, and given everything then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, sockopt};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::message::{self, Message};
use super::revival::Revival;
use super::socket;
use super::{Holding, Name, Place};
use crate::layout::Layout;

/// How long a holder may take to say what it holds: it does nothing else.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one that was just started is looked for.
const SOON: Duration = Duration::from_millis(5);
/// How long that may take.
const START: Duration = Duration::from_secs(10);
/// Where a holder dies again and again, one is tried so often.
const SELDOM: Duration = Duration::from_secs(60);

/// What a holder held for whoever supervised before.
pub type Held = BTreeMap<Name, OwnedFd>;

/// Looks after the holder of a node.
pub struct Keeper {
    layout: Layout,
    /// Our end, to see the other one vanish; none: there is no holder.
    link: Option<OwnedFd>,
    child: Option<(Child, Instant)>,
    /// Those of which nothing is expected any more, until they have ended.
    former: Vec<Child>,
    revival: Revival,
    /// Since when there is one.
    since: Instant,
    /// When one is started.
    start: Instant,
}

/// Our end of the connection with a holder.
struct Link(OwnedFd);

impl Place for Link {
    fn hold(&mut self, name: &Name, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        // One that does not read is no holder: nobody waits for it.
        message::send(&self.0, &Message::Hold(name.clone()), Some(descriptor), SendFlags::DONTWAIT)
    }

    fn release(&mut self, name: &Name) -> io::Result<()> {
        message::send(&self.0, &Message::Release(name.clone()), None, SendFlags::DONTWAIT)
    }
}

impl Keeper {
    /// Finds the holder of a node, if there is one, and returns what it holds.
    pub fn find(layout: &Layout) -> (Self, Held) {
        let now = Instant::now();
        let mut keeper = Self {
            layout: layout.clone(),
            link: None,
            child: None,
            former: vec![],
            revival: Revival::default(),
            since: now,
            start: now,
        };
        let held = keeper.connect().unwrap_or_else(|error| {
            eprintln!("holder: {error}");
            None
        });
        (keeper, held.unwrap_or_default())
    }

    /// Goes on with the connection of our own former self.
    pub fn resume(layout: &Layout, link: OwnedFd) -> Self {
        let now = Instant::now();
        Self {
            layout: layout.clone(),
            link: Some(link),
            child: None,
            former: vec![],
            revival: Revival::default(),
            since: now,
            start: now,
        }
    }

    /// Returns our end of the connection: it becomes readable when the holder dies.
    pub fn link(&self) -> Option<&OwnedFd> {
        self.link.as_ref()
    }

    /// Sees to it that somebody holds what we hold; returns when to look again, unless the holder dies before.
    pub fn look_after(&mut self, holding: &Holding) -> Option<Duration> {
        if self.link.is_some() && (!holding.has_place() || !self.is_there()) {
            holding.leave_place();
            self.let_go();
            self.retry();
        }
        if self.link.is_some() {
            return None;
        }
        match self.connect() {
            Ok(Some(theirs)) => {
                if let Err(error) = self.place(holding, theirs.into_keys().collect()) {
                    eprintln!("holder: give it what is held: {error}");
                }
            }
            Ok(None) => self.start(),
            Err(error) => {
                eprintln!("holder: {error}");
                self.retry();
            }
        }
        Some(if self.link.is_some() || self.child.is_some() {
            SOON
        } else {
            self.start.saturating_duration_since(Instant::now())
        })
    }

    /// Gives everything to the holder that was found; it has these already.
    ///
    /// # Errors
    /// It is gone.
    pub fn place(&self, holding: &Holding, theirs: Vec<Name>) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        holding.enter_place(Box::new(Link(link.try_clone()?)), theirs)
    }

    /// Has another program hold, ours, where an older one of us started the holder.
    pub fn renew(&mut self, holding: &Holding) {
        self.end();
        holding.leave_place();
        self.let_go();
        self.start = Instant::now();
    }

    /// Forgets a holder that died, or will.
    fn let_go(&mut self) {
        self.link = None;
        self.former.extend(self.child.take().map(|(child, _)| child));
        self.former.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// Tells the holder that nothing needs to be held any more; one that was not found yet is killed.
    pub fn end(&mut self) {
        match (&self.link, &mut self.child) {
            (Some(link), _) => drop(message::send(link, &Message::End, None, SendFlags::DONTWAIT)),
            (None, Some((child, _))) => drop(child.kill()),
            (None, None) => {}
        }
    }

    fn is_there(&self) -> bool {
        let Some(link) = &self.link else { return false };
        // It says nothing after its greeting; the end is what can be read.
        matches!(message::receive(link, RecvFlags::DONTWAIT), Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
    }

    /// Connects to the holder, if there is one, and reads what it holds. One that does not answer is killed.
    fn connect(&mut self) -> io::Result<Option<Held>> {
        let Some(link) = socket::connect(&self.layout)? else { return Ok(None) };
        sockopt::set_socket_timeout(&link, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let held = read_all(&link).inspect_err(|_| kill(&link))?;
        if held.is_some() {
            (self.link, self.since) = (Some(link), Instant::now());
        }
        Ok(held)
    }

    /// Plans when the next is started after one died.
    fn retry(&mut self) {
        self.start = Instant::now() + self.revival.after(self.since.elapsed()).unwrap_or(SELDOM);
    }

    /// Starts one, if it is time and none is being started.
    fn start(&mut self) {
        if let Some((child, since)) = &mut self.child {
            match child.try_wait() {
                Ok(None) if since.elapsed() < START => return,
                Ok(None) => drop(child.kill()),
                _ => {}
            }
            self.child = None;
            self.since = Instant::now();
            return self.retry();
        }
        if Instant::now() < self.start {
            return;
        }
        match spawn(&self.layout) {
            Ok(child) => self.child = Some((child, Instant::now())),
            Err(error) => {
                eprintln!("holder: start it: {error}");
                self.since = Instant::now();
                self.retry();
            }
        }
    }
}

/// Reads what a holder holds; `None` when it ended meanwhile.
fn read_all(link: impl AsFd) -> io::Result<Option<Held>> {
    let mut held = Held::new();
    loop {
        match message::receive(&link, RecvFlags::empty()) {
            Ok(Some((Message::Hold(name), Some(descriptor)))) => drop(held.insert(name, descriptor)),
            Ok(Some((Message::All, _))) => return Ok(Some(held)),
            Ok(Some(_)) => return Err(io::Error::new(io::ErrorKind::InvalidData, "it said what no holder says")),
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Kills a holder that does not answer; what it holds is held by us, or by the programs.
fn kill(link: &OwnedFd) {
    let Ok(peer) = socket::peer(link) else { return };
    let Ok(pidfd) = pidfd_open(peer.pid, PidfdFlags::empty()) else { return };
    let line = fs::read(format!("/proc/{}/cmdline", peer.pid.as_raw_nonzero())).unwrap_or_default();
    if line.split(|&byte| byte == 0).nth(1) == Some(b"hold") {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn spawn(layout: &Layout) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("df-node").arg("hold").args(layout.words());
    command.env_clear().current_dir("/").stdin(Stdio::null()).spawn()
}
