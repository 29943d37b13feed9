//! What the program behind a proxy says, and what the supervisor hears of it.
//!
//! The program gets a notify socket of the front's, because it may say that it is ready before the proxy is. The supervisor believes the front, whose process group it
//! knows; the front believes the program's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use distributive_flow::parent::{Notification, NotifySocket, Received};
use distributive_flow::protocol::{Message, NotifyAddress};
use rustix::process::{Pid, getpgid};

/// Both ends.
pub struct Said {
    program: NotifySocket,
    supervisor: SocketAddr,
    voice: UnixDatagram,
}

impl Said {
    /// Opens a socket for the program, at a name that nobody guesses; what is said there goes on to this address.
    pub fn open(supervisor: &OsStr) -> io::Result<Self> {
        let parsed = NotifyAddress::parse(supervisor).map_err(io::Error::other)?;
        let supervisor_at = match &parsed {
            NotifyAddress::Path(path) => SocketAddr::from_pathname(path)?,
            NotifyAddress::Abstract(name) => SocketAddr::from_abstract_name(name)?,
        };
        let program = NotifySocket::bind(NotifyAddress::Abstract(name()?))?;
        Ok(Self { program, supervisor: supervisor_at, voice: UnixDatagram::unbound()? })
    }

    /// Returns the program's `NOTIFY_SOCKET`.
    pub fn variable(&self) -> OsString {
        self.program.variable()
    }

    /// Passes on what the program has said since the last call, but that it is ready, which is returned. `group` is its process group.
    pub fn hear(&self, group: Pid) -> bool {
        let mut is_ready = false;
        while let Ok(Some(received)) = self.program.try_receive() {
            let Received::Notification(said) = received else { continue };
            // Anybody can send to the address; only the program and what it started are heard.
            let sender = said.pid.and_then(Pid::from_raw);
            if sender.and_then(|pid| getpgid(Some(pid)).ok()) == Some(group) {
                is_ready |= said.ready;
                self.pass_on(&said);
            }
        }
        is_ready
    }

    /// Says that the version is ready.
    pub fn tell_ready(&self) {
        self.tell(Message::Ready);
    }

    fn pass_on(&self, said: &Notification) {
        if said.stopping {
            self.tell(Message::Stopping);
        }
        if let Some(status) = &said.status {
            self.tell(Message::Status(status));
        }
        if let Some(more) = said.extend {
            self.tell(Message::Extend(more));
        }
    }

    /// Between two supervisors nobody listens, and what is said then is heard by nobody.
    fn tell(&self, message: Message<'_>) {
        let _ = self.voice.send_to_addr(message.encode().as_bytes(), &self.supervisor);
    }
}

/// Draws a name. What the supervisor's own is made of does not matter: anybody can read it in the kernel's table, and whoever could derive this one could be there first.
fn name() -> io::Result<Vec<u8>> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("df-front-{:032x}", u128::from_ne_bytes(bytes)).into_bytes())
}

impl AsFd for Said {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_another_each_time() {
        let open = || Said::open(OsStr::new("@supervisor")).expect("open");
        let (one, other) = (open(), open());
        assert_ne!(one.variable(), other.variable(), "the same process and supervisor must not give the same name");
        assert_eq!(name().expect("drawn").len(), "df-front-".len() + 32);
    }
}
