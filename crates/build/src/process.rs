//! A program of a build: its own session and process group, a clean environment, everything it says taken down, all of it killed at the end.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::log::Log;

/// How often the wish to cancel is looked at.
const TICK: Duration = Duration::from_millis(50);
/// After the group was killed, what it wrote last is waited for this long: a process that left the group may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// Chunks of output that may wait to be taken down.
const N_WAITING: usize = 64;

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
}

/// What to run.
pub(crate) struct Order<'a> {
    pub program: &'a Path,
    pub args: &'a [String],
    pub dir: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
}

/// Runs a program until it ends; what it writes to stderr goes to the log, what it writes to stdout to `out`, in chunks.
///
/// When it has ended, and when `cancel` becomes true, its whole process group is killed.
pub(crate) fn run(
    order: &Order<'_>,
    log: &mut Log,
    cancel: &AtomicBool,
    out: &mut dyn FnMut(&[u8], &mut Log),
) -> Result<ExitStatus, ProcessError> {
    let shown = || order.program.display().to_string();
    let mut child = start(order).map_err(|source| ProcessError::Start { program: shown(), source })?;
    let group = Group(Pid::from_child(&child));
    let (sender, receiver) = mpsc::sync_channel(N_WAITING);
    read_all(child.stdout.take().expect("piped"), false, sender.clone());
    read_all(child.stderr.take().expect("piped"), true, sender);

    let mut ended: Option<Instant> = None;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok((true, bytes)) => log.add(&bytes),
            Ok((false, bytes)) => out(&bytes, log),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if cancel.load(Ordering::Relaxed) {
            break;
        }
        match ended {
            Some(ended) if ended.elapsed() > DRAIN => break,
            None if has_ended(&group) => {
                group.kill();
                ended = Some(Instant::now());
            }
            _ => {}
        }
    }
    finish(&mut child, &group, cancel)
        .map_err(|source| ProcessError::Wait { program: shown(), source })?
        .ok_or(ProcessError::Cancelled)
}

/// Says how a program ended: `status 101`, `signal 9`.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

struct Group(Pid);

impl Group {
    /// Kills every process of the group. The leader is not yet waited for, so the number cannot have gone to another group.
    fn kill(&self) {
        rustix::process::kill_process_group(self.0, Signal::KILL).ok();
    }
}

fn start(order: &Order<'_>) -> io::Result<Child> {
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
    command.spawn()
}

fn read_all(mut pipe: impl Read + Send + 'static, is_stderr: bool, sender: mpsc::SyncSender<(bool, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            if sender.send((is_stderr, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

fn has_ended(group: &Group) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::Pid(group.0), options), Ok(Some(_)))
}

/// Waits for the leader, kills the group before its number is given back, and returns how the leader ended; `None` when cancelled.
fn finish(child: &mut Child, group: &Group, cancel: &AtomicBool) -> io::Result<Option<ExitStatus>> {
    while !has_ended(group) {
        if cancel.load(Ordering::Relaxed) {
            group.kill();
            child.wait()?;
            return Ok(None);
        }
        // Only a program that closed both its pipes and goes on comes here.
        std::thread::sleep(TICK);
    }
    group.kill();
    let status = child.wait()?;
    Ok((!cancel.load(Ordering::Relaxed)).then_some(status))
}
