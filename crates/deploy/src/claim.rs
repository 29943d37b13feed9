//! Who holds a port.
//!
//! The kernel lets sockets of one user share a port by SO_REUSEPORT, so binding alone does not show that a port is ours. This module reads the
//! table of listening sockets before we join, and names the program behind one that is not ours.

use df_core::Endpoint;
use df_core::text::escape;
use rustix::process::geteuid;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

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

/// A row of the kernel's table.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    /// Whose it is.
    uid: u32,
    inode: u64,
}

/// How long the search for a name may take; it reads one link per open descriptor of the machine.
const SEARCH: Duration = Duration::from_secs(2);

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

/// Returns whether a listener belongs to one of these processes. Of one that hides what it has open only so much is known: the socket is our own user's, and nobody else is seen to have it.
fn is_of(listening: &Listening, pids: &[u32], deadline: Instant) -> bool {
    let link = format!("socket:[{}]", listening.inode);
    let hides = |pid: u32| {
        let opened = fs::read_dir(format!("/proc/{pid}/fd"));
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    pids.iter().any(|&pid| has_open(pid, &link, deadline))
        || may_be_hidden(listening, geteuid().as_raw(), pids.iter().any(|&pid| hides(pid)))
            && holder(listening.inode, deadline).is_none()
}

fn may_be_hidden(listening: &Listening, own_uid: u32, somebody_hides: bool) -> bool {
    somebody_hides && listening.uid == own_uid
}

/// A listener on the other family's wildcard can block ours, when it takes both families.
fn any_of_other_family(address: &SocketAddr) -> SocketAddr {
    let ip = if address.is_ipv4() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, address.port())
}

/// Reads the sockets of an address's family that listen or take datagrams, and for IPv4 those of IPv6 too, which may hold a mapped address.
fn taken(at: &Endpoint, address: &SocketAddr) -> Result<Vec<Listening>, ClaimError> {
    let (table, v6) = match at {
        Endpoint::Udp(_) => (DATAGRAMS, Path::new("/proc/self/net/udp6")),
        _ => (LISTENING, Path::new("/proc/self/net/tcp6")),
    };
    let mut all = read_table(v6, table)?;
    if address.is_ipv4() {
        let v4 = Path::new(if table == DATAGRAMS { "/proc/self/net/udp" } else { "/proc/self/net/tcp" });
        all.extend(read_table(v4, table)?);
    }
    Ok(all)
}

/// The state of a socket that listens, as the kernel's tables have it.
const LISTENING: &str = "0A";
/// The state of a socket that takes datagrams from everybody.
const DATAGRAMS: &str = "07";

fn read_table(path: &'static Path, state: &str) -> Result<Vec<Listening>, ClaimError> {
    match fs::File::open(path) {
        Ok(file) => parse_table(BufReader::new(file), state).map_err(|source| ClaimError::ReadTable { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()), // a kernel without IPv6
        Err(source) => Err(ClaimError::ReadTable { path, source }),
    }
}

/// Parses the table; for listeners up to the first socket that does not listen: the kernel writes the listening ones first (`tcp_get_idx` in
/// net/ipv4/tcp_ipv4.c), and on a busy machine the rest is long.
fn parse_table(table: impl BufRead, state: &str) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        match parse_row(&line?, state) {
            Some(listener) => found.push(listener),
            None if state == LISTENING => break,
            None => {}
        }
    }
    Ok(found)
}

fn parse_row(line: &str, state: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let is_wanted = fields.nth(1)? == state;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    is_wanted.then_some(Listening { address, uid, inode })
}

/// Parses words of 32 bits, each printed as this machine's integer of bytes in network order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => word(0).map(|octets| Ipv4Addr::from(octets).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().expect("four words of four bytes");
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Looks for a process that has this socket open, until the deadline.
fn holder(inode: u64, deadline: Instant) -> Option<Holder> {
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

fn has_open(pid: u32, link: &str, deadline: Instant) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut open = entries.flatten().take_while(|_| Instant::now() <= deadline);
    open.any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
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

    #[test]
    fn rows_of_both_families_are_understood() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                  0: 01004D7F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n   \
                  1: 0100007F:1F90 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n   \
                  2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        let rows = parse_table(v4.as_bytes(), LISTENING).unwrap();
        assert_eq!(rows, [Listening { address: "127.77.0.1:8080".parse().unwrap(), uid: 1000, inode: 4711 }]);
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 7 0 9 1 0\n";
        assert_eq!(parse_row(v6, LISTENING), Some(Listening { address: "[::1]:8080".parse().unwrap(), uid: 7, inode: 9 }));
        for bad in ["", "x", "0: 0100007F 0 0A", "0: zz00007F:1F90 0 0A 0 0 0 0 0 1", "0: 0100007é:1F90 0 0A 0 0 0 0 0 1"] {
            assert_eq!(parse_row(bad, LISTENING), None, "{bad}");
        }
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
