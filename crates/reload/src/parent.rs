//! The supervisor's end: what to tell a service, and hearing what it says.

use crate::connection::{message::Role, socket};
use crate::credentials;
use crate::descriptor::wait_readable;
use crate::protocol::{self, DatagramError, ListenError, MAX_DATAGRAM, NotifyAddress};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

pub use crate::protocol::Notification;

/// The socket that services send their datagrams to. Each datagram comes with the pid of its sender.
///
/// A socket with a path is removed with this value.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    address: NotifyAddress,
}

/// What one datagram turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It was understood. Whether its sender may say so is for the caller to decide, by `pid`.
    Notification(Notification),
    /// It was not; nothing of it was used.
    Refused {
        /// Who sent it.
        pid: Option<i32>,
        /// Why it was refused.
        why: DatagramError,
    },
}

/// Why two versions were not introduced to each other. Open connections drain then, as if nobody took any.
#[derive(Debug)]
pub enum IntroduceError {
    /// Nobody listens: the program does not use the library, has ended, or is not ready yet.
    Nobody(Role),
    /// A process listens that is not the program.
    Stranger {
        /// In whose place.
        role: Role,
        /// The process.
        pid: i32,
    },
    /// The system refused.
    System(Role, io::Error),
}

/// Introduces two versions to each other, so that `giver` hands its live connections to `taker`: both get an end of one socket pair. Both are
/// addresses that stood in `DF_HANDOFF`.
///
/// Call it before `giver` is told to drain. It waits for nobody: both hear it when they look. `is_program` says whether a process belongs to the program that is
/// meant; everyone in the network namespace could listen at an abstract address that was given up.
pub fn introduce(
    giver: &NotifyAddress,
    taker: &NotifyAddress,
    is_program: impl Fn(Role, i32) -> bool,
) -> Result<(), IntroduceError> {
    let meet = |role, address| {
        let to = socket::connect(address).map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => IntroduceError::Nobody(role),
            _ => IntroduceError::System(role, e),
        })?;
        let peer = socket::peer(to.as_fd()).map_err(|e| IntroduceError::System(role, e))?;
        if is_program(role, peer.pid) { Ok(to) } else { Err(IntroduceError::Stranger { role, pid: peer.pid }) }
    };
    let (to_giver, to_taker) = (meet(Role::Give, giver)?, meet(Role::Take, taker)?);
    let [giver_end, taker_end] = socket::pair().map_err(|e| IntroduceError::System(Role::Give, e))?;
    for (role, to, end) in [(Role::Take, to_taker, taker_end), (Role::Give, to_giver, giver_end)] {
        socket::send(to.as_fd(), &role.encode(), Some(end.as_fd())).map_err(|e| IntroduceError::System(role, e))?;
    }
    Ok(())
}

/// Returns the variables that tell a service about passed descriptors with these names, in order, from
/// [`protocol::FIRST_DESCRIPTOR`] on; nothing for no names.
///
/// `LISTEN_PID` is not among them: it is set by the process that execs, which alone knows its pid.
pub fn environment<N: AsRef<str>>(names: &[N]) -> Result<Vec<(&'static str, String)>, ListenError> {
    protocol::encode_listen(names)
}

impl NotifySocket {
    /// Binds the address, which nothing else may hold; a path left behind by a process that was killed must be removed
    /// first.
    ///
    /// Everyone in the network namespace can send to an abstract name; to a path, whoever its mode (by the umask) and
    /// directory allow to write.
    pub fn bind(address: NotifyAddress) -> io::Result<Self> {
        let socket = UnixDatagram::bind_addr(&address.to_socket_addr()?)?;
        let bound = Self { socket, address };
        credentials::ask_for_credentials(bound.as_fd())?;
        Ok(bound)
    }

    /// Returns the value for `NOTIFY_SOCKET` in the service's environment.
    pub fn variable(&self) -> OsString {
        self.address.to_variable()
    }

    /// Takes one datagram if there is one, without waiting.
    pub fn try_receive(&self) -> io::Result<Option<Received>> {
        let mut buffer = [0; MAX_DATAGRAM];
        let datagram = loop {
            match credentials::receive(self.as_fd(), &mut buffer) {
                Ok(datagram) => break datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
        };
        let pid = datagram.pid;
        let parsed = match datagram.is_cut {
            true => Err(DatagramError::TooLong),
            false => Notification::parse(pid, &buffer[..datagram.len]),
        };
        Ok(Some(parsed.map_or_else(|why| Received::Refused { pid, why }, Received::Notification)))
    }

    /// Takes one datagram, waiting for it until the deadline; `None` when it has passed.
    pub fn receive_until(&self, deadline: Instant) -> io::Result<Option<Received>> {
        loop {
            if let Some(received) = self.try_receive()? {
                return Ok(Some(received));
            }
            if wait_readable([self.as_fd()], Some(deadline))? == [false] {
                return Ok(None);
            }
        }
    }
}

impl fmt::Display for IntroduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |role: &Role| if *role == Role::Give { "the version that leaves" } else { "the version that stays" };
        match self {
            Self::Nobody(role) => write!(f, "{} takes part in no handing over of connections", who(role)),
            Self::Stranger { role, pid } => write!(f, "process {pid} listens in place of {}", who(role)),
            Self::System(role, _) => write!(f, "introduce {}", who(role)),
        }
    }
}

impl std::error::Error for IntroduceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, e) => Some(e),
            Self::Nobody(_) | Self::Stranger { .. } => None,
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if let NotifyAddress::Path(path) = &self.address {
            // The directory may be gone already; there is nobody to tell, and the next bind says what is wrong.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for NotifySocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
#[path = "parent_tests.rs"]
mod tests;
