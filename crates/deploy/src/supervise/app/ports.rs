//! The listeners of an application: claimed, opened for a run, and closed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use df_core::Endpoint;
use df_core::spec::RunSection;

use super::super::probing;
use super::super::start::{self, Place};
use super::App;
use super::versions::LaunchFailed;
use crate::claim;
use crate::listeners::{self, Access, Group, GroupError};
use crate::supervise::words;

/// Who may connect to a socket in the file system that says nothing of that: its owner.
const CLOSED: u16 = 0o600;

/// Whom a new listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The prober alone, until the version is verified.
    OnTrial,
    /// Clients, at once.
    ToServe,
}

impl App {
    /// Claims the addresses of a version for this application.
    pub(super) fn claim(&self, places: &[Place]) -> Result<(), LaunchFailed> {
        let mut claims = self.node.claims.lock().expect("nobody panics with this lock");
        for place in places {
            match claims.get(&place.address).filter(|holder| **holder != self.app) {
                Some(holder) => return Err(LaunchFailed::Claimed { address: place.address.clone(), holder: holder.clone() }),
                None => drop(claims.insert(place.address.clone(), self.app.clone())),
            }
        }
        Ok(())
    }

    /// Refuses addresses that somebody else holds, ports that the program binds by itself among them. Those of our own versions are ours.
    pub(super) fn check_ports(&self, places: &[Place]) -> Result<(), LaunchFailed> {
        self.claim(places).inspect_err(|_| self.release_claims(None))?;
        let is_ours = |address: &Endpoint| {
            self.versions.values().any(|version| version.places.iter().any(|place| place.address == *address))
        };
        for place in places.iter().filter(|place| !is_ours(&place.address)) {
            let free = match &place.address {
                Endpoint::Unix(path) => listeners::check_path(path).map_err(GroupError::Place),
                address => claim::check(address, &[]).map_err(GroupError::Claim),
            };
            free.inspect_err(|_| self.release_claims(None))?;
        }
        Ok(())
    }

    /// Closes the listeners of a version that ended where the next one gets none: it binds there by itself.
    pub(super) fn close_unshared(&mut self, run: u64, places: &[Place]) {
        let shared = |address: &Endpoint| places.iter().any(|place| place.address == *address && probing::has_listener(place));
        for (_, group) in
            self.groups.iter().filter(|(address, group)| !shared(address) && group.record().slots.contains(&Some(run)))
        {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.groups.retain(|_, group| group.record().slots.iter().any(Option::is_some));
    }

    /// Returns the descriptors of a run's listeners, in the order in which the program gets them; `from` gives its own away.
    pub(super) fn open_listeners(
        &mut self,
        run: u64,
        from: Option<u64>,
        section: &RunSection,
        places: &[Place],
        entrance: Entrance,
    ) -> Result<Vec<OwnedFd>, LaunchFailed> {
        let mut listeners = vec![];
        let owner = start::owner(&self.node.layout, &self.app, section)?;
        for place in places.iter().filter(|place| probing::has_listener(place)) {
            let fresh = || Arc::new(Group::new(place.address.clone()));
            let group = self.groups.entry(place.address.clone()).or_insert_with(fresh);
            group.allow(Access { owner: owner.clone(), mode: place.mode.unwrap_or(CLOSED) });
            let slots = group.record().slots;
            let listener = match from.filter(|from| slots.contains(&Some(*from))) {
                _ if slots.contains(&Some(run)) => group.listener(run)?,
                Some(from) => group.pass(from, run)?,
                None if entrance == Entrance::OnTrial => group.add_on_trial(run)?,
                None => group.add(run)?,
            };
            listeners.push(listener);
        }
        Ok(listeners)
    }

    /// Closes a run's listeners and gives up addresses that nobody listens on any more.
    pub(super) fn close_listeners(&mut self, run: u64) {
        for group in self.groups.values().filter(|group| group.record().slots.contains(&Some(run))) {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.groups.retain(|_, group| group.record().slots.iter().any(Option::is_some));
        self.release_claims(Some(run));
    }

    /// Closes every listener of the application.
    pub(super) fn close_all(&mut self) {
        for group in std::mem::take(&mut self.groups).into_values() {
            if let Err(error) = group.close() {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.release_claims(None);
    }

    /// Gives up the addresses that no version has, `without` counted out.
    fn release_claims(&self, without: Option<u64>) {
        let others = self.versions.iter().filter(|(run, _)| Some(**run) != without);
        let places = others.flat_map(|(_, version)| version.places.iter());
        let used: Vec<Endpoint> = places.map(|place| place.address.clone()).collect();
        let mut claims = self.node.claims.lock().expect("nobody panics with this lock");
        claims.retain(|address, app| *app != self.app || used.contains(address));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::net::UnixStream;

    use super::super::tests::{node, of_node, release};
    use super::*;
    use crate::launch::Launcher;

    #[test]
    fn a_second_claim_of_a_port_names_the_application_that_holds_it_and_that_one_listens_on() {
        let (_dir, layout) = crate::fixture::layout();
        let dir = tempfile::Builder::new().prefix("df-p").tempdir_in("/tmp").expect("a directory");
        let socket = dir.path().join("a.sock");
        let release = release(&layout, &socket, "");
        let node = node(layout, Launcher::default());
        let (mut first, second) = (of_node(node.clone(), "greeter"), of_node(node, "another"));
        let section = release.run.as_ref().expect("it runs");
        let places = start::places(section, IpAddr::V4(Ipv4Addr::LOCALHOST));
        first.check_ports(&places).expect("free");
        let listeners = first.open_listeners(1, None, section, &places, Entrance::ToServe).expect("it listens");
        for refused in [second.check_ports(&places), second.claim(&places)] {
            let refused = refused.expect_err("held");
            assert_eq!(refused.to_string(), format!("the socket {} is held by the application greeter", socket.display()));
            assert!(refused.is_port());
        }
        UnixStream::connect(&socket).expect("who holds it listens");
        drop(listeners);
        first.close_all();
        second.check_ports(&places).expect("nobody holds it any more");
    }
}
