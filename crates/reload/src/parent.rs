//! The supervisor's end: what to tell a service, and hearing what it says.

use crate::credentials;
use crate::descriptor::wait_readable;
use crate::protocol::{self, DatagramError, ListenError, MAX_DATAGRAM, NotifyAddress};
use std::ffi::OsString;
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
