//! Ports that go over from one version to the next: the queues that are waited for, and what the node saw as a client meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::spec::{Connections, Handoff};
use df_wire::Event;
use df_wire::message::{OwnQueue, Seen};

use super::super::proving::{PATIENCE, Watch};
use super::super::start::Place;
use super::super::{probing, proving, start};
use super::{App, HandedPort, Message, Version};
use crate::activation::{self, Style};
use crate::listeners::Group;

/// The old version's queue counts as empty when it was for so long; it still gets more time before it ends.
const HANDED: Duration = Duration::from_millis(20);
/// How long that may take before the soak goes on without it.
pub(super) const HANDING: Duration = Duration::from_secs(5);

impl App {
    /// Becomes a client of the ports that the version that serves hands over.
    pub(super) fn watch(&mut self) {
        let Some(flight) = &self.flight else { return };
        let (Some(old), Some(section)) = (flight.old_run.and_then(|run| self.versions.get(&run)), &flight.release.run) else {
            return;
        };
        let places = start::places(section, flight.listen);
        let targets = proving::targets((&old.release, &old.places), (&flight.release, &places));
        // A version that is stopped closes its connections itself.
        let stays = flight.plan.style == Style::Beside;
        let watch = Watch::start(targets, flight.plan.watch.unwrap_or(PATIENCE), stays);
        if let Some(flight) = &mut self.flight {
            flight.watch = Some(watch);
        }
    }

    /// Waits, on a thread, until the version before has taken its clients, then stops being one.
    pub(super) fn await_handed(&mut self) {
        let Some(flight) = &mut self.flight else { return };
        let (new, watch) = (flight.new_run, flight.watch.take());
        let old =
            flight.old_run.filter(|_| flight.plan.style == Style::Beside).and_then(|run| Some((run, self.versions.get(&run)?)));
        let with_queue = |(run, version): (u64, &Version)| {
            let places = version.places.iter().filter(|place| probing::has_listener(place));
            let groups = places.filter_map(|place| Some((place.label.clone(), self.groups.get(&place.address)?.clone())));
            groups.map(|(label, group)| (run, label, group.queue_len(run).unwrap_or(0), group)).collect()
        };
        let queues: Vec<(u64, Label, u32, Arc<Group>)> = old.map(with_queue).unwrap_or_default();
        let (drains, count) = old.map(|(_, version)| drains(version)).unzip();
        let inbox = self.inbox.clone();
        thread::spawn(move || {
            let deadline = Instant::now() + HANDING;
            let took_all = |run, group: &Group| {
                let left = deadline.saturating_duration_since(Instant::now());
                group.wait_drained(run, HANDED, left).unwrap_or(false)
            };
            let taken: Vec<(Label, Option<u32>)> =
                queues.into_iter().map(|(run, label, queued, group)| (label, took_all(run, &group).then_some(queued))).collect();
            let seen = watch.map(Watch::finish).unwrap_or_default();
            // Now that nobody waits there, and the node's own connections are closed.
            let (drains, mut open) = (drains.unwrap_or_default(), count.map(|count| count()).unwrap_or_default());
            open.retain(|port, _| drains.contains(port));
            let _ = inbox.send(Message::Handed { run: new, ports: handed(taken, seen, &open) });
        });
    }

    /// The ports went over, as far as they did.
    pub(super) fn handed(&mut self, run: u64, ports: Vec<HandedPort>) {
        if self.flight.as_ref().is_none_or(|flight| flight.new_run != run) {
            return;
        }
        let seen: Vec<(Label, Seen)> = ports.iter().filter_map(|port| Some((port.port.clone(), port.seen.clone()?))).collect();
        for HandedPort { port, taken, seen, open } in ports.into_iter().filter(|port| port.taken.is_some() || port.seen.is_some())
        {
            self.say(Event::Handoff { port, queued: taken.unwrap_or(0), seen, own: None, open });
        }
        for (port, own) in self.own_queues() {
            self.say(Event::Handoff { port, queued: 0, seen: None, own: Some(own), open: None });
        }
        self.advance(activation::Event::Handed { lost: proving::lost(&seen) });
    }

    /// Returns the ports at which both versions have bound by themselves, and what becomes of the old one's queue there.
    fn own_queues(&self) -> Vec<(Label, OwnQueue)> {
        let Some(flight) = self.flight.as_ref().filter(|flight| flight.plan.style == Style::Beside) else { return vec![] };
        let version = |run: Option<u64>| run.and_then(|run| self.versions.get(&run));
        let (Some(old), Some(new)) = (version(flight.old_run), version(Some(flight.new_run))) else { return vec![] };
        let binds = |place: &&Place| place.handoff == Handoff::Reuseport;
        let had = |place: &&Place| old.places.iter().any(|other| other.address == place.address);
        let both = new.places.iter().filter(binds).filter(had);
        both.map(|place| (place.label.clone(), crate::machine::own_queue(&place.address))).collect()
    }
}

/// Returns which ports of a version keep their connections to the end, and how to count what is open.
fn drains(version: &Version) -> (Vec<Label>, impl FnOnce() -> BTreeMap<Label, Option<u32>> + Send + use<>) {
    let labels = version.places.iter().map(|place| place.label.clone());
    (labels.filter(|port| version.choice(port) == Some(Connections::Drain)).collect(), version.counting())
}

/// Puts together what is known of each port.
fn handed(
    taken: Vec<(Label, Option<u32>)>,
    mut seen: Vec<(Label, Seen)>,
    open: &BTreeMap<Label, Option<u32>>,
) -> Vec<HandedPort> {
    let of = |port: Label, taken, seen| {
        let open = open.get(&port).copied().flatten();
        HandedPort { port, taken, seen, open }
    };
    let mut ports: Vec<HandedPort> = taken.into_iter().map(|(port, taken)| of(port, taken, None)).collect();
    for port in &mut ports {
        let at = seen.iter().position(|(label, _)| *label == port.port);
        port.seen = at.map(|at| seen.swap_remove(at).1);
    }
    ports.extend(seen.into_iter().map(|(port, seen)| of(port, None, Some(seen))));
    ports
}
