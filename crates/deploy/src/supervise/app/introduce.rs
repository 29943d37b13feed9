//! Live connections: the version that leaves and the one that serves are introduced to each other; what follows is theirs.

use df_core::spec::Connections;
use distributive_flow::connection::message::Role;
use distributive_flow::parent::{IntroduceError, introduce};
use distributive_flow::protocol::NotifyAddress;
use rustix::process::{Pid, getpgid};

use super::{App, Version};
use crate::supervise::words;

impl App {
    /// Lets a version that leaves give its open connections to the one that serves now. Programs without the library listen to nobody: theirs drain.
    pub(super) fn introduce(&self, run: u64) {
        let Some(leaves) = self.versions.get(&run).filter(|version| version.hands_over()) else { return };
        let Some(stays) = self.serving.filter(|serving| *serving != run).and_then(|serving| self.versions.get(&serving)) else {
            return;
        };
        let address = |version: &Version| NotifyAddress::parse(version.handoff.as_ref()).ok();
        let (Some(giver), Some(taker)) = (address(leaves), address(stays)) else { return };
        let is_program = |role, pid| if role == Role::Give { leaves.started(pid) } else { stays.started(pid) };
        match introduce(&giver, &taker, is_program) {
            Ok(()) | Err(IntroduceError::Nobody(_)) => {}
            Err(error) => eprintln!("{} generation {}: {}", self.app, leaves.generation, words(&error)),
        }
    }
}

impl Version {
    /// Returns whether a port of it gives its connections away.
    fn hands_over(&self) -> bool {
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
