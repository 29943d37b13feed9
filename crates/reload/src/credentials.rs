//! Receiving a datagram together with the kernel's word about who sent it.

use crate::control;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One datagram, its bytes in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// How many bytes of the buffer were filled.
    pub(crate) len: usize,
    /// The datagram was longer than the buffer; the rest is gone.
    pub(crate) is_cut: bool,
    /// The sender's process, when it is visible from here.
    pub(crate) pid: Option<i32>,
}

/// Room for exactly one control message with credentials. Descriptors that a sender attaches do not fit behind it, so the
/// kernel drops them instead of opening them here.
// SAFETY: computes a length from a length.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Makes the kernel tell with every datagram who sent it.
pub(crate) fn ask_for_credentials(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: one live integer of the length stated.
    let failed = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), len) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes one datagram without waiting; `WouldBlock` when there is none.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut room = control::Room::<CONTROL_LEN>::new();
    let received = control::receive(fd, buffer, &mut room, CONTROL_LEN)?;
    Ok(Received { len: received.len, is_cut: received.has(libc::MSG_TRUNC), pid: sender(received.message()) })
}

/// Finds the sender in the control messages that recvmsg has just written.
fn sender(message: &libc::msghdr) -> Option<i32> {
    // SAFETY: `message` still points at its control room, whose length the kernel has set.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so it lies whole inside the control room, which is aligned for it.
        let header = unsafe { &*next };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_CREDENTIALS {
            // SAFETY: a message of this type holds one ucred; CMSG_DATA may be unaligned for it, hence the copy.
            let credentials: libc::ucred = unsafe { libc::CMSG_DATA(next).cast::<libc::ucred>().read_unaligned() };
            return Some(credentials.pid).filter(|pid| *pid > 0);
        }
        // SAFETY: `next` came from this very message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}
