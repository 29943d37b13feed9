//! The generation that `current` names, where it was stopped for another: it is entered again, and given the clients that wait at the other.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use df_core::Endpoint;
use df_wire::message::RunState;

use super::super::super::probing;
use super::super::super::records::Records;
use super::super::watching::kill;
use super::super::{App, Version};
use super::runs::Former;
use crate::control;
use crate::hold::What;
use crate::listeners::GroupRecord;
use crate::serve::now;
use crate::supervise::words;

impl Version {
    /// Returns whether it was started in the place of another, and nobody said yet that it stays or goes.
    fn is_in_the_way(&self) -> bool {
        self.alone && self.state != RunState::Draining
    }
}

impl App {
    /// Enters the generation that `current` names where it was stopped for another, which is still there.
    pub(super) fn followed(&mut self, current: u64) -> Option<u64> {
        let is_followed = self.versions.values().any(Version::is_in_the_way);
        is_followed.then(|| self.stopped(current)).flatten()
    }

    /// Enters the generation that `current` names where it was stopped for another, which has ended too or was never written down: clients wait at a socket that
    /// is the other's by now.
    pub(super) fn left_alone(&mut self, current: u64, records: &Records, held: &BTreeMap<What, OwnedFd>) -> Option<u64> {
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

    /// Enters a generation that was stopped for another, so that it can be started again.
    pub(super) fn stopped(&mut self, generation: u64) -> Option<u64> {
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
    pub(super) fn make_way(&mut self) -> bool {
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
}
