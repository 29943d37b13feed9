//! Where clients reach a port of an application on a node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::PathText;

/// Bytes of the path of a unix socket. The kernel takes 107, and df needs some for names of its own beside it.
pub const SOCKET_PATH_LEN: usize = 80;

/// Where clients reach a port. As text: `127.0.0.1:80`, `udp:127.0.0.1:53`, `unix:/run/a.sock`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A port of TCP.
    Tcp(SocketAddr),
    /// A port of UDP.
    Udp(SocketAddr),
    /// A socket in the file system.
    Unix(SocketPath),
}

/// The absolute path of a unix socket: printable, without blanks and detours, short enough for the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketPath(String);

/// A text names no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Neither an address with a port nor one of the other forms.
    #[error("an endpoint is ADDRESS:PORT, udp:ADDRESS:PORT or unix:/PATH")]
    Form,
    /// The path of a socket is not one that may be used.
    #[error(
        "the path of a socket is absolute, at most {SOCKET_PATH_LEN} bytes of printable ASCII without blanks, and has no . or .. in it"
    )]
    Path,
}

impl Endpoint {
    /// Returns the network address; none for a socket in the file system.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Returns the IP address; none for a socket in the file system.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// Returns what a program that binds there by itself has to be told: the address with its port, or the path.
    pub fn bare(&self) -> String {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.to_string(),
            Self::Unix(path) => path.to_string(),
        }
    }
}

impl SocketPath {
    /// Takes a path.
    ///
    /// # Errors
    /// Refuses what is no absolute path, has detours, or is too long.
    pub fn new(text: &str) -> Result<Self, BadEndpoint> {
        let inner = text.strip_prefix('/').ok_or(BadEndpoint::Path)?;
        let is_plain = text.len() <= SOCKET_PATH_LEN && text.bytes().all(|b| b.is_ascii_graphic());
        if is_plain && PathText::new(inner).is_ok() { Ok(Self(text.to_owned())) } else { Err(BadEndpoint::Path) }
    }

    /// Returns the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| BadEndpoint::Form);
        match (text.strip_prefix("udp:"), text.strip_prefix("unix:")) {
            (Some(rest), _) => address(rest).map(Self::Udp),
            (_, Some(path)) => SocketPath::new(path).map(Self::Unix),
            (None, None) => address(text).map(Self::Tcp),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;

    fn try_from(text: String) -> Result<Self, BadEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SocketPath {
    type Error = BadEndpoint;

    fn try_from(text: String) -> Result<Self, BadEndpoint> {
        Self::new(&text)
    }
}

impl From<SocketPath> for String {
    fn from(path: SocketPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_text_and_one_of_tcp_is_the_address_alone() {
        for text in ["127.0.0.1:80", "[::1]:80", "udp:0.0.0.0:53", "udp:[::]:53", "unix:/run/greeter/http.sock"] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
            let json = serde_json::to_string(&endpoint).expect("JSON");
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Endpoint>(&json).expect(text), endpoint);
        }
        let address: SocketAddr = "[::1]:80".parse().expect("an address");
        let same = serde_json::to_string(&address).expect("JSON");
        assert_eq!(serde_json::to_string(&Endpoint::from(address)).expect("JSON"), same);
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let long = format!("unix:/{}", "a".repeat(SOCKET_PATH_LEN));
        for text in
            ["", "80", "udp:53", "unix:", "unix:run/a", "unix:/", "unix:/a/../b", "unix:/a//b", "unix:/a b", "unix:/a\n", &long]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
