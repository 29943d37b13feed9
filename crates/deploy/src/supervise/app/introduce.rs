//! Live connections: the version that leaves and the one that serves are introduced to each other; what follows is theirs.

use df_core::spec::Connections;
use distributive_flow::connection::message::Role;
use distributive_flow::parent::{IntroduceError, introduce};
use distributive_flow::protocol::NotifyAddress;
use rustix::process::{Pid, getpgid};

use super::{App, Version};
use crate::supervise::words;

impl App {
    /// Lets a version that leaves give its open connections to the one that serves now, or that serves again if what serves now is taken back. Programs
    /// without the library listen to nobody: theirs drain. Returns whether there is somebody to give them to.
    pub(super) fn introduce(&self, run: u64) -> bool {
        let Some(leaves) = self.versions.get(&run).filter(|version| version.hands_over()) else { return false };
        let lives = |run: &u64| self.versions.get(run).is_some_and(|version| version.process.is_some());
        let goes_back_to = self.flight.as_ref().and_then(|flight| flight.old_run).filter(lives);
        let Some(stays) = stays(run, goes_back_to, self.serving).and_then(|run| self.versions.get(&run)) else {
            return false;
        };
        let address = |version: &Version| NotifyAddress::parse(version.handoff.as_ref()).ok();
        let (Some(giver), Some(taker)) = (address(leaves), address(stays)) else { return false };
        let is_program = |role, pid| if role == Role::Give { leaves.started(pid) } else { stays.started(pid) };
        match introduce(&giver, &taker, is_program) {
            Ok(()) => return true,
            Err(IntroduceError::Nobody(_)) => {}
            Err(error) => eprintln!("{} generation {}: {}", self.app, leaves.generation, words(&error)),
        }
        false
    }
}

impl Version {
    /// Returns whether a port of it gives its connections away.
    pub(super) fn hands_over(&self) -> bool {
        let ports = self.release.run.as_ref().map(|section| &section.ports);
        ports.is_some_and(|ports| ports.values().any(|port| port.connections == Connections::HandOver))
    }

    /// Returns whether a process is its program, or was started by it.
    fn started(&self, pid: i32) -> bool {
        let group = Pid::from_raw(pid).and_then(|pid| getpgid(Some(pid)).ok());
        let leader = self.process.as_ref().map(|process| process.pid());
        group.is_some_and(|group| Some(group.as_raw_nonzero().get().cast_unsigned()) == leader)
    }
}

/// Returns who takes the connections of a run that leaves: what serves now may be on probation, and whatever it takes would go with it.
fn stays(leaves: u64, goes_back_to: Option<u64>, serving: Option<u64>) -> Option<u64> {
    goes_back_to.filter(|run| *run != leaves).or(serving.filter(|run| *run != leaves))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_a_version_that_leaves_do_not_go_to_one_on_probation() {
        let table = [
            // Runs 1, 2 and 3: the first drains since the second was confirmed, and the third is being tried.
            ((1, Some(2), Some(3)), Some(2)),
            ((1, None, Some(3)), Some(3)),
            ((1, None, Some(2)), Some(2)),
            ((2, Some(2), Some(3)), Some(3)),
            ((3, None, Some(3)), None),
            ((3, None, None), None),
        ];
        for ((leaves, goes_back_to, serving), expect) in table {
            assert_eq!(stays(leaves, goes_back_to, serving), expect, "{leaves} {goes_back_to:?} {serving:?}");
        }
    }
}
