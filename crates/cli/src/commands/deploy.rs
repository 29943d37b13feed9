//! `df deploy`: build, copy, then node by node: start beside the old, verify, switch, drain the old. A failure leaves, or brings back, what served.

mod watching;

use std::io::IsTerminal as _;

use df_core::Release;
use df_fleet::Reached;
use df_fleet::message::{RunState, Survey};

pub use watching::watch;

use crate::across::{self, current_of, state_of};
use crate::args;
use crate::asking;
use crate::commands::{cp, listing, rollback};
use crate::copying::{self, Freight, Gathered};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::leases::{self, Ledger};
use crate::pipeline;
use crate::render::units;
use crate::rolling::{self, Orders};
use crate::session::Session;
use crate::store::Shelf;

/// Makes a version the serving one on all nodes of the context.
pub fn run(args: &args::Deploy, session: &Session) -> Result<Exit, Failure> {
    // Before anything is built: a command over no node is a wrong use of it.
    let n_nodes = session.nodes()?.len();
    let shelf = Shelf::open(session)?;
    let (version, revision) = (args.version.as_deref(), args.commit_hash.as_deref());
    if session.is_dry_run() {
        let planned = plan(session, &shelf, args)?;
        leases::plan(session);
        return Ok(planned);
    }
    confirm(session, n_nodes)?;
    let release = pipeline::release(session, &shelf, version, revision)?;
    let freight = Freight::of(session, &shelf, release, args.packing.wish(false))?;
    let freight = freight.through_cache(session, args.packing.through_cache)?;
    freight.prepare(session);
    let Gathered { there, done, mut ends } = copying::gather(session, "deploy", &freight, serves)?;
    if session.call.interrupt.is_pressed() {
        return Err(across::interrupted("deploy"));
    }
    if !there.is_empty() {
        let progress = session.output().progress();
        progress.phase(&format!("activating {} on {}", freight.release.commit.short(), units::nodes(there.len())));
    }
    let orders = Orders::new(session, &freight.release, "deploy");
    let failures = ends.iter().filter(|end| **end != NodeEnd::Unreachable).count();
    let rolled = rolling::roll(session, &orders, there, failures);
    let mut reached = done;
    ends.extend(reached.iter().map(|_| NodeEnd::Done));
    for (end, node) in rolled {
        ends.push(end);
        reached.extend(node);
    }
    let reached = surveyed(session, reached);
    tell(session, &reached, &orders);
    summarize(session, reached);
    session.output().table(&[], &orders.proof.lines());
    Ok(exit(session, &ends))
}

/// Returns whether a node serves this very release, settings included, and it runs.
fn serves(survey: &Survey, release: &Release) -> bool {
    let Some(state) = state_of(survey, &release.app) else { return false };
    let is_current = state.generations.iter().any(|g| g.number == state.current && g.release == release.id());
    let runs = state.running.iter().any(|r| r.generation == state.current && r.state == RunState::Serving);
    is_current && (runs || release.run.is_none())
}

fn plan(session: &Session, shelf: &Shelf, args: &args::Deploy) -> Result<Exit, Failure> {
    match pipeline::planned(session, shelf, args.version.as_deref(), args.commit_hash.as_deref())? {
        Err(journey) => cp::plan_unbuilt(session, "deploy", &journey, "copy, then activate", args.packing.through_cache),
        Ok(release) => {
            let freight = Freight::of(session, shelf, release.clone(), args.packing.wish(false))?;
            let freight = freight.through_cache(session, args.packing.through_cache)?;
            cp::plan(session, "deploy", &freight, &|survey| match (serves(survey, &release), current_of(survey, &release.app)) {
                (true, _) => None,
                (false, 0) => Some((format!("activate {}", release.commit.short()), true)),
                (false, from) => Some((format!("activate {} in place of generation {from}", release.commit.short()), true)),
            })
        }
    }
}

/// Asks a person before many nodes change.
fn confirm(session: &Session, n_nodes: usize) -> Result<(), Failure> {
    if n_nodes <= session.config.rollout.confirm_above || session.call.globals.yes {
        return Ok(());
    }
    let refuse = |message: String| Err(Failure::new(Exit::Usage, "deploy", message).next("df deploy --yes"));
    if !std::io::stdin().is_terminal() {
        return refuse(format!("{n_nodes} nodes would change, and nobody is here to confirm it"));
    }
    let answer = asking::line(&session.call, "deploy", &format!("Deploy to {n_nodes} nodes? [y/N] "))?;
    if matches!(answer.as_deref(), Some("y" | "Y" | "yes")) {
        Ok(())
    } else {
        refuse("not confirmed; nothing was changed".into())
    }
}

/// Asks the nodes once more what they hold and run; those that do not answer are left out.
fn surveyed(session: &Session, reached: Vec<Reached>) -> Vec<Reached> {
    let jobs = reached.into_iter().map(|mut reached| async move {
        let survey = df_fleet::survey::again(&mut reached.connection).await.ok()?;
        // The lock is our own.
        reached.survey = Survey { lock: None, ..survey };
        Some(reached)
    });
    session.call.block_on(across::all(jobs.collect(), session.parallel())).into_iter().flatten().collect()
}

/// Tells a bucket what the nodes have, as long as they are ours.
fn tell(session: &Session, reached: &[Reached], orders: &Orders) {
    let ledger = Ledger::of(session);
    reached.iter().for_each(|reached| ledger.note(&reached.connection.node, &reached.survey));
    let again = match ledger.serving(session.app()) {
        Some(commit) if commit == *orders.commit() => format!("df deploy --version {}", commit.short()),
        serving => rollback::again(serving.as_ref()),
    };
    ledger.tell(session, &again);
}

/// Shows what the nodes themselves say at the end, and ends the sessions.
fn summarize(session: &Session, reached: Vec<Reached>) {
    let app = session.app().clone();
    let jobs = reached.into_iter().map(|reached| {
        let (app, node) = (app.clone(), reached.connection.node.clone());
        async move { listing::look(node, reached, &app).await.0 }
    });
    let states = session.call.block_on(across::all(jobs.collect(), session.parallel()));
    session.output().progress().finish();
    if !states.is_empty() {
        listing::show(session, &states);
    }
}

/// Returns how it ended: whoever pressed Ctrl-C knows it, unless nodes are left on different versions.
fn exit(session: &Session, ends: &[NodeEnd]) -> Exit {
    match of_nodes(ends) {
        Exit::Mixed => Exit::Mixed,
        _ if session.call.interrupt.is_pressed() && ends.iter().any(|end| !matches!(end, NodeEnd::Moved | NodeEnd::Done)) => {
            Exit::Interrupted
        }
        exit => exit,
    }
}
