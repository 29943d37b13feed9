//! Live connections: from the version that leaves to the one that serves, without their clients noticing.
//!
//! A connection goes over as its descriptor, the bytes that were read from it and not used yet, and a state that only the service
//! understands; a tag says how to read it. The other version may refuse, and then the connection stays where it is.
//!
//! ```no_run
//! use distributive_flow::{Connection, Service};
//! use std::{io, net::TcpStream, thread, time::Duration};
//!
//! fn serve(stream: TcpStream, count: u64, unread: Vec<u8>) { /* the service */ }
//!
//! fn main() -> io::Result<()> {
//!     let service = Service::from_env()?;
//!     let (handoff, draining) = (service.handoff()?, service.draining()?);
//!     thread::scope(|threads| {
//!         // On a thread of its own: what versions before have open. Whoever does not know the tag refuses, and the connection stays where it is.
//!         threads.spawn(|| {
//!             let knows = |offered: &Connection| offered.tag == "counter/1" && offered.state.len() == 8;
//!             handoff.take(&draining, knows, |taken| {
//!                 let count = u64::from_le_bytes(taken.state.try_into().expect("asked above"));
//!                 serve(TcpStream::from(taken.socket), count, taken.unread);
//!             })
//!         });
//!         // Elsewhere, once draining has begun, between two answers:
//!         let (stream, count, unread) = (TcpStream::connect("127.0.0.1:7000")?, 7_u64, vec![]);
//!         let mine = Connection { socket: stream.into(), tag: "counter/1".into(), state: count.to_le_bytes().into(), unread };
//!         if let Err(kept) = handoff.give("lines", mine, Duration::from_secs(2)) {
//!             let stream = TcpStream::from(kept.connection.socket); // nobody wanted it: serve it on
//!         }
//!         Ok::<(), io::Error>(())
//!     })
//! }
//! ```
//!
//! The format is in [`message`], what makes it exactly one who serves a connection in `exchange`.

use crate::descriptor::{deadline_in, poll_readable};
use crate::draining::Draining;
use crate::protocol::{NotifyAddress, excerpt};
use crate::signal;
use giver::{Giver, Outcome};
use message::{Offer, Role};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use taker::Taker;
use tally::Tally;

mod exchange;
mod giver;
pub mod message;
pub(crate) mod socket;
mod taker;
mod tally;

/// An open connection on its way from one version to the next.
#[derive(Debug)]
pub struct Connection {
    /// The socket. Its options and its nonblocking mode go with it, for the taker to set as it likes.
    pub socket: OwnedFd,
    /// What it speaks and how to read the state, such as `counter/1`: 1 to [`message::MAX_TAG`] bytes of printable ASCII.
    pub tag: String,
    /// What the service knows about it; at most [`message::MAX_STATE`] bytes.
    pub state: Vec<u8>,
    /// What was read from it and not used yet; at most [`message::MAX_UNREAD`] bytes. What the kernel still has needs no word.
    pub unread: Vec<u8>,
}

/// What became of a connection that its service let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The other version serves it now.
    Taken,
    /// It was closed: that is what its port was told to do with open connections.
    Dropped,
}

/// A connection that nobody took, as it was: it is to be served on.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub connection: Connection,
    /// Why.
    pub why: Why,
}

/// Why a connection was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its port was told to drain: connections end where they are.
    Drain,
    /// There is no other version to give it to, or none that takes connections.
    NoSuccessor,
    /// The other version refused it.
    Refused,
    /// The other version did not answer in time.
    Unanswered,
    /// The other version has died, or speaks no version of the protocol that we do.
    Gone,
    /// Tag, state or unread bytes are longer than allowed.
    TooLarge,
}

/// What a port does with open connections when its version leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// They are served to their end, or to the end of the time for that.
    #[default]
    Drain,
    /// They go to the next version.
    HandOver,
    /// They are closed.
    Drop,
}

/// The way of live connections into this process and out of it; from [`Service::handoff`](crate::Service::handoff).
#[derive(Debug)]
pub struct Handoff {
    listener: Option<OwnedFd>,
    choices: BTreeMap<String, Choice>,
    met: Mutex<Met>,
    met_changed: Condvar,
    /// Raised when there are new ends to take from.
    nudge: OwnedFd,
    tally: Tally,
}

impl Choice {
    /// Returns the word for it in `DF_CONNECTIONS`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::HandOver => "hand-over",
            Self::Drop => "drop",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Drain, Self::HandOver, Self::Drop].into_iter().find(|choice| choice.word() == word)
    }
}

/// Parses `DF_CONNECTIONS`: `name=word` for each port, separated by `:`.
pub(crate) fn parse_choices(text: &str) -> Result<BTreeMap<String, Choice>, String> {
    let parts = text.split(':').filter(|part| !part.is_empty());
    let parse = |part: &str| {
        let (name, word) = part.split_once('=').ok_or_else(|| excerpt(part.as_bytes()))?;
        let choice = Choice::from_word(word).ok_or_else(|| excerpt(part.as_bytes()))?;
        Ok((name.to_owned(), choice))
    };
    parts.map(parse).collect()
}

impl Handoff {
    pub(crate) fn new(address: Option<&NotifyAddress>, choices: BTreeMap<String, Choice>) -> io::Result<Self> {
        let listener = address.map(socket::listen).transpose()?;
        let (met, met_changed) = (Mutex::default(), Condvar::new());
        Ok(Self { listener, choices, met, met_changed, nudge: signal::event()?, tally: Tally::default() })
    }

    /// Has a supervisor told what becomes of connections.
    pub(crate) fn telling(self, to: Option<NotifyAddress>) -> Self {
        let mut handoff = self;
        handoff.tally = Tally::telling(to);
        handoff
    }

    /// Returns what a port does with open connections; without a supervisor that says something else, they drain.
    pub fn choice(&self, port: &str) -> Choice {
        self.choices.get(port).copied().unwrap_or_default()
    }

    /// Gives an open connection of a port to the version that serves now, or does with it what its port was told to.
    ///
    /// Call it when [`Draining`] is set, from any thread, with nothing half written. From the call on the connection must not be touched;
    /// an error gives it back untouched. Waits at most about `patience`: the time in which the other version has to answer. Only a version that has
    /// accepted a connection and then hangs is waited for until it goes on or dies, because until then nobody knows whose it is.
    ///
    /// A connection that was kept and is closed later should be shut down first: a version that hangs may still hold a copy of it. The supervisor is told how many were taken and
    /// how many were kept.
    pub fn give(&self, port: &str, connection: Connection, patience: Duration) -> Result<Given, Box<Kept>> {
        let choice = self.choice(port);
        let given = self.let_go(choice, connection, patience);
        if choice != Choice::Drop {
            self.tally.count(port, given.is_ok());
        }
        given
    }

    fn let_go(&self, choice: Choice, connection: Connection, patience: Duration) -> Result<Given, Box<Kept>> {
        match choice {
            Choice::Drain => return Err(Kept::new(connection, Why::Drain)),
            Choice::Drop => {
                // Half a connection may be gone already; then there is nothing to shut down.
                let _ = TcpStream::from(connection.socket).shutdown(Shutdown::Both);
                return Ok(Given::Dropped);
            }
            Choice::HandOver => {}
        }
        let Connection { socket, tag, state, unread } = connection;
        let offer = Offer { number: 0, tag, state, unread };
        let (offer, outcome) = self.offer(offer, &socket, deadline_in(patience));
        match outcome {
            Ok(()) => Ok(Given::Taken),
            Err(why) => {
                let Offer { tag, state, unread, .. } = offer;
                Err(Kept::new(Connection { socket, tag, state, unread }, why))
            }
        }
    }

    /// Takes the connections that versions before have open: `accepts` looks at each, `serve` gets those that are ours now.
    ///
    /// Runs on a thread of the service's own until draining has begun and nothing more is under way. Both are called on it and should return
    /// soon: `serve` starts a thread or a task. When `accepts` says yes, the connection will be served here unless the other version takes it
    /// back; until `serve` gets it, nobody touches it.
    pub fn take(
        &self,
        draining: &Draining,
        mut accepts: impl FnMut(&Connection) -> bool,
        mut serve: impl FnMut(Connection),
    ) -> io::Result<()> {
        let mut takers: Vec<Taker> = vec![];
        loop {
            let mut met = self.lock();
            let admitted = self.admit(&mut met)?;
            takers.extend(met.to_take.drain(..).map(Taker::new));
            drop(met);
            takers.retain_mut(|taker| taker.advance(&mut accepts, &mut serve));
            if draining.is_set() && takers.is_empty() {
                return Ok(());
            }
            // Once draining is set its descriptor stays readable, so it is left out; so is what cannot be taken yet.
            let drains = Some(draining.as_fd()).filter(|_| !draining.is_set());
            let is_short = matches!(admitted, Admitted::Short);
            let listener = self.listener.as_ref().map(AsFd::as_fd).filter(|_| !is_short);
            let others = [drains, listener, Some(self.nudge.as_fd())];
            let polled: Vec<_> = others.into_iter().flatten().chain(takers.iter().map(AsFd::as_fd)).collect();
            poll_readable(&polled, is_short.then(|| deadline_in(SHORT_PAUSE)).flatten())?;
            signal::lower(self.nudge.as_fd());
        }
    }

    /// Offers a connection; gives back what was said of it.
    fn offer(&self, offer: Offer, socket: &OwnedFd, deadline: Option<Instant>) -> (Offer, Result<(), Why>) {
        if !offer.is_within_bounds() {
            return (offer, Err(Why::TooLarge));
        }
        let mut giver = match self.borrow_giver(deadline) {
            Ok(giver) => giver,
            Err(why) => return (offer, Err(why)),
        };
        let (offer, outcome) = giver.give(offer, socket.as_fd(), deadline);
        let mut met = self.lock();
        // A newer one may have come meanwhile; this one is closed then, which it may be: nothing is open in it.
        if matches!(met.to_give, ToGive::Lent) {
            met.to_give = if giver.is_usable() { ToGive::Here(giver) } else { ToGive::Nobody };
        }
        // One can use it, and a thousand may wait: only that it is gone concerns them all.
        match met.to_give {
            ToGive::Nobody => self.met_changed.notify_all(),
            ToGive::Here(_) | ToGive::Lent => self.met_changed.notify_one(),
        }
        drop(met);
        let result = match outcome {
            Outcome::Taken => Ok(()),
            Outcome::Kept(why) => Err(why),
        };
        (offer, result)
    }

    /// Waits for the one way out; other threads may be using it.
    fn borrow_giver(&self, deadline: Option<Instant>) -> Result<Giver, Why> {
        let mut met = self.lock();
        loop {
            // An introduction comes before SIGTERM, so whoever sees draining finds it here.
            let admitted = self.admit(&mut met).map_err(|_| Why::NoSuccessor)?;
            let is_short = matches!(admitted, Admitted::Short);
            match std::mem::replace(&mut met.to_give, ToGive::Lent) {
                ToGive::Here(giver) => return Ok(giver),
                ToGive::Nobody => {
                    met.to_give = ToGive::Nobody;
                    if !is_short {
                        return Err(Why::NoSuccessor);
                    }
                }
                ToGive::Lent => {}
            }
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Why::Unanswered);
            }
            let pause = if is_short { left.min(SHORT_PAUSE) } else { left };
            met = self.met_changed.wait_timeout(met, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the introductions that wait.
    fn admit(&self, met: &mut Met) -> io::Result<Admitted> {
        let Some(listener) = &self.listener else { return Ok(Admitted::All) };
        // Asked first: without descriptors the kernel does not say whether anybody waits.
        while poll_readable(&[listener.as_fd()], Some(Instant::now()))? {
            // Room for the end that comes with it, which the kernel would throw away.
            let room = listener.try_clone();
            let from = match room.and_then(|_room| socket::accept(listener.as_fd())) {
                Ok(from) => from,
                // Another thread was first.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Admitted::All),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => continue,
                Err(e) if is_short(&e) => return Ok(Admitted::Short),
                Err(e) => return Err(e),
            };
            match hear_introduction(&from) {
                Some((Role::Give, end)) => {
                    met.to_give = ToGive::Here(Giver::new(end));
                    self.met_changed.notify_one();
                }
                Some((Role::Take, end)) if met.to_take.len() < MAX_ENDS => {
                    met.to_take.push(end);
                    signal::raise(self.nudge.as_fd());
                }
                Some((Role::Take, _)) | None => {}
            }
        }
        Ok(Admitted::All)
    }

    fn lock(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who was introduced to us and is not at work yet.
#[derive(Debug, Default)]
struct Met {
    to_give: ToGive,
    to_take: Vec<OwnedFd>,
}

/// Whether every introduction that waited was heard.
#[derive(Debug)]
enum Admitted {
    All,
    /// For want of descriptors or of kernel memory somebody waits on.
    Short,
}

/// The way out.
#[derive(Debug, Default)]
enum ToGive {
    #[default]
    Nobody,
    /// Free for the next connection.
    Here(Giver),
    /// A thread is giving a connection by it.
    Lent,
}

/// Versions before us that may wait to give at the same time.
const MAX_ENDS: usize = 16;
/// The time in which whoever connected has to say its one sentence; a supervisor has said it before we look.
const SENTENCE: Duration = Duration::from_secs(1);

/// An introduction that could not be taken for want of descriptors is looked for again after this.
const SHORT_PAUSE: Duration = Duration::from_millis(10);

/// Whether the process or the system has no more of what a descriptor takes, which passes.
fn is_short(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Hears whom we are introduced to; nothing when it is not the supervisor, or makes no sense.
fn hear_introduction(from: &OwnedFd) -> Option<(Role, OwnedFd)> {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    let is_trusted = socket::peer(from.as_fd()).is_ok_and(|peer| peer.uid == own || peer.uid == 0);
    if !is_trusted || poll_readable(&[from.as_fd()], deadline_in(SENTENCE)).is_err() {
        return None;
    }
    let mut buffer = [0; 16];
    let packet = socket::receive(from.as_fd(), &mut buffer).ok().filter(|packet| !packet.is_cut)?;
    let role = Role::parse(&buffer[..packet.len]).ok()?;
    Some((role, packet.descriptor?))
}

impl Kept {
    fn new(connection: Connection, why: Why) -> Box<Self> {
        Box::new(Self { connection, why })
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.why {
            Why::Drain => "its port drains",
            Why::NoSuccessor => "no other version takes connections",
            Why::Refused => "the other version refused it",
            Why::Unanswered => "the other version did not answer in time",
            Why::Gone => "the other version is gone",
            Why::TooLarge => "its tag, state or unread bytes are longer than allowed",
        })
    }
}

impl std::error::Error for Kept {}

#[cfg(test)]
#[path = "connection/tests.rs"]
mod tests;
