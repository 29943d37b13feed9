//! Watching a process: what it says, when it is ready, how it ends, and how it is made to end.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use distributive_flow::parent::{NotifySocket, Received};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::super::probing::Round;
use super::Message;
use super::hearing::{Said, Terms, Verdict, end_of, judge};
use crate::process::{Exit, Process};

/// A process has this long to vanish after SIGKILL.
const KILLED: Duration = Duration::from_secs(10);
/// Pause between two rounds of probes of a version that starts to serve.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells a process to end, waits for its time and for what it asks to have more, then kills it and all it started: what it left behind goes with it.
pub(super) fn end(process: &Process, drain: Duration, said: &Said) {
    said.begin_step();
    let began = Instant::now();
    let _ = process.signal(Signal::TERM);
    loop {
        let until = end_of(began, drain, &said.heard());
        let waited = process.wait(until.saturating_duration_since(Instant::now()));
        // It may have asked while it was waited for.
        if !matches!(waited, Ok(None)) || end_of(began, drain, &said.heard()) <= until {
            break;
        }
    }
    kill(process);
}

/// Kills a process and all it started, and waits until it is gone.
pub(super) fn kill(process: &Process) {
    if let Err(error) = process.kill_all() {
        eprintln!("process {}: {error}", process.pid());
    }
    let _ = process.wait(KILLED);
}

/// Hears and reports what a program says and, at last, that it ended.
pub(super) fn watch(run: u64, process: Arc<Process>, notify: Option<NotifySocket>, said: Arc<Said>, inbox: Sender<Message>) {
    thread::spawn(move || {
        loop {
            let waited = match &notify {
                Some(notify) => poll(
                    &mut [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN), PollFd::new(notify, PollFlags::IN)],
                    None,
                ),
                None => poll(&mut [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN)], None),
            };
            if let Some(notify) = &notify {
                hear_all(run, &process, notify, &said, &inbox);
            }
            match (waited, process.wait(Duration::ZERO)) {
                (_, Ok(Some(exit))) => {
                    // What it said at last is heard before it counts as ended.
                    notify.iter().for_each(|notify| hear_all(run, &process, notify, &said, &inbox));
                    said.end();
                    let _ = inbox.send(Message::Ended { run, pid: process.pid(), exit });
                    return;
                }
                (Ok(_) | Err(rustix::io::Errno::INTR), Ok(None)) => {}
                // Nothing more will be heard of it; its end counts as unknown.
                _ => {
                    said.end();
                    let _ = inbox.send(Message::Ended { run, pid: process.pid(), exit: Exit::Unknown });
                    return;
                }
            }
        }
    });
}

fn hear_all(run: u64, process: &Process, notify: &NotifySocket, heard: &Said, inbox: &Sender<Message>) {
    while let Ok(Some(received)) = notify.try_receive() {
        let Received::Notification(said) = received else { continue };
        // Anybody can send to the address; only the program and what it started are heard.
        let sender = said.pid.and_then(rustix::process::Pid::from_raw);
        let group = sender.and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
        if group.is_some_and(|group| group.as_raw_nonzero().get() as u32 == process.pid()) {
            heard.hear(&said, Instant::now());
            if said.connections.is_empty() || said.ready || said.extend.is_some() {
                let _ = inbox.send(Message::Notified { run, ready: said.ready, extend: said.extend });
            }
        }
    }
}

/// Waits for a version that starts to serve: for READY=1, or its probes, until it ends or its time is over.
pub(super) fn await_ready(
    run: u64,
    round: Option<Round>,
    process: Option<Arc<Process>>,
    terms: Terms,
    said: &Said,
    inbox: &Sender<Message>,
) {
    let began = Instant::now();
    let (mut outcomes, mut verdict) = (vec![], Verdict::Ask);
    let result = loop {
        let alive = process.as_ref().is_some_and(|process| process.alive().unwrap_or(false));
        if !alive {
            break Err("the program ended".to_owned());
        }
        // Before it is asked: what it answers after READY=1 counts.
        let heard = said.heard();
        if heard.ready || verdict == Verdict::Ask {
            outcomes = round.as_ref().map(Round::ask).unwrap_or_default();
        }
        let failed = outcomes.iter().find(|outcome| !outcome.ok);
        verdict = judge(terms, heard.ready, failed.is_none(), heard.asked(began), began.elapsed());
        match &verdict {
            Verdict::Ready => break Ok(()),
            Verdict::Late(why) => {
                let probe = failed.map(|failed| format!("{}: {}", failed.name, failed.detail));
                break Err(why.clone().or(probe).unwrap_or_default());
            }
            Verdict::Ask | Verdict::Listen => thread::sleep(PAUSE),
        }
    };
    let pid = process.map_or(0, |process| process.pid());
    let _ = inbox.send(Message::Ready { run, pid, result, outcomes });
}
