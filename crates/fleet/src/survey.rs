//! One round trip to every node: who is there, and what it holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use df_wire::message::{FaultKind, Survey};
use df_wire::{Reply, Request};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::connection::{Connection, NodeError, Options};
use crate::inventory::Node;

/// How many nodes are connected to at once.
const AT_ONCE: usize = 64;

/// How long a lock that is held is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose work a lock stands for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// `user@host`.
    pub who: String,
    /// At what: `deploy greeter`.
    pub command: String,
}

/// A node that answered.
pub struct Reached {
    /// The open session, with the lock when one was asked for.
    pub connection: Connection,
    /// What the node holds and runs.
    pub survey: Survey,
}

/// Connects to all nodes, takes their locks when there is a claim, and asks what they hold; in the order given. A dead node holds up no other.
pub async fn all(nodes: &[Node], options: &Options, claim: Option<&Claim>) -> Vec<(Node, Result<Reached, NodeError>)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (at, node) in nodes.iter().enumerate() {
        let (node, options, claim, places) = (node.clone(), options.clone(), claim.cloned(), places.clone());
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            let reached = one(&node, &options, claim.as_ref()).await;
            (at, node, reached)
        });
    }
    let mut reached: Vec<_> = tasks.join_all().await;
    reached.sort_by_key(|(at, ..)| *at);
    reached.into_iter().map(|(_, node, reached)| (node, reached)).collect()
}

/// Connects to one node, takes its lock when there is a claim, and asks what it holds.
///
/// # Errors
/// It cannot be reached, or somebody else holds it.
pub async fn one(node: &Node, options: &Options, claim: Option<&Claim>) -> Result<Reached, NodeError> {
    let mut connection = Connection::open(node, options).await?;
    if let Some(claim) = claim {
        lock(&mut connection, claim).await?;
    }
    let survey = again(&mut connection).await?;
    Ok(Reached { connection, survey })
}

/// Takes a node's lock. One that is held is asked for again for a little while: a df that was killed leaves it when its node notices.
async fn lock(connection: &mut Connection, claim: &Claim) -> Result<(), NodeError> {
    let request = Request::Lock { who: claim.who.clone(), command: claim.command.clone() };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connection.ask_soon(&request).await {
            Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Locked(_)) && Instant::now() < deadline => {
                sleep(PAUSE).await
            }
            other => return other.map(drop),
        }
    }
}

/// Asks a node again what it holds.
///
/// # Errors
/// The connection broke.
pub async fn again(connection: &mut Connection) -> Result<Survey, NodeError> {
    match connection.ask_soon(&Request::Survey).await? {
        Reply::Survey(survey) => Ok(*survey),
        _ => Err(NodeError::Answer),
    }
}
