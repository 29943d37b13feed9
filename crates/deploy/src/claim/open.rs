//! How many connections of an address processes have open.

use super::ClaimError;
use super::table::connections;
use df_core::Endpoint;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the search may take: a link is read for each open descriptor, and an activation waits.
const SEARCH: Duration = Duration::from_millis(500);

/// What processes have open.
#[derive(Debug, PartialEq, Eq)]
pub struct Sockets(BTreeSet<u64>);

/// Returns how many connections to an address these processes have accepted and still have, as their clients do, counted once where several share one. `None` for what is no
/// address of TCP.
///
/// # Errors
/// The tables cannot be read.
pub fn n_open(at: &Endpoint, held: &Sockets) -> Result<Option<u32>, ClaimError> {
    let Endpoint::Tcp(address) = at else { return Ok(None) };
    let found = connections(address)?;
    let ours = found.iter().filter(|row| is_at(&row.address, address) && held.0.contains(&row.inode));
    // The kernel goes through its table page by page: what others open meanwhile may show it a row twice.
    let numbers: BTreeSet<u64> = ours.map(|row| row.inode).collect();
    Ok(u32::try_from(numbers.len()).ok())
}

impl Sockets {
    /// Returns what processes have open; none if one hides that, or there is more than can be looked at in time. Who has ended has nothing.
    pub fn of(pids: &[u32]) -> Option<Self> {
        sockets(pids, Instant::now() + SEARCH).map(Self)
    }
}

/// Returns whether a connection is one to this address, which may stand for all of this machine's.
fn is_at(local: &SocketAddr, address: &SocketAddr) -> bool {
    let (ip, wanted) = (local.ip().to_canonical(), address.ip().to_canonical());
    let any = wanted.is_unspecified() && (wanted.is_ipv6() || ip.is_ipv4());
    local.port() == address.port() && (any || ip == wanted)
}

/// Returns the numbers of all sockets that processes have open.
fn sockets(pids: &[u32], deadline: Instant) -> Option<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(_) => return None,
        };
        for entry in entries {
            if Instant::now() > deadline {
                return None;
            }
            // What was closed meanwhile is not open.
            let Some(link) = entry.ok().and_then(|entry| fs::read_link(entry.path()).ok()) else { continue };
            let inode: Option<u64> =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            found.extend(inode);
        }
    }
    Some(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    #[test]
    fn the_connections_that_a_process_has_accepted_and_not_closed_are_counted() {
        let me = std::process::id();
        for (ip, from) in [
            (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::LOCALHOST)),
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
            (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
            (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        ] {
            // A machine without IPv6 has no such address.
            let Ok(listener) = TcpListener::bind((ip, 0)) else { continue };
            let at = listener.local_addr().unwrap();
            let count = |pids: &[u32]| n_open(&Endpoint::Tcp(at), &Sockets::of(pids).unwrap()).unwrap();
            assert_eq!(count(&[me]), Some(0), "{ip}: one that listens is none");
            let clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect((from, at.port())).unwrap()).collect();
            assert_eq!(count(&[me]), Some(0), "{ip}: nobody has accepted them yet");
            let mut accepted: Vec<TcpStream> = (0..4).map(|_| listener.accept().unwrap().0).collect();
            let copy = accepted[0].try_clone().unwrap();
            assert_eq!(count(&[me, me]), Some(4), "{ip}");
            accepted.truncate(2);
            assert_eq!((count(&[me]), count(&[])), (Some(2), Some(0)), "{ip}");
            drop((accepted, copy));
            assert_eq!(count(&[me]), Some(0), "{ip}");
            drop(clients);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_counted_as_nothing() {
        let nothing = Sockets::of(&[]).unwrap();
        assert_eq!(n_open(&"udp:127.0.0.1:53".parse().unwrap(), &nothing).unwrap(), None);
        assert_eq!(n_open(&"unix:/run/a.sock".parse().unwrap(), &nothing).unwrap(), None);
        assert_eq!(sockets(&[std::process::id()], Instant::now() - SEARCH), None, "it is too late");
    }

    #[test]
    fn an_address_for_all_stands_for_those_of_its_family() {
        let check = |local: &str, address: &str| is_at(&local.parse().unwrap(), &address.parse().unwrap());
        assert!(check("127.0.0.1:80", "0.0.0.0:80") && check("[::ffff:127.0.0.1]:80", "[::]:80") && check("[::1]:80", "[::]:80"));
        assert!(check("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
        assert!(
            !check("[::1]:80", "0.0.0.0:80") && !check("127.0.0.1:81", "0.0.0.0:80") && !check("127.0.0.2:80", "127.0.0.1:80")
        );
    }
}
