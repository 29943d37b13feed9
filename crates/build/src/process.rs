//! A program of a build: its own session, a clean environment, everything it says taken down, all of it killed at the end.
//!
//! In a room "all of it" is every process that it started, by whatever ways; without one, its process group.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::log::Log;
use crate::sandbox::{self, Failed, Inside, Lacking, Room, Space};

/// How often the wish to cancel is looked at.
const TICK: Duration = Duration::from_millis(50);
/// After the group was killed, what it wrote last is waited for this long: a process that left the group may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// Chunks of output that may wait to be taken down.
const N_WAITING: usize = 64;
/// What a program may say in all; one that says more says it for ever.
const LOUD_LEN: u64 = if cfg!(test) { 8 << 20 } else { 1 << 30 };

/// A program could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProcessError {
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("cannot wait for {program}")]
    Wait { program: String, source: io::Error },
    #[error("the build was cancelled")]
    Cancelled,
    #[error("{program} said more than {LOUD_LEN} bytes")]
    TooLoud { program: String },
    /// A build may fill no disk: others write there too.
    #[error("stopped, for the disk below {} is nearly full", path.display())]
    Full { path: PathBuf },
    /// A strict build is not possible here; nothing ran.
    #[error("this machine lacks {}", lacking.part)]
    Room { lacking: Lacking },
}

/// What to run. With a room, all paths are inside.
pub(crate) struct Order<'a> {
    pub program: &'a Path,
    pub args: &'a [String],
    pub dir: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    pub room: Option<&'a Room>,
}

/// Runs a program until it ends; what it writes to stderr goes to the log, what it writes to stdout to `out`, in chunks.
///
/// When this returns, however, every process of the room is dead; without a room, the process group was killed.
pub(crate) fn run(
    order: &Order<'_>,
    log: &mut Log,
    cancel: &AtomicBool,
    out: &mut dyn FnMut(&[u8], &mut Log),
) -> Result<ExitStatus, ProcessError> {
    let (running, receiver) = match order.room {
        Some(room) => {
            let (inside, outputs) = sandbox::start(order, room).map_err(|failed| of_room(order, failed))?;
            (Running::Room(inside), listen(outputs.stdout, outputs.stderr))
        }
        None => {
            let (group, stdout, stderr) =
                Group::start(order).map_err(|source| ProcessError::Start { program: shown(order), source })?;
            (Running::Group(group), listen(stdout, stderr))
        }
    };
    let mut watch = Watch { cancel, space: order.room.map(Space::of), looked: Instant::now() };
    let mut stop = take_down(&running, &receiver, &mut watch, log, out);
    // Only a program that closed both its pipes and goes on is waited for here.
    while stop.is_none() && !running.has_ended(TICK) {
        stop = watch.stop();
    }
    if stop.is_some() {
        running.kill();
    }
    let status = running.wait(order)?;
    match stop {
        None if cancel.load(Ordering::Relaxed) => Err(ProcessError::Cancelled),
        None => Ok(status),
        Some(Stop::Cancelled) => Err(ProcessError::Cancelled),
        Some(Stop::TooLoud) => Err(ProcessError::TooLoud { program: shown(order) }),
        Some(Stop::Full(path)) => Err(ProcessError::Full { path }),
    }
}

/// Says how a program ended: `status 101`, `signal 9`.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

enum Running {
    Group(Group),
    Room(Inside),
}

/// A program with the rights of df, that leads a process group.
struct Group {
    child: Child,
    process: OwnedFd,
}

/// Why a program is not left to go on.
enum Stop {
    Cancelled,
    TooLoud,
    Full(PathBuf),
}

/// Looks for reasons to stop a program.
struct Watch<'a> {
    cancel: &'a AtomicBool,
    space: Option<Space>,
    looked: Instant,
}

impl Watch<'_> {
    fn stop(&mut self) -> Option<Stop> {
        if self.cancel.load(Ordering::Relaxed) {
            return Some(Stop::Cancelled);
        }
        // A program that says much brings us here far more often than disks fill.
        if self.looked.elapsed() < TICK {
            return None;
        }
        self.looked = Instant::now();
        self.space.as_ref().and_then(Space::full).map(|path| Stop::Full(path.into()))
    }
}

impl Running {
    /// Whether the program has ended; waits for that a little.
    fn has_ended(&self, wait: Duration) -> bool {
        let process: BorrowedFd<'_> = match self {
            Self::Group(group) => group.process.as_fd(),
            Self::Room(inside) => inside.process(),
        };
        let wait = Timespec::try_from(wait).expect("far less than a year");
        matches!(rustix::event::poll(&mut [PollFd::from_borrowed_fd(process, PollFlags::IN)], Some(&wait)), Ok(1..))
    }

    fn kill(&self) {
        match self {
            Self::Group(group) => group.kill(),
            Self::Room(inside) => inside.kill(),
        }
    }

    /// Takes the end of a program, and kills what it left.
    fn wait(self, order: &Order<'_>) -> Result<ExitStatus, ProcessError> {
        match self {
            Self::Room(inside) => inside.wait().map_err(|failed| of_room(order, failed)),
            Self::Group(mut group) => {
                group.kill();
                group.child.wait().map_err(|source| ProcessError::Wait { program: shown(order), source })
            }
        }
    }
}

impl Group {
    fn start(order: &Order<'_>) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let mut command = Command::new(order.program);
        command.args(order.args).current_dir(order.dir).env_clear().envs(order.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; these three are plain system calls and allocate nothing.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                // A df that is killed must not leave a compiler at work in the one source directory.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(process) => Ok((Self { child, process }, stdout, stderr)),
            Err(errno) => {
                child.kill().and_then(|()| child.wait()).ok();
                Err(errno.into())
            }
        }
    }

    /// Kills every process of the group. The leader is not yet waited for, so the number cannot have gone to another group.
    fn kill(&self) {
        rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
    }
}

type Chunk = (bool, Vec<u8>);

fn listen(stdout: impl Read + Send + 'static, stderr: impl Read + Send + 'static) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::sync_channel(N_WAITING);
    read_all(stdout, false, sender.clone());
    read_all(stderr, true, sender);
    receiver
}

fn read_all(mut pipe: impl Read + Send + 'static, is_stderr: bool, sender: mpsc::SyncSender<Chunk>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            if sender.send((is_stderr, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// Takes down what a program says, until it says no more, has ended and been killed, or is to be stopped.
fn take_down(
    running: &Running,
    receiver: &mpsc::Receiver<Chunk>,
    watch: &mut Watch<'_>,
    log: &mut Log,
    out: &mut dyn FnMut(&[u8], &mut Log),
) -> Option<Stop> {
    let mut ended: Option<Instant> = None;
    let mut len = 0_u64;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok((is_stderr, bytes)) => {
                len += bytes.len() as u64;
                if is_stderr { log.add(&bytes) } else { out(&bytes, log) }
            }
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if len > LOUD_LEN {
            return Some(Stop::TooLoud);
        }
        if let Some(stop) = watch.stop() {
            return Some(stop);
        }
        match ended {
            Some(ended) if ended.elapsed() > DRAIN => return None,
            None if running.has_ended(Duration::ZERO) => {
                running.kill();
                ended = Some(Instant::now());
            }
            _ => {}
        }
    }
}

fn shown(order: &Order<'_>) -> String {
    order.program.display().to_string()
}

fn of_room(order: &Order<'_>, failed: Failed) -> ProcessError {
    match failed {
        Failed::Lacking(lacking) => ProcessError::Room { lacking },
        Failed::Start(source) => ProcessError::Start { program: shown(order), source },
        Failed::Wait(source) => ProcessError::Wait { program: shown(order), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Ran {
        answer: Result<ExitStatus, ProcessError>,
        out: Vec<u8>,
        log: String,
    }

    /// Runs a script in a room, or with the rights of the test; what it says `begun`, it is cancelled, if it is to be.
    fn run_sh(script: &str, room: Option<&Room>, is_to_be_cancelled: bool) -> Ran {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(&dir.path().join("log")).unwrap();
        let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let args = ["-c".to_owned(), script.to_owned()];
        let order = Order { program: Path::new("/bin/sh"), args: &args, dir: Path::new("/"), environment: &environment, room };
        let cancel = Arc::new(AtomicBool::new(false));
        let mut out = vec![];
        let answer = run(&order, &mut log, &cancel.clone(), &mut |bytes, _| {
            out.extend_from_slice(bytes);
            cancel.store(is_to_be_cancelled && out.starts_with(b"begun"), Ordering::Relaxed);
        });
        Ran { answer, out, log: log.last_lines().join("\n") }
    }

    fn room() -> Room {
        Room { mounts: vec![], host_name: "df".to_owned() }
    }

    #[test]
    fn what_is_said_and_how_it_ended_comes_through() {
        for room in [None, Some(&room())] {
            let ran = run_sh("echo out; echo err >&2; exit 7", room, false);
            assert_eq!(ran.answer.unwrap().code(), Some(7));
            assert_eq!((ran.out.as_slice(), ran.log.as_str()), (b"out\n".as_slice(), "err"));
            let ran = run_sh("kill -KILL $$", room, false);
            assert_eq!(ran.answer.unwrap().signal(), Some(9));
        }
    }

    #[test]
    fn a_cancelled_program_is_killed() {
        for room in [None, Some(&room())] {
            let ran = run_sh("echo begun; exec >&- 2>&-; while :; do sleep 1; done", room, true);
            assert!(matches!(ran.answer, Err(ProcessError::Cancelled)), "{:?}", ran.answer);
        }
    }

    /// Not a promise of its own: what the next test starts, on a disk of its own.
    #[test]
    fn a_disk_that_is_filled() {
        let Some(disk) = std::env::var_os("DF_TEST_DISK") else { return };
        let host = PathBuf::from(disk).join("w");
        std::fs::create_dir(&host).unwrap();
        sandbox::give(&host).unwrap();
        let room = Room { mounts: vec![sandbox::Mount::Writable { host, inside: "/df/w".into() }], ..room() };
        let ran = run_sh("cat /dev/zero > /df/w/file; while :; do sleep 1; done", Some(&room), false);
        println!("so it ended: {:?}", ran.answer);
    }

    #[test]
    fn a_program_that_fills_the_disk_is_stopped() {
        let disk = tempfile::tempdir().unwrap();
        let output = Command::new("unshare")
            .args(["-Urm", "sh", "-c", "mount -t tmpfs -o size=16m none \"$DF_TEST_DISK\" && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["process::tests::a_disk_that_is_filled", "--exact", "--nocapture"])
            .env("DF_TEST_DISK", disk.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("so it ended: Err(Full {"), "{output:?}");
    }

    #[test]
    fn a_program_that_never_stops_talking_is_stopped() {
        for room in [None, Some(&room())] {
            let ran = run_sh("yes", room, false);
            assert!(matches!(ran.answer, Err(ProcessError::TooLoud { .. })), "{:?}", ran.answer);
        }
    }
}
