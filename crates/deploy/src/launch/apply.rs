//! The launcher: what `df-node launch` does before it becomes the program.

use super::channel::{self, Step};
use super::{Ids, LaunchSpec, Order, sys};
use rustix::fs::{Mode, OFlags};
use rustix::process::{chdir, getegid, geteuid, setsid, umask};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

/// The descriptor of the first listener, as sd_listen_fds(3) has it.
const FIRST_LISTENER: RawFd = 3;

/// Carries out the orders on descriptor 0 and becomes the program they name; the body of `df-node launch`.
///
/// Ends the process with status 126 after telling the supervisor why it can't; with 2 when no supervisor is there.
pub fn launch_main() -> ! {
    let channel = match rustix::io::fcntl_dupfd_cloexec(io::stdin(), FIRST_LISTENER) {
        Ok(channel) => UnixStream::from(channel),
        Err(_) => std::process::exit(2),
    };
    if channel.peer_addr().is_err() {
        eprintln!("df-node launch is started by the supervisor only");
        std::process::exit(2);
    }
    let (channel, failure) = match run(channel) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    // If the supervisor is gone too, the status is all that remains.
    let _ = channel::tell_failed(&channel, failure.0, &failure.1);
    std::process::exit(126)
}

type Failure = (Step, io::Error);

fn run(channel: UnixStream) -> Result<Infallible, (UnixStream, Failure)> {
    let (Order { spec, cgroup, counting }, listeners) = match channel::receive(&channel) {
        Ok(orders) => orders,
        Err(error) => return Err((channel, (Step::Orders, error))),
    };
    // As who we are still; where it does not work, the supervisor finds it otherwise, and sees that we are not in it.
    let _ = cgroup.map(|cgroup| std::fs::write(cgroup.join("cgroup.procs"), "0"));
    if let Err(error) = counting.iter().try_for_each(|group| std::fs::write(group.join("cgroup.procs"), "0")) {
        return Err((channel, (Step::Limits, error)));
    }
    let first_free = FIRST_LISTENER + listeners.len() as RawFd;
    let channel = match rustix::io::fcntl_dupfd_cloexec(&channel, first_free) {
        Ok(moved) => {
            // Its number may be a listener's in a moment; it is closed then, or with the others.
            let _ = channel.into_raw_fd();
            UnixStream::from(moved)
        }
        Err(error) => return Err((channel, (Step::Descriptors, error.into()))),
    };
    become_program(&spec, listeners, &channel).map_err(|failure| (channel, failure))
}

fn become_program(spec: &LaunchSpec, listeners: Vec<OwnedFd>, channel: &UnixStream) -> Result<Infallible, Failure> {
    let at = |step: Step| move |error: io::Error| (step, error);
    let n_listeners = listeners.len();
    let program = c_string(spec.program.as_os_str().as_bytes()).map_err(at(Step::Orders))?;
    let (args, env) = strings(spec, n_listeners).map_err(at(Step::Orders))?;
    arrange_descriptors(listeners, channel).map_err(at(Step::Descriptors))?;
    setsid().map_err(|e| (Step::Session, e.into()))?;
    umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    spec.limits.set().map_err(at(Step::Limits))?;
    spec.user.as_ref().map_or(Ok(()), change_user).map_err(at(Step::User))?;
    set_no_new_privs(true).map_err(|e| (Step::Privileges, e.into()))?;
    // As the user: a directory that only root can enter is found out here, and not by the program.
    chdir(&spec.directory).map_err(|e| (Step::Directory, e.into()))?;
    channel::tell_started(channel).map_err(at(Step::Exec))?;
    Err((Step::Exec, sys::execute(&program, &args, &env)))
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn strings(spec: &LaunchSpec, n_listeners: usize) -> io::Result<(Vec<CString>, Vec<CString>)> {
    if n_listeners != spec.listeners.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let name = spec.program.as_os_str().as_bytes();
    let args = [name].into_iter().chain(spec.args.iter().map(String::as_bytes)).map(c_string).collect::<Result<_, _>>()?;
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if n_listeners > 0 {
        env.push(format!("LISTEN_PID={}", std::process::id()));
        env.push(format!("LISTEN_FDS={n_listeners}"));
        env.push(format!("LISTEN_FDNAMES={}", spec.listeners.join(":")));
    }
    Ok((args, env.iter().map(|line| c_string(line.as_bytes())).collect::<Result<_, _>>()?))
}

/// Leaves: 0 nothing, 1 and 2 the log, the listeners from 3 on, and the channel, which closes on exec.
fn arrange_descriptors(listeners: Vec<OwnedFd>, channel: &UnixStream) -> io::Result<()> {
    let first_free = FIRST_LISTENER + listeners.len() as RawFd;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::place(nothing.as_fd(), 0)?;
    sys::place(io::stderr().as_fd(), 1)?;
    // First out of the way, each then to its place: they came at any numbers, also each other's. No old number is owned any more then.
    let _ = nothing.into_raw_fd();
    let mut moved = Vec::with_capacity(listeners.len());
    for listener in listeners {
        moved.push(rustix::io::fcntl_dupfd_cloexec(&listener, first_free)?);
        let _ = listener.into_raw_fd();
    }
    for (number, listener) in (FIRST_LISTENER..).zip(moved) {
        sys::place(listener.as_fd(), number)?;
        let _ = listener.into_raw_fd();
    }
    sys::close_from(first_free, channel.as_fd())
}

/// Becomes the user with its groups and nobody else's; groups first, since afterwards we may not.
fn change_user(ids: &Ids) -> io::Result<()> {
    if !geteuid().is_root() && geteuid().as_raw() == ids.uid && getegid().as_raw() == ids.gid {
        return Ok(()); // who is not root has his own groups already and could not set them
    }
    let (uid, gid) = (rustix::thread::Uid::from_raw(ids.uid), rustix::thread::Gid::from_raw(ids.gid));
    let groups: Vec<_> = ids.groups.iter().map(|&group| rustix::thread::Gid::from_raw(group)).collect();
    set_thread_groups(&groups)?;
    // The system calls change one thread, and exec makes it the only one.
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
