//! Descriptors: owning those that were passed, what kind they are, and waiting for them.

use crate::protocol::FIRST_DESCRIPTOR;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What a passed descriptor must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    TcpListener,
    UnixListener,
    Udp,
}

impl Kind {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::TcpListener => "a listening TCP socket",
            Self::UnixListener => "a listening unix socket",
            Self::Udp => "a UDP socket",
        }
    }
}

/// Takes ownership of the first `n` passed descriptors and keeps them from programs that this one starts.
///
/// # Safety
/// They were passed by whoever started this process, and nothing else in it owns them: call this once, and only on the
/// word of the environment variables.
pub(crate) unsafe fn take_passed(n: usize) -> io::Result<Vec<OwnedFd>> {
    let passed = FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + i32::try_from(n).map_err(io::Error::other)?;
    // All are checked before one is owned, so that an error closes nothing.
    passed.clone().try_for_each(close_on_exec)?;
    // SAFETY: each is open (checked in the line above) and, by this function's contract, owned by nobody else.
    Ok(passed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// Whether the descriptor is a socket of this kind.
pub(crate) fn is_kind(fd: BorrowedFd<'_>, kind: Kind) -> bool {
    let option = |name| socket_option(fd, name).ok();
    let internet = matches!(option(libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6));
    let unix = option(libc::SO_DOMAIN) == Some(libc::AF_UNIX);
    let listens = option(libc::SO_TYPE) == Some(libc::SOCK_STREAM) && option(libc::SO_ACCEPTCONN) == Some(1);
    match kind {
        Kind::TcpListener => internet && listens && option(libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP),
        Kind::UnixListener => unix && listens,
        Kind::Udp => internet && option(libc::SO_TYPE) == Some(libc::SOCK_DGRAM),
    }
}

/// Returns which descriptors can be read (or have ended); all false when the deadline came first. `None` waits for ever.
pub(crate) fn wait_readable<const N: usize>(fds: [BorrowedFd<'_>; N], deadline: Option<Instant>) -> io::Result<[bool; N]> {
    let mut polled = fds.map(to_poll);
    wait(&mut polled, deadline)?;
    Ok(polled.map(|p| p.revents != 0))
}

/// Waits until one of the descriptors can be read (or has ended); false when the deadline came first.
pub(crate) fn poll_readable(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    let mut polled: Vec<libc::pollfd> = fds.iter().copied().map(to_poll).collect();
    wait(&mut polled, deadline)
}

/// Returns the moment `timeout` from now; `None`, for ever, when the clock cannot count that far.
pub(crate) fn deadline_in(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

fn to_poll(fd: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Polls until something happened (true) or the deadline has passed (false).
fn wait(polled: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        // SAFETY: the slice holds as many valid entries as stated and lives through the call.
        let n = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms(deadline)) };
        match n {
            0 if deadline.is_some_and(|d| Instant::now() < d) => continue,
            0.. => return Ok(n > 0),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => continue,
                e => return Err(e),
            },
        }
    }
}

/// Reads one integer option of a socket.
fn socket_option(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` and `len` are live and describe one integer, which is what these options are.
    let failed = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len) };
    if failed == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFD and F_SETFD take and return plain integers; a closed descriptor is answered with EBADF.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFD);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) >= 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns poll's timeout, rounded up, so that a wait never ends before its deadline by much work in vain.
fn timeout_ms(deadline: Option<Instant>) -> libc::c_int {
    let Some(deadline) = deadline else { return -1 };
    let left = deadline.saturating_duration_since(Instant::now());
    left.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn sockets_are_told_apart() -> io::Result<()> {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let connected = TcpStream::connect(tcp.local_addr()?)?;
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let name = format!("df-kind-{}", std::process::id());
        let unix = UnixListener::bind_addr(&{
            use std::os::linux::net::SocketAddrExt;
            std::os::unix::net::SocketAddr::from_abstract_name(name)?
        })?;
        let (pair, _other) = UnixStream::pair()?;
        let file = std::fs::File::open("/dev/null")?;
        let table: [(BorrowedFd<'_>, Option<Kind>); 6] = [
            (tcp.as_fd(), Some(Kind::TcpListener)),
            (connected.as_fd(), None),
            (udp.as_fd(), Some(Kind::Udp)),
            (unix.as_fd(), Some(Kind::UnixListener)),
            (pair.as_fd(), None),
            (file.as_fd(), None),
        ];
        for (row, (fd, expect)) in table.into_iter().enumerate() {
            for kind in [Kind::TcpListener, Kind::UnixListener, Kind::Udp] {
                assert_eq!(is_kind(fd, kind), expect == Some(kind), "row {row}, {kind:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn waiting_ends_at_what_happens_first() -> io::Result<()> {
        use std::io::Write;
        let (quiet, _quiet_peer) = UnixStream::pair()?;
        let (loud, mut loud_peer) = UnixStream::pair()?;
        let soon = deadline_in(Duration::from_millis(5));
        assert_eq!(wait_readable([quiet.as_fd(), loud.as_fd()], soon)?, [false, false]);
        assert!(soon.is_some_and(|soon| Instant::now() >= soon), "the wait ended early");
        loud_peer.write_all(b"x")?;
        assert_eq!(wait_readable([quiet.as_fd(), loud.as_fd()], None)?, [false, true]);
        Ok(())
    }
}
