//! `df stop --now` where somebody else is at work: a deploy that soaks or waits to be confirmed, a stop that waits for a program. It ends with what it has to do with, and the
//! lock that its owner still has is no reason to wait.

use std::time::Duration;

use df_fleet::message::{FaultKind, GenerationResult, Reply, Request};
use df_fleet::{Claim, Node, NodeError, Reached};

use super::tell_stopped;
use crate::across::{self, Connected, Crew, Work, state_of};
use crate::commands::rollback::silence;
use crate::exit::NodeEnd;
use crate::failure::{self, Failure};
use crate::session::{Session, who};

/// Connects to the nodes with their locks. Where somebody else has the lock and something is under way with the application, that is ended here; that node's end is among
/// [`Crew::ends`] then.
pub fn reach(session: &Session, all: bool) -> Result<Crew, Failure> {
    let patient = across::claim(session, "stop");
    let hasty = Claim { patience: Duration::ZERO, ..patient.clone() };
    let found = across::connect(session, "stop", &session.nodes()?, Some(&hasty))?;
    let (locked, mut reached): (Connected, Connected) = found.into_iter().partition(|(_, found)| is_locked(found));
    let (ends, others) = halt_all(session, locked.into_iter().map(|(node, _)| node).collect(), all)?;
    reached.extend(across::connect(session, "stop", &others, Some(&patient))?);
    let mut crew = across::crew(session, "stop", reached);
    crew.ends.extend(ends);
    Ok(crew)
}

fn is_locked(found: &Result<Reached, NodeError>) -> bool {
    matches!(found, Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Locked(_)))
}

/// Ends what is under way on these nodes; returns how that went, and the nodes whose lock stands for something else.
fn halt_all(session: &Session, locked: Vec<Node>, all: bool) -> Result<(Vec<NodeEnd>, Vec<Node>), Failure> {
    let (mut ends, mut others, mut jobs) = (vec![], vec![], vec![]);
    for (node, found) in across::connect(session, "stop", &locked, None)? {
        match found {
            Ok(reached) => {
                let (label, app, output) = (node.label(), session.app().clone(), session.output().clone());
                let (work, silence) = (Work { label, app, reached, output }, silence(session));
                jobs.push(async move { (node, halt(work, all, silence).await) });
            }
            // It is looked for again, and said then if it is not there.
            Err(_) => others.push(node),
        }
    }
    for (node, ended) in session.call.block_on(across::all(jobs, session.parallel())) {
        match ended {
            Ok(end) => ends.push(end),
            // Who has the lock copies, say, or has finished meanwhile; or the supervisor is an older one that does not know what it is asked.
            Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Refused | FaultKind::Unknown) => others.push(node),
            Err(error) => {
                session.output().error(&failure::of_node(&node.label(), "stop", &error));
                ends.push(failure::end_of(&error));
            }
        }
    }
    Ok((ends, others))
}

async fn halt(work: Work, all: bool, silence: Duration) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let on_trial = state_of(&reached.survey, &app).is_some_and(|state| {
        let mut generations = state.generations.iter();
        generations.any(|generation| generation.number == state.current && generation.result == GenerationResult::Unknown)
    });
    let request = Request::Halt { app: app.clone(), all, who: who() };
    let reply = reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
    reached.connection.close().await;
    let Reply::Stopped { stopped } = reply else { return Err(NodeError::Answer) };
    tell_stopped(&label, &app, stopped, &output);
    if on_trial {
        output.note(format!("  {label:<16} its deploy ended with it; df start starts the version that served before"));
    }
    Ok(NodeEnd::Done)
}
