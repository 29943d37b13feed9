//! Versions that run, or whose clients wait: each is held again, or what is left of it is ended.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::spec::Handoff;
use df_core::{Endpoint, Timestamp};
use df_wire::message::RunState;
use distributive_flow::parent::NotifySocket;
use distributive_flow::protocol::NotifyAddress;

use super::super::super::records::{self, Records, VersionRecord, WaitingRecord};
use super::super::super::start::{self, Place};
use super::super::hearing::Said;
use super::super::watching::{kill, watch};
use super::super::{App, Version};
use super::GONE;
use crate::hold::What;
use crate::listeners::GroupRecord;
use crate::process::{Process, ProcessRecord};
use crate::supervise::words;

/// What is said of a program that is where it was not started.
const MOVED: &str =
    "limits: somebody moved the program out of the control groups that count what it uses; they do not hold for it";

/// What is known of a version that an earlier supervisor started.
pub(super) struct Former {
    generation: u64,
    since: Timestamp,
    listen: IpAddr,
    state: RunState,
    handoff: String,
    notify: String,
    said: Said,
    alone: bool,
    behind: Vec<(Label, Endpoint)>,
}

impl Former {
    /// One whose program has ended.
    pub(super) fn ended(generation: u64, since: Timestamp, listen: IpAddr, state: RunState) -> Self {
        Self {
            generation,
            since,
            listen,
            state,
            handoff: String::new(),
            notify: String::new(),
            said: Said::default(),
            alone: false,
            behind: vec![],
        }
    }
}

impl App {
    pub(super) fn adopt_versions(&mut self, records: &Records, held: &mut BTreeMap<What, OwnedFd>) {
        for record in &records.versions {
            match self.adopt_version(record, records, held) {
                Ok(version) => {
                    let (process, said) = (version.process.clone(), version.said.clone());
                    self.versions.insert(record.run, version);
                    let Some(process) = process else { continue };
                    watch(record.run, process, heard_at(&record.notify), said, self.inbox.clone());
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
            if let Some(exceeded) = record.process.members.exceeded() {
                self.note(record.generation, &format!("the program ended: {exceeded}"));
            }
            // What it left behind when it ended goes too.
            record.process.members.end(&|| None, GONE);
        }
        let process = match process {
            Ok(process) => {
                // Asked before: who has ended is in no group.
                if !record.process.members.is_counted(pid) && process.alive().is_ok_and(|alive| alive) {
                    self.note(record.generation, MOVED);
                }
                Some(Arc::new(process))
            }
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
            notify: record.notify.clone(),
            said: Said::before(record.ready, record.stopping, record.status.clone()),
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

    pub(super) fn version(&self, former: Former, process: Option<Arc<Process>>) -> Result<Version, String> {
        let Former { generation, since, listen, state, handoff, notify, said, alone, behind } = former;
        let release = self.release_of(generation).map_err(|_| "its record is gone; it was ended".to_owned())?;
        let section = release.run.as_ref().ok_or("its release runs nothing")?;
        let places = start::places(section, listen);
        let behind = as_seen_by_program(&places, &behind);
        let spec = start::prepare(&self.node.layout, &release, section, generation, &behind, &start::Addresses::default());
        let spec = spec.map_err(|error| words(&error));
        self.claim(&places).map_err(|error| words(&error))?;
        let said = Arc::new(said);
        Ok(Version {
            generation,
            places,
            behind,
            spec,
            process,
            state,
            since,
            listen,
            handoff,
            notify,
            said,
            alone,
            retiring: false,
            leaving: None,
            release,
        })
    }

    /// Kills what was started and not written down.
    pub(super) fn end_orphans(&self) {
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
}

/// Listens again where an earlier supervisor did: the program knows no other address. Where somebody else is there now, nothing more is heard of it.
fn heard_at(address: &str) -> Option<NotifySocket> {
    let address = NotifyAddress::parse(address.as_ref()).ok()?;
    NotifySocket::bind(address).ok()
}

/// Returns the ports of a version as its program sees them: those behind a proxy are where the program was told to listen.
fn as_seen_by_program(places: &[Place], behind: &[(Label, Endpoint)]) -> Vec<Place> {
    let moved = |place: &Place| {
        let found = behind.iter().find(|(label, _)| *label == place.label).filter(|_| place.handoff == Handoff::Proxy);
        found.map_or_else(|| place.clone(), |(_, address)| Place { address: address.clone(), ..place.clone() })
    };
    places.iter().map(moved).collect()
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
