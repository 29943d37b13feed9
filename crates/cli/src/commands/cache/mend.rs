//! `df cache diff`, `verify`, `repair`: what is there against what should be there.

use df_cache::blobs::{Blobs, Nothing};
use df_cache::scrub::{Damage, Damaged};
use df_core::{Digest, ImageId};

use super::{Place, failed, moving};
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::session::Session;
use crate::store::Shelf;

/// Compares the cache with what the source here would build, and a cache elsewhere with the one here.
pub fn diff(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let journey = pipeline::begin(session, None)?;
    let mut differences = vec![];
    if journey.known(session, place.store())?.is_none() {
        let here = format!("{} by recipe {}", journey.commit.id.short(), journey.recipe.key().short());
        differences.push(("HEAD".to_owned(), "missing", here, "no image".to_owned()));
    }
    for stored in place.releases(session.app())? {
        if !place.store().has(stored.release.image).map_err(|error| failed(&error))? {
            let image = stored.release.image.to_string();
            differences.push((stored.release.commit.to_string(), "incomplete", image, "parts of the image are not there".into()));
        }
    }
    if place.is_elsewhere() {
        let here = Shelf::open(session)?;
        for stored in moving::lacking(session, place, &here)? {
            differences.push((
                stored.release.commit.to_string(),
                "missing",
                stored.release.image.to_string(),
                "not there".into(),
            ));
        }
        let known = here.releases(session.app())?;
        for stored in place.releases(session.app())?.iter().filter(|there| !known.iter().any(|k| k.id == there.id)) {
            differences.push((stored.release.commit.to_string(), "extra", "not here".into(), stored.release.image.to_string()));
        }
    }
    let n = differences.len();
    for (path, kind, here, there) in differences {
        session.output().result(&Event::Difference { node: None, path, kind: kind.into(), here, there });
    }
    if n == 0 {
        session.output().note(format!("{} has what HEAD would build, and all of each image", place.name));
    }
    Ok(if n == 0 { Exit::Done } else { Exit::Differs })
}

/// Reads everything back.
pub fn verify(session: &Session, place: &Place) -> Result<Exit, Failure> {
    session.output().progress().phase(&format!("reading {} back", place.name));
    let damages = place.store().verify().map_err(|error| failed(&error))?;
    for damage in &damages {
        session.output().result(&Event::Missing(missing(place, damage)));
    }
    match damages.len() {
        0 => {
            session.output().note(format!("{}: every file is what its name says", place.name));
            Ok(Exit::Done)
        }
        n => {
            session.output().note(format!("{n} damaged; next: df cache repair"));
            Ok(Exit::Differs)
        }
    }
}

/// Makes the cache what a build from nothing would make it: from another copy, else by building again.
pub fn repair(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let damages = place.store().verify().map_err(|error| failed(&error))?;
    if session.is_dry_run() {
        for damage in &damages {
            let event = Event::Planned {
                node: None,
                action: format!("repair {}", damage.what),
                bytes: None,
                requests: Some(0),
                reason: damage.why.clone(),
                changes: true,
            };
            session.output().result(&event);
        }
        return Ok(session.planned(!damages.is_empty()));
    }
    // Before the repair, which lets go of what cannot be healed.
    let releases = place.releases(session.app())?;
    let other = if place.is_elsewhere() { Some(Shelf::open(session)?) } else { None };
    let source: &dyn Blobs = other.as_ref().map_or(&Nothing, |shelf| shelf.store());
    let repaired = place.store().repair(source).map_err(|error| failed(&error))?;
    for digest in &repaired.healed {
        session.output().result(&Event::Repaired(Placed { digest: Some(*digest), ..place.placed(0, 1, "from the cache here") }));
    }
    let mut lost: Vec<ImageId> = repaired.images.clone();
    lost.extend(releases.iter().map(|s| s.release.image).filter(|image| !place.store().has(*image).unwrap_or(false)));
    lost.sort_unstable();
    lost.dedup();
    let mut unhealed = 0;
    for image in lost {
        let rebuilt = releases
            .iter()
            .rev()
            .find(|s| s.release.image == image)
            .map(|stored| rebuild(session, place, &stored.release.commit.to_string(), image));
        match rebuilt {
            Some(Ok(())) => session
                .output()
                .result(&Event::Repaired(Placed { image: Some(image), ..place.placed(0, 1, "built again from its commit") })),
            other => {
                unhealed += 1;
                let why = match other {
                    Some(Err(failure)) => failure.message,
                    _ => "no release names a commit for it".into(),
                };
                session.output().result(&Event::Missing(Placed { image: Some(image), ..place.placed(0, 1, why) }));
            }
        }
    }
    if damages.is_empty() && unhealed == 0 {
        session.output().note(format!("{}: nothing was damaged", place.name));
    }
    Ok(if unhealed == 0 { Exit::Done } else { Exit::Differs })
}

/// Builds a commit again, here; a cache elsewhere then takes what it lacks. Even when the image is another one now, the files that are the same heal.
fn rebuild(session: &Session, place: &Place, commit: &str, image: ImageId) -> Result<(), Failure> {
    let (journey, here) = (pipeline::begin(session, Some(commit))?, Shelf::open(session)?);
    let built = journey.build(session, &here, journey.turn(session)?)?;
    if place.is_elsewhere() {
        place.store().repair(here.store()).map_err(|error| failed(&error))?;
    }
    if built.image == image {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Differs,
        "repair",
        format!("built again, commit {} is image {} now", built.commit.short(), built.image.short()),
    ))
}

fn missing(place: &Place, damage: &Damage) -> Placed {
    let (digest, image): (Option<Digest>, Option<ImageId>) = match &damage.what {
        Damaged::Blob(digest) | Damaged::MissingBlob(digest) | Damaged::Pack(digest) => (Some(*digest), None),
        Damaged::Manifest(image) => (None, Some(*image)),
        Damaged::Release(_) | Damaged::Document(_) | Damaged::Object(_) => (None, None),
    };
    let images: Vec<String> = damage.images.iter().map(ImageId::short).collect();
    let hurts = if images.is_empty() { String::new() } else { format!("; hurts {}", images.join(" ")) };
    Placed { digest, image, ..place.placed(0, 1, format!("{}: {}{hurts}", damage.what, damage.why)) }
}
