//! The images' way to the nodes, seen from the command line: bars, events, and what a copy would cost.

use std::sync::Arc;
use std::time::Duration;

use df_core::{AppName, Release};
use df_fleet::message::{Reply, Request};
use df_fleet::plan::{self, Unfit, Way};
use df_fleet::transfer::{CopyError, Progress};
use df_fleet::{Copied, Deltas, NodeError, Reached};

use crate::across;
use crate::event::Event;
use crate::exit::NodeEnd;
use crate::failure::{self, Failure, chain};
use crate::output::Output;
use crate::session::Session;
use crate::store::Shelf;

/// A copy that was noted no longer ago is not noted again: it would cost each copy that changes nothing a round trip.
const RECENTLY: Duration = Duration::from_secs(3600);

/// A release on its way to nodes.
#[derive(Clone)]
pub struct Freight {
    /// The release.
    pub release: Release,
    deltas: Arc<Deltas>,
    full: bool,
}

impl Freight {
    /// Prepares a release of this machine's cache.
    ///
    /// # Errors
    /// Its image is not there.
    pub fn of(shelf: &Shelf, release: Release, full: bool) -> Result<Self, Failure> {
        let deltas = Deltas::to(Arc::new(shelf.clone()), release.image);
        let deltas = deltas.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
        Ok(Self { release, deltas: Arc::new(deltas), full })
    }

    /// Says whether a node can run what the release starts.
    ///
    /// # Errors
    /// Says what it lacks.
    pub fn runs_on(&self, reached: &Reached) -> Result<(), Unfit> {
        plan::runs(&reached.survey, &self.release, self.deltas.manifest())
    }

    /// Returns how the image gets to a node, and how many bytes that takes; the delta is made for the answer. `None` when only the node can tell.
    ///
    /// # Errors
    /// An image cannot be read.
    pub async fn cost(&self, reached: &Reached, app: &AppName) -> Result<(Way, Option<u64>), CopyError> {
        let way = self.deltas.way(&reached.survey, app, self.full);
        let bytes = match way {
            Way::Held => Some(0),
            Way::Rsync(_) => None,
            Way::Patch(base) => Some(self.deltas.patch(Some(base)).await?.len() as u64),
            Way::Whole => Some(self.deltas.patch(None).await?.len() as u64),
        };
        Ok((way, bytes))
    }
}

/// Returns the nodes that can run what the release starts; of the others it reports what they lack, and nothing goes to them.
pub fn fit(session: &Session, phase: &'static str, freight: &Freight, reached: Vec<Reached>) -> (Vec<Reached>, Vec<NodeEnd>) {
    let (mut fit, mut ends) = (vec![], vec![]);
    for reached in reached {
        match freight.runs_on(&reached) {
            Ok(()) => fit.push(reached),
            Err(unfit) => {
                session.output().error(&of_unfit(&reached.connection.node.label(), phase, &unfit));
                ends.push(NodeEnd::Failed);
            }
        }
    }
    (fit, ends)
}

/// Brings a release to all nodes side by side and has it remembered there; what fails is reported, the others are returned.
///
/// # Errors
/// Ctrl-C came; nodes hold what they held, or the new image beside it.
pub fn bring(
    session: &Session,
    phase: &'static str,
    freight: &Freight,
    reached: Vec<Reached>,
) -> Result<(Vec<Reached>, Vec<NodeEnd>), Failure> {
    let output = session.output();
    let labels: Vec<String> = reached.iter().map(|r| r.connection.node.label()).collect();
    let jobs = reached.into_iter().map(|mut reached| {
        let (freight, output, app) = (freight.clone(), output.clone(), session.app().clone());
        async move { one(&freight, &mut reached, &app, &output).await.map(|copied| (reached, copied)) }
    });
    let jobs = jobs.collect();
    let ended = session.call.block_on(async {
        tokio::select! {
            ended = across::all(jobs, session.parallel()) => Ok(ended),
            () = session.call.interrupt.pressed() => Err(across::interrupted(phase)),
        }
    })?;
    let (mut there, mut ends) = (vec![], vec![]);
    for (label, ended) in labels.into_iter().zip(ended) {
        match ended {
            Ok((reached, copied)) => {
                output.step(&event(label, &copied));
                there.push(reached);
            }
            Err(error) => {
                output.error(&of_copy(&label, "copy", &error));
                ends.push(end_of(&error));
            }
        }
    }
    Ok((there, ends))
}

async fn one(freight: &Freight, reached: &mut Reached, app: &AppName, output: &Output) -> Result<Copied, CopyError> {
    let bar = output.progress().spinner(&reached.connection.node.label());
    let mut told = |progress| match progress {
        Progress::Total(total) => bar.set_total(total),
        Progress::Sent(bytes) => bar.advance(bytes),
    };
    let copied =
        df_fleet::transfer::copy(&mut reached.connection, &reached.survey, &freight.deltas, app, freight.full, &mut told).await?;
    if is_remembered(reached, &freight.release) {
        return Ok(copied);
    }
    let release = String::from_utf8(freight.release.encode()).expect("a release is JSON");
    match reached.connection.ask(&Request::Stage { release }).await? {
        Reply::Done => Ok(copied),
        _ => Err(NodeError::Answer.into()),
    }
}

/// Returns whether a node remembers a release already, so that its image is not collected. What was copied longer ago is remembered anew: its age is
/// what a collection goes by.
fn is_remembered(reached: &Reached, release: &Release) -> bool {
    let (id, recently) = (release.id(), reached.survey.now.minus(RECENTLY));
    across::state_of(&reached.survey, &release.app).is_some_and(|state| {
        let is_staged = state.staged.iter().any(|staged| staged.release == id && staged.since >= recently);
        is_staged || state.generations.iter().any(|g| g.release == id)
    })
}

fn event(node: String, copied: &Copied) -> Event {
    Event::Copied {
        node,
        image: copied.image,
        base: copied.way.base(),
        codec: copied.way.codec(),
        bytes_sent: copied.bytes_sent,
        bytes_received: copied.bytes_received,
        image_bytes: copied.image_bytes,
        through_cache: false,
        seconds: copied.seconds,
    }
}

/// Returns the event for a copy that did not come about.
pub fn of_copy(node: &str, phase: &str, error: &CopyError) -> Event {
    match error {
        CopyError::Node(error) => failure::of_node(node, phase, error),
        error => Event::Error {
            node: Some(node.to_owned()),
            phase: phase.to_owned(),
            message: chain(error),
            serving: Some("what served before".into()),
            next: Some("df cache repair".into()),
            log: vec![],
        },
    }
}

/// Returns the event for a node that cannot run a release.
pub fn of_unfit(node: &str, phase: &str, unfit: &Unfit) -> Event {
    Event::Error {
        node: Some(node.to_owned()),
        phase: phase.to_owned(),
        message: format!("it cannot run this version: {unfit}"),
        serving: Some("what served before".into()),
        next: Some(unfit.next().into()),
        log: vec![],
    }
}

fn end_of(error: &CopyError) -> NodeEnd {
    match error {
        CopyError::Node(error) => failure::end_of(error),
        _ => NodeEnd::Failed,
    }
}
