//! `df gc`: old versions go, here and on the nodes.

mod why;

use std::collections::{BTreeMap, BTreeSet};

use df_cache::gc;
use df_cache::roots::Policy;
use df_cache::store::{Contents, Store, StoredRelease};
use df_core::{Digest, ImageId, Timestamp};
use df_fleet::message::{Collected, Reply, Request};
use df_fleet::{NodeError, Reached};

use crate::across::{self, Work};
use crate::args;
use crate::bucket::failure;
use crate::event::{Event, Placed};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::leases::{self, Ledger};
use crate::output::Output;
use crate::render::units;
use crate::session::{Session, now};
use crate::store::Shelf;

/// Collects what is beyond the count and older than the date: on the nodes, then here, where the images that nodes hold stay as bases for deltas.
pub fn run(args: &args::Gc, session: &Session) -> Result<Exit, Failure> {
    let (mut ends, mut on_nodes) = (vec![], OnNodes::default());
    if !session.inventory()?.nodes().is_empty() || !session.call.globals.address.is_empty() {
        (ends, on_nodes) = collect_on_nodes(session, args)?;
    }
    let shelf = Shelf::open(session)?;
    let cache = Cache { name: "cache", store: shelf.store(), is_asked: false };
    let here = collect(session, &cache, args.old, args.why, &on_nodes.held)?;
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
pub fn on_nodes(session: &Session, args: &args::Gc) -> Result<Exit, Failure> {
    let (ends, found) = collect_on_nodes(session, args)?;
    let clean = ends.iter().all(|end| *end == NodeEnd::Done);
    Ok(if clean && session.is_dry_run() { session.planned(found.any) } else { of_nodes(&ends) })
}

fn collect_on_nodes(session: &Session, args: &args::Gc) -> Result<(Vec<NodeEnd>, OnNodes), Failure> {
    let (count, older) = limits(session, args.old);
    let (dry_run, says_why) = (session.is_dry_run(), args.why);
    let crew = across::reach(session, "gc", !dry_run)?;
    let mut ends = crew.ends;
    let ledger = Ledger::of(session);
    let (tell, told) = std::sync::mpsc::channel();
    ends.extend(across::run(session, "gc", crew.reached, |work: Work| {
        let (tell, ledger) = (tell.clone(), ledger.clone());
        async move {
            let Work { label, app, mut reached, output } = work;
            let most = u32::try_from(count).unwrap_or(u32::MAX);
            let reply = reached.connection.ask(&Request::Collect { app: app.clone(), count: most, older, dry_run }).await?;
            match dry_run {
                true => reached.connection.close().await,
                false => ledger.close(reached.connection).await,
            }
            let Reply::Collected { collected } = reply else { return Err(NodeError::Answer) };
            if says_why && let Some(state) = across::state_of(&reached.survey, &app) {
                tell_why(&output, &why::of_node(&label, state, &collected, count, older));
            }
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
    match dry_run {
        true => leases::plan(session),
        false => ledger.tell(session, "df gc"),
    }
    let mut on_nodes = OnNodes::default();
    for (held, any) in told.try_iter() {
        on_nodes.held.extend(held);
        on_nodes.any |= any;
    }
    Ok((ends, on_nodes))
}

/// Returns the images that stay in a cache elsewhere whatever its rules say: those that a node holds, of all that df knows, or that a generation there needs.
///
/// # Errors
/// A node does not answer: it may run what would go. Who is gone for good is taken off the list.
pub fn held_on_nodes(session: &Session) -> Result<BTreeSet<ImageId>, Failure> {
    let inventory = session.inventory()?;
    if inventory.nodes().is_empty() {
        return Ok(BTreeSet::new());
    }
    let crew = across::crew(session, "gc", across::connect(session, "gc", inventory.nodes(), None)?);
    let held = crew.reached.iter().flat_map(Reached::images).collect();
    let closed = crew.reached.into_iter().map(|reached| reached.connection.close());
    session.call.block_on(across::all(closed.collect(), session.parallel()));
    if crew.ends.is_empty() {
        return Ok(held);
    }
    let message = "what a node runs that does not answer would go too; nothing was removed";
    Err(Failure::new(of_nodes(&crew.ends), "gc", message).next("df rm NODE if it is gone for good, then type it again"))
}

/// Says why things stay and go: to people as lines, to scripts as notes.
fn tell_why(output: &Output, lines: &[String]) {
    let notes: Vec<Event> = lines.iter().map(|line| Event::Note { message: line.trim().to_owned() }).collect();
    output.table(&notes, lines);
}

/// A cache, and what it is called.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    /// `cache`, or its address.
    pub name: &'a str,
    /// What it holds.
    pub store: &'a dyn Store,
    /// Whether each look at it is a request that costs: then somebody else says how many there are in all.
    pub is_asked: bool,
}

/// Collects the application's releases from a cache, or says what would go; returns whether there is anything.
pub fn collect(
    session: &Session,
    cache: &Cache<'_>,
    old: args::Old,
    why: bool,
    held: &BTreeSet<ImageId>,
) -> Result<bool, Failure> {
    let &Cache { name: place, store, .. } = cache;
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
    let because = why::old(count, older);
    if why {
        tell_why(output, &why::of_cache(place, &contents.releases, &plan, held, &because));
    }
    let found = !(plan.releases.is_empty() && plan.images.is_empty());
    if session.is_dry_run() {
        would(cache, &contents, &plan, &because).iter().for_each(|event| output.result(event));
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
        why: format!("{because}{deleted}"),
        ..Placed::default()
    }));
    Ok(found)
}

/// Returns what counts as old: the flags, else `keep` of df.yaml.
fn limits(session: &Session, old: args::Old) -> (usize, Timestamp) {
    let keep = &session.config.keep;
    let older = old.older.map_or_else(|| now().minus(keep.older), |older| older.cutoff(now()));
    (old.count.unwrap_or(keep.count), older)
}

/// Returns what a collection would do: each release that goes, and each image that goes without one.
fn would(cache: &Cache<'_>, contents: &Contents, plan: &gc::Plan, because: &str) -> Vec<Event> {
    let mut freed = freed(cache.store, contents, plan);
    let requests = (!cache.is_asked).then_some(0);
    let mut event = |action: String, image: ImageId, why: &str| {
        // What a release shares with another is told once; an image that stays frees nothing.
        let bytes = freed.remove(&image).unwrap_or(Some(0));
        let at_most = if bytes == Some(0) { "" } else { "; at most so much, before compression" };
        let reason = format!("in {}; {why}{at_most}", cache.name);
        Event::Planned { node: None, action, bytes, requests, reason, changes: true }
    };
    let mut events = vec![];
    for StoredRelease { release, .. } in &plan.releases {
        let action = format!("collect {} image {}", release.commit.short(), release.image.short());
        events.push(event(action, release.image, because));
    }
    for image in plan.images.iter().filter(|image| !plan.releases.iter().any(|s| s.release.image == **image)) {
        events.push(event(format!("collect image {}", image.short()), *image, "no release or pin names it"));
    }
    events
}

/// Returns how many bytes of files go with each image: what no image that stays has, and each file once. `None` for an image whose list of files cannot be read.
fn freed(store: &dyn Store, contents: &Contents, plan: &gc::Plan) -> BTreeMap<ImageId, Option<u64>> {
    let stays = contents.images.iter().map(|stored| stored.image).filter(|image| !plan.images.contains(image));
    // One that cannot be read keeps nothing here, so that what is said stays the most.
    let manifests = stays.filter_map(|image| store.manifest(image).ok());
    let mut told: BTreeSet<Digest> = manifests.flat_map(|it| it.blobs()).map(|(digest, _)| digest).collect();
    let mut of = |image: ImageId| {
        let fresh = store.manifest(image).ok()?.blobs().into_iter().filter(|(digest, _)| told.insert(*digest));
        Some(fresh.map(|(_, len)| len).sum())
    };
    plan.images.iter().map(|&image| (image, of(image))).collect()
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
