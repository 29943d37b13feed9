//! The confirmation of an activation: over a connection that was not there before the switch, because that the node answers there is what has to be shown.
//!
//! What is not confirmed in time, the node takes back by itself. So how an activation ended is what the node has recorded, also where the session broke that
//! had asked for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{Event as Told, FaultKind, Reply, Request};
use df_fleet::{Connection, Node, NodeError, Options};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often a node is asked that has not finished yet.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the connection that confirmed may take to close.
const HANGING_UP: Duration = Duration::from_secs(5);

type Opening = JoinHandle<Result<Connection, NodeError>>;

/// A confirmation under way.
pub struct Confirming {
    node: Node,
    options: Options,
    app: AppName,
    silence: Duration,
    /// How long the node waits to be confirmed.
    within: Duration,
    /// The generation that was started.
    generation: Option<u64>,
    opening: Option<Opening>,
    sent: Option<JoinHandle<Result<u64, NodeError>>>,
    /// Why the last try to confirm failed.
    stumbled: Arc<Mutex<Option<String>>>,
}

impl Confirming {
    /// Prepares the confirmation of an activation that is asked for over a connection.
    pub fn beside(connection: &Connection, app: AppName, silence: Duration, within: Duration) -> Self {
        let (node, options) = (connection.node.clone(), connection.options().clone());
        Self { node, options, app, silence, within, generation: None, opening: None, sent: None, stumbled: Arc::default() }
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
            Told::Awaiting { generation } if self.sent.is_none() => {
                let opening = self.opening.take().unwrap_or_else(|| open(&self.node, &self.options));
                let question = self.question(*generation);
                self.sent =
                    Some(tokio::spawn(persistently(opening, question, Instant::now() + self.within, self.stumbled.clone())));
            }
            _ => {}
        }
    }

    /// Returns how the activation ended, given how its own session did; `note` gets why it was not confirmed.
    pub async fn ended(mut self, ended: Result<u64, NodeError>, note: impl Fn(String)) -> Result<u64, NodeError> {
        let confirmed = match (self.sent.take(), &ended) {
            // It decides.
            (Some(sent), Err(error)) if is_unknown(error) => Some(sent.await.unwrap_or(Err(NodeError::Answer))),
            // It only has to hang up.
            (Some(sent), Ok(_)) => timeout(HANGING_UP, sent).await.ok().and_then(Result::ok),
            (Some(sent), Err(_)) => {
                sent.abort();
                None
            }
            (None, _) => None,
        };
        let stumbled = self.stumbled.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Err(NodeError::Fault(_)), Some(why)) = (&ended, stumbled) {
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
        let (begun, mut heard) = (Instant::now(), Instant::now());
        let question = self.question(generation);
        loop {
            let confirmed = match Connection::open_afresh(&self.node, &self.options, &[]).await {
                Ok(connection) => question.ask(connection).await,
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(generation) => return Ok(generation),
                Err(NodeError::Fault(fault)) if fault.kind == FaultKind::Reverted => return Err(NodeError::Fault(fault)),
                // It has not shown yet that it is well.
                Err(NodeError::Fault(fault)) if fault.kind == FaultKind::Refused && begun.elapsed() < self.silence => {
                    heard = Instant::now();
                }
                Err(unknown) if is_unknown(&unknown) && heard.elapsed() < self.within => {}
                Err(_) => return Err(error),
            }
            sleep(PAUSE).await;
        }
    }

    fn question(&self, generation: u64) -> Question {
        Question {
            node: self.node.clone(),
            options: self.options.clone(),
            app: self.app.clone(),
            generation,
            silence: self.silence,
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

/// What is asked of a node in the end.
struct Question {
    node: Node,
    options: Options,
    app: AppName,
    generation: u64,
    silence: Duration,
}

impl Question {
    async fn ask(&self, mut connection: Connection) -> Result<u64, NodeError> {
        let request = Request::Confirm { app: self.app.clone(), generation: self.generation };
        let confirmed = match connection.ask_with(&request, self.silence, &mut |_| {}).await {
            Ok(Reply::Serving(serving)) => Ok(serving.generation),
            Ok(_) => Err(NodeError::Answer),
            Err(error) => Err(error),
        };
        connection.close().await;
        confirmed
    }
}

/// Confirms over the connection that was opened, and, where that one does not answer, over others, as long as the node waits: one that is refused or dies says
/// little of a node which others reach.
async fn persistently(
    opening: Opening,
    question: Question,
    until: Instant,
    stumbled: Arc<Mutex<Option<String>>>,
) -> Result<u64, NodeError> {
    let mut opened = opening.await.unwrap_or(Err(NodeError::Answer));
    loop {
        let confirmed = match opened {
            Ok(connection) => question.ask(connection).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &confirmed {
            *stumbled.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        match confirmed {
            Err(error) if is_unknown(&error) && Instant::now() < until => sleep(PAUSE).await,
            confirmed => return confirmed,
        }
        opened = Connection::open_afresh(&question.node, &question.options, &[]).await;
    }
}

/// Returns whether the node was asked, and nobody knows what came of it.
fn is_unknown(error: &NodeError) -> bool {
    match error {
        NodeError::Unreachable { .. } | NodeError::Broken { .. } | NodeError::Silent(_) => true,
        NodeError::Fault(fault) => fault.kind == FaultKind::Unknown,
        _ => false,
    }
}
