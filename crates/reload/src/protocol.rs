//! What a supervisor and its service say to each other: the one home of the format.
//!
//! # Down: environment variables and descriptors
//! | variable | meaning |
//! |---|---|
//! | `LISTEN_FDS` | how many descriptors were passed, decimal, at most [`MAX_DESCRIPTORS`]; they are 3, 4, 5, ... |
//! | `LISTEN_FDNAMES` | their names in the same order, separated by `:`. Missing: each is called `unknown` |
//! | `LISTEN_PID` | whom they are for, decimal. Set by the process that execs; another's pid means: not for us |
//! | `NOTIFY_SOCKET` | a datagram socket: `/path`, or `@name` for an abstract one |
//! | `DF_APP`, `DF_COMMIT`, `DF_GENERATION` | the application's name, the commit, the number of the generation |
//! | `DF_HANDOFF` | where to listen for whom to give live connections to, and take them from (see `connection::message`): as `NOTIFY_SOCKET` |
//! | `DF_CONNECTIONS` | what becomes of open connections, for each port: `name=drain`, `name=hand-over` or `name=drop`, separated by `:` |
//! | `DF_IMAGE`, `DF_DATA`, `DF_TMP` | directories: the program's own image (read-only), its lasting state, its scratch space |
//!
//! A name is 1 to [`MAX_NAME`] bytes of printable ASCII without `:`. Several descriptors may share a name (the same port
//! on IPv4 and IPv6); they are told apart by order.
//!
//! # Up: datagrams to `NOTIFY_SOCKET`
//! Lines `KEY=VALUE` separated by `\n`, UTF-8, at most [`MAX_DATAGRAM`] bytes. A receiver ignores keys it does not know
//! and values that make no sense, and refuses a datagram that is too long or not UTF-8.
//!
//! | line | meaning |
//! |---|---|
//! | `READY=1` | clients may be sent here |
//! | `STOPPING=1` | no new connection is taken; those under way are being finished |
//! | `STATUS=text` | one line for people |
//! | `EXTEND_TIMEOUT_USEC=n` | allow n microseconds more for the step under way, at most [`MAX_EXTEND`] |
//! | `X_DF_CONNECTIONS=name=g,k` | of this port's open connections g were given to the next version and k were not taken or not offered, since the process began; ports are separated by `:` |
//!
//! Worked example, the datagram `READY=1\nSTATUS=up`:
//!
//! ```text
//! 52 45 41 44 59 3d 31 0a 53 54 41 54 55 53 3d 75 70
//! ```
//!
//! The source is systemd's `sd_listen_fds(3)` and `sd_notify(3)`; the `DF_` variables are ours. There is no version:
//! both sides ignore what they do not know, and no key ever changes its meaning.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How many descriptors were passed.
pub const LISTEN_FDS: &str = "LISTEN_FDS";
/// The names of the descriptors, separated by `:`.
pub const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
/// The process that the descriptors are meant for.
pub const LISTEN_PID: &str = "LISTEN_PID";
/// Where the supervisor listens for datagrams.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The application's name.
pub const DF_APP: &str = "DF_APP";
/// The commit that the program was built from.
pub const DF_COMMIT: &str = "DF_COMMIT";
/// The number of the generation that the program runs as.
pub const DF_GENERATION: &str = "DF_GENERATION";
/// Where the program listens for whom to give live connections to, and take them from.
pub const DF_HANDOFF: &str = "DF_HANDOFF";
/// What becomes of open connections, for each port.
pub const DF_CONNECTIONS: &str = "DF_CONNECTIONS";
/// The directory of the program's image, read-only.
pub const DF_IMAGE: &str = "DF_IMAGE";
/// The directory of the application's own state, kept across versions.
pub const DF_DATA: &str = "DF_DATA";
/// The directory for scratch files, emptied when the application starts.
pub const DF_TMP: &str = "DF_TMP";

/// The number of the first passed descriptor; 0, 1 and 2 are the standard streams.
pub const FIRST_DESCRIPTOR: i32 = 3;
/// How many descriptors may be passed.
pub const MAX_DESCRIPTORS: usize = 64;
/// The longest name of a descriptor, in bytes (systemd's `FDNAME_MAX`).
pub const MAX_NAME: usize = 255;
/// The longest datagram, in bytes.
pub const MAX_DATAGRAM: usize = 4096;
/// The most that one `EXTEND_TIMEOUT_USEC` may ask for; larger values count as this one.
pub const MAX_EXTEND: Duration = Duration::from_secs(3600);
/// The longest path or abstract name in `NOTIFY_SOCKET`, in bytes (`sun_path` less one).
pub const MAX_ADDRESS: usize = 107;

/// The name of a descriptor when `LISTEN_FDNAMES` is missing.
const UNNAMED: &str = "unknown";

/// The three `LISTEN_` variables as they were found; `None` is unset.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenVariables<'a> {
    /// The value of [`LISTEN_PID`].
    pub pid: Option<&'a OsStr>,
    /// The value of [`LISTEN_FDS`].
    pub fds: Option<&'a OsStr>,
    /// The value of [`LISTEN_FDNAMES`].
    pub names: Option<&'a OsStr>,
}

/// Why `LISTEN_` variables, or the names for them, were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenError {
    /// A variable that should hold a number holds something else.
    Number {
        /// The variable.
        variable: &'static str,
        /// The beginning of what it holds, escaped.
        found: String,
    },
    /// More descriptors than [`MAX_DESCRIPTORS`].
    TooMany {
        /// How many there are.
        n_descriptors: u64,
    },
    /// A name that is empty, too long, or holds a byte that names may not hold.
    Name {
        /// The beginning of the name, escaped.
        found: String,
    },
    /// As many names as descriptors is the rule.
    Count {
        /// How many descriptors there are.
        n_descriptors: usize,
        /// How many names there are.
        n_names: usize,
    },
}

/// Where datagrams go: the checked value of `NOTIFY_SOCKET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyAddress {
    /// A socket in the file system, by its absolute path.
    Path(PathBuf),
    /// A socket in the abstract name space of the network namespace; the name without the `@`.
    Abstract(Vec<u8>),
}

/// Why an address for datagrams was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// The beginning of the address, escaped.
    pub found: String,
}

/// One thing that a service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Clients may be sent here.
    Ready,
    /// No new connection is taken.
    Stopping,
    /// One line for people; control characters become spaces, and what is too long is cut.
    Status(&'a str),
    /// More time for the step under way, at most [`MAX_EXTEND`].
    Extend(Duration),
    /// What became of open connections, by the port's name; ports for which there is no room in a datagram are left out.
    Connections(&'a BTreeMap<String, Counted>),
}

/// What became of the open connections of a port since the process began: numbers that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// So many are the next version's.
    pub given: u32,
    /// So many stayed: nobody took them, or nobody was asked to.
    pub kept: u32,
}

/// One datagram as the supervisor understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notification {
    /// Who sent it, by the kernel's word; `None` when the sender is not visible from here (another pid namespace).
    pub pid: Option<i32>,
    /// `READY=1` was in it.
    pub ready: bool,
    /// `STOPPING=1` was in it.
    pub stopping: bool,
    /// The last `STATUS=`. Foreign text, free of newlines only: escape it before printing.
    pub status: Option<String>,
    /// The last sensible `EXTEND_TIMEOUT_USEC=`, at most [`MAX_EXTEND`].
    pub extend: Option<Duration>,
    /// What makes sense of `X_DF_CONNECTIONS=`, by the port's name; at most [`MAX_DESCRIPTORS`] of them. Foreign text.
    pub connections: BTreeMap<String, Counted>,
}

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramError {
    /// It is longer than [`MAX_DATAGRAM`].
    TooLong,
    /// It is not UTF-8.
    NotText,
}

/// Returns the names of the descriptors that were passed to process `own_pid`, in order.
///
/// Empty means that none were: the variables are unset, or meant for another process, as in a child that inherited the
/// environment of a service.
pub fn parse_listen(own_pid: u32, variables: &ListenVariables<'_>) -> Result<Vec<String>, ListenError> {
    let (Some(pid), Some(fds)) = (variables.pid, variables.fds) else { return Ok(Vec::new()) };
    if number(LISTEN_PID, pid)? != u64::from(own_pid) {
        return Ok(Vec::new());
    }
    let n_descriptors = bounded(number(LISTEN_FDS, fds)?)?;
    let Some(names) = variables.names else { return Ok(vec![UNNAMED.to_owned(); n_descriptors]) };
    if n_descriptors == 0 && names.is_empty() {
        return Ok(Vec::new());
    }
    let n_names = names.as_bytes().split(|b| *b == b':').count();
    if n_names != n_descriptors {
        return Err(ListenError::Count { n_descriptors, n_names });
    }
    names.as_bytes().split(|b| *b == b':').map(checked_name).collect()
}

/// Returns `LISTEN_FDS` and `LISTEN_FDNAMES` for descriptors of these names, or nothing at all for no names.
pub fn encode_listen<N: AsRef<str>>(names: &[N]) -> Result<Vec<(&'static str, String)>, ListenError> {
    bounded(names.len() as u64)?;
    let names: Vec<String> = names.iter().map(|n| checked_name(n.as_ref().as_bytes())).collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![(LISTEN_FDS, names.len().to_string()), (LISTEN_FDNAMES, names.join(":"))])
}

impl NotifyAddress {
    /// Parses the value of `NOTIFY_SOCKET`: an absolute path, or `@` and an abstract name.
    pub fn parse(value: &OsStr) -> Result<Self, AddressError> {
        let bytes = value.as_bytes();
        let refused = || AddressError { found: excerpt(bytes) };
        match bytes {
            _ if bytes.contains(&0) => Err(refused()),
            [b'/', ..] if bytes.len() <= MAX_ADDRESS => Ok(Self::Path(PathBuf::from(value))),
            [b'@', name @ ..] if (1..=MAX_ADDRESS).contains(&name.len()) => Ok(Self::Abstract(name.to_vec())),
            _ => Err(refused()),
        }
    }

    /// Returns the value for `NOTIFY_SOCKET`.
    pub fn to_variable(&self) -> OsString {
        match self {
            Self::Path(path) => path.clone().into_os_string(),
            Self::Abstract(name) => OsString::from_vec([b"@", name.as_slice()].concat()),
        }
    }

    /// Returns the address in the form that sockets take; fails when it was not made by [`NotifyAddress::parse`] and is
    /// too long.
    pub(crate) fn to_socket_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        }
    }
}

impl Message<'_> {
    /// Returns the datagram, at most [`MAX_DATAGRAM`] bytes.
    pub fn encode(&self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::Status(text) => encode_status(text),
            Self::Extend(more) => format!("EXTEND_TIMEOUT_USEC={}", (*more).min(MAX_EXTEND).as_micros()),
            Self::Connections(ports) => encode_connections(ports),
        }
    }
}

impl Notification {
    /// Parses one datagram sent by `pid`.
    pub fn parse(pid: Option<i32>, datagram: &[u8]) -> Result<Self, DatagramError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(DatagramError::TooLong);
        }
        let text = std::str::from_utf8(datagram).map_err(|_| DatagramError::NotText)?;
        let mut notification = Self { pid, ..Self::default() };
        for (key, value) in text.split('\n').filter_map(|line| line.split_once('=')) {
            match key {
                "READY" => notification.ready |= value == "1",
                "STOPPING" => notification.stopping |= value == "1",
                "STATUS" => notification.status = Some(value.to_owned()),
                "EXTEND_TIMEOUT_USEC" => notification.extend = microseconds(value).or(notification.extend),
                "X_DF_CONNECTIONS" => notification.connections.extend(counted(value)),
                _ => {}
            }
        }
        Ok(notification)
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { variable, found } => write!(f, "{variable} is no number: \"{found}\""),
            Self::TooMany { n_descriptors } => {
                write!(f, "{n_descriptors} descriptors are passed, the limit is {MAX_DESCRIPTORS}")
            }
            Self::Name { found } => {
                write!(f, "\"{found}\" is no name for a descriptor: 1 to {MAX_NAME} bytes of printable ASCII without ':'")
            }
            Self::Count { n_descriptors, n_names } => {
                write!(f, "{LISTEN_FDNAMES} has {n_names} names for {n_descriptors} descriptors")
            }
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.found;
        write!(f, "the address is neither an absolute path nor @name of at most {MAX_ADDRESS} bytes: \"{found}\"")
    }
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "datagram is longer than {MAX_DATAGRAM} bytes"),
            Self::NotText => write!(f, "datagram is not UTF-8"),
        }
    }
}

impl std::error::Error for ListenError {}
impl std::error::Error for AddressError {}
impl std::error::Error for DatagramError {}

fn number(variable: &'static str, value: &OsStr) -> Result<u64, ListenError> {
    let refused = || ListenError::Number { variable, found: excerpt(value.as_bytes()) };
    value.to_str().and_then(digits).ok_or_else(refused)
}

/// Returns a decimal number; unlike `str::parse`, refuses a leading `+`.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn bounded(n_descriptors: u64) -> Result<usize, ListenError> {
    match usize::try_from(n_descriptors) {
        Ok(n) if n <= MAX_DESCRIPTORS => Ok(n),
        _ => Err(ListenError::TooMany { n_descriptors }),
    }
}

fn checked_name(name: &[u8]) -> Result<String, ListenError> {
    let allowed = |b: &u8| matches!(b, b' '..=b'~') && *b != b':';
    match std::str::from_utf8(name) {
        Ok(text) if (1..=MAX_NAME).contains(&name.len()) && name.iter().all(allowed) => Ok(text.to_owned()),
        _ => Err(ListenError::Name { found: excerpt(name) }),
    }
}

fn encode_status(text: &str) -> String {
    const KEY: &str = "STATUS=";
    let mut line = String::from(KEY);
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_DATAGRAM {
            break;
        }
        line.push(c);
    }
    line
}

fn encode_connections(ports: &BTreeMap<String, Counted>) -> String {
    let mut line = String::from("X_DF_CONNECTIONS=");
    let mut between = "";
    for (name, Counted { given, kept }) in ports {
        let part = format!("{between}{name}={given},{kept}");
        if line.len() + part.len() <= MAX_DATAGRAM {
            line.push_str(&part);
            between = ":";
        }
    }
    line
}

/// Returns the ports of which a line tells sensibly. A name may hold `=`, so the last one counts.
fn counted(value: &str) -> impl Iterator<Item = (String, Counted)> {
    let number = |text: &str| digits(text).and_then(|n| u32::try_from(n).ok());
    let part = move |part: &str| {
        let (name, numbers) = part.rsplit_once('=')?;
        let (given, kept) = numbers.split_once(',')?;
        let name = checked_name(name.as_bytes()).ok()?;
        Some((name, Counted { given: number(given)?, kept: number(kept)? }))
    };
    value.split(':').filter_map(part).take(MAX_DESCRIPTORS)
}

fn microseconds(value: &str) -> Option<Duration> {
    digits(value).map(|n| Duration::from_micros(n).min(MAX_EXTEND))
}

/// Returns the beginning of foreign bytes, fit for a message of one line.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN { shown + "..." } else { shown }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
