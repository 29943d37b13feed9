//! `df cp`: the image on the nodes of the context, by what they lack.

use std::collections::BTreeSet;

use df_core::ImageId;
use df_fleet::plan::Way;

use crate::across::{self, Crew};
use crate::args;
use crate::commands::build;
use crate::commands::cache::costs;
use crate::config::Remote;
use crate::copying::{self, Cost, Freight};
use crate::event::{Event, PlannedCopy};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::pipeline;
use crate::session::Session;
use crate::store::Shelf;

/// Puts the image of a version on the nodes.
pub fn run(args: &args::Cp, session: &Session) -> Result<Exit, Failure> {
    // Before anything is built: a command over no node is a wrong use of it.
    session.nodes()?;
    let (shelf, wish) = (Shelf::open(session)?, args.packing.wish(args.full));
    if session.is_dry_run() {
        return match pipeline::planned(session, &shelf, args.version.as_deref(), None)? {
            Ok(release) => {
                let freight = Freight::of(session, &shelf, release, wish)?.through_cache(session, args.packing.through_cache)?;
                plan(session, "cp", &freight, &|_| None)
            }
            Err(journey) => plan_unbuilt(session, "cp", &journey, "copy", args.packing.through_cache),
        };
    }
    let release = pipeline::release(session, &shelf, args.version.as_deref(), None)?;
    let freight = Freight::of(session, &shelf, release, wish)?.through_cache(session, args.packing.through_cache)?;
    freight.prepare(session);
    Ok(of_nodes(&copying::carry(session, "cp", &freight)?))
}

/// Says what a copy to each node takes; `more` says what follows on a node besides: the action, and whether it is a change.
pub fn plan(
    session: &Session,
    phase: &'static str,
    freight: &Freight,
    more: &dyn Fn(&df_fleet::message::Survey) -> Option<(String, bool)>,
) -> Result<Exit, Failure> {
    let Crew { reached, mut ends } = across::reach(session, phase, false)?;
    let (reached, unfit) = copying::fit(session, phase, freight, reached);
    ends.extend(unfit);
    let (mut changes, mut depot) = (false, Depot::of(freight));
    for mut reached in reached {
        let node = reached.connection.node.label();
        match session.call.block_on(freight.cost(&mut reached, session.app())) {
            Ok(cost) => {
                let (next, moves) = more(&reached.survey).unwrap_or_default();
                changes |= cost.chosen.way != Way::Held || moves;
                let event = planned(node, cost, &next, moves, &mut depot);
                session.output().result(&event);
            }
            Err(error) => {
                session.output().error(&copying::of_copy(&node, phase, &error));
                ends.push(NodeEnd::Failed);
            }
        }
    }
    if ends.is_empty() { Ok(session.planned(changes)) } else { Ok(of_nodes(&ends)) }
}

/// Says what would be done with a release that is not built yet: how many bytes will travel, and in how many requests `through_cache`, is not known before.
pub fn plan_unbuilt(
    session: &Session,
    phase: &'static str,
    journey: &pipeline::Journey,
    action: &str,
    through_cache: bool,
) -> Result<Exit, Failure> {
    let is_asked = through_cache && matches!(session.config.cache.remote, Some(Remote::Bucket(_)));
    session.output().result(&build::planned(journey, false));
    let Crew { reached, ends } = across::reach(session, phase, false)?;
    for reached in &reached {
        let reason = "its size is known when it is built".to_owned();
        let node = Some(reached.connection.node.label());
        session.output().result(&Event::Planned {
            node,
            action: action.into(),
            bytes: None,
            requests: (!is_asked).then_some(0),
            reason,
            changes: true,
        });
    }
    if ends.is_empty() { Ok(session.planned(true)) } else { Ok(of_nodes(&ends)) }
}

/// What nodes fetch from, and what is there by the time that they do.
struct Depot<'a> {
    name: Option<&'a str>,
    /// Whether each look at it is a request that costs.
    is_asked: bool,
    /// What was put there for a node before, by what it is a change of.
    put: BTreeSet<Option<ImageId>>,
}

impl<'a> Depot<'a> {
    fn of(freight: &'a Freight) -> Self {
        Self { name: freight.fetched_from(), is_asked: freight.asks_a_bucket(), put: BTreeSet::new() }
    }

    /// Returns how many requests it takes that one more node fetches so much, and what to say of that; nothing when it is sent.
    fn fetch(&mut self, base: Option<ImageId>, len: u64) -> Option<(u64, String)> {
        let fetches = format!("it goes to {} once, and the node fetches it there", self.name?);
        if !self.is_asked {
            return Some((0, fetches));
        }
        let work = costs::of_fetch(len, self.put.insert(base));
        Some((costs::estimate(&work).requests, format!("{fetches}; {}", costs::words(&work))))
    }
}

fn planned(node: String, Cost { chosen, codec }: Cost, next: &str, moves: bool, depot: &mut Depot<'_>) -> Event {
    let copy = match chosen.way {
        Way::Held => None,
        Way::Patch(base) => Some((format!("copy {codec} of image {}", base.short()), "")),
        Way::Rsync(base) => Some((format!("copy rsync of image {}", base.short()), "that image is only on the node")),
        Way::Whole => Some(("copy the image whole".to_owned(), "")),
    };
    let changes = copy.is_some() || moves;
    let through = copy.as_ref().and_then(|_| depot.fetch(chosen.way.base(), chosen.bytes));
    let (action, reason) = match copy {
        Some((copy, reason)) if next.is_empty() => (copy, reason),
        Some((copy, reason)) => (format!("{copy}, then {next}"), reason),
        None if next.is_empty() => ("nothing".into(), "it holds the image"),
        None => (next.to_owned(), "it holds the image"),
    };
    let (requests, reason) = through.unwrap_or_else(|| (0, reason.to_owned()));
    Event::PlannedCopy(PlannedCopy {
        node: Some(node),
        action,
        bytes: Some(chosen.bytes),
        requests: Some(requests),
        reason,
        changes,
        base: chosen.way.base(),
        codec,
        seconds: chosen.seconds,
        estimated: !chosen.is_exact,
    })
}
