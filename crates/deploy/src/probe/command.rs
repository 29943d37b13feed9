//! The probe that runs a program and takes its exit status for the answer.

use super::{ProbeOutcome, left, outcome};
use crate::launch::{LaunchSpec, Launcher};
use crate::members::Exceeded;
use crate::process::{Exit, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::error::Error;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Runs the command, as the program's own user with exactly the environment it is given, and is well if it exits with 0 in time.
///
/// Its output (both streams) becomes the detail, the last 4 KiB of it. Whatever it started is killed with it, by process group.
pub fn command(name: &str, spec: &LaunchSpec, launcher: &Launcher, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    outcome(name, || {
        let (reader, writer) = io::pipe().map_err(|e| e.to_string())?;
        let process = launcher.spawn(spec, &[], writer.as_fd(), timeout).map_err(|e| chain(&e))?;
        drop(writer);
        let (exit, exceeded, output) = watch(&process, reader, deadline).map_err(|e| e.to_string())?;
        let said = output.text();
        let why = |how: String| exceeded.map_or_else(|| how.clone(), |exceeded| format!("{how}; {exceeded}"));
        match exit {
            Some(Exit::Code(0)) if said.is_empty() => Ok("exit status 0".to_owned()),
            Some(Exit::Code(0)) => Ok(said),
            Some(exit) => Err(with(why(exit.to_string()), &said)),
            None => Err(with(why(format!("did not end within {timeout:?}")), &said)),
        }
    })
}

const KEPT_LEN: usize = 4096;

/// The end of an output of any length.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(KEPT_LEN);
        self.0.drain(..excess);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// Reads the output until the process ends (how, and what it ran into, is returned) or the deadline passes; then kills what is left of it.
fn watch(process: &Process, mut output: PipeReader, deadline: Instant) -> io::Result<(Option<Exit>, Option<Exceeded>, Tail)> {
    rustix::io::ioctl_fionbio(&output, true)?;
    let mut tail = Tail::default();
    let mut open = true;
    while let Ok(time) = left(deadline) {
        let pidfd = process.pidfd();
        let mut sources = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&output, PollFlags::IN)];
        let watched = if open { &mut sources[..] } else { &mut sources[..1] };
        let time = Timespec::try_from(time).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(watched, Some(&time)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ended = !sources[0].revents().is_empty();
        if ended {
            break;
        }
        if !sources[1].revents().is_empty() {
            open = read_some(&mut output, &mut tail)?;
        }
    }
    let (exit, exceeded) = (process.wait(Duration::ZERO)?, process.exceeded());
    process.kill_all()?;
    // What it wrote before it ended is in the pipe, which holds no more than this; who escaped the group may write on for ever.
    for _ in 0..(1 << 20) / KEPT_LEN {
        if !open || !read_some(&mut output, &mut tail)? {
            break;
        }
    }
    Ok((exit, exceeded, tail))
}

/// Reads what is there; false when there is nothing more (yet).
fn read_some(output: &mut PipeReader, tail: &mut Tail) -> io::Result<bool> {
    let mut chunk = [0; KEPT_LEN];
    match output.read(&mut chunk) {
        Ok(n) => {
            tail.push(&chunk[..n]);
            Ok(n > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn with(what: String, said: &str) -> String {
    if said.is_empty() { what } else { format!("{what}: {said}") }
}

fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::tests::{launcher, script};

    const SOON: Duration = Duration::from_secs(20);

    fn run(text: &str, timeout: Duration) -> ProbeOutcome {
        command("self-test", &script(text), &launcher(), timeout)
    }

    #[track_caller]
    fn check(text: &str, expect: (bool, &str)) {
        let outcome = run(text, SOON);
        assert_eq!((outcome.ok, outcome.detail.as_str()), expect);
    }

    #[test]
    fn the_exit_status_decides_and_the_output_explains() {
        check("exit 0", (true, "exit status 0"));
        check("echo all; echo well >&2", (true, "all\nwell"));
        check("echo no database; exit 3", (false, "exit status 3: no database"));
        check("kill -9 $$", (false, "signal 9"));
    }

    #[test]
    fn it_is_asked_in_its_directory_with_its_environment_only() {
        let mut spec = script("pwd; env | grep -v -e ^PWD= -e ^_= -e ^DF_RUN= | sort");
        spec.directory = "/usr".into();
        spec.env.insert("PORT".into(), "127.0.0.1:1".into());
        let outcome = command("env", &spec, &launcher(), SOON);
        assert_eq!(outcome.detail, "/usr\nPATH=/usr/bin:/bin\nPORT=127.0.0.1:1");
    }

    #[test]
    fn of_a_flood_the_end_is_kept() {
        let outcome = run("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1", SOON);
        assert!(outcome.detail.ends_with("line 19998\nline 19999"), "{}", outcome.detail);
        assert!(outcome.detail.len() < KEPT_LEN + 100);
    }

    #[test]
    fn who_does_not_end_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("held");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
            .unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::read_to_string(fifo).unwrap() // ends when nobody holds the other side
        });
        let text = format!("exec 3> '{}'; sleep 40 & echo begun; sleep 40", fifo.display());
        let (start, timeout) = (Instant::now(), Duration::from_secs(2));
        let outcome = run(&text, timeout);
        assert_eq!((outcome.ok, outcome.detail.as_str()), (false, "did not end within 2s: begun"));
        reader.join().unwrap();
        assert!(start.elapsed() < SOON, "something of it lived on");
    }

    #[test]
    fn a_command_over_its_limit_is_told_so() {
        if !crate::members::tests::counts() {
            return eprintln!("this machine lets us count nothing");
        }
        let mut spec = script("sleep 100 & sleep 100 & sleep 100 & exit 0");
        spec.limits.pids = Some(3);
        let outcome = command("self-test", &spec, &launcher(), SOON);
        let said = "; out of processes: run.limits.pids is 3, or a group above it allows fewer";
        assert!(!outcome.ok && outcome.detail.contains(said), "{}", outcome.detail);
    }

    #[test]
    fn a_child_left_behind_does_not_delay_the_answer() {
        check("sleep 100 & echo done", (true, "done"));
    }

    #[test]
    fn a_command_that_is_missing_is_named() {
        let mut spec = script("");
        spec.program = "/nonexistent/self-test".into();
        let outcome = command("x", &spec, &launcher(), SOON);
        assert_eq!(outcome.detail, "execute /nonexistent/self-test: No such file or directory (os error 2)");
    }
}
