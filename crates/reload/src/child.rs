//! The service's end: what it was given, and what it says.

use crate::connection::{self, Choice, Handoff};
use crate::descriptor::{self, Kind};
use crate::draining::Draining;
use crate::protocol::{self, AddressError, ListenError, ListenVariables, Message, NotifyAddress};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a datagram may wait for room in the queue of a supervisor that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A process as its supervisor sees it, or one that was started by hand and has no supervisor.
#[derive(Debug)]
pub struct Service {
    passed: Mutex<Vec<Passed>>,
    /// Whether descriptors were passed at all; the list above only shrinks.
    is_passed: bool,
    notify: Option<NotifyAddress>,
    handoff: Option<NotifyAddress>,
    connections: BTreeMap<String, Choice>,
    app: Option<String>,
    commit: Option<String>,
    generation: Option<u64>,
    image_dir: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    tmp_dir: Option<PathBuf>,
}

/// Why [`Service::from_env`] refused to start.
#[derive(Debug)]
pub enum StartError {
    /// It was called before in this process; the descriptors have an owner.
    Again,
    /// The `LISTEN_` variables make no sense.
    Listen(ListenError),
    /// A descriptor that the variables speak of is not open.
    Closed(io::Error),
    /// `NOTIFY_SOCKET` or `DF_HANDOFF` makes no sense.
    Address {
        /// The variable.
        name: &'static str,
        /// Why.
        source: AddressError,
    },
    /// A `DF_` variable makes no sense.
    Variable {
        /// The variable.
        name: &'static str,
        /// The beginning of what it holds, escaped.
        found: String,
    },
}

impl Service {
    /// Reads the environment and takes ownership of the descriptors that were passed to this process.
    ///
    /// Call it first in `main`: later, other code may have changed the environment or started programs that inherited
    /// the descriptors. The second call in a process is refused. Without a supervisor everything is absent, and that is
    /// no error. The variables stay set; programs started from here see that `LISTEN_PID` is not theirs.
    pub fn from_env() -> Result<Self, StartError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(StartError::Again);
        }
        // SAFETY: the flag above lets one call through, and the number comes from variables meant for this process.
        let take = |n| unsafe { descriptor::take_passed(n) };
        Self::from_variables(&|name| std::env::var_os(name), std::process::id(), take)
    }

    /// Returns the listener passed under this name, or binds `fallback` when the process was started by hand.
    ///
    /// When descriptors were passed but none (left) under this name, the error is `NotFound`: binding by itself beside
    /// its supervisor would lose clients. Called again, it returns the next listener of the same name.
    pub fn listener(&self, name: &str, fallback: impl ToSocketAddrs) -> io::Result<TcpListener> {
        match self.take(name, Kind::TcpListener)? {
            Some(fd) => Ok(TcpListener::from(fd)),
            None => TcpListener::bind(fallback),
        }
    }

    /// Returns the unix listener passed under this name, or binds `fallback`; as [`Service::listener`].
    ///
    /// Between versions the socket is shared: only draining decides who accepts, so keep it blocking or expect
    /// `WouldBlock` when the other version was quicker.
    pub fn unix_listener(&self, name: &str, fallback: impl AsRef<Path>) -> io::Result<UnixListener> {
        match self.take(name, Kind::UnixListener)? {
            Some(fd) => Ok(UnixListener::from(fd)),
            None => UnixListener::bind(fallback),
        }
    }

    /// Returns the UDP socket passed under this name, or binds `fallback`; as [`Service::listener`].
    pub fn udp_socket(&self, name: &str, fallback: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        match self.take(name, Kind::Udp)? {
            Some(fd) => Ok(UdpSocket::from(fd)),
            None => UdpSocket::bind(fallback),
        }
    }

    /// Says that clients may be sent here: every listener is taken, and the next thing is to accept.
    ///
    /// Without a supervisor this and the other sentences succeed and do nothing. An error means that the supervisor did
    /// not hear it.
    pub fn ready(&self) -> io::Result<()> {
        self.say(Message::Ready)
    }

    /// Says that no new connection is taken.
    pub fn stopping(&self) -> io::Result<()> {
        self.say(Message::Stopping)
    }

    /// Says one line for people; control characters become spaces, and what is too long is cut.
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.say(Message::Status(text))
    }

    /// Asks for more time for the step under way (starting, or draining), from now on, at most [`protocol::MAX_EXTEND`] at once.
    ///
    /// In draining it counts when it is said after SIGTERM. df gives a step [`protocol::MAX_EXTEND`] altogether, or its own time where that is longer. Who asks for more time while
    /// it starts is expected to say when it is [ready](Service::ready).
    pub fn extend(&self, more: Duration) -> io::Result<()> {
        self.say(Message::Extend(more))
    }

    /// Returns what SIGTERM sets; from the first call on the signal no longer ends the process.
    ///
    /// Every call returns the same. Refused (`AlreadyExists`) when the program has a SIGTERM handler of its own.
    pub fn draining(&self) -> io::Result<Draining> {
        Draining::on_term()
    }

    /// Returns the way of live connections from the version before, and to the next one.
    ///
    /// Call it once, before [`Service::ready`]: the second call finds its address in use. Without a supervisor nobody is ever introduced,
    /// so every connection is kept.
    pub fn handoff(&self) -> io::Result<Handoff> {
        let handoff = Handoff::new(self.handoff.as_ref(), self.connections.clone())?;
        Ok(handoff.telling(self.notify.clone()))
    }

    /// Whether a supervisor started this process: it passed descriptors, or wants to be told.
    pub fn is_supervised(&self) -> bool {
        self.is_passed || self.notify.is_some()
    }

    /// Returns the application's name.
    pub fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// Returns the commit that the program was built from.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// Returns the number of the generation that the program runs as.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Returns the directory of the program's image, read-only.
    pub fn image_dir(&self) -> Option<&Path> {
        self.image_dir.as_deref()
    }

    /// Returns the directory for state that outlives versions; two versions may be using it at the same time.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// Returns the directory for scratch files, emptied when the application starts.
    pub fn tmp_dir(&self) -> Option<&Path> {
        self.tmp_dir.as_deref()
    }

    fn from_variables(
        get: &dyn Fn(&str) -> Option<OsString>,
        own_pid: u32,
        take: impl FnOnce(usize) -> io::Result<Vec<OwnedFd>>,
    ) -> Result<Self, StartError> {
        let (pid, fds, names) = (get(protocol::LISTEN_PID), get(protocol::LISTEN_FDS), get(protocol::LISTEN_FDNAMES));
        let listen = ListenVariables { pid: pid.as_deref(), fds: fds.as_deref(), names: names.as_deref() };
        let names = protocol::parse_listen(own_pid, &listen).map_err(StartError::Listen)?;
        let (notify, handoff) = (address(get, protocol::NOTIFY_SOCKET)?, address(get, protocol::DF_HANDOFF)?);
        let connections = text(get, protocol::DF_CONNECTIONS)?.unwrap_or_default();
        let connections = connection::parse_choices(&connections)
            .map_err(|found| StartError::Variable { name: protocol::DF_CONNECTIONS, found })?;
        let generation = text(get, protocol::DF_GENERATION)?.map(parse_generation).transpose()?;
        // The descriptors last: nothing may fail after they are owned, or they would be closed.
        let (app, commit) = (text(get, protocol::DF_APP)?, text(get, protocol::DF_COMMIT)?);
        let fds = if names.is_empty() { Vec::new() } else { take(names.len()).map_err(StartError::Closed)? };
        let passed: Vec<Passed> = names.into_iter().zip(fds).map(|(name, fd)| Passed { name, fd: Some(fd) }).collect();
        Ok(Self {
            is_passed: !passed.is_empty(),
            passed: Mutex::new(passed),
            notify,
            handoff,
            connections,
            app,
            commit,
            generation,
            image_dir: get(protocol::DF_IMAGE).map(PathBuf::from),
            data_dir: get(protocol::DF_DATA).map(PathBuf::from),
            tmp_dir: get(protocol::DF_TMP).map(PathBuf::from),
        })
    }

    /// Takes the first descriptor under this name; `None` when none was passed to this process at all.
    fn take(&self, name: &str, kind: Kind) -> io::Result<Option<OwnedFd>> {
        if !self.is_passed {
            return Ok(None);
        }
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = passed.iter_mut().find(|p| p.name == name && p.fd.is_some()) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, missing(name, &passed)));
        };
        if !found.fd.as_ref().is_some_and(|fd| descriptor::is_kind(fd.as_fd(), kind)) {
            let words = format!("the descriptor passed as \"{name}\" is not {}", kind.in_words());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        Ok(found.fd.take())
    }

    fn say(&self, message: Message<'_>) -> io::Result<()> {
        self.notify.as_ref().map_or(Ok(()), |address| send(address, &message.encode(), SEND_TIMEOUT))
    }
}

/// Sends one datagram, which waits so long for room. A socket for each, so that a supervisor that was replaced meanwhile is heard again.
pub(crate) fn send(address: &NotifyAddress, words: &str, patience: Duration) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(patience))?;
    socket.send_to_addr(words.as_bytes(), &address.to_socket_addr()?)?;
    Ok(())
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => write!(f, "the descriptors of this process have been taken before"),
            Self::Listen(_) => write!(f, "read which descriptors were passed"),
            Self::Closed(_) => write!(f, "take the descriptors that {} speaks of", protocol::LISTEN_FDS),
            Self::Address { name, .. } => write!(f, "read {name}"),
            Self::Variable { name, found } => write!(f, "{name} makes no sense: \"{found}\""),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(e) => Some(e),
            Self::Closed(e) => Some(e),
            Self::Address { source, .. } => Some(source),
            Self::Again | Self::Variable { .. } => None,
        }
    }
}

/// Lets `main` of a service return `io::Result`; the cause is told, as such a `main` prints no chain.
impl From<StartError> for io::Error {
    fn from(e: StartError) -> Self {
        let kind = match &e {
            StartError::Again => io::ErrorKind::AlreadyExists,
            _ => io::ErrorKind::InvalidInput,
        };
        match std::error::Error::source(&e) {
            Some(cause) => Self::new(kind, format!("{e}: {cause}")),
            None => Self::new(kind, e),
        }
    }
}

/// One passed descriptor, until it is taken.
#[derive(Debug)]
struct Passed {
    name: String,
    fd: Option<OwnedFd>,
}

fn missing(name: &str, passed: &[Passed]) -> String {
    if passed.iter().any(|p| p.name == name) {
        return format!("the descriptor passed as \"{name}\" has been taken before");
    }
    let names: Vec<&str> = passed.iter().map(|p| p.name.as_str()).collect();
    format!("no descriptor was passed as \"{name}\", only as: {}", names.join(", "))
}

/// Reads an address of a socket; an empty variable says as little as none.
fn address(get: &dyn Fn(&str) -> Option<OsString>, name: &'static str) -> Result<Option<NotifyAddress>, StartError> {
    let value = get(name).filter(|v| !v.is_empty());
    value.map(|v| NotifyAddress::parse(&v)).transpose().map_err(|source| StartError::Address { name, source })
}

fn text(get: &dyn Fn(&str) -> Option<OsString>, name: &'static str) -> Result<Option<String>, StartError> {
    let refused = |v: OsString| StartError::Variable { name, found: protocol::excerpt(v.as_encoded_bytes()) };
    get(name).map(|v| v.into_string().map_err(refused)).transpose()
}

fn parse_generation(value: String) -> Result<u64, StartError> {
    let refused = || StartError::Variable { name: protocol::DF_GENERATION, found: protocol::excerpt(value.as_bytes()) };
    protocol::digits(&value).ok_or_else(refused)
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
