//! The calls for becoming another program that rustix does not offer as safe functions.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::ptr;

/// Executes the program behind a descriptor with these words, the first of which is its name, and with our environment but for what told of descriptors that were passed to us;
/// returns only why it could not.
pub fn execute(program: BorrowedFd<'_>, words: &[OsString]) -> io::Error {
    let environment = std::env::vars_os().filter(|(name, _)| !name.as_bytes().starts_with(b"LISTEN_"));
    let lines = environment.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let strings = |lines: Vec<Vec<u8>>| lines.into_iter().map(CString::new).collect::<Result<Vec<CString>, _>>();
    let (words, environment) =
        match (strings(words.iter().map(|word| word.clone().into_vec()).collect()), strings(lines.collect())) {
            (Ok(words), Ok(environment)) => (words, environment),
            _ => return io::Error::from_raw_os_error(libc::EINVAL),
        };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (words, environment) = (pointers(&words), pointers(&environment));
    // By number, because older C libraries have no function for it.
    // SAFETY: the path is an empty string, both arrays end with a null pointer and point to strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            words.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Owns a descriptor that was left to this program by exec; `None` if there is none of this number.
///
/// The caller must not ask twice for one number, nor for one that this program opened itself.
pub fn left(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl with F_GETFD touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: it is open, and nobody else owns it: the caller's condition.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
