//! The repair of one node, under its lock.

use std::sync::Arc;
use std::time::Duration;

use df_core::AppName;
use df_fleet::message::{Reply, Request};
use df_fleet::{NodeError, Reached};

use super::look::{self, Ill};
use crate::across::current_of;
use crate::copying::Courier;
use crate::event::{Event, Placed};
use crate::exit::NodeEnd;
use crate::failure;
use crate::output::Output;

/// An image that nodes can get again.
#[derive(Clone)]
pub(super) struct Medicine(Arc<Courier>);

impl Medicine {
    pub fn new(courier: Courier) -> Self {
        Self(Arc::new(courier))
    }
}

/// How nodes are repaired.
#[derive(Clone)]
pub(super) struct Surgery {
    pub app: AppName,
    pub output: Output,
    /// How long a node may be silent while a program starts.
    pub silence: Duration,
    /// The image is sent whole, whatever is found.
    pub full_copy: bool,
}

impl Surgery {
    /// Repairs one node, and reports how that went.
    pub async fn mend(&self, mut reached: Reached, ill: Ill, medicine: Option<Medicine>) -> NodeEnd {
        let node = reached.connection.node.label();
        let ended = self.steps(&mut reached, &ill, medicine).await;
        match ended {
            Ok(Ended::Whole) => {
                let place = Placed {
                    place: node,
                    image: Some(ill.image),
                    generation: Some(ill.generation),
                    why: ill.why,
                    ..Placed::default()
                };
                self.output.result(&Event::Repaired(place));
                reached.connection.close().await;
                NodeEnd::Done
            }
            Ok(Ended::ByItself) => {
                self.output.note(format!("  {node:<16} generation {} is well again by itself", ill.generation));
                reached.connection.close().await;
                NodeEnd::Done
            }
            Ok(Ended::Not { end, message, next }) => {
                let serving = Some(format!("generation {}, commit {}", ill.generation, ill.commit.short()));
                let phase = "repair".to_owned();
                self.output.error(&Event::Error { node: Some(node), phase, message, serving, next: Some(next), log: vec![] });
                end
            }
            // It said why itself.
            Ok(Ended::Copying(end)) => end,
            Err(error) => {
                self.output.error(&failure::of_node(&node, "repair", &error));
                failure::end_of(&error)
            }
        }
    }

    async fn steps(&self, reached: &mut Reached, ill: &Ill, medicine: Option<Medicine>) -> Result<Ended, NodeError> {
        let node = reached.connection.node.label();
        if current_of(&reached.survey, &self.app) != ill.generation {
            let message = format!("generation {} does not serve any more: somebody else was here", ill.generation);
            return Ok(Ended::Not { end: NodeEnd::Failed, message, next: format!("df history --address {node}") });
        }
        let copies = ill.is_damaged || self.full_copy;
        // It is some time since it was looked at.
        if ill.is_sick && !copies && look::ask(reached, &self.app, &self.output).await?.is_none() {
            return Ok(Ended::ByItself);
        }
        if copies && medicine.is_none() {
            let message = format!("{}; the image is not in the cache here", ill.why);
            let next = format!("df build --commit-hash {}, then df repair again", ill.commit.short());
            return Ok(Ended::Not { end: NodeEnd::Failed, message, next });
        }
        // What is sick still answers some, perhaps: it goes on until there is something better.
        if let Some(Medicine(courier)) = medicine.filter(|_| copies)
            && let Err(end) = courier.bring(reached).await
        {
            return Ok(Ended::Copying(end));
        }
        if !ill.is_sick {
            return Ok(Ended::Whole);
        }
        self.kill(reached, &node).await?;
        self.start(reached, &node).await?;
        Ok(match look::ask(reached, &self.app, &self.output).await? {
            None => Ended::Whole,
            Some(wrong) => Ended::Not {
                end: NodeEnd::Differs,
                message: format!("it was started anew and still fails its verification: {wrong}"),
                next: format!("df rollback --address {node}"),
            },
        })
    }

    async fn kill(&self, reached: &mut Reached, node: &str) -> Result<(), NodeError> {
        let request = Request::Stop { app: self.app.clone(), all: false, now: true, again: true };
        let Reply::Stopped { stopped } = reached.connection.ask_with(&request, self.silence, &mut |_| {}).await? else {
            return Err(NodeError::Answer);
        };
        for (generation, pid) in stopped {
            self.output.step(&Event::Stopped { node: node.to_owned(), app: self.app.clone(), generation, pid: Some(pid) });
        }
        Ok(())
    }

    async fn start(&self, reached: &mut Reached, node: &str) -> Result<(), NodeError> {
        let request = Request::Start { app: self.app.clone(), listen: reached.connection.node.listen() };
        let Reply::Serving(serving) = reached.connection.ask_with(&request, self.silence, &mut |_| {}).await? else {
            return Err(NodeError::Answer);
        };
        let (node, app) = (node.to_owned(), self.app.clone());
        self.output.step(&Event::Started { node, app, generation: serving.generation, pid: serving.pid });
        Ok(())
    }
}

/// How a repair ended.
enum Ended {
    /// What serves is well.
    Whole,
    /// It was before anything was done.
    ByItself,
    /// It is not, and why.
    Not { end: NodeEnd, message: String, next: String },
    /// The copy failed, which was reported.
    Copying(NodeEnd),
}
