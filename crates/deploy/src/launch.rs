//! Starting a program with its listeners, as its own user, with nothing else of ours.
//!
//! Between fork and exec of a program with threads almost nothing is allowed. So the supervisor starts *itself* again, as `df-node launch`;
//! that process has one thread and no descriptor of ours, gets its orders and the listeners over a socket on descriptor 0 (environment values may be
//! secret and never stand in an argument list), arranges everything, and becomes the program by exec: its number stays.
//! The socket closes on exec, and until then tells which step failed.

mod apply;
mod channel;
mod limits;
mod sys;
mod user;

use crate::members::{MARK, Members};
use crate::process::{Exit, Process};
use channel::{Outcome, Step};
use df_core::text::escape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use apply::launch_main;
pub use limits::Limits;
pub use user::{Ids, UserError, is_mapped, lookup, numbers};

/// Listeners that one program can get.
pub const MAX_LISTENERS: usize = 64;
/// Why nothing is started with a limit that would not hold.
pub const NO_PIDS: &str = "nobody can count its processes here (run.limits.pids): that needs a supervisor that its unit of systemd 254 or newer \
     has started (one that became this df-node only later: systemctl restart df-node, once, which no client notices), or df-node as root with control \
     groups of the first version, or as root without systemd at the root of their tree";

/// What to start and how. Without `Debug`, because the environment may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The executable, absolute; also its own name (argument 0).
    pub program: PathBuf,
    /// The arguments behind it.
    pub args: Vec<String>,
    /// The whole environment, but for LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which are set here.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub directory: PathBuf,
    /// The names of its listeners (LISTEN_FDNAMES), in the order of the descriptors.
    pub listeners: Vec<String>,
    /// Who it runs as; `None` is who we are.
    pub user: Option<Ids>,
    /// What it may use.
    pub limits: Limits,
}

/// What the launcher is told.
#[derive(Serialize, Deserialize)]
struct Order {
    /// What to start; the mark of its run is among its variables.
    spec: LaunchSpec,
    /// The cgroup to enter, if that is possible.
    cgroup: Option<PathBuf>,
    /// The groups to enter in any case: they count what it uses.
    counting: Vec<PathBuf>,
}

impl Order {
    fn of(spec: &LaunchSpec, members: &Members) -> Self {
        let mut spec = spec.clone();
        spec.env.insert(MARK.into(), members.mark().into());
        spec.limits = spec.limits.of_each(members);
        let counting = members.counting().map(Path::to_owned).collect();
        Self { spec, cgroup: members.cgroup().map(Path::to_owned), counting }
    }
}

/// How to start `df-node launch`: by default this very executable, also after its file was replaced.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// Why a program did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The order itself can't be carried out.
    #[error("start {}: {reason}", escape(program.as_os_str().as_bytes()))]
    Refused { program: PathBuf, reason: &'static str },
    /// `df-node launch` could not be started or spoken to.
    #[error("start the launcher for {}", escape(program.as_os_str().as_bytes()))]
    Launcher {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It ended, or was killed, before it became the program.
    #[error("the launcher for {} ended: {exit}", escape(program.as_os_str().as_bytes()))]
    Ended { program: PathBuf, exit: Exit },
    /// A step failed; the path is what the step was about.
    #[error("{step} {}", escape(path.as_os_str().as_bytes()))]
    Step {
        step: Step,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Default for Launcher {
    fn default() -> Self {
        Launcher { program: "/proc/self/exe".into(), args: vec!["launch".into()], env: Vec::new() }
    }
}

impl Launcher {
    /// Starts the program and returns once it runs, with the listeners at descriptors 3 and up, both outputs going to `log`.
    ///
    /// It is our direct child, leads its own session and process group, and all that it starts is known as its own.
    pub fn spawn(
        &self,
        spec: &LaunchSpec,
        listeners: &[BorrowedFd<'_>],
        log: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<Process, LaunchError> {
        check(spec, listeners.len()).map_err(|reason| LaunchError::Refused { program: spec.program.clone(), reason })?;
        let program = || spec.program.clone();
        let members = Members::new(spec.limits.bounds());
        let members = members.map_err(|source| LaunchError::Launcher { program: program(), source })?;
        if spec.limits.pids.is_some() && !members.pids_are_kept() {
            members.forget();
            return Err(LaunchError::Refused { program: program(), reason: NO_PIDS });
        }
        self.spawn_with(members, spec, listeners, log, timeout)
    }

    /// As [`spawn`](Self::spawn), for orders that were checked, with what all that it starts is to be known by.
    pub(crate) fn spawn_with(
        &self,
        members: Members,
        spec: &LaunchSpec,
        listeners: &[BorrowedFd<'_>],
        log: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<Process, LaunchError> {
        let program = || spec.program.clone();
        let failed = |source| LaunchError::Launcher { program: program(), source };
        let channels = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, self.start(theirs, log)?)));
        let (ours, process) = channels.inspect_err(|_| members.forget()).map_err(failed)?;
        let outcome = order(&ours, &Order::of(spec, &members), listeners, timeout);
        let process = process.with(members);
        if let Ok(Outcome::Started) = outcome {
            return Ok(process);
        }
        let exit = end(&process).map_err(failed)?;
        Err(match outcome {
            Ok(Outcome::Failed { step, source }) => LaunchError::Step { path: concerns(step, spec), step, source },
            Ok(_) => LaunchError::Ended { program: program(), exit },
            // A launcher that ends before it has read everything breaks the socket; how it ended says more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => LaunchError::Ended { program: program(), exit },
            Err(error) => failed(error),
        })
    }

    fn start(&self, channel: UnixStream, log: BorrowedFd<'_>) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned()).current_dir("/");
        command.stdin(OwnedFd::from(channel)).stdout(Stdio::null()).stderr(log.try_clone_to_owned()?);
        Process::child(command.spawn()?)
        // The command is dropped here, with its end of the channel: only the launcher has it now.
    }
}

/// Sends the orders and returns what came of them.
fn order(channel: &UnixStream, order: &Order, listeners: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<Outcome> {
    channel.set_write_timeout(Some(timeout))?;
    channel.set_read_timeout(Some(timeout))?;
    channel::send(channel, order, listeners)?;
    channel::read_outcome(channel)
}

/// Makes sure that nothing of a failed start remains.
fn end(process: &Process) -> io::Result<Exit> {
    // Give one that reports a failure, or has just died, the time to end by itself, so that its exit can be told.
    if let Some(exit) = process.wait(Duration::from_millis(200))? {
        return Ok(exit);
    }
    process.kill_all()?;
    Ok(process.wait(Duration::from_secs(5))?.unwrap_or(Exit::Unknown))
}

fn concerns(step: Step, spec: &LaunchSpec) -> PathBuf {
    if step == Step::Directory { spec.directory.clone() } else { spec.program.clone() }
}

fn check(spec: &LaunchSpec, n_listeners: usize) -> Result<(), &'static str> {
    let nul = |text: &[u8]| text.contains(&0);
    let bad_path = |path: &Path| !path.is_absolute() || nul(path.as_os_str().as_bytes());
    let bad_variable = |(name, value): (&String, &String)| {
        name.is_empty() || name.contains('=') || name.starts_with("LISTEN_") || nul(name.as_bytes()) || nul(value.as_bytes())
    };
    if bad_path(&spec.program) || bad_path(&spec.directory) {
        Err("program and directory must be absolute paths")
    } else if spec.args.iter().any(|arg| nul(arg.as_bytes())) {
        Err("an argument holds a NUL byte")
    } else if spec.env.iter().any(bad_variable) {
        Err("an environment variable has a name or value that can't be passed on")
    } else if n_listeners > MAX_LISTENERS || n_listeners != spec.listeners.len() {
        Err("the listeners do not match their names, or are too many")
    } else if spec.listeners.iter().any(|name| name.contains(':') || name.contains(|c: char| c.is_control())) {
        Err("a listener's name holds a colon or a control character")
    } else {
        Ok(())
    }
}

#[cfg(test)]
pub mod tests;
