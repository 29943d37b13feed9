//! The socket options that rustix lacks.

use libc::{sock_filter, sock_fprog};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Puts a program on the reuseport group of a listening socket, in place of the one before.
pub fn attach(socket: impl AsFd, program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    set(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &fprog)
}

/// Puts a filter on one socket, in place of the one before: a packet for which it answers 0 is dropped, unseen by the sender.
pub fn filter(socket: impl AsFd, program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    set(socket, libc::SO_ATTACH_FILTER, &fprog)
}

/// Takes a socket's filter off.
pub fn unfilter(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::SO_DETACH_FILTER, &0_i32)
}

fn set<T>(socket: impl AsFd, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: option value and length describe `value`; a program that it points to outlives the call (it is borrowed by the caller), and the kernel only
    // reads and copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns how many connections wait in the accept queue of a listening socket.
pub fn accept_queue_len(listener: impl AsFd) -> io::Result<u32> {
    // SAFETY: tcp_info is plain integers, for which zero is a value.
    let mut tcp_info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `tcp_info`, which has that size, and the number it wrote into `len`.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut tcp_info).cast(),
            &raw mut len,
        )
    };
    // For a socket in the LISTEN state, tcpi_unacked is sk_ack_backlog (tcp_get_info in net/ipv4/tcp.c).
    if result == 0 { Ok(tcp_info.tcpi_unacked) } else { Err(io::Error::last_os_error()) }
}
