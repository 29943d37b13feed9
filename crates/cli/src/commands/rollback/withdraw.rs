//! A version that is on its soak is taken back at once, while whoever deploys it still has the node's lock: the version before it runs, and gets the
//! connections in one step.

use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{FaultKind, GenerationResult, Reply, Request};
use df_fleet::{Claim, Node, NodeError, Reached};

use super::{Aim, silence};
use crate::across::{self, Connected, Crew, Work, state_of};
use crate::event::Event;
use crate::exit::NodeEnd;
use crate::failure::{self, Failure};
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
    let (ends, others) = withdraw_all(session, locked.into_iter().map(|(node, _)| node).collect())?;
    reached.extend(across::connect(session, "rollback", &others, Some(&patient))?);
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

/// Returns the generation that serves, if nobody knows yet whether it is good.
fn on_trial(reached: &Reached, app: &AppName) -> Option<u64> {
    let state = state_of(&reached.survey, app)?;
    let current = state.generations.iter().find(|generation| generation.number == state.current)?;
    (current.result == GenerationResult::Unknown).then_some(current.number)
}

/// Takes back what is on its soak on these nodes; returns how that ended, and the nodes whose lock stands for something else.
fn withdraw_all(session: &Session, locked: Vec<Node>) -> Result<(Vec<NodeEnd>, Vec<Node>), Failure> {
    let (app, silence) = (session.app(), silence(session));
    let seen = across::connect(session, "rollback", &locked, None)?;
    let (soaking, others) = split(seen, |found| found.as_ref().is_ok_and(|reached| on_trial(reached, app).is_some()));
    let jobs = soaking.into_iter().filter_map(|(node, found)| {
        let (label, reached, output) = (node.label(), found.ok()?, session.output().clone());
        let work = Work { label, app: app.clone(), reached, output };
        Some(async move { (node, withdraw(work, silence).await) })
    });
    let (mut ends, mut others) = (vec![], others.into_iter().map(|(node, _)| node).collect::<Vec<_>>());
    let jobs = jobs.collect();
    for (node, ended) in session.call.block_on(across::all(jobs, session.parallel())) {
        match ended {
            Ok(end) => ends.push(end),
            // Nobody watches it any more: who has the lock does something else.
            Err(NodeError::Fault(fault)) if fault.kind == FaultKind::Refused => others.push(node),
            Err(error) => {
                session.output().error(&failure::of_node(&node.label(), "rollback", &error));
                ends.push(failure::end_of(&error));
            }
        }
    }
    Ok((ends, others))
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
