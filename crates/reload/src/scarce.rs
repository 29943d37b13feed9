//! Tests without descriptors, each in a process of its own: the limit is one for all of a process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Says to a process of this test program that it is the one of one test's own.
const ALONE: &str = "DF_TEST_ALONE";

/// A limit on open descriptors; goes back when this is dropped.
pub(crate) struct Limit(libc::rlimit);

/// Runs a test in a process of its own: `name` is its path in this crate.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("it runs");
    let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Lets this process open so many descriptors more than it has.
pub(crate) fn leave(n: usize) -> Limit {
    let former = limit();
    // The lowest that are free, and the one above them.
    let free: Vec<File> = (0..=n).map(|_| File::open("/dev/null").expect("descriptors")).collect();
    let lowest_refused = free.iter().map(AsRawFd::as_raw_fd).max().expect("at least one");
    set(&libc::rlimit { rlim_cur: lowest_refused as _, ..former });
    Limit(former)
}

impl Drop for Limit {
    fn drop(&mut self) {
        set(&self.0);
    }
}

fn limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: two integers are written into a live struct.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
    limit
}

fn set(limit: &libc::rlimit) {
    // SAFETY: a live struct is read.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
}
