//! `df ls versions`: the releases known here and on the nodes, or in a cache elsewhere.

use std::collections::BTreeMap;

use df_cache::store::StoredRelease;
use df_core::{CommitId, ImageId, ReleaseId, Timestamp};
use df_fleet::message::Survey;

use crate::across::{self, Crew, state_of};
use crate::commands::cache::Place;
use crate::config::Remote;
use crate::event::Event;
use crate::exit::{Exit, of_nodes};
use crate::failure::Failure;
use crate::render::table;
use crate::session::Session;
use crate::store::Shelf;

/// One release, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    commit: CommitId,
    image: ImageId,
    time: Timestamp,
    here: bool,
    serves: Vec<String>,
    held: Vec<String>,
}

/// Lists releases: commit, image, time, where each serves.
pub fn run(session: &Session) -> Result<Exit, Failure> {
    if session.call.globals.address.iter().any(|address| Remote::is_meant(address)) {
        return in_cache(session);
    }
    let mut versions = BTreeMap::new();
    for stored in Shelf::open(session)?.releases(session.app())? {
        let version = Version {
            commit: stored.release.commit,
            image: stored.release.image,
            time: stored.stored,
            here: true,
            serves: vec![],
            held: vec![],
        };
        versions.insert(stored.id, version);
    }
    // Without nodes there are versions all the same.
    let crew = match session.inventory()?.nodes() {
        [] if session.call.globals.address.is_empty() => Crew { reached: vec![], ends: vec![] },
        _ => across::reach(session, "versions", false)?,
    };
    for reached in &crew.reached {
        add(&mut versions, &reached.connection.node.label(), &reached.survey, session);
    }
    show(session, versions);
    Ok(if crew.ends.is_empty() { Exit::Done } else { of_nodes(&crew.ends) })
}

/// Lists what a cache elsewhere holds.
fn in_cache(session: &Session) -> Result<Exit, Failure> {
    let place = Place::existing(session)?;
    let version = |stored: StoredRelease| {
        let held = vec![place.name.clone()];
        let (commit, image) = (stored.release.commit, stored.release.image);
        (stored.id, Version { commit, image, time: stored.stored, here: false, serves: vec![], held })
    };
    show(session, place.releases(session.app())?.into_iter().map(version).collect());
    Ok(Exit::Done)
}

fn add(versions: &mut BTreeMap<ReleaseId, Version>, node: &str, survey: &Survey, session: &Session) {
    let Some(state) = state_of(survey, session.app()) else { return };
    let of_generations = state.generations.iter().map(|g| (g.release, &g.commit, g.image, g.since));
    let staged = state.staged.iter().map(|s| (s.release, &s.commit, s.image, s.since));
    for (release, commit, image, time) in of_generations.chain(staged) {
        let new = || Version { commit: commit.clone(), image, time, here: false, serves: vec![], held: vec![] };
        let version = versions.entry(release).or_insert_with(new);
        let serves = state.generations.iter().any(|g| g.number == state.current && g.release == release);
        let list = if serves { &mut version.serves } else { &mut version.held };
        if !list.iter().any(|known| known == node) {
            list.push(node.to_owned());
        }
    }
}

fn show(session: &Session, versions: BTreeMap<ReleaseId, Version>) {
    let mut versions: Vec<_> = versions.into_iter().collect();
    versions.sort_by_key(|(id, version)| (std::cmp::Reverse(version.time), *id));
    let rows: Vec<_> = versions
        .iter()
        .map(|(id, v)| {
            let cache = v.here.then_some("the cache").into_iter().map(str::to_owned);
            let held: Vec<String> = cache.chain(v.held.clone()).collect();
            [v.commit.short().to_owned(), v.image.short(), id.short(), v.time.to_string(), v.serves.join(" "), held.join(" ")]
        })
        .collect();
    let events: Vec<Event> = versions
        .into_iter()
        .map(|(version, v)| Event::Release {
            version,
            commit: v.commit,
            image: v.image,
            time: v.time,
            nodes: v.serves,
            here: v.here,
        })
        .collect();
    let lines = table::render(["COMMIT", "IMAGE", "RELEASE", "TIME", "SERVES ON", "HELD BY"], &rows);
    session.output().table(&events, &lines);
    if rows.is_empty() {
        session.output().note("no versions yet; next: df build");
    }
}
