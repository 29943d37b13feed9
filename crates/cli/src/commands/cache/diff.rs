//! `df cache diff`: what is there against what should be there.

use super::{Place, moving};
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::session::Session;
use crate::store::Shelf;

/// Compares the cache with what the source here would build, and a cache elsewhere with the one here.
pub fn run(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let there = place.releases(session.app())?;
    let journey = pipeline::begin(session, None)?;
    let mut differences = vec![];
    if journey.known(session, place.store())?.is_none() {
        let here = format!("{} by recipe {}", journey.commit.id.short(), journey.recipe.key().short());
        differences.push(("HEAD".to_owned(), "missing", here, "no image".to_owned()));
    }
    for stored in &there {
        if !place.store().has(stored.release.image).map_err(|error| place.unread(&error))? {
            let image = stored.release.image.to_string();
            differences.push((stored.release.commit.to_string(), "incomplete", image, "parts of the image are not there".into()));
        }
    }
    if place.is_elsewhere() {
        let here = Shelf::open(session)?;
        for stored in moving::lacking(session, place, &here)? {
            let (commit, image) = (stored.release.commit.to_string(), stored.release.image.to_string());
            differences.push((commit, "missing", image, "not there".into()));
        }
        let known = here.releases(session.app())?;
        for stored in there.iter().filter(|there| !known.iter().any(|k| k.id == there.id)) {
            let (commit, image) = (stored.release.commit.to_string(), stored.release.image.to_string());
            differences.push((commit, "extra", "not here".into(), image));
        }
    }
    let n = differences.len();
    for (path, kind, here, there) in differences {
        session.output().result(&Event::Difference { node: None, path, kind: kind.into(), here, there });
    }
    if n == 0 {
        session.output().note(format!("{} has what HEAD would build, and all of each image", place.name));
        return Ok(Exit::Done);
    }
    session.output().note(format!("next: {}", place.command("update")));
    Ok(Exit::Differs)
}
