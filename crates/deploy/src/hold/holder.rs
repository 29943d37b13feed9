//! The holder, `df-node hold`: keeps copies of descriptors for the supervisor, starts another one when that dies, gives it what it holds, and does nothing else.
//!
//! One thread, no state on disk. It reads nothing of what it holds and decides nothing about it. It ends when the supervisor says that nothing is wanted any more, when another
//! holder is at work, and when one supervisor after the other died young: the programs then run on as if both had been killed, and the next `df-node` adopts them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::message::{self, Message};
use super::name::Name;
use super::revival::Revival;
use super::socket;
use crate::control;
use crate::layout::Layout;

/// More than any node has: what comes above it is let go.
const HELD: usize = 1024;
/// How long whoever had this task before may take to end.
const TAKE: Duration = Duration::from_secs(2);
/// How long a supervisor may take to read what is held.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long whoever supervises may take to connect; after that it does not mean to.
const CONNECT: Duration = Duration::from_secs(30);
/// How often it looks while there is no supervisor.
const LOOK: Duration = Duration::from_millis(20);

/// Holds until nothing needs to be held any more; returns at once when another holder is at work.
///
/// # Errors
/// The node's directory cannot be used, or no supervisor stays alive.
pub fn run(layout: &Layout) -> io::Result<()> {
    // The supervisor's session may end.
    let _ = rustix::process::setsid();
    let lock = fs::OpenOptions::new().create(true).append(true).open(layout.run().join("holder.lock"))?;
    let deadline = Instant::now() + TAKE;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    let listener = socket::listen(layout)?;
    let now = Instant::now();
    let awaited = State::Awaited { until: now + CONNECT, by: By::Parent };
    Holder {
        layout,
        listener,
        held: BTreeMap::new(),
        state: awaited,
        revival: Revival::default(),
        started: now,
        children: vec![],
    }
    .serve()
}

/// Who supervises.
enum State {
    /// The supervisor at the other end.
    Connected(OwnedFd),
    /// One that is at work and has yet to connect.
    Awaited { until: Instant, by: By },
    /// The one that was started last.
    Started(Child),
    /// Nobody: one is started then.
    Dead { start: Instant },
}

/// Who is said to be at work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Whoever started us.
    Parent,
    /// Whoever was there before the one that we started.
    Another,
}

struct Holder<'a> {
    layout: &'a Layout,
    listener: OwnedFd,
    held: BTreeMap<Name, OwnedFd>,
    state: State,
    revival: Revival,
    /// Since when the supervisor lives, or lived.
    started: Instant,
    /// Those that were started and need not be watched, until they have ended.
    children: Vec<Child>,
}

impl Holder<'_> {
    fn serve(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            if let Some(fresh) = socket::accept(&self.listener)? {
                // Only who has the supervisor's lock connects, so the one before is dead, or dying.
                if self.hear()? {
                    return Ok(());
                }
                self.welcome(fresh);
            }
            if self.hear()? || self.look_after()? {
                return Ok(());
            }
        }
    }

    /// Waits until something may have happened.
    fn wait(&self) -> io::Result<()> {
        let look = Timespec::try_from(LOOK).expect("a short time");
        let (connection, look) = match &self.state {
            State::Connected(connection) => (Some(connection), None),
            _ => (None, Some(&look)),
        };
        let watched = [Some(&self.listener), connection].into_iter().flatten();
        let mut watched: Vec<PollFd<'_>> = watched.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut watched, look) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a supervisor what is held.
    fn welcome(&mut self, connection: OwnedFd) {
        let given = sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(PATIENCE))
            .map_err(io::Error::from)
            .and_then(|()| {
                for (name, descriptor) in &self.held {
                    message::send(&connection, &Message::Hold(name.clone()), Some(descriptor.as_fd()), SendFlags::empty())?;
                }
                message::send(&connection, &Message::All, None, SendFlags::empty())
            });
        match given {
            Ok(()) => {
                self.started = Instant::now();
                if let State::Started(child) = std::mem::replace(&mut self.state, State::Connected(connection)) {
                    self.children.push(child);
                }
            }
            Err(error) => eprintln!("holder: give what is held: {error}"),
        }
    }

    /// Does what the supervisor said; returns whether it is the end.
    fn hear(&mut self) -> io::Result<bool> {
        while let State::Connected(connection) = &self.state {
            match message::receive(connection, RecvFlags::DONTWAIT) {
                Ok(Some((Message::Hold(name), Some(descriptor)))) if self.held.len() < HELD => {
                    drop(self.held.insert(name, descriptor))
                }
                Ok(Some((Message::Hold(name), _))) => eprintln!("holder: {name}: {HELD} descriptors are enough"),
                Ok(Some((Message::Release(name), _))) => drop(self.held.remove(&name)),
                Ok(Some((Message::End, _))) => return Ok(true),
                Ok(Some((Message::All, _))) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(false),
                // Killed: it said no farewell.
                Ok(None) => self.bury()?,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.bury()?,
                // Better nobody holds than somebody who holds the wrong things; the supervisor starts another holder.
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn bury(&mut self) -> io::Result<()> {
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        let pause = self.revival.after(self.started.elapsed());
        let pause = pause.ok_or_else(|| io::Error::other("one supervisor after the other died; the programs run on"))?;
        self.state = State::Dead { start: Instant::now() + pause };
        Ok(())
    }

    /// Sees to it that somebody supervises; returns whether nobody needs what is held.
    fn look_after(&mut self) -> io::Result<bool> {
        match &mut self.state {
            State::Connected(_) => {}
            // Killed before it had connected: nobody else would start another.
            State::Awaited { by: By::Parent, .. } if !is_started_by_a_supervisor() => {
                self.state = State::Dead { start: Instant::now() };
            }
            // Whoever supervises was told not to hold anything, or is too old to know how.
            State::Awaited { until, .. } if Instant::now() < *until => {}
            State::Awaited { .. } => return Ok(true),
            State::Dead { start } if Instant::now() < *start => {}
            State::Dead { .. } => {
                self.started = Instant::now();
                match control::start(self.layout) {
                    Ok(child) => self.state = State::Started(child),
                    Err(error) => {
                        eprintln!("holder: start a supervisor: {error}");
                        self.bury()?;
                    }
                }
            }
            State::Started(child) => match child.try_wait()? {
                None => {}
                // Another one is at work.
                Some(status) if status.success() => {
                    self.state = State::Awaited { until: Instant::now() + CONNECT, by: By::Another };
                }
                Some(_) => self.bury()?,
            },
        }
        Ok(false)
    }
}

/// Returns whether the process that started us lives: a child whose parent has died gets another.
fn is_started_by_a_supervisor() -> bool {
    let Some(parent) = rustix::process::getppid() else { return false };
    let line = fs::read(format!("/proc/{}/cmdline", parent.as_raw_nonzero())).unwrap_or_default();
    line.split(|&byte| byte == 0).nth(1) == Some(b"supervise")
}
