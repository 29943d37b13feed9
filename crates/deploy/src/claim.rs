//! Who holds a port.
//!
//! The kernel lets sockets of one user share a port by SO_REUSEPORT, so binding alone does not show that a port is ours. This module reads the
//! table of listening sockets before we join, and names the program behind one that is not ours.

mod open;
mod owner;
mod table;

use df_core::Endpoint;
use df_core::text::escape;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

pub use open::{Sockets, n_open};
pub use owner::is_held_by;

use owner::{SEARCH, holder};
use table::{Listening, taken};

/// The program that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process; with several, one of them, and not this process if another has it too.
    pub pid: u32,
    /// Its command name, as it calls itself; escaped when printed.
    pub name: Vec<u8>,
}

/// Why a port can't be ours.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A program listens there.
    #[error("{} is held by {} (pid {})", name(at), escape(&holder.name), holder.pid)]
    Held { at: Endpoint, holder: Holder },
    /// Somebody has it, and we may not see who (a process of another user or container, or a socket that does not listen).
    #[error("{} is in use, and this user can't see by which program", name(at))]
    HeldUnseen { at: Endpoint },
    /// Without the table we can't tell.
    #[error("read {}", path.display())]
    ReadTable {
        path: &'static Path,
        #[source]
        source: io::Error,
    },
}

impl Holder {
    /// Returns the program of a process.
    pub fn of(pid: u32) -> Option<Self> {
        let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
        Some(Self { pid, name: name.trim_ascii_end().to_vec() })
    }
}

/// Returns an endpoint in words.
pub fn name(at: &Endpoint) -> String {
    match at {
        Endpoint::Tcp(address) => format!("port {} on {}", address.port(), address.ip()),
        Endpoint::Udp(address) => format!("UDP port {} on {}", address.port(), address.ip()),
        Endpoint::Unix(path) => format!("the socket {path}"),
    }
}

/// Refuses an address on which somebody listens, or takes datagrams, whose socket is not among our own inodes.
///
/// A wildcard overlaps every address of its family: who joins beside it takes its connections away, or loses his own.
pub fn check(at: &Endpoint, own: &[u64]) -> Result<(), ClaimError> {
    let Some(address) = at.socket().filter(|address| address.port() != 0) else { return Ok(()) };
    let foreign = taken(at, &address)?.into_iter().find(|l| !own.contains(&l.inode) && overlaps(&l.address, &address));
    foreign.map_or(Ok(()), |listener| Err(held(at, listener.inode)))
}

/// Returns why binding failed with "address in use".
pub fn refusal(at: &Endpoint) -> ClaimError {
    let unseen = || ClaimError::HeldUnseen { at: at.clone() };
    let Some(address) = at.socket() else { return unseen() };
    let both = [address, any_of_other_family(&address)];
    let tables = both.iter().filter_map(|a| taken(at, a).ok()).flatten();
    let blocks = |l: &Listening| both.iter().any(|a| overlaps(&l.address, a));
    match tables.into_iter().find(blocks) {
        Some(listener) => held(at, listener.inode),
        None => unseen(),
    }
}

fn held(at: &Endpoint, inode: u64) -> ClaimError {
    match holder(inode, Instant::now() + SEARCH) {
        Some(holder) => ClaimError::Held { at: at.clone(), holder },
        None => ClaimError::HeldUnseen { at: at.clone() },
    }
}

fn overlaps(a: &SocketAddr, b: &SocketAddr) -> bool {
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && x.is_ipv4() == y.is_ipv4() && (x == y || x.is_unspecified() || y.is_unspecified())
}

/// A listener on the other family's wildcard can block ours, when it takes both families.
fn any_of_other_family(address: &SocketAddr) -> SocketAddr {
    let ip = if address.is_ipv4() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    use std::net::TcpListener;
    use std::os::fd::{AsFd, OwnedFd};

    fn inode(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    /// A listener that would let us share.
    fn sharing(ip: &str) -> (OwnedFd, SocketAddr) {
        let address = SocketAddr::new(ip.parse().unwrap(), 0);
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        bind(&socket, &address).unwrap();
        listen(&socket, 1).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        (socket, address)
    }

    /// The process's name; the test binary's, which the kernel cuts at 15 bytes.
    fn own_name() -> String {
        escape(fs::read("/proc/self/comm").unwrap().trim_ascii_end())
    }

    #[track_caller]
    fn check_overlap(a: &str, b: &str, expect: bool) {
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!((overlaps(&a, &b), overlaps(&b, &a)), (expect, expect), "{a} and {b}");
    }

    #[test]
    fn wildcards_overlap_their_family() {
        check_overlap("127.0.0.1:80", "127.0.0.1:80", true);
        check_overlap("127.0.0.1:80", "0.0.0.0:80", true);
        check_overlap("127.0.0.1:80", "127.0.0.2:80", false);
        check_overlap("127.0.0.1:80", "127.0.0.1:81", false);
        check_overlap("[::1]:80", "[::]:80", true);
        check_overlap("0.0.0.0:80", "[::]:80", false);
        check_overlap("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true);
    }

    #[test]
    fn a_socket_that_would_share_the_port_is_refused_by_name() {
        for ip in ["127.0.0.1", "::1"] {
            let (socket, address) = sharing(ip);
            let refusal = check(&address.into(), &[]).unwrap_err().to_string();
            let expect = format!("port {} on {ip} is held by {} (pid {})", address.port(), own_name(), std::process::id());
            assert_eq!(refusal, expect);
            check(&address.into(), &[inode(&socket)]).unwrap();
        }
    }

    #[test]
    fn a_plain_listener_is_named_when_binding_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(refusal(&address.into()), ClaimError::Held { holder, .. } if holder.pid == std::process::id()));
    }

    #[test]
    fn a_listener_of_both_families_is_named_for_an_ipv4_port() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
        assert!(TcpListener::bind(address).is_err());
        assert!(matches!(refusal(&address.into()), ClaimError::Held { .. }));
    }

    #[test]
    fn a_bound_socket_that_does_not_listen_has_no_name() {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        assert_eq!(
            refusal(&address.into()).to_string(),
            format!("port {} on 127.0.0.1 is in use, and this user can't see by which program", address.port())
        );
    }

    #[test]
    fn a_socket_of_datagrams_is_named_and_connections_are_another_matter() {
        for ip in ["127.0.0.1", "::1"] {
            let socket = std::net::UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            let address = socket.local_addr().unwrap();
            let refusal = check(&Endpoint::Udp(address), &[]).unwrap_err().to_string();
            let expect = format!("UDP port {} on {ip} is held by {} (pid {})", address.port(), own_name(), std::process::id());
            assert_eq!(refusal, expect);
            check(&Endpoint::Udp(address), &[inode(&socket)]).unwrap();
            check(&address.into(), &[]).unwrap();
        }
    }

    #[test]
    fn a_free_port_is_free() {
        let (socket, address) = sharing("127.0.0.1");
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Read).unwrap();
        check(&address.into(), &[]).unwrap();
    }
}
