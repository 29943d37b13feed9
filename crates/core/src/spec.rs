//! The sections of df.yaml that belong to a commit: what is built, what is run, how it is verified.
//!
//! These are the checked values; the text of df.yaml is read by the command line. Their JSON (fields in the order below, maps sorted, no
//! spaces, absent options left out) is what recipes and releases are hashed from, so a change here is a change of those formats.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, SocketPath};
use crate::name::{Label, PathText};

/// How a commit becomes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSection {
    /// What runs.
    pub tool: BuildTool,
    /// Path in the commit to path in the image: files and directories taken as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub include: BTreeMap<PathText, PathText>,
    /// Link targets that may leave the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside_links: Vec<String>,
    /// Whether an image that holds its build path is refused.
    #[serde(default)]
    pub relocatable: Relocatable,
    /// How the build is shut in.
    pub sandbox: Sandbox,
    /// Files brought from elsewhere before a command runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch: Vec<FetchedFile>,
    /// Whether programs hold their C library themselves.
    #[serde(default, rename = "static", skip_serializing_if = "is_false")]
    pub is_static: bool,
}

/// A file that a command needs and the commit does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedFile {
    /// Where it is: `https`, or `http` of a loopback address.
    pub url: String,
    /// What it must be.
    #[serde(flatten)]
    pub digest: FetchedDigest,
    /// Where it is put, a path in the source.
    pub to: PathText,
}

/// The digest of a fetched file, 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FetchedDigest {
    /// As df itself names bytes.
    Blake3(String),
    /// As most publishers do.
    Sha256(String),
}

impl FetchedFile {
    /// Returns what is wrong with the address or the digest, as the end of a sentence; `None` when the file may be fetched.
    pub fn wrong(&self) -> Option<&'static str> {
        let (FetchedDigest::Blake3(hex) | FetchedDigest::Sha256(hex)) = &self.digest;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Some("needs a digest of 64 lower-case hexadecimal digits");
        }
        if self.url.len() > crate::limits::TEXT_LEN || !self.url.bytes().all(|b| b.is_ascii_graphic()) {
            return Some("is no address: it is too long, or holds blanks or letters that an address has escaped");
        }
        let (is_https, rest) = match (self.url.strip_prefix("https://"), self.url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Some("does not begin with https://"),
        };
        let host = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        match host {
            "" => Some("names no host"),
            _ if host.contains('@') => Some("holds a name or a password, which would be in every release"),
            _ if is_https || is_loopback(host) => None,
            _ => Some("is not encrypted; http is for loopback addresses only"),
        }
    }
}

/// Returns whether a host, with or without a port, is a loopback address; a name is not, whoever answers to it.
fn is_loopback(host: &str) -> bool {
    let address = host.parse::<SocketAddr>().map(|address| address.ip());
    let bare = || host.trim_start_matches('[').trim_end_matches(']').parse();
    address.or_else(|_| bare()).is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The program that makes the output directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BuildTool {
    /// A cargo project; its programs land in `bin/`.
    Cargo(CargoBuild),
    /// A shell command (`sh -c`) at the top of the source, and the directory that it leaves.
    Command {
        /// The line.
        command: String,
        /// The directory below the source that becomes the image.
        output: PathText,
    },
    /// Nothing runs: the image is what `include` takes from the commit.
    Files,
}

/// What cargo builds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CargoBuild {
    /// The package; needed when the workspace has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Programs; all of the package when both this and `examples` are empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<String>,
    /// Examples, put into `bin/` too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// The profile, `release` unless told.
    pub profile: String,
    /// Features of the package.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Whether the package's default features are on.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub default_features: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

/// What happens to an image that holds the path it was built at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relocatable {
    /// It is said.
    #[default]
    Warn,
    /// It is refused.
    Required,
}

/// How a build is shut in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// In namespaces of its own, without network.
    Strict,
    /// Not at all: with the rights of who runs df. A spoken choice, recorded in the release.
    Off,
}

/// What runs on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// The program, a path in the image.
    pub exec: PathText,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment, besides the little that df-node gives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// A file of `NAME=value` lines on the node: absolute, or relative to the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_file: Option<String>,
    /// Whom it runs as; unless told, the node decides: a user of the application's own, or that of df-node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: RunLimits,
    /// Where it listens, by name; the first in order of names is descriptor 3.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Label, Port>,
    /// Never two versions at once: stop, then start.
    #[serde(default)]
    pub exclusive: bool,
    /// READY=1 or the first passing probe has to come within this time.
    #[serde(with = "milliseconds")]
    pub ready: Duration,
    /// After SIGTERM the program has this time before SIGKILL.
    #[serde(with = "milliseconds")]
    pub drain: Duration,
    /// Which form the program's own data has while this version serves: a version of another number may not understand it.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub data_epoch: u32,
    /// Whether the node itself is a client of its ports while they go from one version to the next, and counts what is lost.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub prove: bool,
    /// Whether a lost request takes an activation back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_zero_loss: bool,
}

/// The form that data has where df.yaml says nothing of it.
pub const FIRST_EPOCH: u32 = 1;

fn first_epoch() -> u32 {
    FIRST_EPOCH
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_first_epoch(epoch: &u32) -> bool {
    *epoch == FIRST_EPOCH
}

/// What a version may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunLimits {
    /// Bytes of memory of all its processes together, where the node's kernel counts them; else of address space of each (RLIMIT_AS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Open descriptors of each of its processes (RLIMIT_NOFILE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// Processes and threads at once; older nodes refuse a release that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

/// One port of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The address; the node's own (`add --listen`) unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The port, 1..=65535; 0 where there is none.
    pub port: u16,
    /// What is spoken there.
    #[serde(default, skip_serializing_if = "Transport::is_default")]
    pub transport: Transport,
    /// How the port goes from one version to the next.
    pub handoff: Handoff,
    /// What becomes of connections that are open then.
    #[serde(default, skip_serializing_if = "Connections::is_default")]
    pub connections: Connections,
}

impl Port {
    /// Returns where clients reach it on a node whose own address is `listen`.
    pub fn endpoint(&self, listen: IpAddr) -> Endpoint {
        let address = SocketAddr::new(self.host.unwrap_or(listen), self.port);
        match &self.transport {
            Transport::Tcp => Endpoint::Tcp(address),
            Transport::Udp => Endpoint::Udp(address),
            Transport::Unix(socket) => Endpoint::Unix(socket.path.clone()),
        }
    }
}

/// What is spoken at a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections of TCP.
    #[default]
    Tcp,
    /// Datagrams of UDP.
    Udp,
    /// Connections of a socket in the file system.
    Unix(UnixSocket),
}

/// A socket in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixSocket {
    /// Where it is.
    pub path: SocketPath,
    /// Who may connect: the permissions of the file, which belongs to the program's user.
    pub mode: u16,
}

impl Transport {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a port goes from one version to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handoff {
    /// The program gets a listening descriptor (LISTEN_FDS); no client notices an upgrade.
    Listener,
    /// The program binds by itself with SO_REUSEPORT; clients waiting in the old version's queue are lost.
    Reuseport,
    /// A proxy of the version's own takes the listening descriptor, for a program that only knows a port; no client notices an upgrade.
    Proxy,
    /// The program binds by itself: the old is stopped, then the new started.
    Restart,
}

/// What becomes of the open connections of a port when its version leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// They are served to their end, or to the end of the time for that.
    #[default]
    Drain,
    /// They go to the next version: for programs that use the library.
    HandOver,
    /// They are closed.
    Drop,
}

impl Handoff {
    /// Returns whether the node makes the socket that clients reach, one for each version.
    pub fn has_listener(self) -> bool {
        matches!(self, Self::Listener | Self::Proxy)
    }
}

impl Connections {
    /// Returns the word for it in DF_CONNECTIONS.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::HandOver => "hand-over",
            Self::Drop => "drop",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One question to a running version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// A GET over HTTP/1.1 must answer with the status.
    Http {
        /// Which port.
        port: Label,
        /// The path, beginning with `/`.
        path: String,
        /// The status.
        status: u16,
    },
    /// A connection must be accepted.
    Tcp {
        /// Which port.
        port: Label,
    },
    /// A program of the image must end with status 0.
    Command {
        /// Its path in the image, then its arguments.
        argv: Vec<String>,
    },
}

impl Probe {
    /// Returns what a person calls the probe: `http /health`, `tcp http`, `command bin/x`.
    pub fn name(&self) -> String {
        match self {
            Self::Http { path, .. } => format!("http {path}"),
            Self::Tcp { port } => format!("tcp {port}"),
            Self::Command { argv } => format!("command {}", argv.join(" ")),
        }
    }
}

/// A duration as a whole number of milliseconds.
pub mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the number; more than 2^64 ms is written as 2^64 - 1.
    #[allow(clippy::missing_errors_doc, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads the number.
    #[allow(clippy::missing_errors_doc, reason = "serde's signature")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(url: &str, hex: &str) -> Option<&'static str> {
        let to = PathText::new("a").expect("a path");
        FetchedFile { url: url.into(), digest: FetchedDigest::Sha256(hex.into()), to }.wrong()
    }

    #[test]
    fn files_are_fetched_from_where_nobody_listens_in() {
        let hex = "0".repeat(64);
        for url in [
            "https://example.org/a?b=c",
            "https://example.org:8443/",
            "http://127.0.0.1/a",
            "http://127.7.0.1:80/",
            "http://[::1]:1/",
        ] {
            assert_eq!(wrong(url, &hex), None, "{url}");
        }
        let table = [
            ("http://example.org/a", "not encrypted"),
            ("http://localhost/a", "not encrypted"),
            ("http://127.0.0.1.example.org/", "not encrypted"),
            ("http://127.0.0.1@example.org/", "a password"),
            ("https://me:secret@example.org/", "a password"),
            ("https:///a", "no host"),
            ("file:///etc/passwd", "https://"),
            ("-K/etc/passwd", "https://"),
            ("https://example.org/a b", "no address"),
            ("https://example.org/\u{e9}", "no address"),
        ];
        for (url, expected) in table {
            assert!(wrong(url, &hex).is_some_and(|why| why.contains(expected)), "{url}");
        }
        for hex in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
            assert!(wrong("https://example.org/", hex).is_some_and(|why| why.contains("hexadecimal")), "{hex}");
        }
    }
}
