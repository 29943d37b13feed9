//! What is wrong with a node: its process, and the files it runs.

use df_core::{AppName, CommitId, ImageId, ReleaseId};
use df_fleet::message::{AppState, ProbeOutcome, Reply, Request, RunState};
use df_fleet::{Node, NodeError, Reached};

use crate::across::{self, state_of};
use crate::failure::Failure;
use crate::node_event::verified;
use crate::output::Output;
use crate::session::Session;

/// How closely nodes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Their programs are asked.
    Programs,
    /// And every file of their images is read back from disk.
    Files,
}

/// What a node was found to be.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing serves there, and nothing is meant to.
    Nothing,
    /// All is as it should be.
    Well(Ill),
    /// Something is not.
    Ill(Ill),
    /// It could not be asked.
    Failed(NodeError),
}

/// A generation, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ill {
    /// The generation that `current` names.
    pub generation: u64,
    /// What it holds.
    pub release: ReleaseId,
    /// Its commit.
    pub commit: CommitId,
    /// Its image.
    pub image: ImageId,
    /// It is meant to run.
    pub runs: bool,
    /// It does not run, or fails its verification.
    pub is_sick: bool,
    /// A file of its image is not what it should be.
    pub is_damaged: bool,
    /// What is wrong, in words.
    pub why: String,
}

impl Ill {
    /// Says that nothing is wrong with it.
    pub fn words(&self) -> String {
        let Self { generation, runs, .. } = self;
        if *runs {
            format!("generation {generation} is well")
        } else {
            format!("generation {generation} is whole, and is not meant to run")
        }
    }
}

/// Looks at nodes, all at once; scripts are told what their programs answer.
///
/// # Errors
/// There is no program for nodes; or Ctrl-C.
pub(super) fn at(session: &Session, nodes: &[Node], depth: Depth) -> Result<Vec<(Node, Found)>, Failure> {
    let options = session.options()?;
    let output = session.output();
    session.call.block_on(async {
        let looked = async {
            let reached = df_fleet::survey::all(nodes, &options, None).await;
            let jobs = reached.into_iter().map(|(node, reached)| {
                let (app, output) = (session.app().clone(), output.clone());
                async move {
                    let found = match reached {
                        Ok(reached) => one(reached, &app, depth, &output).await.unwrap_or_else(Found::Failed),
                        Err(error) => Found::Failed(error),
                    };
                    (node, found)
                }
            });
            across::all(jobs.collect(), session.parallel()).await
        };
        tokio::select! {
            looked = looked => Ok(looked),
            () = session.call.interrupt.pressed() => Err(across::interrupted("repair")),
        }
    })
}

async fn one(mut reached: Reached, app: &AppName, depth: Depth, output: &Output) -> Result<Found, NodeError> {
    let Some(mut ill) = state_of(&reached.survey, app).and_then(begin) else {
        reached.connection.close().await;
        return Ok(Found::Nothing);
    };
    let mut wrong = vec![];
    if ill.runs {
        wrong.extend(ask(&mut reached, app, output).await?);
        ill.is_sick = !wrong.is_empty();
    }
    if depth == Depth::Files {
        let damage = read_back(&mut reached, ill.image).await?;
        ill.is_damaged = damage.is_some();
        wrong.extend(damage);
    }
    reached.connection.close().await;
    ill.why = wrong.join("; ");
    Ok(if wrong.is_empty() { Found::Well(ill) } else { Found::Ill(ill) })
}

/// Returns the generation that `current` names, with nothing wrong with it yet.
fn begin(state: &AppState) -> Option<Ill> {
    let g = df_fleet::going_back::serving(state)?;
    let is_up = state.running.iter().any(|r| r.generation == state.current && r.state == RunState::Serving);
    Some(Ill {
        generation: g.number,
        release: g.release,
        commit: g.commit.clone(),
        image: g.image,
        runs: state.wanted || is_up,
        is_sick: false,
        is_damaged: false,
        why: String::new(),
    })
}

/// Asks what serves its probes; returns what is wrong with it.
pub(super) async fn ask(reached: &mut Reached, app: &AppName, output: &Output) -> Result<Option<String>, NodeError> {
    let node = reached.connection.node.label();
    match reached.connection.ask(&Request::Verify { app: app.clone() }).await {
        Ok(Reply::Verified { generation, probes }) => {
            let wrong = words(&probes);
            output.only_scripts(&verified(node, app.clone(), generation, probes));
            Ok(wrong)
        }
        Ok(_) => Err(NodeError::Answer),
        // It answers, and says that nothing can be asked: that is what is wrong.
        Err(NodeError::Fault(fault)) => Ok(Some(fault.message)),
        Err(error) => Err(error),
    }
}

/// Reads an image on the node back from disk; returns what is wrong with it.
pub(super) async fn read_back(reached: &mut Reached, image: ImageId) -> Result<Option<String>, NodeError> {
    match reached.connection.ask(&Request::Check { image }).await {
        Ok(Reply::Checked { differences }) => Ok(match differences.as_slice() {
            [] => None,
            [one] => Some(format!("{} of its image is not what it should be: {}", one.path, one.kind)),
            [first, ..] => {
                Some(format!("{} files of its image are not what they should be: {}, ...", differences.len(), first.path))
            }
        }),
        Ok(_) => Err(NodeError::Answer),
        // Its manifest is gone or damaged, too.
        Err(NodeError::Fault(fault)) => Ok(Some(fault.message)),
        Err(error) => Err(error),
    }
}

fn words(probes: &[ProbeOutcome]) -> Option<String> {
    let failed: Vec<String> =
        probes.iter().filter(|probe| !probe.ok).map(|probe| format!("{}: {}", probe.name, probe.detail)).collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}
