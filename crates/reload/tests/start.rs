//! What holds once per process, and therefore needs a process of its own: one test in this file.

use distributive_flow::{Service, StartError};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

#[test]
fn descriptors_are_taken_once_and_a_foreign_handler_is_left_alone() {
    let service = Service::from_env().expect("the first time");
    assert!(matches!(Service::from_env(), Err(StartError::Again)), "the second time");

    extern "C" fn foreign(_signal: libc::c_int) {}
    let handler = foreign as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { libc::signal(libc::SIGTERM, handler) };
    assert_eq!(service.draining().expect_err("refused").kind(), io::ErrorKind::AlreadyExists);
    // SAFETY: sets the default again and tells what was set before.
    assert_eq!(unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) }, handler, "it was left alone");

    let draining = service.draining().expect("nobody else has a handler now");
    let waiter = std::thread::spawn({
        let draining = draining.clone();
        move || draining.wait()
    });
    assert_eq!(death_before_exec().signal(), Some(libc::SIGTERM), "a fork dies of the signal, as ever");
    assert!(!draining.is_set(), "and its parent goes on");
    // SAFETY: the signal is handled, as the lines above have it.
    unsafe { libc::raise(libc::SIGTERM) };
    waiter.join().expect("the waiter does not panic");
    assert!(service.draining().expect("the same one").is_set());
}

/// Forks a child that gets SIGTERM while it still shares this program's handler and descriptors.
fn death_before_exec() -> ExitStatus {
    let mut command = Command::new("true");
    // SAFETY: raise is async-signal-safe, and nothing else runs between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::raise(libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().expect("fork").wait().expect("wait")
}
