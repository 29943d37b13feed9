//! A rollout on open sessions: the pure machine of `df-fleet` says who is next, this page does it, and takes back what has to go back.

use std::time::Duration;

use df_core::{AppName, CommitId, ImageId, Release};
use df_fleet::message::{Reply, Request, Survey};
use df_fleet::rollout::{Policy, Rollout};
use df_fleet::{NodeError, Reached};
use tokio::task::JoinSet;

use crate::across::{self, current_of};
use crate::confirming::Confirming;
use crate::event::{Activation, Event};
use crate::exit::NodeEnd;
use crate::failure;
use crate::node_event::Teller;
use crate::output::Output;
use crate::proof::Proof;
use crate::session::{Session, who};

/// How long a node may think beyond what the release allows its program.
const MARGIN: Duration = Duration::from_secs(60);
/// What a release allows its program at most here, whatever it says.
const LONGEST: Duration = Duration::from_secs(86_400);
/// How long a node that is done may wait for what becomes of the connections that the old version hands over.
pub const FOLLOW_MS: u64 = 5000;

/// What every node is asked.
#[derive(Debug, Clone)]
pub struct Orders {
    release: Release,
    soak: Duration,
    /// How long a node waits to be confirmed before it goes back.
    confirm: Option<Duration>,
    silence: Duration,
    who: String,
    reason: &'static str,
    policy: Policy,
    /// What all nodes together saw as clients of their ports.
    pub proof: Proof,
}

impl Orders {
    /// Takes the orders from a release and from df.yaml.
    pub fn new(session: &Session, release: &Release, reason: &'static str) -> Self {
        let rollout = &session.config.rollout;
        // The release may be what a node told, and no node is waited for without end.
        let allowed = release.run.as_ref().map_or(Duration::ZERO, |run| run.ready.saturating_add(run.drain)).min(LONGEST);
        let parallel = session.call.globals.parallel.map_or(rollout.parallel, usize::from);
        Self {
            release: release.clone(),
            soak: rollout.soak,
            confirm: Some(rollout.confirm).filter(|time| !time.is_zero()),
            silence: allowed + rollout.soak + rollout.confirm + MARGIN,
            who: who(),
            reason,
            policy: Policy { canary: rollout.canary, parallel, max_failures: rollout.max_failures },
            proof: Proof::default(),
        }
    }

    /// Returns the commit that shall serve.
    pub fn commit(&self) -> &CommitId {
        &self.release.commit
    }
}

/// A node of a rollout.
struct Place {
    label: String,
    /// The generation that served before; 0: none.
    from: u64,
    /// What that generation holds.
    held: Option<(ImageId, CommitId)>,
    /// The generation that serves since.
    now: Option<u64>,
    end: NodeEnd,
    reached: Option<Reached>,
}

/// Activates the release on nodes that hold it; `failures` nodes failed before. Returns how each ended, with its session where that is still of use.
pub fn roll(session: &Session, orders: &Orders, nodes: Vec<Reached>, failures: usize) -> Vec<(NodeEnd, Option<Reached>)> {
    let app = session.app();
    let mut places: Vec<Place> = nodes
        .into_iter()
        .map(|reached| Place {
            label: reached.connection.node.label(),
            from: current_of(&reached.survey, app),
            held: held(&reached.survey, app),
            now: None,
            end: NodeEnd::NotAsked,
            reached: Some(reached),
        })
        .collect();
    if failures > orders.policy.max_failures {
        session.output().note("more nodes failed than rollout.max_failures allows: nothing was activated");
        return places.into_iter().map(|place| (place.end, place.reached)).collect();
    }
    let policy = Policy { max_failures: orders.policy.max_failures - failures, ..orders.policy };
    session.call.block_on(async {
        let revert = forward(session, orders, policy, &mut places).await;
        back(session, orders, &revert, &mut places).await;
    });
    places.into_iter().map(|place| (place.end, place.reached)).collect()
}

/// Activates node by node, as the machine says; returns the nodes that have to go back.
async fn forward(session: &Session, orders: &Orders, policy: Policy, places: &mut [Place]) -> Vec<usize> {
    let mut rollout = Rollout::new(places.len(), policy);
    let mut tasks = JoinSet::new();
    loop {
        // When every node has begun, finishing is the shorter way to one version everywhere.
        if session.call.interrupt.is_pressed() && !rollout.untouched().is_empty() {
            rollout.cancel();
        }
        for at in rollout.begin() {
            let place = &mut places[at];
            let reached = place.reached.take().expect("each node begins once");
            let (orders, output, from) = (orders.clone(), session.output().clone(), place.from);
            tasks.spawn(async move { (at, activate(reached, &orders, from, output).await) });
        }
        let Some(joined) = tasks.join_next().await else { break };
        let Ok((at, (reached, ended))) = joined else { continue };
        rollout.ended(at, ended.is_ok());
        let place = &mut places[at];
        place.reached = Some(reached);
        match ended {
            Ok(generation) => (place.now, place.end) = (Some(generation), NodeEnd::Moved),
            Err(stuck) => {
                session.output().error(&failure::of_activation(&place.label, &stuck.error, stuck.generation));
                place.end = failure::end_of(&stuck.error);
            }
        }
    }
    for at in rollout.untouched() {
        session.output().note(format!("  {:<16} not asked; it serves what it served", places[at].label));
    }
    rollout.to_revert()
}

/// An activation that came to nothing.
pub struct Stuck {
    /// Why.
    pub error: NodeError,
    /// The generation that was started, if it came so far.
    pub generation: Option<u64>,
}

/// Makes the release the serving version of a node where `from` serves; returns its new generation.
pub async fn activate(mut reached: Reached, orders: &Orders, from: u64, output: Output) -> (Reached, Result<u64, Stuck>) {
    let release = &orders.release;
    let new = Some((release.image, release.commit.clone()));
    let teller = Teller::new(reached.connection.node.label(), release.app.clone(), &reached.survey, new, orders.reason);
    let request = Request::Activate {
        release: String::from_utf8(release.encode()).expect("a release is JSON"),
        expect: from,
        soak: orders.soak,
        who: orders.who.clone(),
        listen: reached.connection.node.listen(),
        confirm_ms: orders.confirm.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        follow_ms: Some(FOLLOW_MS),
    };
    let mut confirming =
        Confirming::beside(&reached.connection, release.app.clone(), orders.silence, orders.confirm.unwrap_or_default());
    let mut told = |event| {
        confirming.hear(&event);
        if let Some(event) = teller.tell(event) {
            orders.proof.hear(&event);
            output.step(&event);
        }
    };
    let reply = reached.connection.ask_with(&request, orders.silence, &mut told).await;
    let ended = match reply {
        Ok(Reply::Serving(serving)) => Ok(serving.generation),
        Ok(_) => Err(NodeError::Answer),
        Err(error) => Err(error),
    };
    let generation = confirming.generation();
    let label = reached.connection.node.label();
    let ended = confirming.ended(ended, |why| output.note(format!("  {label:<16} {why}"))).await;
    (reached, ended.map_err(|error| Stuck { error, generation }))
}

/// Takes back what succeeded, all nodes at once: a fleet does not stay on two versions.
async fn back(session: &Session, orders: &Orders, revert: &[usize], places: &mut [Place]) {
    if revert.is_empty() {
        return;
    }
    let why = if session.call.interrupt.is_pressed() { "interrupted" } else { "other nodes failed" };
    session.output().progress().phase(&format!("taking back what succeeded: {why}"));
    let jobs = revert.iter().filter_map(|&at| {
        let place = &mut places[at];
        let (reached, now, from) = (place.reached.take()?, place.now?, place.from);
        let orders = orders.clone();
        Some(async move { (at, take_back(reached, &orders, now, from).await) })
    });
    let jobs: Vec<_> = jobs.collect();
    for (at, (reached, ended)) in across::all(jobs, session.parallel()).await {
        let place = &mut places[at];
        place.reached = Some(reached);
        match ended {
            Ok(()) => {
                place.end = NodeEnd::PutBack;
                let (image, commit) = place.held.clone().unzip();
                session.output().step(&Event::RolledBack(Activation {
                    node: place.label.clone(),
                    app: orders.release.app.clone(),
                    generation: place.from,
                    image,
                    commit,
                    from_generation: place.now.unwrap_or(0),
                    reason: why.into(),
                }));
            }
            Err(error) => session.output().error(&failure::of_node(&place.label, "take back", &error)),
        }
    }
}

/// Returns what the generation holds that `current` names.
fn held(survey: &Survey, app: &AppName) -> Option<(ImageId, CommitId)> {
    let state = across::state_of(survey, app)?;
    let current = state.generations.iter().find(|g| g.number == state.current)?;
    Some((current.image, current.commit.clone()))
}

/// Makes the generation serve again that served before; where none did, nothing does.
async fn take_back(mut reached: Reached, orders: &Orders, now: u64, from: u64) -> (Reached, Result<(), NodeError>) {
    let request = Request::TakeBack {
        app: orders.release.app.clone(),
        expect: now,
        to: from,
        who: orders.who.clone(),
        why: "other nodes failed".into(),
        listen: reached.connection.node.listen(),
    };
    let ended = match reached.connection.ask_with(&request, orders.silence, &mut |_| {}).await {
        Ok(Reply::Serving(_) | Reply::Stopped { .. }) => Ok(()),
        Ok(_) => Err(NodeError::Answer),
        Err(error) => Err(error),
    };
    (reached, ended)
}
