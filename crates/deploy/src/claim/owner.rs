//! Whose a socket is: the process that has it open, as far as that can be seen.

use super::table::{Listening, taken};
use super::{ClaimError, Holder};
use df_core::Endpoint;
use rustix::process::geteuid;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the search for a name may take; it reads one link per open descriptor of the machine.
pub const SEARCH: Duration = Duration::from_secs(2);

/// Returns whether the socket that is given the connections to an address is one of these processes', all of them where several share it.
///
/// A socket of both families cannot be told from one of IPv6 alone: while nobody is nearer, one at `[::]` counts as taking IPv4 too. The caller has been accepted, so
/// that is wrong only if who accepted has closed in between.
///
/// # Errors
/// The tables cannot be read.
pub fn is_held_by(address: &SocketAddr, pids: &[u32]) -> Result<bool, ClaimError> {
    let table = taken(&Endpoint::Tcp(*address), address)?;
    let Some(nearest) = table.iter().filter_map(|l| distance(&l.address, address)).min() else { return Ok(false) };
    let deadline = Instant::now() + SEARCH;
    let mut receiving = table.iter().filter(|l| distance(&l.address, address) == Some(nearest));
    Ok(receiving.all(|l| is_of(l, pids, deadline)))
}

/// Looks for a process that has this socket open, until the deadline.
pub fn holder(inode: u64, deadline: Instant) -> Option<Holder> {
    let link = format!("socket:[{inode}]");
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let own = std::process::id();
    pids.sort_unstable_by_key(|&pid| (pid == own, pid));
    for pid in pids {
        if Instant::now() > deadline {
            return None;
        }
        if has_open(pid, &link, deadline) {
            return Some(Holder::of(pid).unwrap_or(Holder { pid, name: vec![] }));
        }
    }
    None
}

/// Returns how far a listener is from being given the connections to an address, in the order in which the kernel looks; none are given to it without.
fn distance(listening: &SocketAddr, to: &SocketAddr) -> Option<u8> {
    let (ip, to_ip) = (listening.ip().to_canonical(), to.ip().to_canonical());
    let same_family = ip.is_ipv4() == to_ip.is_ipv4();
    match (listening.port() == to.port(), ip.is_unspecified()) {
        (false, _) => None,
        (true, _) if ip == to_ip => Some(0),
        (true, true) if same_family => Some(1),
        (true, true) if to_ip.is_ipv4() => Some(2),
        (true, _) => None,
    }
}

/// Returns whether a listener belongs to one of these processes.
fn is_of(listening: &Listening, pids: &[u32], deadline: Instant) -> bool {
    let link = format!("socket:[{}]", listening.inode);
    let hides = |pid: u32| {
        let opened = fs::read_dir(format!("/proc/{pid}/fd"));
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let is_seen = pids.iter().any(|&pid| has_open(pid, &link, deadline));
    let may_be_hidden = may_be_hidden(listening, geteuid().as_raw(), pids.iter().any(|&pid| hides(pid)));
    is_believed(is_seen, may_be_hidden, || holder(listening.inode, deadline).is_some())
}

/// Decides whether a listener is a process's: it is seen to have it, or hides what it has open, and nobody else is seen to have it.
fn is_believed(is_seen: bool, may_be_hidden: bool, another_has_it: impl FnOnce() -> bool) -> bool {
    is_seen || (may_be_hidden && !another_has_it())
}

/// Of a process that hides what it has open only so much is known: the socket is our own user's.
fn may_be_hidden(listening: &Listening, own_uid: u32, somebody_hides: bool) -> bool {
    somebody_hides && listening.uid == own_uid
}

fn has_open(pid: u32, link: &str, deadline: Instant) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut open = entries.flatten().take_while(|_| Instant::now() <= deadline);
    open.any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    #[test]
    fn whose_listener_it_is_can_be_told_at_wildcards_too() {
        let me = std::process::id();
        for ip in ["127.0.0.1", "0.0.0.0", "::"] {
            let Ok(listener) = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)) else { continue };
            let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
            assert!(is_held_by(&address, &[1, me]).unwrap(), "{ip}");
            assert!(!is_held_by(&address, &[]).unwrap(), "{ip}");
            drop(listener);
            assert!(!is_held_by(&address, &[me]).unwrap(), "{ip}");
        }
    }

    #[track_caller]
    fn check_distance(listening: &str, to: &str, expect: Option<u8>) {
        assert_eq!(distance(&listening.parse().unwrap(), &to.parse().unwrap()), expect, "{listening} and {to}");
    }

    #[test]
    fn the_nearest_socket_is_given_the_connection() {
        check_distance("127.0.0.1:80", "127.0.0.1:80", Some(0));
        check_distance("[::ffff:127.0.0.1]:80", "127.0.0.1:80", Some(0));
        check_distance("0.0.0.0:80", "127.0.0.1:80", Some(1));
        check_distance("[::]:80", "127.0.0.1:80", Some(2));
        check_distance("127.0.0.1:81", "127.0.0.1:80", None);
        check_distance("127.0.0.2:80", "127.0.0.1:80", None);
        check_distance("[::1]:80", "127.0.0.1:80", None);
        check_distance("[::]:80", "[::1]:80", Some(1));
        check_distance("0.0.0.0:80", "[::1]:80", None);
    }

    #[test]
    fn who_hides_what_it_has_open_is_believed_of_its_own_users_sockets_only() {
        let listening = Listening { address: "127.0.0.1:80".parse().unwrap(), uid: 1000, inode: 9 };
        assert!(may_be_hidden(&listening, 1000, true));
        assert!(!may_be_hidden(&listening, 1001, true), "another user's is a stranger's");
        assert!(!may_be_hidden(&listening, 1000, false), "who shows what it has open does not have it");
        assert!(is_believed(false, true, || false), "nobody else has it");
        assert!(!is_believed(false, true, || true), "another of the user's programs was there first");
        assert!(is_believed(true, false, || true), "both have it");
        assert!(!is_believed(false, false, || false));
    }
}
