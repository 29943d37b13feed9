//! `df repair`: what fails its verification gets its image again where that is damaged, is killed, started and verified.
//!
//! Nodes are looked at first, all at once and without a lock; what is wrong with each is a value, from which a plan is printed or the repair is done. The
//! version that is brought back is the one that each node serves: a repair changes none.

mod look;
mod mend;
mod watching;

use std::collections::BTreeMap;

use df_core::ReleaseId;
use df_fleet::{Node, Reached, Wish};

use crate::across::{self, Intent};
use crate::args;
use crate::commands::rollback;
use crate::copying::{Courier, Freight};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::{self, Failure};
use crate::session::Session;
use crate::store::Shelf;
use look::{Depth, Found, Ill};
use mend::{Medicine, Surgery};

/// Brings the nodes of the context to a healthy state; with `--watch` again and again.
pub fn run(args: args::Repair, session: &Session) -> Result<Exit, Failure> {
    if args.watch {
        return watching::watch(args, session);
    }
    let nodes = session.nodes()?;
    let looked = look::at(session, &nodes, Depth::Files)?;
    if session.is_dry_run() {
        return Ok(plan(session, &looked, args.full_copy));
    }
    let mut ends = vec![];
    let mut patients = vec![];
    for (node, found) in looked {
        match triage(args.full_copy, found) {
            Triage::Ill(ill) => {
                session.output().note(format!("  {:<16} generation {} is ill: {}", node.label(), ill.generation, ill.why));
                patients.push((node, ill));
            }
            Triage::Well(words) => {
                session.output().table(&[], &[format!("  {:<16} {words}", node.label())]);
                ends.push(NodeEnd::Done);
            }
            Triage::Failed(error) => {
                session.output().error(&failure::of_node(&node.label(), "repair", &error));
                ends.push(failure::end_of(&error));
            }
        }
    }
    ends.extend(perform(session, patients, args.full_copy)?);
    Ok(of_nodes(&ends))
}

/// What is to be done with a node.
enum Triage {
    /// It gets a repair.
    Ill(Ill),
    /// Nothing, and why.
    Well(String),
    /// It cannot be said.
    Failed(df_fleet::NodeError),
}

fn triage(full_copy: bool, found: Found) -> Triage {
    match found {
        Found::Nothing => Triage::Well("no version was ever deployed there".into()),
        Found::Failed(error) => Triage::Failed(error),
        Found::Ill(ill) => Triage::Ill(ill),
        Found::Well(well) if full_copy => {
            Triage::Ill(Ill { why: "nothing is wrong, and a full copy was asked for".into(), ..well })
        }
        Found::Well(well) => Triage::Well(well.words()),
    }
}

fn plan(session: &Session, looked: &[(Node, Found)], full_copy: bool) -> Exit {
    let mut ends = vec![];
    let mut changes = false;
    for (node, found) in looked {
        let intent = match found {
            Found::Failed(error) => {
                session.output().error(&failure::of_node(&node.label(), "repair", error));
                ends.push(failure::end_of(error));
                continue;
            }
            found => intent(found, full_copy),
        };
        changes |= intent.changes;
        session.output().result(&across::planned(Some(node.label()), intent, None));
    }
    if ends.is_empty() { session.planned(changes) } else { of_nodes(&ends) }
}

fn intent(found: &Found, full_copy: bool) -> Intent {
    let nothing = |reason: String| Intent { action: "nothing".into(), reason, changes: false };
    match found {
        Found::Failed(_) | Found::Nothing => nothing("no version was ever deployed there".into()),
        Found::Well(well) if !full_copy => nothing(well.words()),
        Found::Well(ill) | Found::Ill(ill) => {
            let mut steps = vec![];
            steps.extend((ill.is_damaged || full_copy).then(|| "copy its image whole".to_owned()));
            steps.extend(ill.is_sick.then(|| format!("kill generation {}", ill.generation)));
            steps.extend(ill.is_sick.then(|| "start and verify it".to_owned()));
            Intent { action: steps.join(", then "), reason: ill.why.clone(), changes: true }
        }
    }
}

/// Repairs nodes, all at once.
fn perform(session: &Session, patients: Vec<(Node, Ill)>, full_copy: bool) -> Result<Vec<NodeEnd>, Failure> {
    if patients.is_empty() {
        return Ok(vec![]);
    }
    let nodes: Vec<Node> = patients.iter().map(|(node, _)| node.clone()).collect();
    let options = session.options()?;
    let claim = across::claim(session, "repair");
    let reached = session.call.block_on(async {
        tokio::select! {
            reached = df_fleet::survey::all(&nodes, &options, Some(&claim)) => Ok(reached),
            () = session.call.interrupt.pressed() => Err(across::interrupted("repair")),
        }
    })?;
    let mut ends = vec![];
    let mut there: Vec<(Reached, Ill)> = vec![];
    for ((node, reached), (_, ill)) in reached.into_iter().zip(patients) {
        match reached {
            Ok(reached) => there.push((reached, ill)),
            Err(error) => {
                session.output().error(&failure::of_node(&node.label(), "repair", &error));
                ends.push(failure::end_of(&error));
            }
        }
    }
    let medicines = medicines(session, there.iter().map(|(_, ill)| ill), full_copy)?;
    let surgery =
        Surgery { app: session.app().clone(), output: session.output().clone(), silence: rollback::silence(session), full_copy };
    let jobs = there.into_iter().map(|(reached, ill)| {
        let (medicine, surgery) = (medicines.get(&ill.release).cloned(), surgery.clone());
        async move { surgery.mend(reached, ill, medicine).await }
    });
    ends.extend(session.call.block_on(across::all(jobs.collect(), session.parallel())));
    Ok(ends)
}

/// Prepares the images that nodes need again, each once; one that is not here is left out.
fn medicines<'a>(
    session: &Session,
    patients: impl Iterator<Item = &'a Ill>,
    full_copy: bool,
) -> Result<BTreeMap<ReleaseId, Medicine>, Failure> {
    let mut wanted: Vec<ReleaseId> = patients.filter(|ill| full_copy || ill.is_damaged).map(|ill| ill.release).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut medicines = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(medicines);
    }
    let shelf = Shelf::open(session)?;
    for stored in shelf.releases(session.app())? {
        if wanted.contains(&stored.id) {
            let freight = Freight::of(session, &shelf, stored.release, Wish { full: true, ..Wish::default() });
            match freight.and_then(|freight| Courier::of(session, "repair", &freight)) {
                Ok(courier) => drop(medicines.insert(stored.id, Medicine::new(courier))),
                Err(failure) => session.output().error(&failure.event()),
            }
        }
    }
    Ok(medicines)
}
