//! What a node tells while it works, as events of the command.

use df_core::AppName;
use df_core::{CommitId, ImageId};
use df_fleet::message::{Event as Told, ProbeOutcome, Serving, Survey};

use crate::event::{Activation, Event, HandoffStep};

/// Of which node's work there is to tell.
#[derive(Debug, Clone)]
pub struct Teller {
    /// What the node is called.
    pub node: String,
    /// The application.
    pub app: AppName,
    /// Generations that are known: number, image, commit.
    pub known: Vec<(u64, ImageId, CommitId)>,
    /// The generation that served before; 0: none.
    pub from: u64,
    /// What a generation holds that is not known: the one that is being made.
    pub new: Option<(ImageId, CommitId)>,
    /// Why anything happens: `deploy`, `rollback`.
    pub reason: String,
}

impl Teller {
    /// Knows the generations of a surveyed node.
    pub fn new(node: String, app: AppName, survey: &Survey, new: Option<(ImageId, CommitId)>, reason: &str) -> Self {
        let states = || survey.apps.iter().filter(|state| state.app == app);
        let from = states().map(|state| state.current).next().unwrap_or(0);
        let known = states().flat_map(|state| &state.generations).map(|g| (g.number, g.image, g.commit.clone())).collect();
        Self { node, app, known, from, new, reason: reason.to_owned() }
    }

    /// Returns the event; none for what nobody waits for.
    pub fn tell(&self, told: Told) -> Option<Event> {
        let (node, app) = (self.node.clone(), self.app.clone());
        Some(match told {
            Told::Applied { .. }
            | Told::Ready { .. }
            | Told::Awaiting { .. }
            | Told::Log { .. }
            | Told::Blob { .. }
            | Told::NoBlob { .. } => {
                return None;
            }
            Told::Started { generation, pid } => Event::Started { node, app, generation, pid: Some(pid) },
            Told::Stopped { generation, pid } => Event::Stopped { node, app, generation, pid: Some(pid) },
            Told::Verified { generation, probes } => verified(node, app, generation, probes),
            Told::Activated { generation, from } => Event::Activated(self.activation(generation, from, self.reason.clone())),
            Told::Confirmed { generation } => Event::Confirmed(self.activation(generation, self.from, self.reason.clone())),
            Told::RolledBack { generation, from, reason } => Event::RolledBack(self.activation(generation, from, reason)),
            Told::Handoff { port, queued, seen, own, open } => Event::Handoff {
                node,
                port: port.to_string(),
                step: HandoffStep::Switch,
                queued,
                // Who counts what stays knows that nothing goes.
                connections_handed_over: open.map(|_| 0),
                connections_drained: open,
                requests: seen.as_ref().map(|seen| seen.requests),
                lost: seen.as_ref().map(|seen| seen.failed),
                worst_ms: seen.as_ref().map(|seen| seen.worst_ms),
                connection_kept: seen.as_ref().and_then(|seen| seen.kept),
                first_loss: seen.map(|seen| seen.first_loss).filter(|loss| !loss.is_empty()),
                own_queue: own,
            },
            Told::Moved { port, handed_over, drained } => Event::Handoff {
                node,
                port: port.to_string(),
                step: HandoffStep::Leave,
                queued: 0,
                connections_handed_over: handed_over,
                connections_drained: drained,
                requests: None,
                lost: None,
                worst_ms: None,
                connection_kept: None,
                first_loss: None,
                own_queue: None,
            },
        })
    }

    /// Returns what a node answered when all went well.
    pub fn served(&self, serving: &Serving) -> Activation {
        Activation {
            node: self.node.clone(),
            app: self.app.clone(),
            generation: serving.generation,
            image: Some(serving.image),
            commit: Some(serving.commit.clone()),
            from_generation: serving.from,
            reason: self.reason.clone(),
        }
    }

    fn activation(&self, generation: u64, from_generation: u64, reason: String) -> Activation {
        let known =
            self.known.iter().find(|(number, ..)| *number == generation).map(|(_, image, commit)| (*image, commit.clone()));
        let new = self.new.clone().filter(|_| generation > 0);
        let (image, commit) = known.or(new).unzip();
        Activation { node: self.node.clone(), app: self.app.clone(), generation, image, commit, from_generation, reason }
    }
}

/// Returns the event for answered probes.
pub fn verified(node: String, app: AppName, generation: u64, probes: Vec<ProbeOutcome>) -> Event {
    Event::Verified { node, app, generation, ok: probes.iter().all(|probe| probe.ok), probes }
}
