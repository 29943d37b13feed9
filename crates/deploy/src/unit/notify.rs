//! What the supervisor says to systemd: sd_notify(3), and descriptors to keep.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use distributive_flow::protocol::{NOTIFY_SOCKET, NotifyAddress};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendmsg_addr,
    socket_with, sockopt,
};

/// How long systemd may not listen: it reads its units again, say.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a sign of life is given: six times as often as the unit wants it.
const OFTEN: Duration = Duration::from_secs(10);

/// The way to systemd.
#[derive(Debug)]
pub struct Notify {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// When the last sign of life was given.
    alive: Mutex<Option<Instant>>,
}

impl Notify {
    /// Returns the way to the systemd that started this process; `None` when nobody there wants to hear.
    pub fn of_this_process() -> Option<Self> {
        let address = NotifyAddress::parse(&std::env::var_os(NOTIFY_SOCKET)?).ok()?;
        Self::to(&address).inspect_err(|error| eprintln!("systemd cannot be spoken to: {error}")).ok()
    }

    /// Returns the way to an address.
    ///
    /// # Errors
    /// Those of making a socket.
    pub fn to(address: &NotifyAddress) -> io::Result<Self> {
        let address = match address {
            NotifyAddress::Path(path) => SocketAddrUnix::new(path)?,
            NotifyAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, address, alive: Mutex::default() })
    }

    /// Says that requests are taken, and how many applications are supervised. What cannot be said is not missed by anybody but systemd.
    pub fn ready(&self, n_apps: usize) {
        let applications = if n_apps == 1 { "application" } else { "applications" };
        self.tell(&format!("READY=1\nSTATUS=supervises {n_apps} {applications}"));
    }

    /// Gives the sign of life that systemd waits for, when it is time again.
    pub fn alive(&self) {
        let mut last = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= OFTEN) {
            *last = Some(Instant::now());
            self.tell("WATCHDOG=1");
        }
    }

    /// Sends one datagram, with a descriptor if there is one.
    ///
    /// # Errors
    /// Nobody took it in time.
    pub fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "there is room for one");
        }
        sendmsg_addr(&self.socket, &self.address, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn tell(&self, text: &str) {
        if let Err(error) = self.send(text, None) {
            eprintln!("systemd does not hear {}: {error}", text.lines().next().unwrap_or_default());
        }
    }
}
