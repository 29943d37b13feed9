//! Receiving bytes together with control messages: the call that std does not offer.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for control messages, aligned as their headers must be.
#[repr(C)]
pub(crate) union Room<const LEN: usize> {
    bytes: [u8; LEN],
    _aligned: libc::cmsghdr,
}

impl<const LEN: usize> Room<LEN> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; LEN] }
    }
}

/// What came: its bytes in the caller's buffer, its control messages in the caller's room.
pub(crate) struct Received<'a> {
    /// How many bytes of the buffer were filled.
    pub(crate) len: usize,
    message: libc::msghdr,
    _room: PhantomData<&'a mut ()>,
}

impl Received<'_> {
    /// Returns whether the kernel set one of these flags.
    pub(crate) fn has(&self, flags: libc::c_int) -> bool {
        self.message.msg_flags & flags != 0
    }

    /// Returns what to find control messages with: it points at the room, whose length the kernel has set.
    pub(crate) fn message(&self) -> &libc::msghdr {
        &self.message
    }
}

/// Takes one message without waiting, and lets the kernel fill `room_len` bytes of the room; `WouldBlock` when there is none. Descriptors that come are closed on exec.
pub(crate) fn receive<'a, const LEN: usize>(
    socket: BorrowedFd<'_>,
    buffer: &'a mut [u8],
    room: &'a mut Room<LEN>,
    room_len: usize,
) -> io::Result<Received<'a>> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr: no address, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *room).cast();
    message.msg_controllen = room_len.min(LEN) as _;
    // SAFETY: `message` points at one live buffer and at live control room of the lengths stated.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    // The part does not outlive this call; nobody needs it any more.
    (message.msg_iov, message.msg_iovlen) = (std::ptr::null_mut(), 0);
    Ok(Received { len, message, _room: PhantomData })
}
