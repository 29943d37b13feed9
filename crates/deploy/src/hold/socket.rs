//! Where supervisor and holder of a node meet: `run/hold.sock`, for our own user alone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, accept_with, bind, connect as connect_to, listen as listen_on,
    socket_with, sockopt,
};

use crate::layout::Layout;

/// Who waits while another is served.
const BACKLOG: i32 = 16;

/// Begins to listen, in place of whoever did before.
///
/// # Errors
/// The node's directory cannot be used.
pub fn listen(layout: &Layout) -> io::Result<OwnedFd> {
    let (_dir, path) = short_path(layout)?;
    // Made under another name and then renamed: whoever can connect finds the mode right already.
    let fresh = path.with_file_name(".hold.sock");
    let _ = fs::remove_file(&fresh);
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddrUnix::new(&fresh)?)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    listen_on(&socket, BACKLOG)?;
    fs::rename(&fresh, &path)?;
    Ok(socket)
}

/// Takes the next who connected, if it is our own user or root.
///
/// # Errors
/// The socket cannot be used.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(peer(&socket).is_ok_and(is_trusted).then_some(socket)),
        // Nobody, or gone already.
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the holder; `None` when there is none.
///
/// # Errors
/// The socket is there and cannot be used.
pub fn connect(layout: &Layout) -> io::Result<Option<OwnedFd>> {
    let (_dir, path) = short_path(layout)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match connect_to(&socket, &SocketAddrUnix::new(&path)?) {
        Ok(()) if peer(&socket).is_ok_and(is_trusted) => Ok(Some(socket)),
        Ok(()) => Err(io::Error::other("another user listens at hold.sock")),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns who is at the other end.
///
/// # Errors
/// It is no socket.
pub fn peer(socket: impl AsFd) -> io::Result<UCred> {
    Ok(sockopt::socket_peercred(socket)?)
}

fn is_trusted(peer: UCred) -> bool {
    peer.uid == rustix::process::geteuid() || peer.uid.is_root()
}

/// The address of a socket has room for 108 bytes, a node's directory may be longer.
fn short_path(layout: &Layout) -> io::Result<(fs::File, PathBuf)> {
    let dir = fs::File::open(layout.run())?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join("hold.sock");
    Ok((dir, path))
}
