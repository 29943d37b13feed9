//! The calls of the launcher that rustix does not offer as safe functions.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// Makes `number` a copy of a descriptor that survives exec; what was there is closed.
///
/// The caller must not own `number` by an `OwnedFd`.
pub fn place(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    debug_assert_ne!(descriptor.as_raw_fd(), number);
    // SAFETY: dup2 touches no memory; that nobody else owns `number` is this function's condition.
    if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes all descriptors from `first` on but one.
///
/// For a process about to become another: whoever owned them must not use them any more.
pub fn close_from(first: RawFd, but: BorrowedFd<'_>) -> io::Result<()> {
    let (first, but) = (first as libc::c_uint, but.as_raw_fd() as libc::c_uint);
    for (from, to) in [(first, but - 1), (but + 1, libc::c_uint::MAX)] {
        // By number, because the C library of an older system has no function for it. Flags 0: CLOSE_RANGE_CLOEXEC needs Linux 5.11.
        // SAFETY: close_range touches no memory; that the descriptors are not used any more is this function's condition.
        if from <= to && unsafe { libc::syscall(libc::SYS_close_range, from, to, 0 as libc::c_uint) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets every signal have its default effect and blocks none; Rust ignores SIGPIPE, and ignored stays ignored over exec.
pub fn reset_signals() {
    // A kernel sigaction of zeroes: SIG_DFL, no flags, empty mask. By number, because the C library keeps signals 32 and 33 for itself and refuses
    // them, while we may have been started with them ignored.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // Errors are expected: KILL and STOP have no disposition.
        // SAFETY: the kernel reads one sigaction, at most as long as `default`, and writes none back; SIG_DFL runs no code of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8usize) };
    }
    // SAFETY: an all-zero sigset_t is valid memory for sigemptyset, which initialises it; a null old set is allowed.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Becomes another program; returns only why it could not.
pub fn execute(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers =
        |strings: &[CString]| -> Vec<*const libc::c_char> { strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect() };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that outlive the call. Not execvp, which would hand a file
    // without a known format to a shell.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}
