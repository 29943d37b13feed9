//! One running program, held so that its number can't be mistaken for another's.
//!
//! A process number is reused after its process has gone; a pidfd never is. A supervisor that starts anew knows only what it wrote down,
//! and adopts a process only if boot, number and start time agree.

use crate::listeners;
use crate::members::{Exceeded, Members};
use df_core::Endpoint;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{ipproto, sockopt};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

/// What identifies a process for as long as the machine runs; to be written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its number, which others may have had before and may get later.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
    /// The kernel's name for this boot.
    pub boot: String,
    /// How all that it starts is known.
    #[serde(default)]
    pub members: Members,
}

/// A program started or adopted by the supervisor, leader of its own session and process group.
///
/// Dropping a child that has ended reaps it; until then it stays as a zombie, so that its number, and with it the number of its process group, is
/// not given to others. Keep it until it has ended.
#[derive(Debug)]
pub struct Process {
    record: ProcessRecord,
    pid: Pid,
    pidfd: OwnedFd,
    child: bool,
}

/// All that a process started has this long to vanish after SIGKILL.
const KILLED: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It was not our child, so nobody tells us.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => write!(f, "unknown exit status"),
        }
    }
}

/// Why a recorded process can't be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It has ended, or the machine was started again.
    #[error("process {pid} has ended")]
    Ended { pid: u32 },
    /// Its number belongs to another process now.
    #[error("process {pid} has ended and its number is another's now")]
    Reused { pid: u32 },
    /// The system refused.
    #[error("adopt process {pid}")]
    System {
        pid: u32,
        #[source]
        source: io::Error,
    },
}

/// Why a listener can't be had back from a running program.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The program has no such descriptor, or we may not reach into it.
    #[error("take descriptor {number} from process {pid}")]
    NotHad {
        pid: u32,
        number: i32,
        #[source]
        source: io::Error,
    },
    /// The program uses that number for something else.
    #[error("descriptor {number} of process {pid} is not a listener on {expected}")]
    WrongSocket { pid: u32, number: i32, expected: Endpoint },
}

impl Process {
    /// Holds a child that was just started and not yet waited for, in place of the standard library's handle.
    pub fn child(child: Child) -> io::Result<Self> {
        let pid = child.id();
        let number = number(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        let record = ProcessRecord { pid, start_time: start_time(pid)?, boot: boot()?, members: Members::default() };
        Ok(Process { record, pid: number, pidfd, child: true })
    }

    /// Remembers how all that it starts is known.
    pub fn with(mut self, mut members: Members) -> Self {
        members.settle();
        self.record.members = members;
        self
    }

    /// Returns what it and all that it started ran into; to be asked before the last of them is killed.
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.record.members.exceeded()
    }

    /// Holds a process that a former supervisor started.
    pub fn adopt(record: &ProcessRecord) -> Result<Self, AdoptError> {
        let pid = record.pid;
        let system = |source| AdoptError::System { pid, source };
        if boot().map_err(system)? != record.boot {
            return Err(AdoptError::Ended { pid });
        }
        let number = number(pid).map_err(system)?;
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(AdoptError::Ended { pid }),
            other => other.map_err(|e| system(e.into()))?,
        };
        let found = start_time(pid);
        let process = Process { record: record.clone(), pid: number, pidfd, child: false };
        // Alive after we have read: what was read is about the process behind the pidfd.
        match (process.alive().map_err(system)?, found) {
            (false, _) => Err(AdoptError::Ended { pid }),
            (true, Ok(time)) if time == record.start_time => Ok(process),
            (true, Ok(_)) => Err(AdoptError::Reused { pid }),
            (true, Err(source)) => Err(system(source)),
        }
    }

    /// Holds a process by a descriptor that was held of it. One that has ended too, if it is our child: then how it ended is still to be told.
    pub fn adopt_held(record: &ProcessRecord, pidfd: OwnedFd) -> Result<Self, AdoptError> {
        let pid = record.pid;
        let system = |source| AdoptError::System { pid, source };
        // The kernel says -1 of one that has ended and was waited for.
        if described(&pidfd).map_err(system)? != i64::from(pid) {
            return Err(AdoptError::Ended { pid });
        }
        let child = parent(pid).is_ok_and(|parent| parent == std::process::id());
        let process = Process { record: record.clone(), pid: number(pid).map_err(system)?, pidfd, child };
        if child || process.alive().map_err(system)? { Ok(process) } else { Err(AdoptError::Ended { pid }) }
    }

    /// Returns what to write down for [`adopt`](Self::adopt).
    pub fn record(&self) -> &ProcessRecord {
        &self.record
    }

    /// Returns its number, for people.
    pub fn pid(&self) -> u32 {
        self.record.pid
    }

    /// Returns the numbers of all that belong to it and run, itself among them.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.record.members.pids(&|| self.alive().is_ok_and(|alive| alive).then_some(self.record.pid));
        // One that got no cgroup is known by itself, and with one it may have left that.
        if !pids.contains(&self.record.pid) {
            pids.push(self.record.pid);
        }
        pids
    }

    /// Returns a descriptor that becomes readable when the process ends; for poll, and for a holder.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Tells whether it still runs; a zombie does not.
    pub fn alive(&self) -> io::Result<bool> {
        Ok(!ended_before(&self.pidfd, Instant::now())?)
    }

    /// Sends a signal to the process; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Kills the process and all that it started, also what a process that has ended left behind, and waits until they are gone.
    ///
    /// # Errors
    /// Something lives on, or the system refused.
    pub fn kill_all(&self) -> io::Result<()> {
        let lives = || self.alive().is_ok_and(|alive| alive).then_some(self.record.pid);
        let all_ended = self.record.members.end(&lives, KILLED);
        self.kill_group()?;
        if all_ended { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, "something that it started does not end")) }
    }

    /// Kills what is in its process group.
    ///
    /// Of an adopted process that has ended the group's number may be another's already, so nothing is killed then.
    fn kill_group(&self) -> io::Result<()> {
        if !self.child && !self.alive()? {
            return Ok(());
        }
        match kill_process_group(self.pid, Signal::KILL) {
            Err(Errno::SRCH) => self.signal(Signal::KILL),
            other => Ok(other?),
        }
    }

    /// Waits until it has ended and tells how; `None` if it runs longer than that.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        if !ended_before(&self.pidfd, Instant::now() + timeout)? {
            return Ok(None);
        }
        if !self.child {
            return Ok(Some(Exit::Unknown));
        }
        // NOWAIT: the zombie keeps the number until we are dropped.
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(status) => Ok(Some(status.map_or(Exit::Unknown, |status| exit(&status)))),
            Err(Errno::CHILD) => Ok(Some(Exit::Unknown)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the listener that the running program has at this number, if it is one on the expected address.
    ///
    /// Needs the right to trace the process: root, or the same user where the kernel lets him (kernel.yama.ptrace_scope 0).
    pub fn take_listener(&self, number: i32, expected: &Endpoint) -> Result<OwnedFd, TakeError> {
        let pid = self.record.pid;
        let taken = pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty());
        let socket = taken.map_err(|source| TakeError::NotHad { pid, number, source: source.into() })?;
        if is_listener_on(&socket, expected) {
            Ok(socket)
        } else {
            Err(TakeError::WrongSocket { pid, number, expected: expected.clone() })
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.record.members.forget();
        if self.child {
            // Nothing to do about a failure: who runs still is reaped by init when we end.
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

fn number(pid: u32) -> io::Result<Pid> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process number"))
}

fn exit(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

fn ended_before(pidfd: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        let left = left.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too long a time"))?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Returns the kernel's name for this boot.
pub fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected form of /proc/PID/stat"))
}

/// Returns the number of a process's parent.
fn parent(pid: u32) -> io::Result<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let parent = field(&stat, 4).and_then(|parent| parent.parse().ok());
    parent.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected form of /proc/PID/stat"))
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    field(stat, 22)?.parse().ok()
}

/// Returns a field of /proc/PID/stat, counted from 1 and behind the second: that one is the command in parentheses, and may hold anything, also `)`.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let behind_command = &stat[stat.iter().rposition(|&b| b == b')')? + 1..];
    let third_and_on = std::str::from_utf8(behind_command).ok()?;
    third_and_on.split_ascii_whitespace().nth(number - 3)
}

/// Returns the number of the process that a pidfd is of, as the kernel tells it.
fn described(pidfd: &OwnedFd) -> io::Result<i64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = line.and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a descriptor that is of no process"))
}

fn is_listener_on(socket: &OwnedFd, expected: &Endpoint) -> bool {
    let speaks = |wanted| sockopt::socket_protocol(socket).is_ok_and(|protocol| protocol == Some(wanted));
    let listens = || sockopt::socket_acceptconn(socket).unwrap_or(false);
    let bound = || rustix::net::getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    match expected {
        Endpoint::Tcp(address) => speaks(ipproto::TCP) && listens() && bound() == Some(*address),
        Endpoint::Udp(address) => speaks(ipproto::UDP) && bound() == Some(*address),
        Endpoint::Unix(path) => listeners::is_beside(socket, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    const SOON: Duration = Duration::from_secs(10);

    fn start(script: &str) -> Process {
        let mut command = Command::new("sh");
        let child = command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().unwrap();
        Process::child(child).unwrap()
    }

    #[test]
    fn exits_are_told_apart_and_can_be_asked_twice() {
        let process = start("exit 7");
        assert_eq!(process.wait(SOON).unwrap(), Some(Exit::Code(7)));
        assert_eq!(process.wait(SOON).unwrap(), Some(Exit::Code(7)));
        assert!(!process.alive().unwrap());
        let process = start("exec sleep 100");
        assert!(process.alive().unwrap());
        assert_eq!(process.wait(Duration::ZERO).unwrap(), None);
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(SOON).unwrap(), Some(Exit::Signal(15)));
        process.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn a_group_is_killed_also_when_its_leader_has_ended() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        let child = command.args(["-c", "sleep 100 & exit 0"]).stdout(writer).process_group(0).spawn().unwrap();
        drop(command); // with its end of the pipe
        let process = Process::child(child).unwrap();
        assert_eq!(process.wait(SOON).unwrap(), Some(Exit::Code(0)));
        process.kill_all().unwrap();
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut reader, &mut rest).unwrap(); // ends when nobody holds the pipe
        process.kill_all().unwrap();
    }

    #[test]
    fn dropping_a_child_that_has_ended_leaves_no_zombie() {
        let process = start("exit 0");
        let pid = process.pid();
        process.wait(SOON).unwrap();
        assert!(start_time(pid).is_ok());
        drop(process);
        assert!(start_time(pid).is_err());
    }

    #[test]
    fn only_the_recorded_process_is_adopted() {
        let process = start("exec sleep 100");
        let record = process.record().clone();
        let adopted = Process::adopt(&record).unwrap();
        let reused = ProcessRecord { start_time: record.start_time + 1, ..record.clone() };
        assert!(matches!(Process::adopt(&reused), Err(AdoptError::Reused { .. })));
        let other_boot = ProcessRecord { boot: "other".into(), ..record.clone() };
        assert!(matches!(Process::adopt(&other_boot), Err(AdoptError::Ended { .. })));
        for pid in [0, u32::MAX] {
            assert!(Process::adopt(&ProcessRecord { pid, ..record.clone() }).is_err());
        }
        adopted.kill_all().unwrap();
        assert_eq!(adopted.wait(SOON).unwrap(), Some(Exit::Unknown));
        adopted.kill_all().unwrap();
        assert!(matches!(Process::adopt(&record), Err(AdoptError::Ended { .. })));
        assert_eq!(process.wait(SOON).unwrap(), Some(Exit::Signal(9)));
        drop(process);
        assert!(matches!(Process::adopt(&record), Err(AdoptError::Ended { .. })));
    }

    #[test]
    fn what_was_held_of_a_child_tells_how_it_ended_and_of_others_that_they_did() {
        let process = start("exec sleep 100");
        let (record, held) = (process.record().clone(), process.pidfd().try_clone_to_owned().unwrap());
        let again = Process::adopt_held(&record, held.try_clone().unwrap()).unwrap();
        let other = ProcessRecord { pid: std::process::id(), ..record.clone() };
        assert!(matches!(Process::adopt_held(&other, held.try_clone().unwrap()), Err(AdoptError::Ended { .. })));
        let file = tempfile::tempfile().unwrap().into();
        assert!(matches!(Process::adopt_held(&record, file), Err(AdoptError::System { .. })));
        again.kill_all().unwrap();
        again.wait(SOON).unwrap();
        let ended = Process::adopt_held(&record, held.try_clone().unwrap()).unwrap();
        assert_eq!(ended.wait(SOON).unwrap(), Some(Exit::Signal(9)), "it is our child, and nobody has waited for it");
        drop((process, again, ended));
        assert!(matches!(Process::adopt_held(&record, held), Err(AdoptError::Ended { .. })));
    }

    #[test]
    fn a_command_name_can_not_forge_the_start_time() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse_start_time(format!("12 (sh) {fields}").as_bytes()), Some(4711));
        assert_eq!(parse_start_time(format!("12 (a) S 1 (\u{1b}) b) {fields}").as_bytes()), Some(4711));
        assert_eq!(parse_start_time(b"12 (sh) S 1"), None);
        assert_eq!(parse_start_time(b""), None);
    }

    #[test]
    fn a_listener_comes_back_from_a_running_program() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = Command::new("sleep");
        let inherited = listener.try_clone().unwrap();
        let child = command.arg("100").stdin(Stdio::from(OwnedFd::from(inherited))).process_group(0).spawn().unwrap();
        let process = Process::child(child).unwrap();
        drop(listener);
        let taken = TcpListener::from(process.take_listener(0, &address.into()).unwrap());
        let _client = std::net::TcpStream::connect(address).unwrap();
        taken.accept().unwrap();
        let flags = rustix::io::fcntl_getfd(&taken).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "descriptor {} would leak", taken.as_raw_fd());
        assert!(matches!(process.take_listener(1, &address.into()), Err(TakeError::WrongSocket { .. })));
        assert!(matches!(process.take_listener(99, &address.into()), Err(TakeError::NotHad { .. })));
        let other = SocketAddr::new(address.ip(), 1);
        assert!(matches!(process.take_listener(0, &other.into()), Err(TakeError::WrongSocket { .. })));
        process.kill_all().unwrap();
        process.wait(SOON).unwrap();
    }
}
