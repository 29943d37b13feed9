//! The confirmation of an activation: over a connection that was not there before the switch, because that the node answers there is what has to be shown.
//!
//! What is not confirmed in time, the node takes back by itself. So how an activation ended is what the node has recorded, also where the session broke that
//! had asked for it.

use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{Event as Told, FaultKind, Reply, Request};
use df_fleet::{Connection, Node, NodeError, Options};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How often a node is asked that has not finished yet.
const PAUSE: Duration = Duration::from_millis(500);

type Opening = JoinHandle<Result<Connection, NodeError>>;

/// A confirmation under way.
pub struct Confirming {
    node: Node,
    options: Options,
    app: AppName,
    silence: Duration,
    /// The generation that was started.
    generation: Option<u64>,
    opening: Option<Opening>,
    sent: Option<JoinHandle<Result<u64, NodeError>>>,
}

impl Confirming {
    /// Prepares the confirmation of an activation that is asked for over a connection.
    pub fn beside(connection: &Connection, app: AppName, silence: Duration) -> Self {
        let (node, options) = (connection.node.clone(), connection.options().clone());
        Self { node, options, app, silence, generation: None, opening: None, sent: None }
    }

    /// Returns the generation that was started, if it came so far.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Hears how it goes: connects anew once the new version serves, and confirms when the node waits for that.
    pub fn hear(&mut self, told: &Told) {
        match told {
            Told::Started { generation, .. } => self.generation = Some(*generation),
            Told::Activated { generation, .. } => {
                self.generation = Some(*generation);
                self.opening.get_or_insert_with(|| open(&self.node, &self.options));
            }
            Told::Awaiting { generation } => {
                let opening = self.opening.take().unwrap_or_else(|| open(&self.node, &self.options));
                let (app, generation, silence) = (self.app.clone(), *generation, self.silence);
                self.sent.get_or_insert_with(|| {
                    tokio::spawn(async move {
                        let mut connection = opening.await.map_err(|_| NodeError::Answer)??;
                        let confirmed = confirm(&mut connection, &app, generation, silence).await;
                        connection.close().await;
                        confirmed
                    })
                });
            }
            _ => {}
        }
    }

    /// Returns how the activation ended, given how its own session did; `note` gets why it was not confirmed.
    pub async fn ended(mut self, ended: Result<u64, NodeError>, note: impl Fn(String)) -> Result<u64, NodeError> {
        let confirmed = match self.sent.take() {
            Some(sent) => Some(sent.await.unwrap_or(Err(NodeError::Answer))),
            None => None,
        };
        if let (Err(NodeError::Fault(_)), Some(Err(why))) = (&ended, &confirmed) {
            note(format!("the node could not be reached over a new connection, and went back: {why}"));
        }
        match (ended, confirmed, self.generation) {
            // The node has recorded it; that the other session broke changes nothing.
            (Err(error), Some(Ok(generation)), _) if is_unknown(&error) => Ok(generation),
            (Err(error), _, Some(generation)) if is_unknown(&error) => self.look(generation, error).await,
            (ended, ..) => ended,
        }
    }

    /// Asks the node itself how it ended, over a new connection, which confirms it too if it is time for that.
    async fn look(&self, generation: u64, error: NodeError) -> Result<u64, NodeError> {
        let deadline = Instant::now() + self.silence;
        loop {
            let Ok(mut connection) = Connection::open_afresh(&self.node, &self.options, &[]).await else { return Err(error) };
            let confirmed = confirm(&mut connection, &self.app, generation, self.silence).await;
            connection.close().await;
            match confirmed {
                Ok(generation) => return Ok(generation),
                Err(NodeError::Fault(fault)) if fault.kind == FaultKind::Reverted => return Err(NodeError::Fault(fault)),
                // It has not shown yet that it is well.
                Err(NodeError::Fault(fault)) if fault.kind == FaultKind::Refused && Instant::now() < deadline => {
                    sleep(PAUSE).await
                }
                Err(_) => return Err(error),
            }
        }
    }
}

impl Drop for Confirming {
    fn drop(&mut self) {
        self.opening.iter().for_each(JoinHandle::abort);
    }
}

fn open(node: &Node, options: &Options) -> Opening {
    let (node, options) = (node.clone(), options.clone());
    tokio::spawn(async move { Connection::open_afresh(&node, &options, &[]).await })
}

async fn confirm(connection: &mut Connection, app: &AppName, generation: u64, silence: Duration) -> Result<u64, NodeError> {
    let request = Request::Confirm { app: app.clone(), generation };
    match connection.ask_with(&request, silence, &mut |_| {}).await? {
        Reply::Serving(serving) => Ok(serving.generation),
        _ => Err(NodeError::Answer),
    }
}

/// Returns whether the node was asked, and nobody knows what came of it.
fn is_unknown(error: &NodeError) -> bool {
    matches!(error, NodeError::Unreachable { .. } | NodeError::Broken { .. } | NodeError::Silent(_))
}
