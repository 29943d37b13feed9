//! What the nodes of a rollout saw as clients of their own ports, and which connections went along, summed up for the last line.

use std::sync::{Arc, Mutex};

use crate::event::Event;
use crate::render::units;

/// A sum that all who work on a rollout add to.
#[derive(Debug, Clone, Default)]
pub struct Proof(Arc<Mutex<Sum>>);

#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    lost: u64,
    worst_ms: u64,
    went_along: u64,
}

impl Proof {
    /// Takes in what an event says of it.
    pub fn hear(&self, event: &Event) {
        let Event::Handoff { requests, lost, worst_ms, connections_handed_over, .. } = event else { return };
        let mut sum = self.0.lock().expect("nobody panics with this lock");
        sum.went_along = sum.went_along.saturating_add(u64::from(connections_handed_over.unwrap_or(0)));
        if let Some(requests) = requests {
            sum.requests = sum.requests.saturating_add(*requests);
            sum.lost = sum.lost.saturating_add(lost.unwrap_or(0));
            sum.worst_ms = sum.worst_ms.max(worst_ms.unwrap_or(0));
        }
    }

    /// Returns the line; none where no node was a client and no connection went along.
    pub fn lines(&self) -> Vec<String> {
        let sum = self.0.lock().expect("nobody panics with this lock");
        let requests = (sum.requests > 0).then(|| units::requests(sum.requests, sum.lost, sum.worst_ms));
        let went_along = (sum.went_along > 0).then(|| units::went_along(sum.went_along));
        let parts: Vec<String> = went_along.into_iter().chain(requests).collect();
        if parts.is_empty() { vec![] } else { vec![parts.join("; ")] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::HandoffStep;

    fn handoff(requests: Option<u64>, lost: Option<u64>, worst_ms: Option<u64>) -> Event {
        Event::Handoff {
            node: "n".into(),
            port: "http".into(),
            step: HandoffStep::Switch,
            queued: 0,
            connections_handed_over: None,
            connections_drained: None,
            requests,
            lost,
            worst_ms,
            connection_kept: None,
            first_loss: None,
            own_queue: None,
        }
    }

    #[test]
    fn nodes_are_summed_and_silence_is_no_proof() {
        let proof = Proof::default();
        proof.hear(&handoff(None, None, None));
        assert_eq!(proof.lines(), [""; 0]);
        proof.hear(&handoff(Some(1000), Some(0), Some(9)));
        proof.clone().hear(&handoff(Some(234), Some(2), Some(4)));
        assert_eq!(proof.lines(), ["1,234 requests, 2 failed, worst 9 ms"]);
    }

    #[test]
    fn connections_that_went_along_are_summed_too() {
        let moved = |n| {
            let mut event = handoff(None, None, None);
            let Event::Handoff { connections_handed_over, step, .. } = &mut event else { unreachable!("made above") };
            (*connections_handed_over, *step) = (n, HandoffStep::Leave);
            event
        };
        let proof = Proof::default();
        [None, Some(0)].into_iter().for_each(|n| proof.hear(&moved(n)));
        assert_eq!(proof.lines(), [""; 0]);
        proof.hear(&moved(Some(1)));
        assert_eq!(proof.lines(), ["1 connection went along"]);
        proof.hear(&moved(Some(1999)));
        proof.hear(&handoff(Some(7), Some(0), Some(3)));
        assert_eq!(proof.lines(), ["2,000 connections went along; 7 requests, 0 failed, worst 3 ms"]);
    }
}
