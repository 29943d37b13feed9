//! One socket of a group, and one connection made from a chosen endpoint.

use super::sys;
use libc::sock_filter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, getsockname, ipproto, listen, recv, socket_with, sockopt,
};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Connections that may wait for `accept`; the kernel caps it at net.core.somaxconn. Large, so that a burst while a program starts is queued.
pub const BACKLOG: i32 = 4096;

/// A queue holds fewer datagrams than this: 212,992 bytes are usual, of which each takes some hundred.
const MOST_DISCARDED: u32 = 1 << 20;

/// Returns how many established connections wait in a listener's queue.
///
/// Handshakes under way are not counted.
pub fn queue_len(listener: impl AsFd) -> io::Result<u32> {
    sys::accept_queue_len(listener)
}

/// Returns whether anything waits at a socket: a connection to be accepted, a datagram to be read. Also datagrams without a byte.
pub fn is_waited_for(socket: impl AsFd) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&now)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Reads what waits at a socket and forgets it; returns how many datagrams that were.
pub fn discard(socket: impl AsFd) -> io::Result<u32> {
    for n in 0..MOST_DISCARDED {
        match recv(&socket, &mut [0_u8; 1], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::AGAIN) => return Ok(n),
            // An answer to what was sent: it concerns nobody any more.
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNREFUSED) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(MOST_DISCARDED)
}

/// Makes a socket for datagrams that joins the reuseport group of its address, as its last member.
///
/// A gate is there before it is bound: nothing gets in ahead of it.
pub fn open_datagrams(address: &SocketAddr, gate: Option<&[sock_filter]>) -> io::Result<OwnedFd> {
    let socket = socket_with(family(address), SocketType::DGRAM, SocketFlags::CLOEXEC, Some(ipproto::UDP))?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if let Some(gate) = gate {
        sys::filter(&socket, gate)?;
    }
    bind(&socket, address)?;
    Ok(socket)
}

/// Makes a socket that listens and joins the reuseport group of its address, as its last member.
///
/// A gate is there before it listens: no client gets in ahead of it.
pub fn open_listener(address: &SocketAddr, gate: Option<&[sock_filter]>) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // A dual socket would get IPv4 packets, whose ports the filter would seek at the wrong place.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, address)?;
    if let Some(gate) = gate {
        sys::filter(&socket, gate)?;
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Returns the address a socket is bound to.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(getsockname(socket)?)?)
}

/// Makes a socket bound to a free port of the address that it will connect to, which is one of our own.
///
/// Without SO_REUSEADDR: nobody else can bind or use this endpoint while it is held.
pub fn open_prober(target: &SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = stream_socket(target)?;
    let mut own = *target;
    own.set_port(0);
    bind(&socket, &own)?;
    let endpoint = local_address(&socket)?;
    Ok((socket, endpoint))
}

/// Connects a prober's socket and returns it as a blocking stream.
pub fn connect_before(socket: OwnedFd, target: &SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    match connect(&socket, target) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => wait_writable(&socket, deadline)?,
        Err(error) => return Err(error.into()),
    }
    sockopt::socket_error(&socket)??;
    rustix::io::ioctl_fionbio(&socket, false)?;
    let stream = TcpStream::from(socket);
    stream.peer_addr()?;
    Ok(stream)
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    Ok(socket_with(family(address), SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?)
}

fn wait_writable(socket: &OwnedFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was not accepted in time")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
