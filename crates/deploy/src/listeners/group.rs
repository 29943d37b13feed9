//! The sockets of one endpoint, one per generation, and who of them gets the clients.
//!
//! Over TCP and UDP the kernel chooses by a filter ([`Internet`]); in the file system a name is moved ([`Named`]). Both do the same in the same words, so that
//! nobody else has to know which it is.

use super::internet::Internet;
use super::named::{Named, PlaceError};
use super::steer::Protocol;
use crate::claim::ClaimError;
use crate::launch::Ids;
use df_core::Endpoint;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How often a queue is looked at; nothing tells when it becomes empty.
const POLL: Duration = Duration::from_millis(2);

/// The sockets of one endpoint.
#[derive(Debug)]
pub enum Group {
    /// Of an address.
    Internet(Internet),
    /// Of a path.
    Named(Named),
}

/// Who may connect to a socket in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whom it belongs to; nobody else than us unless told.
    pub owner: Option<Ids>,
    /// Its permissions once its generation serves.
    pub mode: u16,
}

/// What a supervisor writes down, so that its successor finds the kernel's order of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Where the group listens.
    pub address: Endpoint,
    /// The generation of each member in the kernel's order; `None` is a spare.
    pub slots: Vec<Option<u64>>,
    /// The generation that gets the clients.
    pub serving: Option<u64>,
    /// The generation that gets the prober.
    pub trial: Option<u64>,
    /// The inode of each member's socket, in the same order; none in records of older supervisors.
    #[serde(default)]
    pub sockets: Vec<u64>,
}

/// Why a group could not be changed; clients are steered as before.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The port belongs to somebody else.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A socket cannot be where it shall.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The generation has no listener here.
    #[error("generation {generation} has no listener on {at}")]
    Absent { generation: u64, at: Endpoint },
    /// The generation already has its listener.
    #[error("generation {generation} has a listener on {at} already")]
    Present { generation: u64, at: Endpoint },
    /// Removing the serving generation would leave the clients to chance.
    #[error("generation {generation} serves {at}, and others would get its clients")]
    Serving { generation: u64, at: Endpoint },
    /// Several members stopped listening behind our back; the kernel's order can't be known, so all of them must be replaced.
    #[error("the order of the listeners on {at} is lost")]
    OrderLost { at: Endpoint },
    /// A record that does not go with the sockets.
    #[error("the listeners found for {at} do not match its record")]
    WrongRecord { at: Endpoint },
    /// The system refused.
    #[error("{what} on {at}")]
    System {
        what: &'static str,
        at: Endpoint,
        #[source]
        source: io::Error,
    },
}

/// Returns who is steered to when one generation has given its listener to another.
pub(super) fn passed(steered: Option<u64>, from: u64, to: u64) -> Option<u64> {
    steered.map(|generation| if generation == from { to } else { generation })
}

/// Does the same with either.
macro_rules! either {
    ($self:expr, $group:ident => $what:expr) => {
        match $self {
            Group::Internet($group) => $what,
            Group::Named($group) => $what,
        }
    };
}

impl Group {
    /// Returns a group without members; nothing listens yet.
    pub fn new(endpoint: impl Into<Endpoint>) -> Self {
        match endpoint.into() {
            Endpoint::Tcp(address) => Self::Internet(Internet::new(Protocol::Tcp, address)),
            Endpoint::Udp(address) => Self::Internet(Internet::new(Protocol::Udp, address)),
            Endpoint::Unix(path) => Self::Named(Named::new(path)),
        }
    }

    /// Returns the group that a former supervisor kept, from its record and the sockets found again (in the record's order).
    ///
    /// # Errors
    /// They do not go together, or the order is not known any more.
    pub fn adopt(record: &GroupRecord, sockets: Vec<Option<OwnedFd>>) -> Result<Self, GroupError> {
        match &record.address {
            Endpoint::Tcp(_) | Endpoint::Udp(_) => Internet::adopt(record, sockets).map(Self::Internet),
            Endpoint::Unix(path) => Named::adopt(path, record, sockets).map(Self::Named),
        }
    }

    /// Says who may connect to the sockets that are made from now on, where they are in the file system.
    pub fn allow(&self, access: Access) {
        if let Self::Named(group) = self {
            group.allow(access);
        }
    }

    /// Returns what a successor needs for [`adopt`](Self::adopt); to be written down after each change.
    pub fn record(&self) -> GroupRecord {
        either!(self, group => group.record())
    }

    /// Returns each member's inode and another descriptor of it, spares too.
    pub fn descriptors(&self) -> Vec<(u64, OwnedFd)> {
        either!(self, group => group.descriptors())
    }

    /// Makes the listener of a generation and returns it for its program; the very first one serves at once.
    ///
    /// # Errors
    /// Somebody else listens there, or the system refuses.
    pub fn add(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        either!(self, group => group.add(generation))
    }

    /// Makes the listener of a generation that only the prober reaches: clients stay with what serves.
    ///
    /// # Errors
    /// Somebody else listens there, or the system refuses.
    pub fn add_on_trial(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        either!(self, group => group.add_on_trial(generation))
    }

    /// Returns a generation's listener again, for a restart of its program.
    ///
    /// # Errors
    /// It has none.
    pub fn listener(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        either!(self, group => group.listener(generation))
    }

    /// Gives one generation's listener, with the clients waiting in its queue, to another (`exclusive`: stop, then start).
    ///
    /// # Errors
    /// The one has none, or the other has one.
    pub fn pass(&self, from: u64, to: u64) -> Result<OwnedFd, GroupError> {
        let GroupRecord { slots, address, .. } = self.record();
        if slots.contains(&Some(from)) && slots.contains(&Some(to)) {
            return Err(GroupError::Present { generation: to, at: address });
        }
        either!(self, group => group.pass(from, to))
    }

    /// Sends every new client to `serving`, and the prober to `trial`. What is queued stays where it is.
    ///
    /// # Errors
    /// They have no listener, or the system refuses: nothing has changed.
    pub fn steer(&self, serving: u64, trial: Option<u64>) -> Result<(), GroupError> {
        either!(self, group => group.steer(serving, trial))
    }

    /// Closes a generation's listener for everybody who holds it, and returns how many waited in vain.
    ///
    /// # Errors
    /// It serves, and others would get its clients.
    pub fn remove(&self, generation: u64) -> Result<u32, GroupError> {
        either!(self, group => group.remove(generation))
    }

    /// Closes every member for everybody who holds it: clients are refused from here on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn close(&self) -> Result<(), GroupError> {
        either!(self, group => group.close())
    }

    /// Returns how many wait in a generation's queue; where only the kernel counts, 1 if any do.
    ///
    /// # Errors
    /// It has no listener.
    pub fn queue_len(&self, generation: u64) -> Result<u32, GroupError> {
        either!(self, group => group.queue_len(generation))
    }

    /// Waits until a generation's queue was empty for `quiet`, and returns whether that came within the timeout.
    ///
    /// For the old generation after a switch, while it goes on accepting. A handshake that began before the switch still ends in
    /// its queue, a round trip later, and nothing shows it before: `quiet` is the time that handshakes under way are given.
    ///
    /// # Errors
    /// It has no listener.
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
    ///
    /// # Errors
    /// Nobody listens, or not in time; or datagrams are spoken there.
    pub fn dial_serving(&self, timeout: Duration) -> io::Result<TcpStream> {
        either!(self, group => group.dial_serving(timeout))
    }

    /// Connects to the generation on trial, which no client can do.
    ///
    /// # Errors
    /// None is on trial, it is not reached in time, or datagrams are spoken there.
    pub fn dial_trial(&self, timeout: Duration) -> io::Result<TcpStream> {
        either!(self, group => group.dial_trial(timeout))
    }

    /// Returns where a program finds the generation on trial in the file system; nothing where there are addresses only.
    pub fn trial_path(&self) -> Option<String> {
        match self {
            Self::Internet(_) => None,
            Self::Named(group) => group.trial_path(),
        }
    }
}
