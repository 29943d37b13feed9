//! SIGTERM and SIGINT into a descriptor: the supervisor says farewell to its holder before it ends.
//!
//! A handler, not a signalfd: a blocked signal stays blocked in every program that is started.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The eventfd that the handler raises, or -1.
static RAISED: AtomicI32 = AtomicI32::new(-1);
static CAME: AtomicBool = AtomicBool::new(false);

/// Lets both signals raise this eventfd from now on, for as long as the process lives.
///
/// # Errors
/// The kernel refuses.
pub fn install(event: BorrowedFd<'static>) -> io::Result<()> {
    RAISED.store(event.as_raw_fd(), Ordering::SeqCst);
    // SAFETY: an all-zero sigaction is a valid one; its handler is set before it is used.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: `action` is initialised, and `handle` calls only what is safe in a handler.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits until one of these can be read, or the eventfd was raised, which it is not any more then; no longer than `pause`.
///
/// # Errors
/// The kernel cannot watch them.
pub fn wait<'a>(others: impl Iterator<Item = BorrowedFd<'a>>, event: &'a OwnedFd, pause: Duration) -> io::Result<()> {
    let mut watched: Vec<PollFd<'_>> =
        others.chain([event.as_fd()]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let pause = Timespec::try_from(pause).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut watched, Some(&pause)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    // Nobody waits for it to be raised a second time before it was read.
    let _ = rustix::io::read(event, &mut [0; 8]);
    Ok(())
}

/// Returns whether one of them came.
pub fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

extern "C" fn handle(_: libc::c_int) {
    CAME.store(true, Ordering::SeqCst);
    let one = 1_u64;
    // SAFETY: eight bytes of a live integer are written to a descriptor that is never closed; write is async-signal-safe, and errno is put back.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(RAISED.load(Ordering::SeqCst), (&raw const one).cast(), size_of::<u64>());
        *libc::__errno_location() = errno;
    }
}
