//! `df cache`: the releases at rest, here or in the cache at `--address`.

mod archive;
mod costs;
mod counting;
mod diff;
mod moving;
mod node;
mod persist;
mod place;
mod repair;
mod sending;
mod verify;

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};

use crate::args::CacheCommand;
use crate::commands::gc;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::units::{bytes, count};
use crate::session::Session;

pub use place::Place;

/// Does one thing with the cache.
pub fn run(command: &CacheCommand, session: &Session) -> Result<Exit, Failure> {
    if node::is_meant(&session.call.globals.address) {
        return node::run(command, session);
    }
    if let CacheCommand::Persist(args) = command {
        return persist::run(args, session);
    }
    let place = Place::of(session)?;
    match command {
        CacheCommand::Flush => flush(session, &place),
        CacheCommand::Put { what } => moving::put(session, &place, what.as_deref()),
        CacheCommand::Get { version, output, tar } => moving::get(session, &place, version.as_deref(), output.as_deref(), *tar),
        CacheCommand::Diff => diff::run(session, &place),
        CacheCommand::Update => moving::update(session, &place),
        CacheCommand::Repair => repair::run(session, &place),
        CacheCommand::Gc(args) => {
            let why = args.why || session.call.globals.verbose > 0;
            let found = gc::collect(session, &place.name, place.store(), args.old, why, &BTreeSet::new())?;
            Ok(if session.is_dry_run() { session.planned(found) } else { Exit::Done })
        }
        CacheCommand::Persist(args) => persist::run(args, session),
        CacheCommand::Verify(args) => verify::run(args, session, &place),
        CacheCommand::Status => status(session, &place),
    }
}

fn flush(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let stats = place.store().stats().map_err(|error| place.unread(&error))?;
    let is_empty = stats.n_images == 0 && stats.n_releases == 0 && stats.n_blobs == 0;
    if session.is_dry_run() {
        let action = format!("remove {} releases, {} images", stats.n_releases, stats.n_images);
        let event = Event::Planned {
            node: None,
            action,
            bytes: Some(stats.stored_bytes),
            requests: Some(0),
            reason: format!("all that {} holds", place.name),
            changes: !is_empty,
        };
        session.output().result(&event);
        return Ok(session.planned(!is_empty));
    }
    let question = format!("Remove {} releases and {} images from {}?", stats.n_releases, stats.n_images, place.name);
    confirm(session, place, &question)?;
    place.store().flush().map_err(|error| place.unwritten(&error))?;
    session.output().result(&Event::Collected(place.placed(
        stats.stored_bytes,
        stats.n_images + stats.n_releases + stats.n_blobs,
        "flush",
    )));
    Ok(Exit::Done)
}

fn status(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let store = place.store();
    let stats = store.stats().map_err(|error| place.unread(&error))?;
    let line = |name: &str, value: String| format!("{name:<10} {value}");
    let lines = [
        line("place", place.whereabouts()),
        line("releases", stats.n_releases.to_string()),
        line("images", stats.n_images.to_string()),
        line("files", format!("{} distinct, {}", stats.n_blobs, bytes(stats.blob_bytes))),
        line(
            "takes",
            format!("{} in {}", bytes(stats.stored_bytes), count(usize::try_from(stats.n_packs).unwrap_or(usize::MAX), "pack")),
        ),
    ];
    let free = stats.free_bytes.map(|free| line("free", bytes(free)));
    let lines: Vec<String> = lines.into_iter().chain(free).collect();
    let why = format!("{} releases, {} images", stats.n_releases, stats.n_images);
    session.output().table(&[Event::Stored(place.placed(stats.stored_bytes, stats.n_blobs, why))], &lines);
    Ok(Exit::Done)
}

/// Asks a person before something is lost; scripts are taken by their word.
fn confirm(session: &Session, place: &Place, question: &str) -> Result<(), Failure> {
    if session.call.globals.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Usage, "cache", "not confirmed; nothing was changed").next(place.command("flush --yes"))),
    }
}
