//! What happens when, from the start of the program behind a proxy to its end: a pure machine without process, socket or clock.
//!
//! ```text
//! opening -> serving -> draining -> ending -> left
//!    |          |           |
//!    +----------+-----------+-> left, or failing -> left: one of the two ended by itself
//! ```
//!
//! Told to end, the proxy takes nobody any more and finishes what is open; the program is told when the proxy has ended, or when what is left of the time is the
//! program's own.

use std::time::Duration;

use super::OLDEST;
use crate::process::Exit;

/// The share of the time to end that is the program's: a quarter.
const SHARE: u32 = 4;
/// And no more than this.
const MOST: Duration = Duration::from_secs(5);
/// The status of a front whose proxy ended by itself.
const PROXY_ENDED: i32 = 70;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The program does not accept yet; there is no proxy.
    Opening {
        /// It said that it is ready.
        is_ready: bool,
    },
    /// The proxy accepts.
    Serving,
    /// The proxy finishes what is open.
    Draining {
        /// Until then.
        until: Duration,
    },
    /// The program was told to end, the proxy has ended.
    Ending,
    /// The proxy ended by itself, and the program was told to end.
    Failing {
        /// It has so long.
        until: Duration,
    },
    /// All is over.
    Left,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The program accepts connections at all of its ports.
    Accepts,
    /// The program says that it is ready.
    Ready,
    /// The version was told to end.
    Told,
    /// The program ended.
    ProgramEnded(Exit),
    /// The proxy ended, or could not be started.
    ProxyEnded(Exit),
    /// It is later than it was.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have the proxy accept.
    StartProxy,
    /// Tell the supervisor that the version is ready.
    TellReady,
    /// Have the proxy take nobody any more and end when nothing is open.
    StopProxy,
    /// End the proxy at once.
    KillProxy,
    /// Tell the program to end.
    Terminate,
    /// Write it into the version's log.
    Say(String),
    /// End with this status.
    Leave(i32),
}

impl State {
    /// Returns where it begins.
    pub fn new() -> Self {
        Self::Opening { is_ready: false }
    }

    /// Returns when it has to hear of the time at the latest.
    pub fn deadline(self) -> Option<Duration> {
        match self {
            Self::Draining { until } | Self::Failing { until } => Some(until),
            Self::Opening { .. } | Self::Serving | Self::Ending | Self::Left => None,
        }
    }
}

/// Returns what the proxy has of the time that the version has to end.
pub fn proxy_time(drain: Duration) -> Duration {
    drain - own_time(drain)
}

/// Returns what the program has of it at the end.
fn own_time(drain: Duration) -> Duration {
    (drain / SHARE).min(MOST)
}

/// Decides what comes of an event. `drain` is the time that the version has to end, `now` counts from any moment on.
pub fn step(state: State, event: Event, drain: Duration, now: Duration) -> (State, Vec<Action>) {
    use Action::{KillProxy, Leave, Say, StartProxy, StopProxy, TellReady, Terminate};
    match (state, event) {
        (State::Left, _) => (state, vec![]),

        (State::Opening { .. }, Event::Ready) => (State::Opening { is_ready: true }, vec![]),
        (State::Opening { is_ready: true }, Event::Accepts) => (State::Serving, vec![StartProxy, TellReady]),
        (State::Opening { is_ready: false }, Event::Accepts) => (State::Serving, vec![StartProxy]),
        (State::Opening { .. }, Event::Told) => (State::Ending, vec![Terminate]),
        (State::Opening { .. }, Event::ProgramEnded(exit)) => {
            let why = format!("the program ended before it accepted connections at the port that PORT says: {exit}");
            (State::Left, vec![Say(why), Leave(status(exit))])
        }

        (State::Serving, Event::Ready) => (state, vec![TellReady]),
        (State::Serving, Event::Told) => (State::Draining { until: now + proxy_time(drain) }, vec![StopProxy]),

        (State::Serving | State::Draining { .. }, Event::ProgramEnded(exit)) => {
            (State::Left, vec![Say(format!("the program ended: {exit}")), KillProxy, Leave(status(exit))])
        }
        (State::Serving, Event::ProxyEnded(exit)) => {
            let until = now + own_time(drain);
            // An older one ends at a word that it does not know.
            let needed = if matches!(exit, Exit::Code(_)) { format!(" ({OLDEST} or newer is needed)") } else { String::new() };
            (State::Failing { until }, vec![Say(format!("haproxy ended: {exit}{needed}; so does the program")), Terminate])
        }
        (State::Draining { .. }, Event::ProxyEnded(_)) => (State::Ending, vec![Terminate]),
        (State::Draining { until }, Event::Tick) if now >= until => (State::Ending, vec![KillProxy, Terminate]),

        (State::Ending, Event::ProgramEnded(exit)) => (State::Left, vec![Leave(status(exit))]),
        (State::Failing { .. }, Event::ProgramEnded(_)) => (State::Left, vec![Leave(PROXY_ENDED)]),
        (State::Failing { until }, Event::Tick) if now >= until => (State::Left, vec![Leave(PROXY_ENDED)]),

        // Told twice, ready while it ends, or a proxy that was killed has ended.
        (_, _) => (state, vec![]),
    }
}

/// Returns an end as a shell tells it.
fn status(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
        Exit::Unknown => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(8);

    /// Runs through events, each a second after the one before, and returns what was done, one line each.
    fn run(events: &[Event]) -> Vec<String> {
        let mut state = State::new();
        let mut done = vec![];
        for (event, second) in events.iter().zip(1..) {
            let (next, actions) = step(state, *event, DRAIN, Duration::from_secs(second));
            state = next;
            done.push(format!("{actions:?}"));
        }
        done.push(format!("{state:?}"));
        done
    }

    #[track_caller]
    fn check(events: &[Event], expected: &[&str]) {
        assert_eq!(run(events), expected);
    }

    #[test]
    fn nobody_is_accepted_before_the_program_accepts_and_it_is_not_ready_before_that() {
        use Event::{Accepts, Ready};
        check(&[Ready, Accepts], &["[]", "[StartProxy, TellReady]", "Serving"]);
        check(&[Accepts, Ready], &["[StartProxy]", "[TellReady]", "Serving"]);
    }

    #[test]
    fn told_to_end_the_proxy_ends_before_the_program_does() {
        use Event::{Accepts, ProgramEnded, ProxyEnded, Told};
        let end = [Accepts, Told, ProxyEnded(Exit::Code(0)), Told, ProgramEnded(Exit::Signal(15))];
        check(&end, &["[StartProxy]", "[StopProxy]", "[Terminate]", "[]", "[Leave(143)]", "Left"]);
        check(&[Told, ProgramEnded(Exit::Code(3))], &["[Terminate]", "[Leave(3)]", "Left"]);
    }

    #[test]
    fn the_last_part_of_the_time_is_the_programs() {
        use Event::{Accepts, ProxyEnded, Tick, Told};
        let events = [Accepts, Told, Tick, Tick, Tick, Tick, Tick, Tick, ProxyEnded(Exit::Signal(9))];
        let done = ["[StartProxy]", "[StopProxy]", "[]", "[]", "[]", "[]", "[]", "[KillProxy, Terminate]", "[]", "Ending"];
        check(&events, &done);
        assert_eq!(proxy_time(Duration::from_secs(60)), Duration::from_secs(55));
        assert_eq!(proxy_time(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn when_one_ends_by_itself_the_other_is_ended_and_it_is_said() {
        use Event::{Accepts, ProgramEnded, ProxyEnded, Tick, Told};
        check(
            &[ProgramEnded(Exit::Code(0)), Told],
            &[
                "[Say(\"the program ended before it accepted connections at the port that PORT says: exit status 0\"), Leave(0)]",
                "[]",
                "Left",
            ],
        );
        let ended = "[Say(\"the program ended: exit status 2\"), KillProxy, Leave(2)]";
        check(&[Accepts, ProgramEnded(Exit::Code(2))], &["[StartProxy]", ended, "Left"]);
        check(&[Accepts, Told, ProgramEnded(Exit::Code(2))], &["[StartProxy]", "[StopProxy]", ended, "Left"]);
        let failed = "[Say(\"haproxy ended: signal 9; so does the program\"), Terminate]";
        let killed = [Accepts, ProxyEnded(Exit::Signal(9)), ProgramEnded(Exit::Code(0))];
        check(&killed, &["[StartProxy]", failed, "[Leave(70)]", "Left"]);
        let old = "[Say(\"haproxy ended: exit status 1 (2.6 or newer is needed); so does the program\"), Terminate]";
        check(&[Accepts, ProxyEnded(Exit::Code(1))], &["[StartProxy]", old, "Failing { until: 4s }"]);
        let hangs = [Accepts, ProxyEnded(Exit::Signal(9)), Tick, Tick];
        check(&hangs, &["[StartProxy]", failed, "[]", "[Leave(70)]", "Left"]);
    }
}
