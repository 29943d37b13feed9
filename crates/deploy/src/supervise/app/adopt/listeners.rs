//! Listeners that are taken back, from where they were held or else from the programs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use df_core::Endpoint;

use super::super::super::probing;
use super::super::super::records::Records;
use super::super::{App, Version};
use crate::hold::What;
use crate::listeners::{Group, GroupRecord};
use crate::supervise::words;

impl App {
    /// Takes the listeners back, from where they were held or else from the programs, in the order that the predecessor wrote down, and steers to what serves.
    pub(super) fn adopt_groups(
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

    /// Closes the listeners of versions that have ended: nobody would take the clients that come there.
    fn close_dead(&self, group: &Group) {
        let dead = |run: &u64| !self.versions.contains_key(run);
        for run in group.record().slots.into_iter().flatten().filter(dead) {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
    }

    /// Closes sockets that were held and belong to nothing that is known: whoever made them was killed before it could write that down, or they cannot be used any more.
    pub(super) fn close_unknown(&self) {
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
}
