//! What an application leaves to the next supervisor: records of what runs, and copies of its descriptors.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use df_core::Endpoint;
use df_core::name::Label;

use super::super::records::{self, Records, VersionRecord, WaitingRecord};
use super::super::start::Place;
use super::{App, Version};
use crate::confirmation::since_boot;
use crate::hold::What;

impl Version {
    /// Returns where its program listens, for each port that is behind a proxy.
    fn behind(&self) -> Vec<(Label, Endpoint)> {
        let is_behind = |(place, behind): &(&Place, &Place)| place.address != behind.address;
        let pairs = self.places.iter().zip(&self.behind).filter(is_behind);
        pairs.map(|(_, behind)| (behind.label.clone(), behind.address.clone())).collect()
    }
}

impl App {
    /// Writes down what runs, for a successor, then has its descriptors held.
    pub(super) fn write_records(&self) {
        if let Err(error) = records::write(&self.node.layout, &self.app, &self.records()) {
            eprintln!("records of {}: {error}", self.app);
        }
        match self.descriptors() {
            Ok(descriptors) => self.node.holding.keep(&self.app, descriptors),
            Err(error) => eprintln!("{}: hold its descriptors: {error}", self.app),
        }
    }

    /// Tells what to give to the program that the supervisor becomes, unless something is going on, and waits until it did not.
    pub(super) fn rest(&self, seen: &Sender<Option<Records>>, go_on: &Receiver<()>) {
        let retires = self.versions.values().any(|version| version.retiring);
        let is_at_rest = self.flight.is_none() && self.starting.is_none() && !retires;
        self.write_records();
        if seen.send(is_at_rest.then(|| self.records())).is_ok() && is_at_rest {
            let _ = go_on.recv();
        }
    }

    fn records(&self) -> Records {
        let versions = self.versions.iter().filter_map(|(run, version)| {
            let process = version.process.as_ref()?.record().clone();
            let heard = version.said.heard();
            Some(VersionRecord {
                run: *run,
                generation: version.generation,
                state: version.state,
                process,
                since: version.since,
                listen: version.listen,
                handoff: version.handoff.clone(),
                notify: version.notify.clone(),
                status: heard.status,
                ready: heard.ready,
                stopping: heard.stopping,
                alone: version.alone,
                behind: version.behind(),
            })
        });
        let crashed =
            self.serving.and_then(|run| Some((run, self.versions.get(&run)?))).filter(|(_, version)| version.process.is_none());
        let waiting = crashed.map(|(run, version)| WaitingRecord {
            run,
            generation: version.generation,
            since: version.since,
            listen: version.listen,
        });
        let boot_ms = |at: Instant| {
            let (now, boot) = (Instant::now(), since_boot());
            let at = if at > now { boot + (at - now) } else { boot.saturating_sub(now - at) };
            u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
        };
        Records {
            next_run: self.next_run,
            versions: versions.collect(),
            waiting,
            groups: self.groups.values().map(|group| group.record()).collect(),
            crashes_ms: self.crashes.iter().copied().map(boot_ms).collect(),
            restart_at_ms: self.restart_at.map(boot_ms),
        }
    }

    /// Returns what must not be closed when we die: the sockets where clients come, and the processes.
    fn descriptors(&self) -> io::Result<BTreeMap<What, OwnedFd>> {
        let mut descriptors = BTreeMap::new();
        for group in self.groups.values() {
            descriptors.extend(group.descriptors().into_iter().map(|(inode, socket)| (What::Socket { inode }, socket)));
        }
        for process in self.versions.values().filter_map(|version| version.process.as_ref()) {
            let (pid, start_time) = (process.record().pid, process.record().start_time);
            descriptors.insert(What::Process { pid, start_time }, process.pidfd().try_clone_to_owned()?);
        }
        Ok(descriptors)
    }
}
