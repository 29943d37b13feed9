//! `df gc`: old versions go, here and on the nodes.

use std::collections::BTreeSet;

use df_cache::gc;
use df_cache::roots::Policy;
use df_cache::store::{Store, StoredRelease};
use df_core::{ImageId, Timestamp};
use df_fleet::NodeError;
use df_fleet::message::{Collected, Reply, Request};

use crate::across::{self, Work};
use crate::args;
use crate::bucket::failure;
use crate::event::{Event, Placed};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::render::units;
use crate::session::{Session, now};
use crate::store::Shelf;

/// Collects what is beyond the count and older than the date: on the nodes, then here, where the images that nodes hold stay as bases for deltas.
pub fn run(args: &args::Gc, session: &Session) -> Result<Exit, Failure> {
    let (mut ends, mut on_nodes) = (vec![], OnNodes::default());
    if !session.inventory()?.nodes().is_empty() || !session.call.globals.address.is_empty() {
        (ends, on_nodes) = collect_on_nodes(session, args.old)?;
    }
    let here = collect(session, "cache", Shelf::open(session)?.store(), args.old, args.why, &on_nodes.held)?;
    match session.is_dry_run() {
        _ if ends.iter().any(|end| *end != NodeEnd::Done) => Ok(of_nodes(&ends)),
        true => Ok(session.planned(here || on_nodes.any)),
        false => Ok(Exit::Done),
    }
}

/// What collecting on nodes showed.
#[derive(Debug, Default)]
struct OnNodes {
    /// Images that a generation of some node still holds.
    held: BTreeSet<ImageId>,
    /// Something went, or would go.
    any: bool,
}

/// Collects the application's generations and images on the nodes of the command.
///
/// # Errors
/// There is no node.
pub fn on_nodes(session: &Session, old: args::Old) -> Result<Exit, Failure> {
    let (ends, found) = collect_on_nodes(session, old)?;
    let clean = ends.iter().all(|end| *end == NodeEnd::Done);
    Ok(if clean && session.is_dry_run() { session.planned(found.any) } else { of_nodes(&ends) })
}

fn collect_on_nodes(session: &Session, old: args::Old) -> Result<(Vec<NodeEnd>, OnNodes), Failure> {
    let (count, older) = limits(session, old);
    let dry_run = session.is_dry_run();
    let crew = across::reach(session, "gc", !dry_run)?;
    let mut ends = crew.ends;
    let (tell, told) = std::sync::mpsc::channel();
    ends.extend(across::run(session, "gc", crew.reached, |work: Work| {
        let tell = tell.clone();
        async move {
            let Work { label, app, mut reached, output } = work;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let reply = reached.connection.ask(&Request::Collect { app: app.clone(), count, older, dry_run }).await?;
            reached.connection.close().await;
            let Reply::Collected { collected } = reply else { return Err(NodeError::Answer) };
            for one in &collected {
                output.result(&if dry_run { planned(&label, one) } else { Event::Collected(placed(&label, one)) });
            }
            if collected.is_empty() {
                output.note(format!("  {label:<16} nothing to collect"));
            }
            let gone: BTreeSet<ImageId> = collected.iter().filter_map(|one| one.image).collect();
            let generations = across::state_of(&reached.survey, &app).into_iter().flat_map(|state| &state.generations);
            let held: Vec<ImageId> = generations.map(|g| g.image).filter(|image| !gone.contains(image)).collect();
            // The receiver lives as long as the work.
            let _ = tell.send((held, !collected.is_empty()));
            Ok(NodeEnd::Done)
        }
    }));
    let mut on_nodes = OnNodes::default();
    for (held, any) in told.try_iter() {
        on_nodes.held.extend(held);
        on_nodes.any |= any;
    }
    Ok((ends, on_nodes))
}

/// Collects the application's releases from a cache that is called `place`, or says what would go; returns whether there is anything.
pub fn collect(
    session: &Session,
    place: &str,
    store: &dyn Store,
    old: args::Old,
    why: bool,
    held: &BTreeSet<ImageId>,
) -> Result<bool, Failure> {
    let (count, older) = limits(session, old);
    let contents = store.contents().map_err(|error| failure::unread(place, &error))?;
    let mut plan = gc::plan(&contents, &Policy { count, older });
    // The cache is shared: what another application keeps is for its own df.yaml to say.
    let is_ours = |stored: &StoredRelease| stored.release.app == *session.app();
    let others: BTreeSet<ImageId> = contents.releases.iter().filter(|s| !is_ours(s)).map(|s| s.release.image).collect();
    plan.releases.retain(|stored| is_ours(stored) && !held.contains(&stored.release.image));
    plan.images.retain(|image| !held.contains(image) && !others.contains(image));
    plan.kept.retain(|(stored, _)| is_ours(stored) && !held.contains(&stored.release.image));
    let output = session.output();
    if why {
        output.table(&[], &kept_lines(place, &contents.releases, &plan, held));
    }
    let found = !(plan.releases.is_empty() && plan.images.is_empty());
    if session.is_dry_run() {
        for stored in &plan.releases {
            output.result(&would(
                place,
                format!("collect {} image {}", stored.release.commit.short(), stored.release.image.short()),
            ));
        }
        for image in plan.images.iter().filter(|image| !plan.releases.iter().any(|s| s.release.image == **image)) {
            output.result(&would(place, format!("collect image {}", image.short())));
        }
        return Ok(found);
    }
    // Also when no release goes: a bucket may hold what was let go before, and whose time is over.
    let collected = gc::perform(store, &plan).map_err(|error| failure::unwritten(place, &error))?;
    let gone = collected.n_releases + collected.n_images + collected.n_blobs;
    if gone + collected.n_objects == 0 {
        output.note(format!("  {place:<16} nothing to collect"));
        return Ok(found);
    }
    let deleted = match collected.n_objects {
        0 => String::new(),
        n => format!("; {} of the bucket deleted", units::count(usize::try_from(n).unwrap_or(usize::MAX), "object")),
    };
    output.result(&Event::Collected(Placed {
        place: place.to_owned(),
        bytes: collected.bytes,
        objects: gone,
        requests: collected.n_requests,
        why: format!("beyond the newest {count} and older than {older}{deleted}"),
        ..Placed::default()
    }));
    Ok(found)
}

/// Says of each release that stays why it does.
fn kept_lines(place: &str, releases: &[StoredRelease], plan: &gc::Plan, held: &BTreeSet<ImageId>) -> Vec<String> {
    let line = |stored: &StoredRelease, why: &dyn std::fmt::Display| {
        let (commit, image) = (stored.release.commit.short(), stored.release.image.short());
        format!("  {place:<16} keeps {commit} image {image}  ({why})")
    };
    let on_nodes = releases.iter().filter(|stored| held.contains(&stored.release.image));
    let on_nodes = on_nodes.map(|stored| line(stored, &"a node holds it"));
    on_nodes.chain(plan.kept.iter().map(|(stored, why)| line(stored, why))).collect()
}

/// Returns what counts as old: the flags, else `keep` of df.yaml.
fn limits(session: &Session, old: args::Old) -> (usize, Timestamp) {
    let keep = &session.config.keep;
    let older = old.older.map_or_else(|| now().minus(keep.older), |older| older.cutoff(now()));
    (old.count.unwrap_or(keep.count), older)
}

fn would(place: &str, action: String) -> Event {
    Event::Planned {
        node: None,
        action,
        bytes: None,
        requests: Some(0),
        reason: format!("in {place}; nothing keeps it"),
        changes: true,
    }
}

fn planned(node: &str, collected: &Collected) -> Event {
    let what = match (collected.generation, collected.image) {
        (Some(generation), _) => format!("collect generation {generation}"),
        (None, Some(image)) => format!("collect image {}", image.short()),
        (None, None) => "collect".to_owned(),
    };
    Event::Planned {
        node: Some(node.to_owned()),
        action: what,
        bytes: Some(collected.bytes),
        requests: Some(0),
        reason: collected.why.clone(),
        changes: true,
    }
}

fn placed(node: &str, collected: &Collected) -> Placed {
    Placed {
        place: node.to_owned(),
        image: collected.image,
        generation: collected.generation,
        bytes: collected.bytes,
        objects: 1,
        why: collected.why.clone(),
        ..Placed::default()
    }
}
