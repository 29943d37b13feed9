//! What a port of `run.ports` asks to listen on.

use std::net::{IpAddr, SocketAddr};

/// Why a port's `listen` can't be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenRefused {
    /// A kind of socket that this version does not steer.
    #[error("{kind} sockets are not supported yet, only TCP over IPv4 and IPv6")]
    Kind {
        /// `udp` or `unix`.
        kind: &'static str,
    },
    /// Neither a port nor an address with a port.
    #[error("not a port or an address with a port: {}", df_core::text::escape(text.as_bytes()))]
    Malformed {
        /// What was there, shortened.
        text: String,
    },
    /// An IPv4 address written as IPv6.
    #[error("{address} is an IPv4 address written as IPv6, write {plain}")]
    Mapped {
        /// As it was written.
        address: IpAddr,
        /// As it should be.
        plain: IpAddr,
    },
}

/// Returns the address for a port's `listen`: `8080` (on the node's own address), `0.0.0.0:8080` or `[::1]:8080`.
///
/// Port 0 is kept: the kernel chooses, and [`Group::address`](super::Group::address) tells which.
pub fn listen_address(text: &str, own: IpAddr) -> Result<SocketAddr, ListenRefused> {
    for (prefix, kind) in [("udp:", "udp"), ("unix:", "unix")] {
        if text.starts_with(prefix) {
            return Err(ListenRefused::Kind { kind });
        }
    }
    let text = text.strip_prefix("tcp:").unwrap_or(text);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = if digits { text.parse().ok().map(|port: u16| SocketAddr::new(own, port)) } else { text.parse().ok() };
    let address: SocketAddr = parsed.ok_or_else(|| ListenRefused::Malformed { text: text.chars().take(100).collect() })?;
    match address.ip().to_canonical() {
        plain if plain != address.ip() => Err(ListenRefused::Mapped { address: address.ip(), plain }),
        _ => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let got = match listen_address(text, "127.77.0.1".parse().unwrap()) {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn ports_and_addresses_are_understood() {
        check("8080", "127.77.0.1:8080");
        check("0.0.0.0:80", "0.0.0.0:80");
        check("tcp:[::1]:80", "[::1]:80");
    }

    #[test]
    fn the_rest_is_refused_in_words() {
        check("udp:53", "udp sockets are not supported yet, only TCP over IPv4 and IPv6");
        check("unix:/run/x", "unix sockets are not supported yet, only TCP over IPv4 and IPv6");
        check("65536", "not a port or an address with a port: 65536");
        check("", "not a port or an address with a port: ");
        check("+80", "not a port or an address with a port: +80");
        check("host:80", "not a port or an address with a port: host:80");
        check("\u{1b}[2J", "not a port or an address with a port: \\u{1b}[2J");
        check("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1 is an IPv4 address written as IPv6, write 10.0.0.1");
    }
}
