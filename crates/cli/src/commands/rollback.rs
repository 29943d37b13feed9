//! `df rollback`: an earlier generation serves again, from the node's own records; needs no build, no copy and no cache.

use std::time::Duration;

use df_core::AppName;
use df_fleet::NodeError;
use df_fleet::message::{Generation, GenerationResult, Reply, Request, RollbackTarget, Survey};

use crate::across::{self, Intent, Work, current_of, state_of};
use crate::args::{self, RollbackTo};
use crate::event::Event;
use crate::exit::{Exit, NodeEnd};
use crate::failure::Failure;
use crate::node_event::Teller;
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
}

impl Order {
    /// Takes the order from what df.yaml says.
    pub fn new(session: &Session, reason: &'static str) -> Self {
        Self { soak: session.config.rollout.soak, silence: silence(session), who: who(), reason }
    }
}

/// Goes back to the previous good generation, or the one that is named.
pub fn run(args: &args::Rollback, session: &Session) -> Result<Exit, Failure> {
    let app = session.app().clone();
    let target = args.to.clone().map(|to| match to {
        RollbackTo::Generation(n) => RollbackTarget::Generation(n),
        RollbackTo::Commit(commit) => RollbackTarget::Commit(commit),
    });
    let order = Order::new(session, "rollback");
    let intent = |survey: &Survey| intent(survey, &app, target.as_ref());
    across::each(session, "rollback", intent, |work: Work| {
        let (target, order) = (target.clone(), order.clone());
        async move { perform(work, target, &order).await }
    })
}

/// Makes an earlier generation serve on a node.
pub async fn perform(work: Work, target: Option<RollbackTarget>, order: &Order) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let teller = Teller::new(label, app.clone(), &reached.survey, None, order.reason);
    let from = current_of(&reached.survey, &app);
    let target = target.or_else(|| previous(&reached.survey, &app).map(|g| RollbackTarget::Generation(g.number)));
    let request = Request::Rollback {
        app,
        to: target,
        expect: from,
        soak: order.soak,
        who: order.who.clone(),
        listen: reached.connection.node.listen(),
    };
    let told = |event| {
        if let Some(event) = teller.tell(event) {
            output.step(&event);
        }
    };
    let reply = reached.connection.ask_with(&request, order.silence, &mut { told }).await?;
    reached.connection.close().await;
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

/// Returns the newest good generation before the current one that holds another release: after a restart, the one before holds the same.
fn previous<'a>(survey: &'a Survey, app: &AppName) -> Option<&'a Generation> {
    let state = state_of(survey, app)?;
    let current = state.generations.iter().find(|g| g.number == state.current).map(|g| g.release);
    let is_good = |g: &&Generation| g.number < state.current && g.result == GenerationResult::Good;
    state.generations.iter().rev().filter(is_good).find(|g| Some(g.release) != current)
}

/// Says where a rollback would go; the node decides by the same rule.
fn intent(survey: &Survey, app: &AppName, target: Option<&RollbackTarget>) -> Intent {
    let nothing = |reason: &str| Intent { action: "nothing".into(), reason: reason.into(), changes: false };
    let Some(state) = state_of(survey, app) else { return nothing("no version was ever deployed there") };
    let mut candidates = state.generations.iter().rev();
    let found = match target {
        None => previous(survey, app),
        Some(RollbackTarget::Generation(n)) => candidates.find(|g| g.number == *n),
        Some(RollbackTarget::Commit(prefix)) => candidates.find(|g| g.commit.to_string().starts_with(prefix.as_str())),
    };
    match found {
        None => nothing("no such generation there"),
        Some(g) if g.number == state.current => nothing("it serves already"),
        Some(g) => Intent {
            action: format!("rollback to generation {}, commit {}", g.number, g.commit.short()),
            reason: format!("generation {} serves", state.current),
            changes: true,
        },
    }
}
