//! SIGTERM into a descriptor: the only signal handler of this crate.
//!
//! A handler and an eventfd rather than signalfd: a signalfd needs the signal blocked in every thread, also those that
//! were started earlier, and a blocked signal is inherited by every program that the service starts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The eventfd that the handler raises, or -1.
static RAISED: AtomicI32 = AtomicI32::new(-1);
/// The process that installed the handler: a fork that has not yet called exec shares the eventfd but must not raise it.
static OWNER: AtomicI32 = AtomicI32::new(-1);

/// Makes an eventfd, not raised, closed on exec.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, returns a descriptor that nobody else knows, or -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and ours, as the lines above have it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Raises an eventfd: from now on it is readable, until it is lowered. The one that SIGTERM raises never is.
pub(crate) fn raise(event: BorrowedFd<'_>) {
    raise_raw(event.as_raw_fd());
}

/// Lowers an eventfd; one that is not raised stays as it is.
pub(crate) fn lower(event: BorrowedFd<'_>) {
    let mut count: u64 = 0;
    // SAFETY: eight bytes are written into a live integer; not raised says EAGAIN.
    let _ = unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
}

/// Lets SIGTERM raise this eventfd from now on. Refused when the program has a handler of its own.
///
/// The eventfd is asked to live for ever because the handler may run at any time.
pub(crate) fn install(event: BorrowedFd<'static>) -> io::Result<()> {
    refuse_foreign_handler()?;
    OWNER.store(current_pid(), Ordering::Relaxed);
    RAISED.store(event.as_raw_fd(), Ordering::Release);
    // SAFETY: all-zero is a valid sigaction; its fields are set before it is used.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_term as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised, and `on_term` calls only async-signal-safe functions.
    let failed = unsafe { libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn refuse_foreign_handler() -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction, here only room for the answer.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks without setting; `found` is live.
    if unsafe { libc::sigaction(libc::SIGTERM, std::ptr::null(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if [libc::SIG_DFL, libc::SIG_IGN].contains(&found.sa_sigaction) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "the program has a SIGTERM handler of its own"))
}

extern "C" fn on_term(_signal: libc::c_int) {
    if current_pid() == OWNER.load(Ordering::Relaxed) {
        return raise_raw(RAISED.load(Ordering::Acquire));
    }
    // A fork before its exec: die of the signal, as it would have without us.
    // SAFETY: both calls are async-signal-safe and take integers.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        libc::raise(libc::SIGTERM);
    }
}

/// Writes to the eventfd; async-signal-safe, and leaves errno as it was.
fn raise_raw(fd: libc::c_int) {
    let one: u64 = 1;
    // SAFETY: eight bytes are read from a live integer; errno is this thread's own. A counter at its limit says EAGAIN,
    // and it is then raised anyway.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const one).cast(), size_of::<u64>());
        *libc::__errno_location() = errno;
    }
}

fn current_pid() -> libc::c_int {
    // SAFETY: takes nothing, cannot fail, and is async-signal-safe.
    unsafe { libc::getpid() }
}
