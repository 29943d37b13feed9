//! One piece of work for every node of a command: at once, bounded, and no node's failure stops another's.

use std::sync::Arc;
use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{AppState, Survey};
use df_fleet::{Claim, Connection, Node, NodeError, Reached};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::event::Event;
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::session::{Session, who};

/// How long one that is slow keeps its place from another.
const PLACE: Duration = Duration::from_secs(3);

/// The nodes of a command: those that answered, and how it ended with the others.
pub struct Crew {
    /// Those that answered, in the order of the context.
    pub reached: Vec<Reached>,
    /// How it ended with the others.
    pub ends: Vec<NodeEnd>,
}

/// Nodes, and how it went to connect to each.
pub type Connected = Vec<(Node, Result<Reached, NodeError>)>;

/// A node at work.
pub struct Work {
    /// What the node is called.
    pub label: String,
    /// The application.
    pub app: AppName,
    /// The session with it, and what it said of itself.
    pub reached: Reached,
    /// Where output goes.
    pub output: Output,
}

/// What would be done to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// `stop generation 3`.
    pub action: String,
    /// Why, or why not.
    pub reason: String,
    /// Whether it changes something.
    pub changes: bool,
}

/// Connects to the nodes of a command, with their locks when it is one that changes something. Those that fail are reported here.
///
/// # Errors
/// There is no node, or no program for nodes; or Ctrl-C.
pub fn reach(session: &Session, phase: &'static str, claim: bool) -> Result<Crew, Failure> {
    let claim = claim.then(|| self::claim(session, phase));
    let reached = connect(session, phase, &session.nodes()?, claim.as_ref())?;
    Ok(crew(session, phase, reached))
}

/// Connects to nodes as [`reach`] does, and returns how that went with each.
///
/// # Errors
/// As [`reach`].
pub fn connect(session: &Session, phase: &'static str, nodes: &[Node], claim: Option<&Claim>) -> Result<Connected, Failure> {
    let options = session.options()?;
    session.call.block_on(async {
        tokio::select! {
            reached = df_fleet::survey::all(nodes, &options, claim) => Ok(reached),
            () = session.call.interrupt.pressed() => Err(interrupted(phase)),
        }
    })
}

/// Reports the nodes that were not reached.
pub fn crew(session: &Session, phase: &'static str, reached: Connected) -> Crew {
    let mut crew = Crew { reached: vec![], ends: vec![] };
    for (node, reached) in reached {
        match reached {
            Ok(reached) => {
                if session.call.globals.verbose > 0 {
                    mention_line(session.output(), &reached.connection);
                }
                crew.reached.push(reached);
            }
            Err(error) => {
                session.output().error(&failure::of_node(&node.label(), phase, &error));
                crew.ends.push(failure::end_of(&error));
            }
        }
    }
    crew
}

/// Returns for whom a command takes nodes, and for what.
pub fn claim(session: &Session, phase: &'static str) -> Claim {
    Claim { who: who(), command: format!("{phase} {}", session.app()), patience: df_fleet::survey::PATIENCE }
}

/// Mentions why a session has a connection of its own, where it could share one.
pub fn mention_line(output: &Output, connection: &Connection) {
    if let Some(why) = connection.why_not_shared() {
        output.note(format!("  {:<16} has an ssh connection of its own: {why}", connection.node.label()));
    }
}

/// Says that nothing was changed when Ctrl-C came.
pub fn interrupted(phase: &'static str) -> Failure {
    Failure::new(Exit::Interrupted, phase, "interrupted; what served still serves").next("df status")
}

/// Does one thing on every node of the command. With `--dry-run` only says what `intent` says.
///
/// # Errors
/// As [`reach`]; what goes wrong on a node is reported and counted.
pub fn each<Fut>(
    session: &Session,
    phase: &'static str,
    intent: impl Fn(&Survey) -> Intent,
    work: impl Fn(Work) -> Fut,
) -> Result<Exit, Failure>
where
    Fut: Future<Output = Result<NodeEnd, NodeError>> + Send + 'static,
{
    if session.is_dry_run() {
        return plan(session, phase, |_, survey| intent(survey));
    }
    let crew = reach(session, phase, true)?;
    let mut ends = crew.ends;
    ends.extend(run(session, phase, crew.reached, work));
    Ok(of_nodes(&ends))
}

/// Asks every node of the command something that changes nothing.
///
/// # Errors
/// As [`each`].
pub fn ask<Fut>(session: &Session, phase: &'static str, work: impl Fn(Work) -> Fut) -> Result<Exit, Failure>
where
    Fut: Future<Output = Result<NodeEnd, NodeError>> + Send + 'static,
{
    let crew = reach(session, phase, false)?;
    let mut ends = crew.ends;
    ends.extend(run(session, phase, crew.reached, work));
    Ok(of_nodes(&ends))
}

/// Does the work on nodes that were reached, reports what fails, and returns how it ended on each.
pub fn run<Fut>(session: &Session, phase: &'static str, reached: Vec<Reached>, work: impl Fn(Work) -> Fut) -> Vec<NodeEnd>
where
    Fut: Future<Output = Result<NodeEnd, NodeError>> + Send + 'static,
{
    let labels: Vec<String> = reached.iter().map(|r| r.connection.node.label()).collect();
    let jobs = reached.into_iter().zip(&labels).map(|(reached, label)| {
        work(Work { label: label.clone(), app: session.app().clone(), reached, output: session.output().clone() })
    });
    let ended = session.call.block_on(all(jobs.collect(), session.parallel()));
    let report = |(label, ended): (&String, Result<NodeEnd, NodeError>)| match ended {
        Ok(end) => end,
        Err(error) => {
            session.output().error(&failure::of_node(label, phase, &error));
            failure::end_of(&error)
        }
    };
    labels.iter().zip(ended).map(report).collect()
}

/// Runs futures side by side, at most so many at once; the results are in their order.
pub async fn all<T: Send + 'static, Fut>(jobs: Vec<Fut>, parallel: usize) -> Vec<T>
where
    Fut: Future<Output = T> + Send + 'static,
{
    in_places(jobs, parallel, Duration::MAX).await
}

/// As [`all`], with as many at once as the command has it. Unless a person said how many, one that takes long makes room for another, and goes on: a slow
/// or dead node never holds up the others.
pub async fn all_in_places<T: Send + 'static, Fut>(jobs: Vec<Fut>, session: &Session) -> Vec<T>
where
    Fut: Future<Output = T> + Send + 'static,
{
    let kept = if session.call.globals.parallel.is_some() { Duration::MAX } else { PLACE };
    in_places(jobs, session.parallel(), kept).await
}

async fn in_places<T: Send + 'static, Fut>(jobs: Vec<Fut>, parallel: usize, kept: Duration) -> Vec<T>
where
    Fut: Future<Output = T> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(parallel.max(1)));
    let mut tasks = JoinSet::new();
    for (at, job) in jobs.into_iter().enumerate() {
        let places = places.clone();
        tasks.spawn(async move {
            let place = places.acquire_owned().await;
            let mut job = std::pin::pin!(job);
            let soon = tokio::time::timeout(kept, &mut job).await;
            drop(place);
            match soon {
                Ok(result) => (at, result),
                Err(_) => (at, job.await),
            }
        });
    }
    let mut results = tasks.join_all().await;
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Returns what an application is on a node.
pub fn state_of<'a>(survey: &'a Survey, app: &AppName) -> Option<&'a AppState> {
    survey.apps.iter().find(|state| state.app == *app)
}

/// Returns the generation that `current` names; 0: none.
pub fn current_of(survey: &Survey, app: &AppName) -> u64 {
    state_of(survey, app).map_or(0, |state| state.current)
}

/// Says what would be done on every node of the command: what `intent` says of what a node is called, and of what it holds.
///
/// # Errors
/// As [`reach`].
pub fn plan(session: &Session, phase: &'static str, intent: impl Fn(&str, &Survey) -> Intent) -> Result<Exit, Failure> {
    let crew = reach(session, phase, false)?;
    let mut changes = false;
    for reached in &crew.reached {
        let label = reached.connection.node.label();
        let intent = intent(&label, &reached.survey);
        changes |= intent.changes;
        session.output().result(&planned(Some(label), intent, None));
    }
    match of_nodes(&crew.ends) {
        _ if crew.ends.is_empty() => Ok(session.planned(changes)),
        exit => Ok(exit),
    }
}

/// Returns the event for what would be done.
pub fn planned(node: Option<String>, intent: Intent, bytes: Option<u64>) -> Event {
    Event::Planned { node, action: intent.action, bytes, requests: Some(0), reason: intent.reason, changes: intent.changes }
}
