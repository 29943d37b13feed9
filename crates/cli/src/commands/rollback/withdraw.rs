//! A version that is on its soak is taken back at once, while whoever deploys it still has the node's lock: the version before it runs, and gets the
//! connections in one step.

use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{FaultKind, GenerationResult, Reply, Request};
use df_fleet::{Claim, NodeError, Reached};

use super::{Aim, silence};
use crate::across::{self, Connected, Crew, Work, state_of};
use crate::event::Event;
use crate::exit::NodeEnd;
use crate::failure::Failure;
use crate::node_event::Teller;
use crate::session::{Session, who};

/// Connects to the nodes with their locks. Where somebody else has the lock and the version that serves is on its soak, it is taken back here; that node's end is
/// among [`Crew::ends`] then.
pub fn reach(session: &Session, aim: &Aim) -> Result<Crew, Failure> {
    let patient = across::claim(session, "rollback");
    let nodes = session.nodes()?;
    if *aim != Aim::Word(None) {
        let reached = across::connect(session, "rollback", &nodes, Some(&patient))?;
        return Ok(across::crew(session, "rollback", reached));
    }
    let hasty = Claim { patience: Duration::ZERO, ..patient.clone() };
    let (locked, mut reached) = split(across::connect(session, "rollback", &nodes, Some(&hasty))?, is_locked);
    let mut ends = vec![];
    if !locked.is_empty() {
        let locked: Vec<_> = locked.into_iter().map(|(node, _)| node).collect();
        let seen = across::connect(session, "rollback", &locked, None)?;
        let (soaking, others) =
            split(seen, |found| found.as_ref().is_ok_and(|reached| on_trial(reached, session.app()).is_some()));
        let silence = silence(session);
        let soaking = soaking.into_iter().filter_map(|(_, found)| found.ok()).collect();
        ends = across::run(session, "rollback", soaking, |work| withdraw(work, silence));
        let others: Vec<_> = others.into_iter().map(|(node, _)| node).collect();
        reached.extend(across::connect(session, "rollback", &others, Some(&patient))?);
    }
    let mut crew = across::crew(session, "rollback", reached);
    crew.ends.extend(ends);
    Ok(crew)
}

type Found = Result<Reached, NodeError>;

fn split(all: Connected, is_first: impl Fn(&Found) -> bool) -> (Connected, Connected) {
    all.into_iter().partition(|(_, found)| is_first(found))
}

fn is_locked(found: &Found) -> bool {
    matches!(found, Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Locked(_)))
}

/// Returns the generation that serves and of which nobody knows yet whether it is good, and the one before.
fn on_trial(reached: &Reached, app: &AppName) -> Option<u64> {
    let state = state_of(&reached.survey, app)?;
    let current = state.generations.iter().find(|generation| generation.number == state.current)?;
    (current.result == GenerationResult::Unknown).then_some(current.number)
}

async fn withdraw(work: Work, silence: Duration) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let Some(generation) = on_trial(&reached, &app) else { return Err(NodeError::Answer) };
    let teller = Teller::new(label, app.clone(), &reached.survey, None, "rollback");
    let request = Request::Withdraw { app, generation, who: who() };
    let reply = reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
    reached.connection.close().await;
    let Reply::Serving(serving) = reply else { return Err(NodeError::Answer) };
    output.result(&Event::RolledBack(teller.served(&serving)));
    Ok(NodeEnd::Moved)
}
