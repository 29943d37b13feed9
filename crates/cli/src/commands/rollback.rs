//! `df rollback`: an earlier generation serves again, from the node's own records; needs no build, no copy and no cache.

mod pick;
mod withdraw;

use std::collections::BTreeMap;
use std::time::Duration;

use df_core::CommitId;
use df_fleet::going_back::{self, Epochs};
use df_fleet::message::{AppState, Generation, Reply, Request, RollbackTarget};
use df_fleet::{NodeError, Reached};

use crate::across::{self, Crew, Intent, Work, current_of, state_of};
use crate::args::{self, RollbackTo};
use crate::event::Event;
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::leases::{self, Ledger};
use crate::node_event::Teller;
use crate::rolling;
use crate::session::{Session, who};

/// How long a node may think beyond what df.yaml allows its program.
const MARGIN: Duration = Duration::from_secs(60);

/// How an earlier generation is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    soak: Duration,
    silence: Duration,
    who: String,
    reason: &'static str,
    force: bool,
}

impl Order {
    /// Takes the order from what df.yaml says.
    pub fn new(session: &Session, reason: &'static str) -> Self {
        Self { soak: session.config.rollout.soak, silence: silence(session), who: who(), reason, force: false }
    }
}

/// Where the nodes go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Aim {
    /// Each to what the word means there; `None`: to its previous good generation.
    Word(Option<RollbackTarget>),
    /// Each, by what it is called, to a generation that a person picked.
    Picked(BTreeMap<String, u64>),
}

/// Goes back to the previous good generation, or the one that is named or picked.
pub fn run(args: &args::Rollback, session: &Session) -> Result<Exit, Failure> {
    let aim = if args.pick {
        Aim::Picked(pick::pick(session, args.force)?)
    } else {
        Aim::Word(args.to.clone().map(|to| match to {
            RollbackTo::Generation(n) => RollbackTarget::Generation(n),
            RollbackTo::Commit(commit) => RollbackTarget::Commit(commit),
        }))
    };
    let app = session.app();
    if session.is_dry_run() {
        let planned = across::plan(session, "rollback", |node, survey| intent(node, state_of(survey, app), &aim, args.force))?;
        leases::plan(session);
        return Ok(planned);
    }
    let crew = withdraw::reach(session, &aim)?;
    let refusal = |reached: &Reached| refusal(&reached.connection.node.label(), state_of(&reached.survey, app), &aim, args.force);
    let refusals: Vec<Event> = crew.reached.iter().filter_map(refusal).collect();
    if !refusals.is_empty() {
        return Ok(refuse(session, crew, &refusals));
    }
    let order = Order { force: args.force, ..Order::new(session, "rollback") };
    let (mut ends, ledger) = (crew.ends, Ledger::of(session));
    ends.extend(across::run(session, "rollback", crew.reached, |work: Work| {
        let (target, order, ledger) = (aim.of(&work.label), order.clone(), ledger.clone());
        async move { perform(work, target, &order, &ledger).await }
    }));
    ledger.tell(session, &again(ledger.serving(app).as_ref()));
    Ok(of_nodes(&ends))
}

/// Returns what to type so that a cache elsewhere is told what nodes have, which changes nothing else where all serve one commit.
pub fn again(serving: Option<&CommitId>) -> String {
    serving.map_or_else(|| "df gc".to_owned(), |commit| format!("df rollback --to {}", commit.short()))
}

impl Aim {
    fn of(&self, node: &str) -> Option<RollbackTarget> {
        match self {
            Self::Word(target) => target.clone(),
            Self::Picked(of_nodes) => of_nodes.get(node).copied().map(RollbackTarget::Generation),
        }
    }
}

/// Makes an earlier generation serve on a node.
async fn perform(work: Work, target: Option<RollbackTarget>, order: &Order, ledger: &Ledger) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let teller = Teller::new(label, app.clone(), &reached.survey, None, order.reason);
    let from = current_of(&reached.survey, &app);
    let found = state_of(&reached.survey, &app).and_then(|state| going_back::target(state, target.as_ref()));
    let target = target.or_else(|| found.map(|g| RollbackTarget::Generation(g.number)));
    let request = Request::Rollback {
        app,
        to: target,
        expect: from,
        soak: order.soak,
        who: order.who.clone(),
        listen: reached.connection.node.listen(),
        force: order.force,
        follow_ms: Some(rolling::FOLLOW_MS),
    };
    let told = |event| {
        if let Some(event) = teller.tell(event) {
            output.step(&event);
        }
    };
    let reply = reached.connection.ask_with(&request, order.silence, &mut { told }).await?;
    ledger.close(reached.connection).await;
    let Reply::Serving(serving) = reply else { return Err(NodeError::Answer) };
    output.result(&Event::RolledBack(teller.served(&serving)));
    Ok(if serving.generation == from { NodeEnd::Done } else { NodeEnd::Moved })
}

/// Starts what does not run.
pub async fn start_again(work: Work, order: &Order) -> Result<NodeEnd, NodeError> {
    let Work { label: node, app, mut reached, output } = work;
    let request = Request::Start { app: app.clone(), listen: reached.connection.node.listen() };
    let reply = reached.connection.ask_with(&request, order.silence, &mut |_| {}).await?;
    reached.connection.close().await;
    let Reply::Serving(serving) = reply else { return Err(NodeError::Answer) };
    output.result(&Event::Started { node, app, generation: serving.generation, pid: serving.pid });
    Ok(NodeEnd::Done)
}

/// Returns how long a node may be silent while a program starts, stays well and drains.
pub fn silence(session: &Session) -> Duration {
    let run = session.config.run.as_ref();
    let allowed = run.map_or(Duration::ZERO, |run| run.ready + run.drain);
    allowed + session.config.rollout.soak + MARGIN
}

/// Reports why nodes are not asked, and leaves the others as they are, too: nodes on different versions would be worse than the rollback is good.
fn refuse(session: &Session, crew: Crew, refusals: &[Event]) -> Exit {
    refusals.iter().for_each(|refusal| session.output().error(refusal));
    let mut ends = crew.ends;
    ends.extend(refusals.iter().map(|_| NodeEnd::Failed));
    let others = crew.reached.len() - refusals.len();
    ends.extend(std::iter::repeat_n(NodeEnd::NotAsked, others));
    if others > 0 {
        session.output().note("nothing was changed on the other nodes either");
    }
    of_nodes(&ends)
}

/// Returns why a node that answered is not asked; none when it shall decide for itself.
fn refusal(node: &str, state: Option<&AppState>, aim: &Aim, force: bool) -> Option<Event> {
    let serving = state.and_then(going_back::serving);
    let error = |message: String, next: String| Event::Error {
        node: Some(node.to_owned()),
        phase: "rollback".into(),
        message,
        serving: serving.map(|g| format!("generation {}, commit {}; nothing was changed", g.number, g.commit.short())),
        next: Some(next),
        log: vec![],
    };
    if matches!(aim, Aim::Picked(of_nodes) if !of_nodes.contains_key(node)) {
        return Some(error("it has no generation of the version that was picked".into(), format!("df history --address {node}")));
    }
    let state = state?;
    let target = going_back::target(state, aim.of(node).as_ref())?;
    let epochs = going_back::crosses(state, target).filter(|_| !force)?;
    let message = |safe: &str| format!("{}; {safe}, and --force goes all the same", crossing(target, epochs));
    Some(match epochs.safe {
        safe if safe == state.current => {
            error(message("what serves is the last safe one"), format!("df deploy --address {node}"))
        }
        safe => error(
            message(&format!("generation {safe} is the last safe one")),
            format!("df rollback --to {safe} --address {node}"),
        ),
    })
}

/// Says where a rollback would go; the node decides by the same rule.
fn intent(node: &str, state: Option<&AppState>, aim: &Aim, force: bool) -> Intent {
    let nothing = |reason: String| Intent { action: "nothing".into(), reason, changes: false };
    let Some(state) = state else { return nothing("no version was ever deployed there".into()) };
    let wanted = aim.of(node);
    let found = match (aim, &wanted) {
        (Aim::Picked(_), None) => None,
        (_, wanted) => going_back::target(state, wanted.as_ref()),
    };
    let Some(g) = found else { return nothing("no such generation there".into()) };
    if g.number == state.current {
        return nothing("it serves already".into());
    }
    match going_back::crosses(state, g) {
        Some(epochs) if !force => nothing(format!("refused: {}", crossing(g, epochs))),
        _ => Intent {
            action: format!("rollback to generation {}, commit {}", g.number, g.commit.short()),
            reason: format!("generation {} serves", state.current),
            changes: true,
        },
    }
}

/// Says why the data does not stand a rollback.
fn crossing(target: &Generation, Epochs { to, from, .. }: Epochs) -> String {
    format!("generation {} is for data of epoch {to}, and the data is of epoch {from} now", target.number)
}

#[cfg(test)]
mod tests;
