//! System calls by number: what a filter sees, without what a library would say first.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    pub fn sendmsg(socket: c_int, message: *const Message, flags: c_int) -> isize;
}

#[repr(C)]
pub struct Message {
    pub name: *const c_void,
    pub name_len: u32,
    pub parts: *const Part,
    pub n_parts: usize,
    pub control: *const c_void,
    pub control_len: usize,
    pub flags: c_int,
}

#[repr(C)]
pub struct Part {
    pub bytes: *const c_void,
    pub len: usize,
}

/// Calls the kernel.
pub fn call(number: i64, args: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every pointer that is passed lives for the call; what a call does to the process ends with it, which is the attempt's own.
    let answer = unsafe { syscall(number, a, b, c, d, e, f) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as usize) }
}

pub fn call2(number: i64, a: usize, b: usize) -> io::Result<usize> {
    call(number, [a, b, 0, 0, 0, 0])
}

pub fn call3(number: i64, a: usize, b: usize, c: usize) -> io::Result<usize> {
    call(number, [a, b, c, 0, 0, 0])
}

/// Returns a path as the kernel wants it.
pub fn text(path: &str) -> CString {
    CString::new(path).expect("no NUL in it")
}

pub fn at(text: &CString) -> usize {
    text.as_ptr() as *const c_char as usize
}

/// Returns why an attempt ended without a system call saying no.
pub fn held<T>(reason: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(reason.into()))
}

/// Says that the kernel got past the question who asks: any error but the ones that mean "you may not" or "there is no such call".
pub fn judged(answer: io::Result<usize>) -> io::Result<String> {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    const ENOSYS: i32 = 38;
    match answer {
        Ok(_) => Ok("the kernel did it".to_owned()),
        Err(error) if matches!(error.raw_os_error(), Some(EPERM | EACCES | ENOSYS)) => Err(error),
        Err(error) => Ok(format!("the kernel only minded the arguments: {error}")),
    }
}
