//! What the nodes of a rollout saw as clients of their own ports, summed up for the last line.

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
}

impl Proof {
    /// Takes in what an event says of it.
    pub fn hear(&self, event: &Event) {
        if let Event::Handoff { requests: Some(requests), lost, worst_ms, .. } = event {
            let mut sum = self.0.lock().expect("nobody panics with this lock");
            sum.requests = sum.requests.saturating_add(*requests);
            sum.lost = sum.lost.saturating_add(lost.unwrap_or(0));
            sum.worst_ms = sum.worst_ms.max(worst_ms.unwrap_or(0));
        }
    }

    /// Returns the line; none where no node was a client.
    pub fn lines(&self) -> Vec<String> {
        let sum = self.0.lock().expect("nobody panics with this lock");
        if sum.requests == 0 { vec![] } else { vec![units::requests(sum.requests, sum.lost, sum.worst_ms)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handoff(requests: Option<u64>, lost: Option<u64>, worst_ms: Option<u64>) -> Event {
        Event::Handoff {
            node: "n".into(),
            port: "http".into(),
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
}
