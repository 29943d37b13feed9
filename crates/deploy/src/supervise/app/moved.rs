//! What became of the connections that a version hands over when it leaves: told to who activated the next one, whose answer waits for that a little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::spec::Connections;
use df_wire::{Event, Reply};
use distributive_flow::protocol::Counted;

use super::hearing::{Heard, Said};
use super::{Flight, Told, Version};
use crate::claim;

/// However long somebody wants to wait for it.
const LONGEST: Duration = Duration::from_secs(60);

/// A version at the moment at which it is told to leave.
pub(super) struct Leaves {
    /// How many connections of each port it has open, where that can be counted.
    pub open: BTreeMap<Label, Option<u32>>,
    /// It was introduced to the version that stays.
    pub is_introduced: bool,
}

/// An answer that waits for what a version does with its connections.
pub(super) struct Waiting {
    answer: Sender<Told>,
    reply: Reply,
    until: Instant,
    /// The ports that hand theirs over.
    ports: Vec<Label>,
}

impl Version {
    /// Returns how many connections of each port it has open; reads a link for each descriptor of its processes, so not on the application's own thread.
    pub(super) fn counting(&self) -> impl FnOnce() -> BTreeMap<Label, Option<u32>> + Send + use<> {
        let (process, places) = (self.process.clone(), self.places.clone());
        move || {
            let held = claim::Sockets::of(&process.map_or_else(Vec::new, |process| process.pids()));
            let count = |at| claim::n_open(at, held.as_ref()?).ok().flatten();
            places.iter().map(|place| (place.label.clone(), count(&place.address))).collect()
        }
    }

    /// Returns what a port does with its connections when this version leaves.
    pub(super) fn choice(&self, port: &Label) -> Option<Connections> {
        Some(self.release.run.as_ref()?.ports.get(port)?.connections)
    }

    /// Keeps an answer back until it is known what became of the connections that this version hands over. It is sent at once if there is nothing to wait for, and in any case after `patience`.
    pub(super) fn keep_back(&mut self, flight: &Flight, reply: Reply, patience: Duration) {
        let hands_over = |port: &Label| self.choice(port) == Some(Connections::HandOver);
        let ports: Vec<Label> = self.places.iter().map(|place| place.label.clone()).filter(hands_over).collect();
        let waiting = Waiting { answer: flight.answer.clone(), reply, until: Instant::now() + patience.min(LONGEST), ports };
        let (leave, leaves) = mpsc::channel();
        self.leaving = Some(leave);
        let said = self.said.clone();
        thread::spawn(move || waiting.follow(&leaves, &said));
    }
}

impl Waiting {
    /// Waits until the version leaves, and until nothing of it is unknown; then tells and answers. A version that is gone has nothing to tell.
    fn follow(self, leaves: &Receiver<Leaves>, said: &Arc<Said>) {
        if let Ok(leaves) = leaves.recv_timeout(self.until.saturating_duration_since(Instant::now())) {
            let is_known = |heard: &Heard| self.ports.iter().all(|port| is_settled(port, &leaves, &heard.connections));
            let heard = said.await_heard(self.until, is_known);
            for port in self.ports {
                let (handed_over, drained) = outcome(&port, &leaves, &heard.connections);
                // Who asked may be gone.
                let _ = self.answer.send(Told::Event(Event::Moved { port, handed_over, drained }));
            }
        }
        let _ = self.answer.send(Told::Reply(self.reply));
    }
}

/// Returns whether every connection of a port has been given away or was kept.
fn is_settled(port: &Label, leaves: &Leaves, heard: &BTreeMap<String, Counted>) -> bool {
    let counted = heard.get(port.as_str()).copied().unwrap_or_default();
    let n_open = leaves.open.get(port).copied().flatten();
    !leaves.is_introduced || n_open.is_some_and(|open| counted.given.saturating_add(counted.kept) >= open)
}

/// Returns how many connections of a port went to the next version and how many stayed.
///
/// How many went, only the program knows: it says so, or it met nobody to give them to. All others that it had open when it was told to leave have stayed.
fn outcome(port: &Label, leaves: &Leaves, heard: &BTreeMap<String, Counted>) -> (Option<u32>, Option<u32>) {
    let n_open = leaves.open.get(port).copied().flatten();
    let counted = heard.get(port.as_str());
    let given = match counted {
        Some(counted) => Some(counted.given),
        None if !leaves.is_introduced || n_open == Some(0) => Some(0),
        None => None,
    };
    let drained = match (n_open, given) {
        (Some(open), Some(given)) => Some(open.saturating_sub(given)),
        _ => counted.map(|counted| counted.kept),
    };
    (given, drained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_and_what_is_counted_make_what_became_of_its_connections() {
        let port: Label = "lines".parse().expect("a label");
        for (introduced, open, said, settled, expected) in [
            // All went, or some were refused.
            (true, Some(1000), Some((1000, 0)), true, (Some(1000), Some(0))),
            (true, Some(1000), Some((990, 10)), true, (Some(990), Some(10))),
            // Its time was over: these went so far, and the others it still has.
            (true, Some(1000), Some((990, 3)), false, (Some(990), Some(10))),
            // Nobody was open, or there was nobody to give them to.
            (true, Some(0), None, true, (Some(0), Some(0))),
            (false, Some(7), None, true, (Some(0), Some(7))),
            (false, None, None, true, (Some(0), None)),
            // It does not say how many it gives away.
            (true, Some(7), None, false, (None, None)),
            // It hides what it has open, and says what it did.
            (true, None, Some((5, 2)), false, (Some(5), Some(2))),
            // One was made between the count and the end of its queue.
            (true, Some(6), Some((7, 0)), true, (Some(7), Some(0))),
        ] {
            let leaves = Leaves { open: BTreeMap::from([(port.clone(), open)]), is_introduced: introduced };
            let counted = said.map(|(given, kept)| ("lines".to_owned(), Counted { given, kept }));
            let heard = counted.into_iter().collect();
            let found = (is_settled(&port, &leaves, &heard), outcome(&port, &leaves, &heard));
            assert_eq!(found, (settled, expected), "{introduced} {open:?} {said:?}");
        }
    }
}
