//! A supervisor begins: what its predecessor left is adopted, ended or started.
//!
//! Programs outlive the supervisor, with their own copies of the listeners. The one that `current` names goes on: its listeners are taken back from it, and
//! new connections are steered to it. A version on trial is killed; one that served before drains in order. Where the one that is wanted was stopped for
//! another, that one ends first, and the clients that wait at it are given back. When nothing is left of what is wanted (a boot,
//! or listeners that cannot be had back), what `current` says is started from its image.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::spec::Handoff;
use df_core::{Endpoint, Timestamp};
use df_wire::message::{GenerationResult, RunState};

use super::super::probing;
use super::super::records::{self, Records, VersionRecord, WaitingRecord};
use super::super::start::{self, Place};
use super::activate::readiness;
use super::watching::{kill, watch};
use super::{App, Flight, Starting, Version};
use crate::activation::{Plan, State, Style};
use crate::confirmation::{self, Armed, Duty, Found, Wait};
use crate::control;
use crate::generation;
use crate::hold::What;
use crate::listeners::{Group, GroupRecord};
use crate::process::{Exit, Process, ProcessRecord};
use crate::serve::now;
use crate::supervise::words;

/// How long killed processes may take to vanish.
const GONE: Duration = Duration::from_secs(5);

/// What is known of a version that an earlier supervisor started.
struct Former {
    generation: u64,
    since: Timestamp,
    listen: IpAddr,
    state: RunState,
    handoff: String,
    alone: bool,
    behind: Vec<(Label, Endpoint)>,
}

impl Former {
    /// One whose program has ended.
    fn ended(generation: u64, since: Timestamp, listen: IpAddr, state: RunState) -> Self {
        Self { generation, since, listen, state, handoff: String::new(), alone: false, behind: vec![] }
    }
}

/// Returns the ports of a version as its program sees them: those behind a proxy are where the program was told to listen.
fn as_seen_by_program(places: &[Place], behind: &[(Label, Endpoint)]) -> Vec<Place> {
    let moved = |place: &Place| {
        let found = behind.iter().find(|(label, _)| *label == place.label).filter(|_| place.handoff == Handoff::Proxy);
        found.map_or_else(|| place.clone(), |(_, address)| Place { address: address.clone(), ..place.clone() })
    };
    places.iter().map(moved).collect()
}

/// Returns when it is so many milliseconds after the machine started, if that can be told.
fn instant(boot_ms: u64) -> Option<Instant> {
    let (now, boot, at) = (Instant::now(), confirmation::since_boot(), Duration::from_millis(boot_ms));
    if at > boot { now.checked_add(at - boot) } else { now.checked_sub(boot - at) }
}

impl Version {
    /// Returns whether it was started in the place of another, and nobody said yet that it stays or goes.
    fn is_in_the_way(&self) -> bool {
        self.alone && self.state != RunState::Draining
    }
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
            return self.crashed(Exit::Unknown);
        }
        self.restart_at = Some(records.restart_at_ms.and_then(instant).unwrap_or_else(Instant::now));
    }

    /// Closes sockets that were held and belong to nothing that is known: whoever made them was killed before it could write that down, or they cannot be used any more.
    fn close_unknown(&self) {
        let known: Vec<u64> = self.groups.values().flat_map(|group| group.descriptors()).map(|(inode, _)| inode).collect();
        for (what, descriptor) in self.held() {
            if let What::Socket { inode } = what
                && !known.contains(&inode)
            {
                // Closing alone is not enough: the program may have a copy.
                let _ = rustix::net::shutdown(&descriptor, rustix::net::Shutdown::Read);
            }
        }
    }

    /// Looks for an activation that nobody has confirmed, and lets `current` go back where nobody can any more; returns one that somebody may still confirm.
    fn find_armed(&mut self) -> Option<(Armed, Wait)> {
        let (layout, current) = (self.node.layout.clone(), self.current());
        let armed = confirmation::read(&layout, &self.app).unwrap_or_else(|error| {
            eprintln!("{}: armed.json: {error}", self.app);
            None
        })?;
        let release = self.release_of(armed.new).ok();
        let runs = release.as_ref().is_some_and(|release| release.run.is_some());
        let lives = !runs || self.versions.values().any(|version| version.generation == armed.new && version.process.is_some());
        let boot = crate::process::boot().unwrap_or_default();
        match confirmation::decide(&armed, &Found { current, boot, now: confirmation::since_boot(), lives }) {
            Duty::Wait(wait) => return Some((armed, wait)),
            Duty::Forget => {}
            Duty::GoBack(why) => {
                self.judge(armed.new, GenerationResult::Bad, why);
                if let Some(release) = release {
                    self.remember("activate", &armed.who, armed.new, armed.old, &release, Some(why));
                }
                self.go_back(armed.old);
                return None;
            }
        }
        if let Err(error) = confirmation::disarm(&layout, &self.app) {
            eprintln!("{}: remove armed.json: {error}", self.app);
        }
        None
    }

    /// Goes on with an activation that still soaks, or waits for its confirmation.
    fn wait_on(&mut self, armed: Armed, wait: Wait) {
        let Ok(release) = self.release_of(armed.new) else { return };
        let new_run = self.run_of(armed.new).unwrap_or_else(|| self.fresh_run());
        // Whoever was stopped for it is started again when it goes back; where it was there beside it, it only waits.
        let style = match self.versions.get(&new_run) {
            _ if release.run.is_none() => Style::Files,
            Some(version) if version.alone => Style::Exclusive,
            _ => Style::Beside,
        };
        let stopped = |app: &mut Self| (style == Style::Exclusive).then(|| app.stopped(armed.old)).flatten();
        let old_run = self.run_of(armed.old).or_else(|| stopped(self));
        let plan = Plan {
            new: armed.new,
            old: armed.old,
            old_runs: old_run.is_some(),
            style,
            readiness: readiness(&release),
            ready: Duration::ZERO,
            soak: wait.soak.unwrap_or_default(),
            drain: Duration::ZERO,
            watch: None,
            zero_loss: false,
            confirm: Some(wait.confirm),
        };
        let state = match wait.soak {
            Some(left) => State::Soaking { until: left },
            None => State::Waiting { deadline: wait.confirm },
        };
        let (nobody, _) = std::sync::mpsc::channel();
        let listen = control::read_wanted(&self.node.layout, &self.app)
            .map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |wanted| wanted.listen);
        self.flight = Some(Flight {
            plan,
            state,
            began: Instant::now(),
            new_run,
            old_run,
            release,
            listen,
            what: "activate",
            who: armed.who,
            outcomes: vec![],
            watch: None,
            answer: nobody,
            confirmers: vec![],
            adopted: true,
            port_held: false,
        });
    }

    fn run_of(&self, generation: u64) -> Option<u64> {
        self.versions.iter().rev().find(|(_, version)| version.generation == generation).map(|(run, _)| *run)
    }

    fn fresh_run(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run - 1
    }

    /// Enters the generation that `current` names where it was stopped for another, which is still there.
    fn followed(&mut self, current: u64) -> Option<u64> {
        let is_followed = self.versions.values().any(Version::is_in_the_way);
        is_followed.then(|| self.stopped(current)).flatten()
    }

    /// Enters the generation that `current` names where it was stopped for another, which has ended too or was never written down: clients wait at a socket that
    /// is the other's by now.
    fn left_alone(&mut self, current: u64, records: &Records, held: &BTreeMap<What, OwnedFd>) -> Option<u64> {
        let is_left = |group: &GroupRecord| {
            let mut slots = group.slots.iter().zip(&group.sockets);
            slots.any(|(slot, &inode)| slot.is_some_and(|run| self.has_ended(run)) && held.contains_key(&What::Socket { inode }))
        };
        let left: Vec<&Endpoint> = records.groups.iter().filter(|group| is_left(group)).map(|group| &group.address).collect();
        if left.is_empty() {
            return None;
        }
        let run = self.stopped(current)?;
        let mut places = self.versions[&run].places.iter().filter(|place| probing::has_listener(place));
        if places.any(|place| left.contains(&&place.address)) {
            return Some(run);
        }
        self.versions.remove(&run);
        None
    }

    /// Returns whether nothing runs, or is known to have run, under a number.
    fn has_ended(&self, run: u64) -> bool {
        self.versions.get(&run).is_none_or(|version| version.process.is_none())
    }

    /// Gives the listener of one that has ended, with the clients that wait there, to the one that shall serve and is to be started.
    fn inherit(&self, group: &Group, run: u64) -> Result<(), String> {
        let takes = |version: &Version| {
            version.places.iter().any(|place| place.address == group.record().address && probing::has_listener(place))
        };
        let GroupRecord { slots, serving, .. } = group.record();
        if slots.contains(&Some(run)) || !self.has_ended(run) || !self.versions.get(&run).is_some_and(takes) {
            return Ok(());
        }
        let has_ended = |other: &u64| slots.contains(&Some(*other)) && self.has_ended(*other);
        // Clients were sent to one of them, if there are more.
        let from = serving.filter(has_ended).or_else(|| slots.iter().flatten().copied().find(has_ended));
        from.map_or(Ok(()), |from| group.pass(from, run).map(drop).map_err(|error| words(&error)))
    }

    /// Enters a generation that was stopped for another, so that it can be started again.
    fn stopped(&mut self, generation: u64) -> Option<u64> {
        let wanted = control::read_wanted(&self.node.layout, &self.app).filter(|wanted| wanted.wanted)?;
        let (since, listen) = (now(), wanted.listen);
        let former = Former::ended(generation, since, listen, RunState::Warm);
        let version = self.version(former, None).ok()?;
        let run = self.fresh_run();
        self.versions.insert(run, version);
        Some(run)
    }

    /// Ends what was started in the place of the one that shall serve again, and gives that one its listeners, with the clients that wait there; returns whether
    /// there was any.
    fn make_way(&mut self) -> bool {
        let is_waiting = |run: &u64| self.versions.get(run).is_some_and(|version| version.process.is_none());
        let Some(run) = self.serving.filter(is_waiting) else { return false };
        let in_the_way = |(other, version): (&u64, &Version)| (*other != run && version.is_in_the_way()).then_some(*other);
        let others: Vec<u64> = self.versions.iter().filter_map(in_the_way).collect();
        for other in &others {
            let Some(process) = self.versions.get_mut(other).map(|version| version.process.take()) else { continue };
            process.into_iter().for_each(|process| kill(&process));
            self.give_back(*other, run);
        }
        !others.is_empty()
    }

    /// Gives the listeners of a version that has ended to another, as far as that one has the same.
    fn give_back(&self, from: u64, to: u64) {
        let Some(version) = self.versions.get(&to) else { return };
        let shared = version.places.iter().filter(|place| probing::has_listener(place));
        for group in shared.filter_map(|place| self.groups.get(&place.address)) {
            let slots = group.record().slots;
            if slots.contains(&Some(from)) && !slots.contains(&Some(to)) {
                let passed = group.pass(from, to).and_then(|_| group.steer(to, None));
                passed.unwrap_or_else(|error| eprintln!("{}: {}", self.app, words(&error)));
            }
        }
    }

    fn adopt_versions(&mut self, records: &Records, held: &mut BTreeMap<What, OwnedFd>) {
        for record in &records.versions {
            match self.adopt_version(record, records, held) {
                Ok(version) => {
                    let process = version.process.clone();
                    self.versions.insert(record.run, version);
                    process.into_iter().for_each(|process| watch(record.run, process, None, self.inbox.clone()));
                }
                Err(why) => eprintln!("{} generation {}: {why}", self.app, record.generation),
            }
        }
        if let Some(WaitingRecord { run, generation, since, listen }) = records.waiting.clone()
            && self.is_waited_at(run, generation, records, held)
        {
            match self.version(Former::ended(generation, since, listen, RunState::Serving), None) {
                Ok(version) => drop(self.versions.insert(run, version)),
                Err(why) => eprintln!("{} generation {generation}: {why}", self.app),
            }
        }
    }

    fn adopt_version(
        &self,
        record: &VersionRecord,
        records: &Records,
        held: &mut BTreeMap<What, OwnedFd>,
    ) -> Result<Version, String> {
        let (pid, start_time) = (record.process.pid, record.process.start_time);
        let process = match held.remove(&What::Process { pid, start_time }) {
            Some(pidfd) => Process::adopt_held(&record.process, pidfd),
            None => Process::adopt(&record.process),
        };
        if process.is_err() {
            // What it left behind when it ended goes too.
            record.process.members.end(&|| None, GONE);
        }
        let process = match process {
            Ok(process) => Some(Arc::new(process)),
            // It ended while nobody looked; its clients need not know.
            Err(error) if self.is_waited_at(record.run, record.generation, records, held) => {
                eprintln!("{} generation {}: {}", self.app, record.generation, words(&error));
                None
            }
            Err(error) => return Err(words(&error)),
        };
        let former = Former {
            generation: record.generation,
            since: record.since,
            listen: record.listen,
            state: record.state,
            handoff: record.handoff.clone(),
            alone: record.alone,
            behind: record.behind.clone(),
        };
        self.version(former, process.clone()).inspect_err(|_| process.iter().for_each(|process| kill(process)))
    }

    /// Returns whether clients wait at the listeners of what serves, although its program has ended.
    fn is_waited_at(&self, run: u64, generation: u64, records: &Records, held: &BTreeMap<What, OwnedFd>) -> bool {
        let is_held = |group: &GroupRecord| {
            let mut slots = group.slots.iter().zip(&group.sockets);
            slots.any(|(slot, &inode)| *slot == Some(run) && held.contains_key(&What::Socket { inode }))
        };
        generation == self.current() && records.groups.iter().any(is_held)
    }

    fn version(&self, former: Former, process: Option<Arc<Process>>) -> Result<Version, String> {
        let Former { generation, since, listen, state, handoff, alone, behind } = former;
        let release = self.release_of(generation).map_err(|_| "its record is gone; it was ended".to_owned())?;
        let section = release.run.as_ref().ok_or("its release runs nothing")?;
        let places = start::places(section, listen);
        let behind = as_seen_by_program(&places, &behind);
        let spec = start::prepare(&self.node.layout, &release, section, generation, &behind, &start::Addresses::default());
        let spec = spec.map_err(|error| words(&error));
        self.claim(&places).map_err(|error| words(&error))?;
        Ok(Version { generation, places, behind, spec, process, state, since, listen, handoff, alone, retiring: false, release })
    }

    /// Kills what was started and not written down.
    fn end_orphans(&self) {
        let known: Vec<ProcessRecord> =
            self.versions.values().filter_map(|version| Some(version.process.as_ref()?.record().clone())).collect();
        let deadline = Instant::now() + GONE;
        // Their sockets leave the group only when they are gone.
        loop {
            let orphans = records::orphans(&self.node.layout, &self.app, &known);
            if orphans.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in orphans.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes the listeners back, from where they were held or else from the programs, in the order that the predecessor wrote down, and steers to what serves.
    fn adopt_groups(
        &mut self,
        records: &Records,
        serving: Option<u64>,
        held: &mut BTreeMap<What, OwnedFd>,
    ) -> Result<(), String> {
        let mut groups = BTreeMap::new();
        for record in &records.groups {
            let mut take = |(at, slot): (usize, &Option<u64>)| {
                let inode = record.sockets.get(at).copied();
                let held = inode.and_then(|inode| held.remove(&What::Socket { inode }));
                held.or_else(|| self.take_listener((*slot)?, &record.address))
            };
            let sockets: Vec<Option<OwnedFd>> = record.slots.iter().enumerate().map(&mut take).collect();
            if sockets.iter().all(Option::is_none) {
                continue;
            }
            let group = Group::adopt(record, sockets).map_err(|error| words(&error))?;
            serving.map_or(Ok(()), |run| self.inherit(&group, run))?;
            if let Some(run) = serving.filter(|run| group.record().slots.contains(&Some(*run))) {
                group.steer(run, None).map_err(|error| words(&error))?;
            }
            self.close_dead(&group);
            groups.insert(record.address.clone(), Arc::new(group));
        }
        self.groups = groups;
        // What is to be started opens what it has not.
        let runs = |version: &&Version| version.process.is_some();
        let Some(version) = serving.and_then(|run| self.versions.get(&run)).filter(runs) else { return Ok(()) };
        let missing = version
            .places
            .iter()
            .filter(|place| probing::has_listener(place))
            .find(|place| !self.groups.contains_key(&place.address));
        missing.map_or(Ok(()), |place| Err(format!("nobody listens on {}", place.address)))
    }

    /// Closes the listeners of versions that have ended: nobody would take the clients that come there.
    fn close_dead(&self, group: &Group) {
        let dead = |run: &u64| !self.versions.contains_key(run);
        for run in group.record().slots.into_iter().flatten().filter(dead) {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
    }

    fn take_listener(&self, run: u64, address: &Endpoint) -> Option<OwnedFd> {
        let version = self.versions.get(&run)?;
        let at =
            version.places.iter().filter(|place| probing::has_listener(place)).position(|place| place.address == *address)?;
        match version.process.as_ref()?.take_listener(3 + at as i32, address) {
            Ok(listener) => Some(listener),
            Err(error) => {
                eprintln!("{}: {}", self.app, words(&error));
                None
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adopted_program_behind_a_proxy_is_still_where_it_was_told_to_listen() {
        let place = |label: &str, address: &str, handoff| Place {
            label: label.parse().expect("a label"),
            address: address.parse().expect("an address"),
            handoff,
            mode: None,
        };
        let places = [place("admin", "127.0.0.1:9", Handoff::Listener), place("http", "0.0.0.0:80", Handoff::Proxy)];
        let moved = [places[0].clone(), place("http", "127.0.0.1:40000", Handoff::Proxy)];
        let written = [("admin", "127.0.0.1:1"), ("http", "127.0.0.1:40000")];
        let written = written.map(|(label, at)| (label.parse().expect("a label"), at.parse().expect("an address")));
        assert_eq!(as_seen_by_program(&places, &written), moved);
        assert_eq!(as_seen_by_program(&places, &[]), places, "a supervisor from before wrote nothing");
    }
}
