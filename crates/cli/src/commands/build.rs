//! `df build`: a commit becomes an image.

use std::path::Path;

use df_cache::{export, store::Store as _};
use df_core::ImageId;

use crate::args;
use crate::commands::check;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::preparing;
use crate::session::Session;
use crate::store::Shelf;
use crate::trust;

/// Builds a commit and prints its image's id; with `--check` builds it again and compares.
pub fn run(args: &args::Build, session: &Session) -> Result<Exit, Failure> {
    let shelf = Shelf::open(session)?;
    let journey = pipeline::begin(session, args.commit_hash.as_deref())?;
    if session.is_dry_run() {
        return plan(session, &shelf, &journey, args.check);
    }
    let release = journey.release_it(session, &shelf)?;
    if let Some(link) = &args.output {
        link_to(session, &shelf, release.image, &session.call.here.join(link))?;
    }
    if args.sign {
        trust::sign(session, shelf.store(), &release, args.key.as_deref())?;
    }
    session.output().table(&[], &[release.image.to_string()]);
    preparing::in_background(session, &shelf, &release);
    if args.check { check::run(session, &shelf, &journey, &release) } else { Ok(Exit::Done) }
}

fn plan(session: &Session, shelf: &Shelf, journey: &pipeline::Journey, check: bool) -> Result<Exit, Failure> {
    let known = journey.known(session, shelf.store())?;
    session.output().result(&planned(journey, known.is_some()));
    if check {
        let action = format!("build {} again, from nothing, and compare", journey.commit.id.short());
        let event = Event::Planned { node: None, action, bytes: None, requests: Some(0), reason: String::new(), changes: false };
        session.output().result(&event);
    }
    Ok(session.planned(known.is_none()))
}

/// Returns the event for a build that would be.
pub fn planned(journey: &pipeline::Journey, known: bool) -> Event {
    let (action, reason) = match known {
        true => (format!("reuse the image of {}", journey.commit.id.short()), String::new()),
        false => (format!("build {}", journey.commit.id.short()), journey.why().join(", ")),
    };
    Event::Planned { node: None, action, bytes: None, requests: Some(0), reason, changes: !known }
}

/// Makes a symlink to the image's tree, which is written below the cache once.
fn link_to(session: &Session, shelf: &Shelf, image: ImageId, link: &Path) -> Result<(), Failure> {
    let trees = session.cache_dir().join("trees");
    let tree = trees.join(image.to_string());
    let failed =
        |what: &Path, error: std::io::Error| Failure::new(Exit::Failed, "output", format!("{}: {error}", what.display()));
    if !tree.exists() {
        std::fs::create_dir_all(&trees).map_err(|error| failed(&trees, error))?;
        let manifest = shelf.store().manifest(image).map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
        export::tree(&manifest, shelf.store(), &tree).map_err(|error| Failure::here("output", &error))?;
    }
    match std::fs::symlink_metadata(link) {
        Ok(old) if old.is_symlink() => std::fs::remove_file(link).map_err(|error| failed(link, error))?,
        Ok(_) => return Err(Failure::new(Exit::Usage, "output", format!("{} is there and is no symlink", link.display()))),
        Err(_) => {}
    }
    std::os::unix::fs::symlink(&tree, link).map_err(|error| failed(link, error))
}
