//! One round trip to every node: who is there, and what it holds. The question travels with the greeting.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use df_core::{ImageId, ReleaseId};
use df_wire::message::{FaultKind, Survey};
use df_wire::{Reply, Request};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, NodeError, Options};
use crate::inventory::Node;

/// How many nodes are connected to at once.
const AT_ONCE: usize = 64;
/// How long one that does not answer keeps its place from another.
const PLACE: Duration = Duration::from_secs(3);

/// The [`patience`](Claim::patience) of who has nothing better to do.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How often.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose work a lock stands for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// `user@host`.
    pub who: String,
    /// At what: `deploy greeter`.
    pub command: String,
    /// How long a lock that somebody has is asked for again: a df that was killed leaves it when its node notices.
    pub patience: Duration,
}

/// A node that answered.
pub struct Reached {
    /// The open session, with the lock when one was asked for.
    pub connection: Connection,
    /// What the node holds and runs.
    pub survey: Survey,
}

impl Reached {
    /// Returns the images that the node holds or that its generations need, in order.
    pub fn images(&self) -> Vec<ImageId> {
        let needed = self.survey.apps.iter().flat_map(|app| &app.generations).map(|generation| generation.image);
        let mut images: Vec<ImageId> = self.survey.images.iter().copied().chain(needed).collect();
        images.sort_unstable();
        images.dedup();
        images
    }
}

/// A node that was asked for a release.
pub enum Found {
    /// It holds it, and remembers it.
    Held(Box<Connection>),
    /// What it holds instead.
    Lacking(Box<Reached>),
}

/// Connects to all nodes, takes their locks when there is a claim, and asks what they hold; in the order given. A dead node holds up no other.
pub async fn all(nodes: &[Node], options: &Options, claim: Option<&Claim>) -> Vec<(Node, Result<Reached, NodeError>)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (at, node) in nodes.iter().enumerate() {
        let (node, options, claim, places) = (node.clone(), options.clone(), claim.cloned(), places.clone());
        tasks.spawn(async move {
            let place = places.acquire_owned().await;
            let reached = {
                let mut reached = pin!(one(&node, &options, claim.as_ref()));
                let soon = timeout(PLACE, &mut reached).await;
                drop(place);
                match soon {
                    Ok(reached) => reached,
                    Err(_) => reached.await,
                }
            };
            (at, node, reached)
        });
    }
    let mut reached: Vec<_> = tasks.join_all().await;
    reached.sort_by_key(|(at, ..)| *at);
    reached.into_iter().map(|(_, node, reached)| (node, reached)).collect()
}

/// Connects to one node, takes its lock when there is a claim, and asks what it holds: all in one round trip.
///
/// # Errors
/// It cannot be reached, or somebody else holds it.
pub async fn one(node: &Node, options: &Options, claim: Option<&Claim>) -> Result<Reached, NodeError> {
    let mut connection = Connection::open_asking(node, options, &questions(claim)).await?;
    let survey = answers(&mut connection, claim).await?;
    Ok(Reached { connection, survey })
}

/// Connects to one node and asks what it holds, unless that is a release: then a few bytes say so. No lock is taken.
///
/// # Errors
/// It cannot be reached.
pub async fn unless(node: &Node, options: &Options, held: ReleaseId) -> Result<Found, NodeError> {
    let mut connection = Connection::open_asking(node, options, &[Request::SurveyUnless { held }]).await?;
    match connection.answer_soon().await? {
        Reply::Held => Ok(Found::Held(Box::new(connection))),
        Reply::Survey(survey) => Ok(Found::Lacking(Box::new(Reached { connection, survey: *survey }))),
        _ => Err(NodeError::Answer),
    }
}

/// Asks a node again what it holds.
///
/// # Errors
/// The connection broke.
pub async fn again(connection: &mut Connection) -> Result<Survey, NodeError> {
    survey_of(connection.ask_soon(&Request::Survey).await?)
}

/// Connects anew to a node whose session broke, takes its lock, and asks what it holds now.
pub(crate) async fn anew(reached: &mut Reached, claim: &Claim) -> Result<(), NodeError> {
    reached.connection.reopen(&questions(Some(claim))).await?;
    reached.survey = answers(&mut reached.connection, Some(claim)).await?;
    Ok(())
}

/// Takes a node's lock.
pub(crate) async fn lock(connection: &mut Connection, claim: &Claim) -> Result<(), NodeError> {
    let deadline = Instant::now() + claim.patience;
    loop {
        match connection.ask_soon(&claim.request()).await {
            Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Locked(_)) && Instant::now() < deadline => {
                sleep(PAUSE).await
            }
            Ok(Reply::Done) => {
                connection.holds_lock = true;
                return Ok(());
            }
            other => return other.and(Err(NodeError::Answer)),
        }
    }
}

impl Claim {
    pub(crate) fn request(&self) -> Request {
        Request::Lock { who: self.who.clone(), command: self.command.clone() }
    }
}

fn questions(claim: Option<&Claim>) -> Vec<Request> {
    claim.map(Claim::request).into_iter().chain([Request::Survey]).collect()
}

/// Takes the answers to [`questions`]. Where somebody else has the lock, both are asked once more.
async fn answers(connection: &mut Connection, claim: Option<&Claim>) -> Result<Survey, NodeError> {
    let Some(claim) = claim else { return survey_of(connection.answer_soon().await?) };
    match connection.answer_soon().await {
        Ok(Reply::Done) => {
            connection.holds_lock = true;
            survey_of(connection.answer_soon().await?)
        }
        Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Locked(_)) => {
            survey_of(connection.answer_soon().await?)?;
            lock(connection, claim).await?;
            again(connection).await
        }
        other => other.and(Err(NodeError::Answer)),
    }
}

fn survey_of(reply: Reply) -> Result<Survey, NodeError> {
    if let Reply::Survey(survey) = reply { Ok(*survey) } else { Err(NodeError::Answer) }
}
