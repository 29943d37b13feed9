//! Connecting to an endpoint of this machine, whatever it is.
//!
//! A stream is read, written, shut down and given patience by the same calls whatever is below it, so one to a socket in the file system is held as a
//! [`TcpStream`] too. Only its addresses cannot be asked for.

use df_core::Endpoint;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Connects to an endpoint.
///
/// # Errors
/// Nobody listens, or not in time; or datagrams are spoken there.
pub fn endpoint(endpoint: &Endpoint, timeout: Duration) -> io::Result<TcpStream> {
    match endpoint {
        Endpoint::Tcp(address) => TcpStream::connect_timeout(&reachable(*address), timeout),
        Endpoint::Unix(path) => unix(path.as_str(), timeout),
        Endpoint::Udp(_) => Err(no_connections()),
    }
}

/// Connects to a socket in the file system; where its queue is full, waits for a place as long as that.
///
/// # Errors
/// Nobody listens, or has no place for us in time.
pub fn unix(path: &str, timeout: Duration) -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout.max(Duration::from_millis(1))))?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        Err(error) => return Err(error.into()),
    }
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(TcpStream::from(socket))
}

/// Returns where a program that listens on every address is reached.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

/// Returns why an endpoint of datagrams cannot be connected to.
pub fn no_connections() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "UDP has no connections")
}
