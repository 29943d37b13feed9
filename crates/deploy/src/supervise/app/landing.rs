//! An activation is over: who asked is told, and what serves is looked after again.

use std::time::{Duration, Instant};

use df_wire::Reply;
use df_wire::message::{Fault, FaultKind};

use super::{App, Flight, Told};
use crate::activation::{self, Failure, FailureKind, Style};
use crate::generation;
use crate::logs::Log;
use crate::serve::fault;

/// Lines of a failed program's output that the operator gets.
const LOG_LINES: usize = 50;

impl App {
    /// The activation is over: whoever asked is told, and what serves is looked after again.
    pub(super) fn land(&mut self, result: Result<(), Failure>) {
        let Some(flight) = self.flight.take() else { return };
        let (new, old) = (flight.plan.new, flight.plan.old);
        if result.is_err() && new != old && generation::current(&self.node.layout, &self.app).is_ok_and(|current| current == new)
        {
            self.go_back(old);
        }
        let reply = match result {
            Ok(()) => {
                self.crashes.clear();
                self.leave_old(&flight);
                match self.serves() {
                    Some(serving) => Reply::Serving(df_wire::message::Serving { from: flight.plan.old, ..serving }),
                    None => Reply::Fault(fault(FaultKind::Failed, "it serves, and its record cannot be read")),
                }
            }
            Err(failure) => Reply::Fault(Box::new(self.failed(&flight, &failure))),
        };
        self.write_records();
        for confirmer in &flight.confirmers {
            let _ = confirmer.send(Told::Reply(reply.clone()));
        }
        let failed = matches!(reply, Reply::Fault(_));
        for withdrawer in &flight.withdrawers {
            // They wanted what for all others is a failure.
            let reply = self
                .serves()
                .filter(|_| failed)
                .map_or_else(|| reply.clone(), |serving| Reply::Serving(df_wire::message::Serving { from: new, ..serving }));
            let _ = withdrawer.send(Told::Reply(reply));
        }
        let leaves = flight.old_run.filter(|_| !failed).and_then(|run| self.versions.get_mut(&run));
        match (flight.follow, leaves.filter(|version| version.retiring && version.hands_over())) {
            (Some(patience), Some(version)) => version.keep_back(&flight, reply, patience),
            _ => drop(flight.answer.send(Told::Reply(reply))),
        }
        if failed && flight.adopted {
            self.serve_again(flight.old_run);
        }
        let orphaned = self.serving.and_then(|run| self.versions.get(&run)).is_some_and(|version| version.process.is_none());
        if orphaned && self.starting.is_none() {
            self.restart_at = Some(Instant::now());
        }
    }

    /// Starts what `current` says again, where the version before it was not there any more when its time came.
    fn serve_again(&mut self, old_run: Option<u64>) {
        let lives = |run: u64| self.versions.get(&run).is_some_and(|version| version.process.is_some());
        match again(self.serving.filter(|run| self.versions.contains_key(run)), old_run.filter(|run| lives(*run))) {
            Again::Serves => {}
            Again::GoesOn(run) => {
                if let activation::Event::SteerFailed(why) = self.steer(Some(run)) {
                    eprintln!("{}: {why}", self.app);
                }
            }
            Again::Starts => {
                self.serving = None;
                self.boot();
            }
        }
    }

    /// Lets go of the version before, where the machine had nothing to retire: it was stopped, it had crashed, or nothing runs any more.
    fn leave_old(&mut self, flight: &Flight) {
        if flight.plan.style == Style::Files {
            self.serving.take().into_iter().for_each(|run| self.retire(run, Duration::MAX));
            return;
        }
        let Some(run) = flight.old_run.filter(|run| self.versions.get(run).is_some_and(|version| version.process.is_none()))
        else {
            return;
        };
        self.close_listeners(run);
        self.versions.remove(&run);
    }

    fn failed(&self, flight: &Flight, failure: &Failure) -> Fault {
        let kind = match failure.kind {
            FailureKind::Start if flight.port_held => FaultKind::PortHeld,
            FailureKind::Start => FaultKind::StartFailed,
            FailureKind::NotReady => FaultKind::NotReady,
            FailureKind::Probe => FaultKind::ProbeFailed,
            FailureKind::Reverted => FaultKind::Reverted,
            FailureKind::System => FaultKind::Failed,
        };
        let log = Log::open(&self.node.layout.log(&self.app, flight.plan.new))
            .and_then(|mut log| log.tail(LOG_LINES))
            .unwrap_or_default();
        let start = log.len().saturating_sub(16 << 10);
        Fault {
            log: String::from_utf8_lossy(&log[start..]).into_owned(),
            probes: flight.outcomes.clone(),
            serving: self.serves(),
            ..*fault(kind, failure.message.clone())
        }
    }
}

/// What there is to do when what an earlier supervisor began was taken back.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    /// Nothing: it serves.
    Serves,
    /// The version before runs, and nobody told it to end.
    GoesOn(u64),
    /// Nothing runs.
    Starts,
}

/// Decides that: what serves, and the run of the version before, are those that are there.
fn again(serving: Option<u64>, old_run: Option<u64>) -> Again {
    match (serving, old_run) {
        (Some(_), _) => Again::Serves,
        (None, Some(run)) => Again::GoesOn(run),
        (None, None) => Again::Starts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_waits_behind_a_release_without_one_is_not_started_a_second_time() {
        assert_eq!(again(None, Some(1)), Again::GoesOn(1));
        assert_eq!(again(None, None), Again::Starts);
        assert_eq!(again(Some(1), Some(1)), Again::Serves);
        assert_eq!(again(Some(2), None), Again::Serves);
    }
}
