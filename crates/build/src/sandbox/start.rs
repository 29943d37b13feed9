//! Making the processes of a room, and waiting for its end.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::cgroup::Cgroup;
use super::machine::Machine;
use super::plan::{Program, Step, plan};
use super::walk::{self, ENDED, FAILED, Report};
use super::who::{Who, give, give_pipe};
use super::words::Lacking;
use super::{Mount, Room};
use crate::process::Order;

/// A room was not made, or its program not run to its end.
#[derive(Debug)]
pub(crate) enum Failed {
    /// This machine has not all that a room needs.
    Lacking(Lacking),
    /// The program is not there, or cannot be executed.
    Start(io::Error),
    /// What became of it cannot be known.
    Wait(io::Error),
}

/// A room with a program in it. Dropped, all of it is killed.
#[derive(Debug)]
pub(crate) struct Inside {
    process: OwnedFd,
    report: fs::File,
    steps: Vec<Step>,
    is_over: bool,
    // Goes after the room.
    _cgroup: Cgroup,
}

/// The ends of the pipes that a program writes to.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub stdout: fs::File,
    pub stderr: fs::File,
}

/// Makes a room and starts a program in it. The thread that calls has to live until the program has ended: the room dies with it.
pub(crate) fn start(order: &Order<'_>, room: &Room) -> Result<(Inside, Outputs), Failed> {
    let machine = Machine::look(room).map_err(Failed::Lacking)?;
    let program = Program { program: order.program, args: order.args, dir: order.dir, environment: order.environment };
    let steps = plan(program, &room.host_name, &machine).map_err(Failed::Lacking)?;

    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Failed::Start(errno.into()));
    let ((stdout, stdout_in), (stderr, stderr_in), (report, report_in), (go_out, go)) = (pipe()?, pipe()?, pipe()?, pipe()?);
    give_pipe(machine.who, stdout_in.as_fd()).and_then(|()| give_pipe(machine.who, stderr_in.as_fd())).map_err(Failed::Start)?;
    let null = fs::File::open("/dev/null").map_err(Failed::Start)?;
    let ends = [null.as_fd(), stdout_in.as_fd(), stderr_in.as_fd(), report_in.as_fd(), go_out.as_fd()];
    let (pid, process) = clone(ends, &steps)?;

    // From here on the room is killed when anything fails.
    let inside = Inside { process, report: report.into(), steps, is_over: false, _cgroup: Cgroup::around(pid) };
    make_users(pid, &machine).map_err(|error| Failed::Lacking(Lacking::users(&error)))?;
    // When memory runs out, the build is to go, not df or what else runs here.
    fs::write(format!("/proc/{pid}/oom_score_adj"), "800").ok();
    rustix::io::write(&go, b"g").map_err(|errno| Failed::Start(errno.into()))?;
    Ok((inside, Outputs { stdout: stdout.into(), stderr: stderr.into() }))
}

impl Inside {
    /// Something that becomes readable when the room has ended.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Kills all processes of the room.
    pub fn kill(&self) {
        rustix::process::pidfd_send_signal(&self.process, Signal::KILL).ok();
    }

    /// Waits until all processes of the room are dead; says how the program ended.
    pub fn wait(mut self) -> Result<ExitStatus, Failed> {
        let status = self.reap().map_err(Failed::Wait)?;
        let mut bytes = vec![];
        self.report.read_to_end(&mut bytes).map_err(Failed::Wait)?;
        let reports: Vec<Report> = bytes
            .chunks_exact(size_of::<Report>())
            .map(|chunk| [0, 4, 8].map(|at| i32::from_ne_bytes(chunk[at..at + 4].try_into().expect("four bytes"))))
            .collect();
        let failed = reports.iter().find(|report| report[0] == FAILED);
        let ended = reports.iter().find(|report| report[0] == ENDED);
        match (failed, ended) {
            (Some(&[_, index, errno]), _) => Err(self.failed(index, errno)),
            (None, Some(&[_, status, _])) => Ok(ExitStatus::from_raw(status)),
            (None, None) => match status.and_then(|status| status.terminating_signal()) {
                Some(signal) => Ok(ExitStatus::from_raw(signal)),
                None => Err(Failed::Wait(io::Error::other("the room ended without a word"))),
            },
        }
    }

    fn failed(&self, index: i32, errno: c_int) -> Failed {
        match usize::try_from(index).ok().and_then(|index| self.steps.get(index)) {
            Some(Step::Execute(_) | Step::Enter { .. }) | None => Failed::Start(io::Error::from_raw_os_error(errno)),
            Some(step) => Failed::Lacking(Lacking::step(step, errno)),
        }
    }

    /// Takes the end of process 1 from the kernel, which gives it only when no other process of the room is left.
    fn reap(&mut self) -> io::Result<Option<WaitIdStatus>> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                answer => {
                    self.is_over = true;
                    return Ok(answer?);
                }
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            self.reap().ok();
        }
    }
}

/// Tries a whole room, with `/bin/true` in it.
pub(super) fn tried(dir: &Path) -> Result<(), Lacking> {
    let scratch = Scratch::below(dir)?;
    let mounts = vec![Mount::Writable { host: scratch.make("src")?, inside: "/df/src".into() }];
    match run_quietly(&["/bin/true"], mounts) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Lacking::at_work(&status.to_string())),
        Err(Failed::Lacking(lacking)) => Err(lacking),
        Err(Failed::Start(error) | Failed::Wait(error)) => Err(Lacking::at_work(&error.to_string())),
    }
}

/// Tries to layer one directory over another, to delete in it and to write to it.
pub(super) fn layered(dir: &Path) -> Result<bool, Lacking> {
    let scratch = Scratch::below(dir)?;
    let lower = scratch.make("lower")?;
    fs::write(lower.join("old"), "old").map_err(|error| Lacking::place(&lower, &error))?;
    give(&lower).map_err(|error| Lacking::place(&lower, &error))?;
    let upper = scratch.make("upper")?;
    let layered =
        Mount::Layered { lower: lower.clone(), upper: upper.clone(), work: scratch.make("work")?, inside: "/df/src".into() };
    let ended = run_quietly(&["/bin/sh", "-ec", "rm /df/src/old; test ! -e /df/src/old; : > /df/src/new"], vec![layered]);
    Ok(ended.is_ok_and(|status| status.success()) && lower.join("old").exists() && upper.join("new").exists())
}

/// A directory for a try.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn below(dir: &Path) -> Result<Self, Lacking> {
        let dir = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
        let scratch = tempfile::Builder::new().prefix(".room-").tempdir_in(dir);
        Ok(Self(scratch.map_err(|error| Lacking::place(dir, &error))?))
    }

    fn make(&self, name: &str) -> Result<PathBuf, Lacking> {
        let path = self.0.path().join(name);
        fs::create_dir(&path).and_then(|()| give(&path)).map_err(|error| Lacking::place(&path, &error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        super::remove(self.0.path()).ok();
    }
}

fn run_quietly(command: &[&str], mounts: Vec<Mount>) -> Result<ExitStatus, Failed> {
    let args: Vec<String> = command[1..].iter().map(|&arg| arg.to_owned()).collect();
    let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
    let room = Room { mounts, host_name: "df".to_owned() };
    let order =
        Order { program: Path::new(command[0]), args: &args, dir: Path::new("/"), environment: &environment, room: Some(&room) };
    let (inside, outputs) = start(&order, &room)?;
    let ended = inside.wait();
    drop(outputs);
    ended
}

/// Clones this thread into process 1 of new namespaces, which takes the steps.
fn clone(ends: [BorrowedFd<'_>; 5], steps: &[Step]) -> Result<(i32, OwnedFd), Failed> {
    // 10 and above, so that putting one at its place overwrites none of the others.
    let mut high = vec![];
    for end in ends {
        high.push(rustix::io::fcntl_dupfd_cloexec(end, 10).map_err(|errno| Failed::Start(errno.into()))?);
    }
    let descriptors = [0, 1, 2, 3, 4].map(|index: usize| high[index].as_raw_fd());
    let mut process: c_int = -1;
    let arguments = [FLAGS, (&raw mut process) as u64, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let (all, mut before) = (u64::MAX, 0_u64);
    // SAFETY: without a stack of its own and CLONE_VM, the child is a copy as of a fork; it goes to `walk` at once, with all signals blocked so that
    // no handler of df runs in it. The kernel writes to `process` and to the mask, both ours, and reads 8 words of arguments.
    let (pid, error) = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8_usize);
        let pid = libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments));
        if pid == 0 {
            walk::walk(descriptors, steps);
        }
        let error = io::Error::last_os_error();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, 0_usize, 8_usize);
        (pid, error)
    };
    match i32::try_from(pid) {
        // SAFETY: the kernel made the descriptor for us just now.
        Ok(pid) if pid > 0 => Ok((pid, unsafe { OwnedFd::from_raw_fd(process) })),
        _ => Err(Failed::Lacking(Lacking::namespaces(&error))),
    }
}

/// A descriptor of the process, its own handlers of signals, and every namespace but that of time.
const FLAGS: u64 = 0x1000
    | 0x1_0000_0000
    | (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP) as u64;

fn make_users(pid: i32, machine: &Machine) -> io::Result<()> {
    let who = machine.who;
    if who != Who::Root {
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/uid_map"), who.uids(&machine.owners))?;
    fs::write(format!("/proc/{pid}/gid_map"), who.gids(&machine.owners))
}
