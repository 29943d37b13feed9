//! One address and its listening sockets, one per generation, with the filter that steers among them.
//!
//! Order of a handoff: `add(new)`, `steer(old, Some(new))`, probes through `dial_trial`, `steer(new, None)`; when the old
//! generation has drained, `remove(old)`. At every moment in between exactly one generation gets the clients.

use super::slots::{Slot, Slots};
use super::socket::{connect_before, dial_address, local_address, open_listener, open_prober, queue_len};
use super::steer::{Family, gate, program};
use super::sys;
use crate::claim::{self, ClaimError};
use rustix::net::{Shutdown, shutdown, sockopt};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Endpoints of the prober that the filter knows at once; one more waits for its turn.
pub const MAX_PROBERS: usize = 16;

/// How often a queue is looked at; nothing tells when it becomes empty.
const POLL: Duration = Duration::from_millis(2);

/// The listening sockets of one address.
///
/// Dropping it closes our descriptors and nothing else: programs go on with theirs, so that a supervisor may come and go.
#[derive(Debug)]
pub struct Group {
    state: Mutex<State>,
    prober_left: Condvar,
}

/// What a supervisor writes down, so that its successor finds the kernel's order of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Where the group listens.
    pub address: SocketAddr,
    /// The generation of each member in the kernel's order; `None` is a spare.
    pub slots: Vec<Option<u64>>,
    /// The generation that gets the clients.
    pub serving: Option<u64>,
    /// The generation that gets the prober.
    pub trial: Option<u64>,
}

/// Why a group could not be changed; clients are steered as before.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The port belongs to somebody else.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The generation has no listener here.
    #[error("generation {generation} has no listener on {address}")]
    Absent { generation: u64, address: SocketAddr },
    /// The generation already has its listener.
    #[error("generation {generation} has a listener on {address} already")]
    Present { generation: u64, address: SocketAddr },
    /// Removing the serving generation would leave the clients to chance.
    #[error("generation {generation} serves {address}, and others would get its clients")]
    Serving { generation: u64, address: SocketAddr },
    /// Several members stopped listening behind our back; the kernel's order can't be known, so all of them must be replaced.
    #[error("the order of the listeners on {address} is lost")]
    OrderLost { address: SocketAddr },
    /// A record that does not go with the sockets.
    #[error("the listeners found for {address} do not match its record")]
    WrongRecord { address: SocketAddr },
    /// The system refused.
    #[error("{what} on {address}")]
    System {
        what: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl Group {
    /// Returns a group without members; nothing listens yet.
    pub fn new(address: SocketAddr) -> Self {
        Group::from_state(State {
            address,
            slots: Slots::new(Vec::new()),
            serving: None,
            trial: None,
            gated: false,
            probers: Vec::new(),
        })
    }

    /// Returns the group that a former supervisor kept, from its record and the sockets found again (in the record's order).
    ///
    /// A socket that was not found (its program has ended) has left the kernel's group too. If the serving one is among them, nobody
    /// is steered before the next [`steer`](Self::steer).
    pub fn adopt(record: &GroupRecord, sockets: Vec<Option<OwnedFd>>) -> Result<Self, GroupError> {
        let address = record.address;
        let fits = |socket: &OwnedFd| local_address(socket).is_ok_and(|found| found == address);
        if record.slots.len() != sockets.len() || !sockets.iter().flatten().all(fits) {
            return Err(GroupError::WrongRecord { address });
        }
        let found = record.slots.iter().zip(sockets);
        let mut slots = Slots::new(found.map(|(&generation, content)| Slot { generation, content }).collect());
        if !slots.forget(|slot| !slot.content.as_ref().is_some_and(is_listening)) {
            return Err(GroupError::OrderLost { address });
        }
        let slots = slots.flatten();
        let present = |generation: &u64| slots.index_of(*generation).is_some();
        let (serving, trial) = (record.serving.filter(present), record.trial.filter(present));
        let state = State { address, slots, serving, trial, gated: false, probers: Vec::new() };
        if serving.is_some() {
            state.apply()?;
        }
        Ok(Group::from_state(state))
    }

    /// Returns where the group listens; the port is 0 until the first member has one.
    pub fn address(&self) -> SocketAddr {
        self.lock().address
    }

    /// Returns what a successor needs for [`adopt`](Self::adopt); to be written down after each change.
    pub fn record(&self) -> GroupRecord {
        let state = self.lock();
        let slots = state.slots.as_slice().iter().map(|slot| slot.generation).collect();
        GroupRecord { address: state.address, slots, serving: state.serving, trial: state.trial }
    }

    /// Makes the listener of a generation and returns it for its program; the group keeps its own descriptor.
    ///
    /// It gets no connection until it is steered to. The very first generation of a group has nobody to stay behind and serves at once;
    /// [`add_on_trial`](Self::add_on_trial) is for one that shall not.
    pub fn add(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        state.settle()?;
        let address = state.address;
        if state.slots.index_of(generation).is_some() {
            return Err(GroupError::Present { generation, address });
        }
        if !state.slots.take_spare(generation) {
            state.join(Some(generation), false)?;
        }
        if state.slots.as_slice().len() == 1 {
            (state.serving, state.trial) = (Some(generation), None);
            state.apply()?;
        }
        state.duplicate(generation)
    }

    /// Makes the listener of a generation that only the prober reaches: clients stay with what serves.
    ///
    /// Where nothing serves a gate drops what clients send, so that they try again until the generation is steered to, and get in, or its listener is
    /// closed, and are refused.
    pub fn add_on_trial(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let serving = self.lock().serving;
        if let Some(serving) = serving {
            let listener = self.add(generation)?;
            self.steer(serving, Some(generation))?;
            return Ok(listener);
        }
        let mut state = self.lock();
        if !state.slots.as_slice().is_empty() {
            drop(state);
            return self.add(generation);
        }
        state.join(Some(generation), true)?;
        (state.trial, state.gated) = (Some(generation), true);
        state.duplicate(generation)
    }

    /// Returns a generation's listener again, for a restart of its program.
    pub fn listener(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        self.lock().duplicate(generation)
    }

    /// Gives one generation's listener, with the clients waiting in its queue, to another (`exclusive`: stop, then start).
    pub fn pass(&self, from: u64, to: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        let index = state.index(from)?;
        if state.slots.index_of(to).is_some() {
            return Err(GroupError::Present { generation: to, address: state.address });
        }
        state.slots.rename(index, to);
        let passed = |steered: Option<u64>| steered.map(|generation| if generation == from { to } else { generation });
        (state.serving, state.trial) = (passed(state.serving), passed(state.trial));
        state.duplicate(to)
    }

    /// Sends every new connection to `serving`, and the prober's to `trial`.
    ///
    /// One `setsockopt`; connections already queued stay where they are.
    pub fn steer(&self, serving: u64, trial: Option<u64>) -> Result<(), GroupError> {
        let mut state = self.lock();
        state.settle()?;
        state.index(serving)?;
        trial.map(|generation| state.index(generation)).transpose()?;
        let before = (state.serving, state.trial, state.gated);
        (state.serving, state.trial, state.gated) = (Some(serving), trial, false);
        let steered = state.apply().and_then(|()| if before.2 { state.open_gates() } else { Ok(()) });
        steered.inspect_err(|_| (state.serving, state.trial, state.gated) = before)
    }

    /// Closes a generation's listener for everybody who holds it, and returns how many queued connections that reset.
    ///
    /// Call it when the queue is empty and its program was told to drain: `shutdown` takes the socket out of the kernel's group at
    /// once, also when the program still holds it, so that the order stays known.
    pub fn remove(&self, generation: u64) -> Result<u32, GroupError> {
        let mut state = self.lock();
        state.settle()?;
        let index = state.index(generation)?;
        let address = state.address;
        if state.serving == Some(generation) && state.slots.as_slice().len() > 1 {
            return Err(GroupError::Serving { generation, address });
        }
        if state.trial == Some(generation) {
            state.trial = None;
            state.apply()?;
        }
        let steered: Vec<u64> = [state.serving, state.trial].into_iter().flatten().collect();
        if state.slots.needs_spare(index, &steered) {
            state.join(None, false)?;
        }
        let socket = &state.slots.as_slice()[index].content;
        let n_reset = queue_len(socket).map_err(state.system("reading the queue"))?;
        shutdown(socket, Shutdown::Read).map_err(|e| state.system("closing the listener")(e.into()))?;
        state.slots.remove(index);
        match state.slots.as_slice() {
            [] => (state.serving, state.gated) = (None, false),
            _ => state.apply()?,
        }
        Ok(n_reset)
    }

    /// Closes every member for everybody who holds it: clients are refused from here on. Connections in the queues are reset.
    pub fn close(&self) -> Result<(), GroupError> {
        let mut state = self.lock();
        for slot in state.slots.as_slice() {
            match shutdown(&slot.content, Shutdown::Read) {
                // It was closed before.
                Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
                Err(error) => return Err(state.system("closing the listener")(error.into())),
            }
        }
        state.slots = Slots::new(vec![]);
        (state.serving, state.trial, state.gated) = (None, None, false);
        Ok(())
    }

    /// Returns how many connections wait in a generation's queue.
    pub fn queue_len(&self, generation: u64) -> Result<u32, GroupError> {
        let state = self.lock();
        let index = state.index(generation)?;
        queue_len(&state.slots.as_slice()[index].content).map_err(state.system("reading the queue"))
    }

    /// Waits until a generation's queue was empty for `quiet`, and returns whether that came within the timeout.
    ///
    /// For the old generation after a switch, while it goes on accepting. A handshake that began before the switch still ends in
    /// its queue, a round trip later, and nothing shows it before: `quiet` is the time that handshakes under way are given.
    pub fn wait_drained(&self, generation: u64, quiet: Duration, timeout: Duration) -> Result<bool, GroupError> {
        let start = Instant::now();
        let mut seen_empty = None;
        while start.elapsed() <= timeout {
            if self.queue_len(generation)? > 0 {
                seen_empty = None;
            } else if seen_empty.get_or_insert_with(Instant::now).elapsed() >= quiet {
                return Ok(true);
            }
            std::thread::sleep(POLL);
        }
        Ok(false)
    }

    /// Connects as any client does.
    pub fn dial_serving(&self, timeout: Duration) -> io::Result<TcpStream> {
        TcpStream::connect_timeout(&dial_address(&self.address()), timeout)
    }

    /// Connects to the generation on trial, which no client can do.
    ///
    /// The socket is bound first, then the filter is set for exactly that endpoint, which is ours until the connection is closed; only then it
    /// connects. Once connected, the filter forgets it.
    pub fn dial_trial(&self, timeout: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + timeout;
        let target = dial_address(&self.address());
        let (socket, endpoint) = open_prober(&target)?;
        let _known = self.announce(endpoint, deadline)?;
        connect_before(socket, &target, deadline)
    }

    /// Puts a prober's endpoint into the filter for as long as the returned value lives.
    fn announce(&self, endpoint: SocketAddr, deadline: Instant) -> io::Result<Announced<'_>> {
        let mut state = self.lock();
        while state.probers.len() >= MAX_PROBERS {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "too many probes at once"));
            }
            state = self.prober_left.wait_timeout(state, left).expect("nobody panics with this lock").0;
        }
        if state.trial.is_none() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "no generation is on trial"));
        }
        state.probers.push(endpoint);
        let announced = Announced { group: self, endpoint };
        let applied = state.apply();
        drop(state); // `announced` takes the lock when an error drops it
        applied.map_err(io::Error::other)?;
        Ok(announced)
    }

    fn from_state(state: State) -> Self {
        Group { state: Mutex::new(state), prober_left: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with this lock")
    }
}

/// A prober's endpoint that the filter knows.
struct Announced<'a> {
    group: &'a Group,
    endpoint: SocketAddr,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        state.probers.retain(|e| *e != self.endpoint);
        // If this fails the filter knows an endpoint too many until the next change, and it is still ours.
        let _ = state.apply();
        self.group.prober_left.notify_one();
    }
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    slots: Slots<OwnedFd>,
    serving: Option<u64>,
    trial: Option<u64>,
    /// Nothing serves, and the listener on trial drops what clients send.
    gated: bool,
    probers: Vec<SocketAddr>,
}

impl State {
    /// Makes a listener and appends it; refuses when somebody else listens there, even if the kernel would let us share.
    fn join(&mut self, generation: Option<u64>, gated: bool) -> Result<(), GroupError> {
        claim::check(&self.address, &self.inodes())?;
        let gate = gated.then(|| gate(Family::of(&self.address), &self.probers));
        let socket = open_listener(&self.address, gate.as_deref()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => claim::refusal(&self.address).into(),
            _ => self.system("listening")(source),
        })?;
        self.address = local_address(&socket).map_err(self.system("reading the address"))?;
        self.slots.push(generation, socket);
        // Whoever came between the look and the join is seen now; then we go again, as the last, who can go without moving others.
        claim::check(&self.address, &self.inodes()).map_err(|refusal| {
            let own = self.slots.remove(self.slots.as_slice().len() - 1);
            // Closing alone is not enough: a child that is being started at this moment has a copy until its exec.
            let _ = shutdown(&own.content, Shutdown::Read);
            refusal.into()
        })
    }

    /// Puts the filter that goes with this state on the kernel's group.
    fn apply(&self) -> Result<(), GroupError> {
        let Some(first) = self.slots.as_slice().first() else { return Ok(()) };
        if self.gated {
            let code = gate(Family::of(&self.address), &self.probers);
            return sys::filter(&first.content, &code).map_err(self.system("setting the gate"));
        }
        let serving = match self.serving {
            Some(generation) => self.index(generation)?,
            None => return Ok(()),
        };
        let trial = self.trial.map(|generation| self.index(generation)).transpose()?;
        let code = program(Family::of(&self.address), serving, trial.map(|index| (index, self.probers.as_slice())));
        sys::attach(&first.content, &code).map_err(self.system("setting the filter"))
    }

    /// Takes the gates off: from here on clients get in.
    fn open_gates(&self) -> Result<(), GroupError> {
        for slot in self.slots.as_slice() {
            match sys::unfilter(&slot.content) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.system("opening the gate")(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Follows members that left the kernel's group without us: their program called `shutdown`.
    fn settle(&mut self) -> Result<(), GroupError> {
        let before = self.slots.as_slice().len();
        if !self.slots.forget(|slot| !is_listening(&slot.content)) {
            return Err(GroupError::OrderLost { address: self.address });
        }
        self.serving = self.serving.filter(|g| self.slots.index_of(*g).is_some());
        self.trial = self.trial.filter(|g| self.slots.index_of(*g).is_some());
        if self.slots.as_slice().len() == before { Ok(()) } else { self.apply() }
    }

    fn index(&self, generation: u64) -> Result<usize, GroupError> {
        self.slots.index_of(generation).ok_or(GroupError::Absent { generation, address: self.address })
    }

    fn duplicate(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let index = self.index(generation)?;
        self.slots.as_slice()[index].content.try_clone().map_err(self.system("duplicating the listener"))
    }

    fn inodes(&self) -> Vec<u64> {
        let stats = self.slots.as_slice().iter().filter_map(|slot| rustix::fs::fstat(&slot.content).ok());
        stats.map(|stat| stat.st_ino).collect()
    }

    fn system(&self, what: &'static str) -> impl FnOnce(io::Error) -> GroupError + use<> {
        let address = self.address;
        move |source| GroupError::System { what, address, source }
    }
}

fn is_listening(socket: &OwnedFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests;
