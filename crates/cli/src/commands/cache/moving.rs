//! `df cache put`, `get`, `update`: releases in and out.

use std::path::{Path, PathBuf};

use df_cache::export;
use df_cache::store::{Added, Store as _, StoredRelease};
use df_core::Release;

use super::{Place, failed};
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::session::{Session, now};
use crate::store::Shelf;
use crate::trust;

/// Adds a release: the one that is named, else that of HEAD, built if need be.
pub fn put(session: &Session, place: &Place, what: Option<&str>) -> Result<Exit, Failure> {
    if let Some(file) = what.filter(|what| what.ends_with(".tar")) {
        return super::archive::put(session, place, &session.call.here.join(file));
    }
    let here = Shelf::open(session)?;
    if session.is_dry_run() {
        return plan(session, place, &here, what);
    }
    let release = pipeline::release(session, &here, what, None)?;
    let added = if place.is_elsewhere() { push(&here, place, &release)? } else { Added::default() };
    stored(session, place, &release, added);
    Ok(Exit::Done)
}

/// Makes the cache have what is new: HEAD's release, and in a cache elsewhere all releases that are here.
pub fn update(session: &Session, place: &Place) -> Result<Exit, Failure> {
    if !place.is_elsewhere() {
        return put(session, place, None);
    }
    let here = Shelf::open(session)?;
    let lacking = lacking(session, place, &here)?;
    if session.is_dry_run() {
        return plan_all(session, place, &lacking);
    }
    push_all(session, place, &here, &lacking)?;
    if lacking.is_empty() {
        session.output().note(format!("  {} has all that is here", place.name));
    }
    Ok(Exit::Done)
}

/// Says which releases would be put.
pub fn plan_all(session: &Session, place: &Place, lacking: &[StoredRelease]) -> Result<Exit, Failure> {
    for stored in lacking {
        session.output().result(&would_put(place, &stored.release));
    }
    Ok(session.planned(!lacking.is_empty()))
}

/// Puts releases, one after the other.
pub fn push_all(session: &Session, place: &Place, here: &Shelf, lacking: &[StoredRelease]) -> Result<(), Failure> {
    for StoredRelease { release, .. } in lacking {
        let added = push(here, place, release)?;
        stored(session, place, release, added);
    }
    Ok(())
}

/// Takes a release out, as a tree.
pub fn get(session: &Session, place: &Place, version: Option<&str>, to: Option<&Path>, tar: bool) -> Result<Exit, Failure> {
    let release = match version {
        Some(word) => place.version(session.app(), word)?,
        None => match place.releases(session.app())?.pop() {
            Some(newest) => newest.release,
            None => {
                return Err(Failure::new(Exit::Failed, "cache", format!("{} holds no version of {}", place.name, session.app()))
                    .next("df build"));
            }
        },
    };
    if place.is_elsewhere() {
        trust::check(session, place.store(), &release)?;
        if version.is_none() {
            trust::check_newest(session, &place.name, place.store(), &release)?;
        }
    }
    let ending = if tar { ".tar" } else { "" };
    let default = || PathBuf::from(format!("{}-{}{ending}", release.app, release.commit.short()));
    let to = session.call.here.join(to.map_or_else(default, Path::to_owned));
    if session.is_dry_run() {
        let reason = format!("image {} of {}", release.image.short(), release.commit.short());
        let action = format!("write {}", to.display());
        let event =
            Event::Planned { node: None, action, bytes: Some(release.image_len), requests: Some(0), reason, changes: true };
        session.output().result(&event);
        return Ok(session.planned(true));
    }
    if to.symlink_metadata().is_ok() {
        return Err(
            Failure::new(Exit::Usage, "output", format!("{} is there already", to.display())).next("df cache get --output DIR")
        );
    }
    let manifest =
        place.store().manifest(release.image).map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
    if tar {
        super::archive::write(&manifest, place.store(), &to)?;
    } else {
        export::tree(&manifest, place.store(), &to).map_err(|error| Failure::here("output", &error).next("df cache repair"))?;
    }
    let placed = Placed {
        place: to.display().to_string(),
        image: Some(release.image),
        bytes: release.image_len,
        objects: 1,
        ..Placed::default()
    };
    session.output().table(&[Event::Stored(placed)], &[df_core::text::escape(to.display().to_string().as_bytes())]);
    Ok(Exit::Done)
}

/// Returns the releases here that a cache elsewhere does not hold, oldest first.
pub fn lacking(session: &Session, place: &Place, here: &Shelf) -> Result<Vec<StoredRelease>, Failure> {
    let there = place.releases(session.app())?;
    let mut lacking = here.releases(session.app())?;
    lacking.retain(|stored| !there.iter().any(|t| t.id == stored.id));
    Ok(lacking)
}

fn push(here: &Shelf, place: &Place, release: &Release) -> Result<Added, Failure> {
    let manifest = here.store().manifest(release.image).map_err(|error| failed(&error))?;
    let added = place.store().put(release, &manifest, here.store(), now()).map_err(|error| failed(&error))?;
    trust::carry(here.store(), place.store(), release)?;
    Ok(added)
}

fn stored(session: &Session, place: &Place, release: &Release, added: Added) {
    let placed = Placed {
        image: Some(release.image),
        ..place.placed(added.bytes, added.n_blobs, format!("release of {}", release.commit.short()))
    };
    session.output().result(&Event::Stored(placed));
}

fn plan(session: &Session, place: &Place, here: &Shelf, what: Option<&str>) -> Result<Exit, Failure> {
    match pipeline::planned(session, here, what, None)? {
        Err(journey) => {
            session.output().result(&crate::commands::build::planned(&journey, false));
            Ok(session.planned(true))
        }
        Ok(release) => {
            let held = place.releases(session.app())?.iter().any(|stored| stored.release == release);
            if !held {
                session.output().result(&would_put(place, &release));
            }
            Ok(session.planned(!held))
        }
    }
}

fn would_put(place: &Place, release: &Release) -> Event {
    Event::Planned {
        node: None,
        action: format!("put {} into {}", release.commit.short(), place.name),
        bytes: Some(release.image_len),
        requests: Some(0),
        reason: "at most so many bytes: what it holds is not put again".into(),
        changes: true,
    }
}
