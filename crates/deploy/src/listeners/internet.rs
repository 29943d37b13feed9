//! One address of TCP or UDP and its sockets, one per generation, with the filter that steers among them.
//!
//! Order of a handoff: `add(new)`, `steer(old, Some(new))`, probes through `dial_trial`, `steer(new, None)`; when the old
//! generation has drained, `remove(old)`. At every moment in between exactly one generation gets the clients.
//!
//! Datagrams go to a socket as connections go to a queue. One difference: nothing but the last `close` takes a UDP socket out of the kernel's group, and programs
//! and holders have copies. So a UDP socket stays a member for as long as the group is: when its generation has ended it is a spare, emptied, for the next one.

use super::group::{GroupError, GroupRecord, passed};
use super::slots::{Slot, Slots};
use super::socket::{self, connect_before, is_waited_for, local_address, open_prober, queue_len};
use super::steer::{Packets, Protocol, drop_all, gate, program};
use super::sys;
use crate::claim;
use crate::dial::{no_connections, reachable};
use df_core::Endpoint;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Endpoints of the prober that the filter knows at once; one more waits for its turn.
pub const MAX_PROBERS: usize = 16;

/// The listening sockets of one address.
///
/// Dropping it closes our descriptors and nothing else: programs go on with theirs, so that a supervisor may come and go.
#[derive(Debug)]
pub struct Internet {
    state: Mutex<State>,
    prober_left: Condvar,
}

impl Internet {
    /// Returns a group without members; nothing listens yet.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Internet::from_state(State {
            protocol,
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
        let wrong = || GroupError::WrongRecord { at: record.address.clone() };
        let (protocol, address) = match &record.address {
            Endpoint::Tcp(address) => (Protocol::Tcp, *address),
            Endpoint::Udp(address) => (Protocol::Udp, *address),
            Endpoint::Unix(_) => return Err(wrong()),
        };
        let fits = |socket: &OwnedFd| local_address(socket).is_ok_and(|found| found == address);
        if record.slots.len() != sockets.len() || !sockets.iter().flatten().all(fits) {
            return Err(wrong());
        }
        let found = record.slots.iter().zip(sockets);
        let mut slots = Slots::new(found.map(|(&generation, content)| Slot { generation, content }).collect());
        if !slots.forget(|slot| !slot.content.as_ref().is_some_and(|socket| protocol.takes(socket))) {
            return Err(GroupError::OrderLost { at: record.address.clone() });
        }
        let slots = slots.flatten();
        let present = |generation: &u64| slots.index_of(*generation).is_some();
        let (serving, trial) = (record.serving.filter(present), record.trial.filter(present));
        let state = State { protocol, address, slots, serving, trial, gated: false, probers: Vec::new() };
        if serving.is_some() {
            state.apply()?;
        }
        Ok(Internet::from_state(state))
    }

    /// Returns where the group listens; the port is 0 until the first member has one.
    pub fn address(&self) -> SocketAddr {
        self.lock().address
    }

    /// Returns each member's inode and another descriptor of it, spares too.
    pub fn descriptors(&self) -> Vec<(u64, OwnedFd)> {
        let state = self.lock();
        let copy = |slot: &Slot<OwnedFd>| Some((inode(&slot.content)?, slot.content.try_clone().ok()?));
        state.slots.as_slice().iter().filter_map(copy).collect()
    }

    /// Returns what a successor needs for [`adopt`](Self::adopt); to be written down after each change.
    pub fn record(&self) -> GroupRecord {
        let state = self.lock();
        let slots = state.slots.as_slice().iter().map(|slot| slot.generation).collect();
        let sockets = state.slots.as_slice().iter().map(|slot| inode(&slot.content).unwrap_or(0)).collect();
        GroupRecord { address: state.at(), slots, serving: state.serving, trial: state.trial, sockets }
    }

    /// Makes the listener of a generation and returns it for its program; the group keeps its own descriptor.
    ///
    /// It gets no connection until it is steered to. The very first generation of a group has nobody to stay behind and serves at once;
    /// [`add_on_trial`](Self::add_on_trial) is for one that shall not.
    pub fn add(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        state.settle()?;
        if state.slots.index_of(generation).is_some() {
            return Err(GroupError::Present { generation, at: state.at() });
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
        match state.join(Some(generation), true) {
            // Some kernels let nobody but root put a filter on a socket. Then clients that come before it was verified are served, and not kept waiting.
            Err(GroupError::System { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                drop(state);
                let listener = self.add(generation)?;
                self.steer(generation, Some(generation))?;
                return Ok(listener);
            }
            joined => joined?,
        }
        (state.trial, state.gated) = (Some(generation), true);
        state.duplicate(generation)
    }

    /// Returns a generation's listener again, for a restart of its program.
    pub fn listener(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        self.lock().duplicate(generation)
    }

    /// Gives one generation's listener, with the clients waiting in its queue, to another, which has none.
    pub fn pass(&self, from: u64, to: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        let index = state.index(from)?;
        state.slots.rename(index, to);
        (state.serving, state.trial) = (passed(state.serving, from, to), passed(state.trial, from, to));
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
        if state.serving == Some(generation) && state.has_others(generation) {
            return Err(GroupError::Serving { generation, at: state.at() });
        }
        if state.trial == Some(generation) {
            state.trial = None;
            state.apply()?;
        }
        if state.protocol == Protocol::Udp {
            return state.empty(index);
        }
        let steered: Vec<u64> = [state.serving, state.trial].into_iter().flatten().collect();
        if state.slots.needs_spare(index, &steered) {
            state.join(None, false)?;
        }
        let n_reset = state.waiting(index)?;
        shutdown(&state.slots.as_slice()[index].content, Shutdown::Read)
            .map_err(|e| state.system("closing the listener")(e.into()))?;
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
            let closed = match state.protocol {
                Protocol::Tcp => shutdown(&slot.content, Shutdown::Read).map_err(io::Error::from),
                // Programs have copies, and nothing closes those.
                Protocol::Udp => sys::filter(&slot.content, &drop_all()),
            };
            match closed.map_err(|error| (error.kind(), error)) {
                // It was closed before; or nobody but root may put a filter on it, and its program takes what comes until it ends.
                Ok(()) | Err((io::ErrorKind::NotConnected | io::ErrorKind::PermissionDenied, _)) => {}
                Err((_, error)) => return Err(state.system("closing the listener")(error)),
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
        state.waiting(index)
    }

    /// Connects as any client does.
    pub fn dial_serving(&self, timeout: Duration) -> io::Result<TcpStream> {
        self.refuse_datagrams()?;
        TcpStream::connect_timeout(&reachable(self.address()), timeout)
    }

    /// Connects to the generation on trial, which no client can do.
    ///
    /// The socket is bound first, then the filter is set for exactly that endpoint, which is ours until the connection is closed; only then it
    /// connects. Once connected, the filter forgets it.
    pub fn dial_trial(&self, timeout: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + timeout;
        self.refuse_datagrams()?;
        let target = reachable(self.address());
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

    fn refuse_datagrams(&self) -> io::Result<()> {
        if self.lock().protocol == Protocol::Udp { Err(no_connections()) } else { Ok(()) }
    }

    fn from_state(state: State) -> Self {
        Internet { state: Mutex::new(state), prober_left: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with this lock")
    }
}

/// A prober's endpoint that the filter knows.
struct Announced<'a> {
    group: &'a Internet,
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
    protocol: Protocol,
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
        claim::check(&self.at(), &self.inodes())?;
        let gate = gated.then(|| gate(self.packets(), &self.probers));
        let open = match self.protocol {
            Protocol::Tcp => socket::open_listener,
            Protocol::Udp => socket::open_datagrams,
        };
        let socket = open(&self.address, gate.as_deref()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => claim::refusal(&self.at()).into(),
            _ => self.system("listening")(source),
        })?;
        self.address = local_address(&socket).map_err(self.system("reading the address"))?;
        self.slots.push(generation, socket);
        // Whoever came between the look and the join is seen now; then we go again, as the last, who can go without moving others.
        claim::check(&self.at(), &self.inodes()).map_err(|refusal| {
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
            let code = gate(self.packets(), &self.probers);
            return sys::filter(&first.content, &code).map_err(self.system("setting the gate"));
        }
        let serving = match self.serving {
            Some(generation) => self.index(generation)?,
            None => return Ok(()),
        };
        let trial = self.trial.map(|generation| self.index(generation)).transpose()?;
        let code = program(self.packets(), serving, trial.map(|index| (index, self.probers.as_slice())));
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
        let protocol = self.protocol;
        if !self.slots.forget(|slot| !protocol.takes(&slot.content)) {
            return Err(GroupError::OrderLost { at: self.at() });
        }
        self.serving = self.serving.filter(|g| self.slots.index_of(*g).is_some());
        self.trial = self.trial.filter(|g| self.slots.index_of(*g).is_some());
        if self.slots.as_slice().len() == before { Ok(()) } else { self.apply() }
    }

    fn index(&self, generation: u64) -> Result<usize, GroupError> {
        self.slots.index_of(generation).ok_or(GroupError::Absent { generation, at: self.at() })
    }

    fn duplicate(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let index = self.index(generation)?;
        self.slots.as_slice()[index].content.try_clone().map_err(self.system("duplicating the listener"))
    }

    fn inodes(&self) -> Vec<u64> {
        self.slots.as_slice().iter().filter_map(|slot| inode(&slot.content)).collect()
    }

    fn system(&self, what: &'static str) -> impl FnOnce(io::Error) -> GroupError + use<> {
        let at = self.at();
        move |source| GroupError::System { what, at, source }
    }

    fn at(&self) -> Endpoint {
        match self.protocol {
            Protocol::Tcp => Endpoint::Tcp(self.address),
            Protocol::Udp => Endpoint::Udp(self.address),
        }
    }

    fn packets(&self) -> Packets {
        Packets::at(self.protocol, &self.address)
    }

    /// Returns how many connections wait at a member; of datagrams, 1 if any do.
    fn waiting(&self, index: usize) -> Result<u32, GroupError> {
        let socket = &self.slots.as_slice()[index].content;
        let waiting = match self.protocol {
            Protocol::Tcp => queue_len(socket),
            Protocol::Udp => is_waited_for(socket).map(u32::from),
        };
        waiting.map_err(self.system("reading the queue"))
    }

    /// Returns whether others than this generation would get its clients.
    fn has_others(&self, generation: u64) -> bool {
        let mut others = self.slots.as_slice().iter().filter(|slot| slot.generation != Some(generation));
        match self.protocol {
            Protocol::Tcp => others.next().is_some(),
            // Spares of datagrams stay, and nobody reads them: with nobody left the whole group goes.
            Protocol::Udp => others.any(|slot| slot.generation.is_some()),
        }
    }

    /// Makes a spare of a UDP socket whose generation has ended, and returns how many datagrams nobody has read.
    fn empty(&mut self, index: usize) -> Result<u32, GroupError> {
        let socket = &self.slots.as_slice()[index].content;
        let n_lost = socket::discard(socket).map_err(self.system("emptying the queue"))?;
        self.slots.free(index);
        if self.slots.as_slice().iter().all(|slot| slot.generation.is_none()) {
            (self.serving, self.gated) = (None, false);
        }
        self.apply().map(|()| n_lost)
    }
}

fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino)
}

#[cfg(test)]
mod tests;
