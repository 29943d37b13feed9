//! Sockets that carry packets with descriptors: the calls that std does not offer.

use crate::control;
use crate::protocol::NotifyAddress;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// A packet as it came, its bytes in the caller's buffer.
#[derive(Debug)]
pub(crate) struct Packet {
    /// How many bytes of the buffer were filled; none: the end.
    pub(crate) len: usize,
    /// The descriptor that came with it.
    pub(crate) descriptor: Option<OwnedFd>,
    /// More came than there was room for.
    pub(crate) is_cut: bool,
}

/// Who is at the other end of a connection, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Room for one control message with one descriptor. The kernel closes what does not fit.
// SAFETY: computes a length from a length.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
/// What of the room may be filled. The whole of it would do for two descriptors, because its end is rounded up.
// SAFETY: as above.
const ONE_DESCRIPTOR: usize = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
/// Room in a socket for the longest packet and a few short ones behind it; the system may allow less.
const BUFFER_BYTES: libc::c_int = 512 * 1024;
/// Connections that may wait for the service to accept them.
const BACKLOG: libc::c_int = 16;

/// Binds an address and listens; accepting does not wait.
pub(crate) fn listen(address: &NotifyAddress) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    let (name, len) = to_sockaddr(address);
    // SAFETY: `name` is live and holds an address of the length stated.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), len) })?;
    // SAFETY: takes two integers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Takes one connection, without waiting; `WouldBlock` when there is none.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for; the new descriptor is owned at once.
    unsafe {
        let none = std::ptr::null_mut();
        let fd = checked(libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), libc::SOCK_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Connects to an address, without waiting: `ConnectionRefused` when nobody listens.
pub(crate) fn connect(address: &NotifyAddress) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    let (name, len) = to_sockaddr(address);
    // SAFETY: `name` is live and holds an address of the length stated.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const name).cast(), len) })?;
    Ok(socket)
}

/// Returns two ends of one connection, with room for long packets; they wait.
pub(crate) fn pair() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: two integers are written into a live array; both descriptors are new and owned at once.
    let ends = unsafe {
        checked(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
        fds.map(|fd| OwnedFd::from_raw_fd(fd))
    };
    for end in &ends {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        let bytes: libc::c_int = BUFFER_BYTES;
        // The system cuts it to its own limit, and its default is enough.
        // SAFETY: one live integer of the length stated.
        let _ = unsafe { libc::setsockopt(end.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const bytes).cast(), len) };
    }
    Ok(ends)
}

/// Returns who made the other end: who connected, or who listened.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let at = (&raw mut found).cast();
    // SAFETY: `found` and `len` are live and describe one ucred, which is what this option is.
    checked(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, at, &raw mut len) })?;
    Ok(Peer { pid: found.pid, uid: found.uid })
}

/// Sends one packet, with at most one descriptor. A peer that is gone is `BrokenPipe`, without a signal.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut room = control::Room::<CONTROL_LEN>::new();
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr: no address, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        message.msg_control = (&raw mut room).cast();
        message.msg_controllen = CONTROL_LEN as _;
        // SAFETY: the room is aligned and has exactly the space of one header with one descriptor, so the first header is there and
        // its data may be written; it may be unaligned for an integer, hence write_unaligned.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
        }
    }
    loop {
        // SAFETY: `message` points at live buffers of the lengths stated, which sendmsg only reads.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(n).map_err(|_| io::Error::last_os_error()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            sent => return sent.map(drop),
        }
    }
}

/// Takes one packet, without waiting; `WouldBlock` when there is none. The end is a packet of no bytes.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut room = control::Room::<CONTROL_LEN>::new();
    let received = control::receive(socket, buffer, &mut room, ONE_DESCRIPTOR)?;
    let is_cut = received.has(libc::MSG_TRUNC | libc::MSG_CTRUNC);
    Ok(Packet { len: received.len, descriptor: descriptor(received.message()), is_cut })
}

/// Takes ownership of the descriptor in the control message that recvmsg has just written.
fn descriptor(message: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: `message` still points at its control room, whose length the kernel has set. There is room for one header with one
    // descriptor, so the first header is the only one and holds one; the kernel has just opened it for us, and nobody else knows it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message).as_ref()?;
        let is_one = header.cmsg_len as usize == ONE_DESCRIPTOR;
        if header.cmsg_level != libc::SOL_SOCKET || header.cmsg_type != libc::SCM_RIGHTS || !is_one {
            return None;
        }
        Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes three integers; the descriptor is new and owned at once.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_UNIX, kind, 0))?)) }
}

/// Returns the address in the kernel's form. Its length was checked when it was parsed; one made otherwise is cut.
fn to_sockaddr(address: &NotifyAddress) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // An abstract name begins with a zero byte; a path ends with one.
    let (bytes, at, end) = match address {
        NotifyAddress::Path(path) => (path.as_os_str().as_bytes(), 0, 1),
        NotifyAddress::Abstract(name) => (name.as_slice(), 1, 0),
    };
    let last = name.sun_path.len() - end;
    let room = &mut name.sun_path[at..last];
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + at + bytes.len().min(room.len()) + end;
    (name, len as libc::socklen_t)
}

fn checked(n: libc::c_int) -> io::Result<libc::c_int> {
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n) }
}
