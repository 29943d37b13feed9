//! `df cache`: the releases at rest, here or in the cache at `--address`.

mod archive;
mod copies;
pub mod costs;
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
use std::io::IsTerminal as _;

use df_cache::store::Stats;

use crate::args::CacheCommand;
use crate::asking;
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
    let makes_it = matches!(command, CacheCommand::Put { .. } | CacheCommand::Update);
    let place = if makes_it { Place::of(session)? } else { Place::existing(session)? };
    match command {
        CacheCommand::Flush => flush(session, &place),
        CacheCommand::Put { what } => moving::put(session, &place, what.as_deref()),
        CacheCommand::Get { version, output, tar } => moving::get(session, &place, version.as_deref(), output.as_deref(), *tar),
        CacheCommand::Diff => diff::run(session, &place),
        CacheCommand::Update => moving::update(session, &place),
        CacheCommand::Repair => repair::run(session, &place),
        CacheCommand::Gc(args) => {
            let why = args.why || session.call.globals.verbose > 0;
            let held = if place.is_elsewhere() { gc::held_on_nodes(session)? } else { BTreeSet::new() };
            let cache = gc::Cache { name: &place.name, store: place.store(), is_asked: place.bucket().is_some() };
            let found = gc::collect(session, &cache, args.old, why, &held)?;
            if !session.is_dry_run() {
                return Ok(Exit::Done);
            }
            tell_cost(session, &place, found)?;
            Ok(session.planned(found))
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
        let (work, words) = match place.bucket() {
            Some(_) => (costs::of_flush(&stats), format!("; {}", costs::words_of_removal(&costs::of_flush(&stats)))),
            None => Default::default(),
        };
        let action = format!("remove {}", held(&stats));
        let event = Event::Planned {
            node: None,
            action,
            bytes: Some(stats.stored_bytes),
            requests: Some(costs::estimate(&work).requests),
            reason: format!("all that {} holds{words}", place.name),
            changes: !is_empty,
        };
        session.output().result(&event);
        return Ok(session.planned(!is_empty));
    }
    let question = format!("Remove {} from {}?", held(&stats), place.name);
    confirm(session, &question, || place.command("flush --yes"))?;
    place.store().flush().map_err(|error| place.unwritten(&error))?;
    session.output().result(&Event::Collected(place.placed(
        stats.stored_bytes,
        stats.n_images + stats.n_releases + stats.n_blobs,
        "flush",
    )));
    Ok(Exit::Done)
}

/// Says what a collection in a bucket costs: also when no release goes, what was let go of before may be deleted.
fn tell_cost(session: &Session, place: &Place, found: bool) -> Result<(), Failure> {
    if place.bucket().is_none() {
        return Ok(());
    }
    let work = costs::of_gc(&place.store().stats().map_err(|error| place.unread(&error))?);
    session.output().result(&Event::Planned {
        node: None,
        action: format!("look for what nothing names in {}", place.name),
        bytes: Some(work.bytes_up),
        requests: Some(costs::estimate(&work).requests),
        reason: format!("at most so much is written again; in all {}", costs::words_of_removal(&work)),
        changes: found,
    });
    Ok(())
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
    let why = held(&stats);
    session.output().table(&[Event::Stored(place.placed(stats.stored_bytes, stats.n_blobs, why))], &lines);
    Ok(Exit::Done)
}

fn held(stats: &Stats) -> String {
    let words = |n: u64, what| count(usize::try_from(n).unwrap_or(usize::MAX), what);
    format!("{}, {}", words(stats.n_releases, "release"), words(stats.n_images, "image"))
}

/// Asks a person before something is lost; scripts are taken by their word.
fn confirm(session: &Session, question: &str, again: impl Fn() -> String) -> Result<(), Failure> {
    if session.call.globals.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let answer = asking::line(&session.call, "cache", &format!("{question} [y/N] "))?;
    match answer.as_deref().unwrap_or_default() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Usage, "cache", "not confirmed; nothing was changed").next(again())),
    }
}
