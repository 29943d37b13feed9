//! A supervisor begins: what its predecessor left is adopted, ended or started.
//!
//! Programs outlive the supervisor, with their own copies of the listeners. The one that `current` names goes on: its listeners are taken back from it, and
//! new connections are steered to it. A version on trial is killed; one that served before drains in order. Where the one that is wanted was stopped for
//! another, that one ends first, and the clients that wait at it are given back. When nothing is left of what is wanted (a boot,
//! or listeners that cannot be had back), what `current` says is started from its image.

mod armed;
mod followed;
mod listeners;
mod runs;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use df_wire::message::{GenerationResult, RunState};

use super::super::records::{self, Records};
use super::watching::kill;
use super::{App, Starting};
use crate::confirmation;
use crate::control;
use crate::generation;
use crate::hold::What;
use crate::process::Exit;
use crate::supervise::words;

/// How long killed processes may take to vanish.
const GONE: Duration = Duration::from_secs(5);

/// Returns when it is so many milliseconds after the machine started, if that can be told.
fn instant(boot_ms: u64) -> Option<Instant> {
    let (now, boot, at) = (Instant::now(), confirmation::since_boot(), Duration::from_millis(boot_ms));
    if at > boot { now.checked_add(at - boot) } else { now.checked_sub(boot - at) }
}

impl App {
    /// Adopts what runs, ends what should not, starts what is missing.
    pub(super) fn take_over(&mut self) {
        let handed_on = self.node.records.lock().expect("nobody panics with this lock").remove(&self.app);
        let records = handed_on.unwrap_or_else(|| records::read(&self.node.layout, &self.app));
        let mut held = self.held();
        self.next_run = records.next_run.max(1);
        self.crashes = records.crashes_ms.iter().filter_map(|ms| instant(*ms)).collect();
        self.adopt_versions(&records, &mut held);
        self.end_orphans();
        let waits = self.find_armed();
        let current = self.current();
        let is_there = self.run_of(current);
        let serving = is_there.or_else(|| self.followed(current)).or_else(|| self.left_alone(current, &records, &held));
        if let Err(why) = self.adopt_groups(&records, serving, &mut held) {
            eprintln!("{}: its listeners cannot be had back ({why}); it is started again", self.app);
            self.end_all();
        }
        self.close_unknown();
        self.serving = serving.filter(|run| self.versions.contains_key(run));
        let waits = waits.filter(|(armed, _)| armed.new == current);
        let is_free = self.make_way();
        self.settle(current, waits.as_ref().map(|(armed, _)| armed.old));
        self.write_records();
        match self.serving.and_then(|run| self.versions.get(&run)) {
            None => self.boot(),
            Some(version) if version.process.is_none() && (is_free || is_there.is_none()) => {
                self.restart_at = Some(Instant::now())
            }
            Some(version) if version.process.is_none() => self.revive(&records),
            Some(_) => {}
        }
        if let Some((armed, wait)) = waits {
            self.wait_on(armed, wait);
        }
    }

    /// Returns what was held of the application.
    fn held(&self) -> BTreeMap<What, OwnedFd> {
        self.node.holding.of(&self.app).unwrap_or_else(|error| {
            eprintln!("{}: what was held: {error}", self.app);
            BTreeMap::new()
        })
    }

    /// Starts what serves again, whose program has ended: when it was planned, or as after any crash if nobody had seen it end.
    fn revive(&mut self, records: &Records) {
        if records.waiting.is_none() {
            return self.crashed(&format!("the program ended: {}", Exit::Unknown));
        }
        self.restart_at = Some(records.restart_at_ms.and_then(instant).unwrap_or_else(Instant::now));
    }

    fn run_of(&self, generation: u64) -> Option<u64> {
        self.versions.iter().rev().find(|(_, version)| version.generation == generation).map(|(run, _)| *run)
    }

    fn fresh_run(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run - 1
    }

    /// Returns whether nothing runs, or is known to have run, under a number.
    fn has_ended(&self, run: u64) -> bool {
        self.versions.get(&run).is_none_or(|version| version.process.is_none())
    }

    /// Gives each version that was adopted what it is due: one serves, those on trial end at once, the others in order, but for the one that may have to
    /// serve again.
    fn settle(&mut self, current: u64, warm: Option<u64>) {
        let others: Vec<(u64, u64, RunState)> = self
            .versions
            .iter()
            .filter(|(run, _)| Some(**run) != self.serving)
            .map(|(run, v)| (*run, v.generation, v.state))
            .collect();
        for (run, generation, state) in others {
            if matches!(state, RunState::Starting | RunState::Trial) {
                if let Some(process) = self.versions.get_mut(&run).and_then(|version| version.process.take()) {
                    kill(&process);
                }
                self.close_listeners(run);
                self.versions.remove(&run);
                self.judge(generation, GenerationResult::Bad, "the supervisor was killed before it was verified");
            } else if warm == Some(generation) {
                self.versions.entry(run).and_modify(|version| version.state = RunState::Warm);
            } else {
                self.retire(run, Duration::MAX);
            }
        }
        let Some(version) = self.serving.and_then(|run| self.versions.get_mut(&run)) else { return };
        version.state = RunState::Serving;
        // Where somebody may still confirm it, nobody knows yet.
        if warm.is_none() {
            // `current` moves only to what passed its probes; whoever could have taken it back is gone.
            self.judge(current, GenerationResult::Good, "");
        }
    }

    /// Writes down what is known of a generation of which nobody knew.
    fn judge(&self, generation: u64, result: GenerationResult, why: &str) {
        let unknown = generation::read(&self.node.layout, &self.app, generation)
            .is_ok_and(|record| record.result == GenerationResult::Unknown);
        if unknown && let Err(error) = generation::set_result(&self.node.layout, &self.app, generation, result, why) {
            eprintln!("record of {} {generation}: {}", self.app, words(&error));
        }
    }

    fn end_all(&mut self) {
        for (_, version) in std::mem::take(&mut self.versions) {
            version.process.iter().for_each(|process| kill(process));
        }
        self.close_all();
    }

    /// Starts what `current` says, if it is wanted; what cannot be started now is tried again later.
    pub(super) fn boot(&mut self) {
        let current = self.current();
        let Some(wanted) = control::read_wanted(&self.node.layout, &self.app).filter(|wanted| wanted.wanted && current > 0)
        else {
            return;
        };
        let release = match self.release_of(current) {
            Ok(release) if release.run.is_some() => release,
            Ok(_) => return,
            Err(error) => return eprintln!("{} generation {current}: {}", self.app, words(&error)),
        };
        let run = self.next_run;
        self.next_run += 1;
        let starting = Starting { run, restore: false, answer: None };
        let started = self.start_serving(run, current, &release, wanted.listen, starting);
        let failed = started.err().map(|error| words(&error));
        self.remember("boot", "supervisor", current, current, &release, failed.as_deref());
        if let Some(why) = failed {
            eprintln!("{} generation {current}: {why}", self.app);
            self.starting = None;
            self.close_listeners(run);
            self.versions.remove(&run);
            self.serving = None;
            // At boot the network may not be up yet, or a port be held for a moment.
            self.back_off();
        }
    }
}
