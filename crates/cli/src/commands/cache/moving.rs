//! `df cache put`, `get`, `update`: releases in and out.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use df_cache::blobs::{Blobs, Bytes};
use df_cache::store::{Added, Store as _, StoredRelease};
use df_cache::{Document, export};
use df_core::{Digest, Manifest, Release};

use super::copies::is_whole;
use super::counting::Counting;
use super::sending::Freight;
use super::{Place, costs};
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::render::units::count;
use crate::session::Session;
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
    if place.is_elsewhere() {
        Freight::of(&here, place, vec![&release])?.send(session)?;
        return Ok(Exit::Done);
    }
    let Added { n_blobs, bytes } = Added::default();
    let placed = place.placed(bytes, n_blobs, format!("release of {}", release.commit.short()));
    session.output().result(&Event::Stored(Placed { image: Some(release.image), ..placed }));
    Ok(Exit::Done)
}

/// Makes the cache have what is new: HEAD's release, and in a cache elsewhere all releases that are here.
pub fn update(session: &Session, place: &Place) -> Result<Exit, Failure> {
    if place.is_elsewhere() { push(session, place) } else { put(session, place, None) }
}

/// Puts all releases that are here into a cache elsewhere, as far as it lacks them.
pub fn push(session: &Session, place: &Place) -> Result<Exit, Failure> {
    let here = Shelf::open(session)?;
    let lacking = lacking(session, place, &here)?;
    let newest = here.releases(session.app())?.pop();
    let mut releases: Vec<&Release> = lacking.iter().map(|stored| &stored.release).collect();
    // The last one that is put is the newest there: let it be the one that it is here.
    if let Some(newest) = newest.as_ref().map(|stored| &stored.release)
        && !session.is_dry_run()
        && releases.last().is_some_and(|last| *last != newest)
    {
        releases.push(newest);
    }
    let freight = Freight::of(&here, place, releases)?;
    if session.is_dry_run() {
        return freight.plan(session);
    }
    if lacking.is_empty() {
        // Who vouches for it may have said so since it was sent.
        let news = newest.map_or(Ok(false), |newest| words(&here, place, &newest.release))?;
        let what = if news { "got the newest attestations" } else { "has all that is here" };
        session.output().note(format!("  {} {what}", place.name));
        return Ok(Exit::Done);
    }
    freight.send(session)?;
    Ok(Exit::Done)
}

/// Puts all releases that a node holds into a cache elsewhere, as far as that lacks them; their bytes come here and go there.
pub fn push_from(session: &Session, node: &Place, place: &Place) -> Result<Exit, Failure> {
    let there = place.releases(session.app())?;
    let mut lacking = node.releases(session.app())?;
    lacking.retain(|stored| !there.iter().any(|known| known.id == stored.id));
    for stored in &lacking {
        trust::check(session, node.store(), &stored.release)?;
    }
    let freight = Freight::of(node, place, lacking.iter().map(|stored| &stored.release).collect())?;
    // A node does not know which version is the newest: what was that there stays it.
    let freight = freight.keeping(there.last().map(|newest| &newest.release));
    if session.is_dry_run() {
        return freight.plan(session);
    }
    if lacking.is_empty() {
        session.output().note(format!("  {} has all that {} holds", place.name, node.name));
        return Ok(Exit::Done);
    }
    freight.send(session)?;
    Ok(Exit::Done)
}

/// Takes a release out, as a tree.
pub fn get(session: &Session, place: &Place, version: Option<&str>, to: Option<&Path>, tar: bool) -> Result<Exit, Failure> {
    let release = wanted(session, place, version)?;
    let ending = if tar { ".tar" } else { "" };
    let default = || PathBuf::from(format!("{}-{}{ending}", release.app, release.commit.short()));
    let to = session.call.here.join(to.map_or_else(default, Path::to_owned));
    if session.is_dry_run() {
        return plan_get(session, place, &release, &to);
    }
    if to.symlink_metadata().is_ok() {
        return Err(
            Failure::new(Exit::Usage, "output", format!("{} is there already", to.display())).next("df cache get --output DIR")
        );
    }
    let manifest = place.store().manifest(release.image).map_err(|error| place.unread(&error))?;
    take_out(session, place, &manifest, &to, tar)?;
    let placed = Placed { image: Some(release.image), ..place.placed(release.image_len, 1, "taken out") };
    let placed = Placed { place: to.display().to_string(), ..placed };
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

/// Finds the release that a word names, else the newest; one from elsewhere has to be trusted.
fn wanted(session: &Session, place: &Place, version: Option<&str>) -> Result<Release, Failure> {
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
    Ok(release)
}

/// Carries who vouches for a release to where the release is already; true when that was new there.
fn words(here: &Shelf, place: &Place, release: &Release) -> Result<bool, Failure> {
    let mut is_new = false;
    for document in [Document::Attestations, Document::Channel] {
        if let Ok(Some(bytes)) = here.store().attached(&release.app, release.id(), document) {
            let attached = place.store().attach(&release.app, release.id(), document, &bytes);
            is_new |= attached.map_err(|error| place.unwritten(&error))?;
        }
    }
    Ok(is_new)
}

fn take_out(session: &Session, place: &Place, manifest: &Manifest, to: &Path, tar: bool) -> Result<(), Failure> {
    let total = manifest.blobs().iter().map(|(_, len)| len).sum();
    let source = Sparing::new(session, place, manifest)?;
    let source = Counting::new(&source, session.output().progress(), &place.name, total, session.call.interrupt.flag());
    if tar {
        return super::archive::write(place, manifest, &source, to);
    }
    match export::tree(manifest, &source, to) {
        Ok(_) => Ok(()),
        Err(_) if session.call.interrupt.is_pressed() => {
            Err(Failure::new(Exit::Interrupted, "output", format!("interrupted; nothing is at {}", to.display())))
        }
        // It knows whether a bucket was not reached.
        Err(error) => Err(Failure { phase: "output", ..place.unread_damaged(&error) }),
    }
}

/// The contents of an image in a cache; those of an image on a node only as far as they are not here.
struct Sparing<'a> {
    here: Option<(Shelf, HashSet<Digest>)>,
    there: Box<dyn Blobs + 'a>,
    place: &'a Place,
}

impl<'a> Sparing<'a> {
    fn new(session: &Session, place: &'a Place, manifest: &Manifest) -> Result<Self, Failure> {
        let blobs = manifest.blobs();
        let (here, lacking) = match place.as_node() {
            None => (None, blobs),
            Some(_) => {
                let here = Shelf::open(session)?;
                let lacking = lacking_here(&here, manifest)?;
                let gone: HashSet<Digest> = lacking.iter().map(|(digest, _)| *digest).collect();
                let held = blobs.iter().map(|(digest, _)| *digest).filter(|digest| !gone.contains(digest)).collect();
                (Some((here, held)), lacking)
            }
        };
        let there = place.store().reading(&lacking).map_err(|error| place.unread(&error))?;
        Ok(Self { here, there, place })
    }
}

impl Blobs for Sparing<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let Some((here, held)) = &self.here else { return self.there.blob(digest) };
        if !held.contains(&digest) {
            return self.there.blob(digest);
        }
        // What is damaged here is whole there, perhaps.
        let is_whole = is_whole(here.store(), digest).unwrap_or(false);
        if is_whole { here.store().blob(digest) } else { self.place.store().blob(digest) }
    }
}

fn lacking_here(here: &Shelf, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, Failure> {
    here.store().lacking(manifest).map_err(|error| crate::bucket::failure::unread("cache", &error))
}

fn plan_get(session: &Session, place: &Place, release: &Release, to: &Path) -> Result<Exit, Failure> {
    let mut bytes = release.image_len;
    let (mut requests, mut reason) = (0, format!("image {} of {}", release.image.short(), release.commit.short()));
    if let Some(bucket) = place.bucket() {
        let manifest = bucket.manifest(release.image).map_err(|error| place.unread(&error))?;
        let most = bucket.n_requests(&manifest.blobs()).map_err(|error| place.unread(&error))?;
        let work = costs::of_get(release.image_len, most);
        requests = costs::estimate(&work).requests;
        reason = format!("{reason}; {}", costs::words(&work));
    }
    if place.as_node().is_some() {
        let manifest = place.store().manifest(release.image).map_err(|error| place.unread(&error))?;
        let lacking = lacking_here(&Shelf::open(session)?, &manifest)?;
        bytes = lacking.iter().map(|(_, len)| len).sum();
        reason = format!("{reason}; {} from {}, the others are here", count(lacking.len(), "file"), place.name);
    }
    let (action, requests) = (format!("write {}", to.display()), Some(requests));
    let event = Event::Planned { node: None, action, bytes: Some(bytes), requests, reason, changes: true };
    session.output().result(&event);
    Ok(session.planned(true))
}

fn plan(session: &Session, place: &Place, here: &Shelf, what: Option<&str>) -> Result<Exit, Failure> {
    match pipeline::planned(session, here, what, None)? {
        Err(journey) => {
            session.output().result(&crate::commands::build::planned(&journey, false));
            // Into the cache here the build puts it.
            if place.is_elsewhere() {
                session.output().result(&Event::Planned {
                    node: None,
                    action: format!("put {} into {}", journey.commit.id.short(), place.name),
                    bytes: None,
                    requests: place.bucket().is_none().then_some(0),
                    reason: "what that takes is known when it is built".into(),
                    changes: true,
                });
            }
            Ok(session.planned(true))
        }
        Ok(release) => {
            let held = place.releases(session.app())?.iter().any(|stored| stored.release == release);
            if held { Ok(session.planned(false)) } else { Freight::of(here, place, vec![&release])?.plan(session) }
        }
    }
}
