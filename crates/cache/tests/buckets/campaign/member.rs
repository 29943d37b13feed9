//! A process of the campaign as its parent sees it: told what to do, stopped, continued, killed.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use df_testkit::s3::Server;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::mortal::End;
use super::role;

/// What became of what was asked.
#[derive(Debug)]
pub enum Answer {
    /// It is done, and these are its numbers.
    Done(Vec<u64>),
    /// It could not be done, and why.
    Failed(String),
    /// The process is dead, as it was meant to be.
    Died,
}

/// A process.
pub struct Member {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    seat: Arc<Seat>,
}

/// Where a process sits at work, for the one who kills and stops from outside.
#[derive(Default)]
pub struct Seat(Mutex<Occupant>);

#[derive(Default)]
struct Occupant {
    /// Of a process that is not waited for yet, so that the number is nobody else's.
    pid: Option<Pid>,
    /// It works, and will not stop or end by itself.
    is_free: bool,
    is_stopped: bool,
    is_killed: bool,
}

impl Seat {
    /// Kills whoever works there; returns whether somebody did.
    pub fn kill(&self) -> bool {
        self.disturb(Signal::KILL, |occupant| occupant.is_killed = true)
    }

    /// Stops whoever works there; returns whether somebody did.
    pub fn stop(&self) -> bool {
        self.disturb(Signal::STOP, |occupant| occupant.is_stopped = true)
    }

    /// Lets go on whom [`Seat::stop`] stopped.
    pub fn go_on(&self) {
        self.state().go_on();
    }

    /// Kills whoever is there, when there is no other way on.
    pub fn end(&self) {
        let pid = self.state().pid;
        pid.iter().for_each(|pid| send(*pid, Signal::KILL));
    }

    fn disturb(&self, signal: Signal, note: impl FnOnce(&mut Occupant)) -> bool {
        let mut occupant = self.state();
        let Some(pid) = occupant.pid.filter(|_| occupant.is_free && !occupant.is_stopped && !occupant.is_killed) else {
            return false;
        };
        send(pid, signal);
        note(&mut occupant);
        true
    }

    fn state(&self) -> MutexGuard<'_, Occupant> {
        self.0.lock().expect("not poisoned")
    }
}

impl Occupant {
    fn go_on(&mut self) {
        if let (true, Some(pid)) = (std::mem::take(&mut self.is_stopped), self.pid) {
            send(pid, Signal::CONT);
        }
    }
}

impl Member {
    /// Starts one.
    pub fn start(server: &Server, directory: &Path, who: &str, seat: &Arc<Seat>) -> Self {
        let mut command = role::command(server, directory, who);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this test once more");
        let (input, output) = (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        *seat.state() = Occupant { pid: Some(Pid::from_child(&process)), ..Occupant::default() };
        Self { process, input, output: BufReader::new(output).lines(), seat: seat.clone() }
    }

    /// Has it do something. When it stops itself, `stopped` is called, and it goes on when that returns.
    pub fn ask(&mut self, what: &str, end: End, stopped: impl FnOnce()) -> Answer {
        self.seat.state().is_free = end == End::None;
        // It may be dead since its last answer: then no answer comes.
        let _ = writeln!(self.input, "{what}{}", end.text());
        let answer = self.answer(stopped);
        let mut occupant = self.seat.state();
        occupant.is_free = false;
        occupant.go_on();
        let was_killed = occupant.is_killed;
        drop(occupant);
        answer.unwrap_or_else(|| {
            let status = self.reap();
            assert!(status == Some(Signal::KILL.as_raw()), "{what}{}: it ended by itself", end.text());
            assert!(was_killed || matches!(end, End::Dies(..)), "{what}{}: nobody was to kill it", end.text());
            Answer::Died
        })
    }

    /// Returns what it answers; nothing when it ends.
    fn answer(&mut self, stopped: impl FnOnce()) -> Option<Answer> {
        let mut stopped = Some(stopped);
        loop {
            let line = self.output.next()?.ok()?;
            let Some(words) = line.strip_prefix("@ ") else { continue };
            match words.split_once(' ').unwrap_or((words, "")) {
                ("done", numbers) => {
                    let numbers = numbers.split_whitespace().map(|n| n.parse().expect("a number"));
                    return Some(Answer::Done(numbers.collect()));
                }
                ("failed", why) => return Some(Answer::Failed(why.to_owned())),
                _ => {
                    let pid = Pid::from_child(&self.process);
                    // It says so just before.
                    let stops = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                    waitid(WaitId::Pid(pid), stops).expect("it is a child");
                    stopped.take().into_iter().for_each(|stopped| stopped());
                    send(pid, Signal::CONT);
                }
            }
        }
    }

    /// Waits for its end; returns the signal that ended it.
    fn reap(&mut self) -> Option<i32> {
        // First, so that nobody sends a signal to a number that is free.
        self.seat.state().pid = None;
        self.process.wait().expect("it is a child").signal()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut occupant = self.seat.state();
        if occupant.pid.take().is_some() {
            drop(occupant);
            // Whatever it does, and were it stopped.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("a child that nobody has waited for");
}
