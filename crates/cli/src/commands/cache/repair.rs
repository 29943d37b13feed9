//! `df cache repair`: what is damaged comes back from another copy, or is built again; what nothing names goes.

use std::collections::{BTreeMap, BTreeSet};

use df_cache::gc;
use df_cache::s3::S3Store;
use df_cache::scrub::{Damage, Damaged};
use df_cache::store::{StoredRelease, copy};
use df_core::{Digest, ImageId};

use super::copies::{Caches, Copies};
use super::{Place, costs};
use crate::config::Remote;
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::session::{Session, now};
use crate::store::Shelf;

/// Makes the cache what a build from nothing would make it.
pub fn run(session: &Session, place: &Place) -> Result<Exit, Failure> {
    session.output().progress().phase(&format!("reading {} back", place.name));
    let damages = place.store().verify().map_err(|error| place.unread(&error))?;
    if session.is_dry_run() {
        return plan(session, place, &damages);
    }
    // Before the repair, which lets go of what cannot be healed; a list that cannot be read yet is read when it is made again.
    let before = place.releases(session.app()).ok();
    // A bucket that lost even what says that it is one has no damage that a reading finds.
    let is_wanted = !damages.is_empty() || place.bucket().is_some();
    let caches = if is_wanted { Caches::beside(session, place)? } else { Caches::default() };
    let copies = Copies::of(session, place, &caches, &wanted(place, &damages))?;
    let repaired = place.store().repair(&copies).map_err(|error| place.unwritten(&error))?;
    for what in &repaired.rebuilt {
        session.output().result(&Event::Repaired(place.placed(0, 1, what)));
    }
    for digest in &repaired.healed {
        let why = format!("from {}", copies.source(*digest));
        session.output().result(&Event::Repaired(Placed { digest: Some(*digest), ..place.placed(0, 1, why) }));
    }
    for what in &repaired.gone {
        session.output().result(&Event::Missing(place.placed(0, 1, what)));
    }
    // A node does not remember in which order releases came.
    let is_node = place.as_node().is_some();
    let releases = match before {
        Some(releases) => releases,
        None if is_node => vec![],
        None => place.releases(session.app())?,
    };
    let mut lost: Vec<ImageId> = repaired.images.clone();
    lost.extend(releases.iter().map(|s| s.release.image).filter(|image| !place.store().has(*image).unwrap_or(false)));
    lost.sort_unstable();
    lost.dedup();
    let n_lost = lost.len();
    let lost = copy_again(session, place, &copies, lost);
    let unhealed = build_again(session, place, &releases, lost);
    if n_lost > unhealed && !is_node {
        keep_order(place, &releases)?;
    }
    let is_whole = unhealed == 0 && repaired.gone.is_empty();
    if damages.is_empty() && repaired.rebuilt.is_empty() && is_whole {
        session.output().note(format!("{}: nothing was damaged", place.name));
    }
    if is_whole {
        // What a node holds beyond that its own rules decide.
        if !is_node {
            sweep(session, place)?;
        }
        return Ok(Exit::Done);
    }
    session.output().note(match unhealed {
        0 => "what nothing names stays, because it may be of what is lost; put that again before the next repair or df cache gc"
            .into(),
        n => format!("{n} images are incomplete; what is left of them stays, and so does what nothing names"),
    });
    Ok(Exit::Differs)
}

/// Returns the blobs that are damaged or missing, with their lengths, as far as manifests say those.
fn wanted(place: &Place, damages: &[Damage]) -> Vec<(Digest, u64)> {
    let hurt = |damage: &Damage| match damage.what {
        Damaged::Blob(digest) | Damaged::MissingBlob(digest) => Some(digest),
        _ => None,
    };
    let hurt: BTreeSet<Digest> = damages.iter().filter_map(hurt).collect();
    let images: BTreeSet<ImageId> = damages.iter().flat_map(|damage| damage.images.iter().copied()).collect();
    let manifests = images.into_iter().filter_map(|image| place.store().manifest(image).ok());
    let wanted: BTreeMap<Digest, u64> =
        manifests.flat_map(|manifest| manifest.blobs()).filter(|(digest, _)| hurt.contains(digest)).collect();
    wanted.into_iter().collect()
}

/// Says what would be repaired, and for a bucket what that costs.
fn plan(session: &Session, place: &Place, damages: &[Damage]) -> Result<Exit, Failure> {
    // What is damaged here may come from a bucket: how much of it, nobody knows before it is asked.
    let is_asked = place.bucket().is_some() || matches!(session.config.cache.remote, Some(Remote::Bucket(_)));
    for damage in damages {
        let bytes = bytes_of(place, damage);
        let event = Event::Planned {
            node: None,
            action: format!("repair {}", damage.what),
            bytes,
            requests: (!is_asked).then_some(0),
            reason: format!(
                "{}; from another copy, else built again; then what nothing names in {} goes",
                damage.why, place.name
            ),
            changes: true,
        };
        session.output().result(&event);
    }
    if let Some(bucket) = place.bucket() {
        tell_cost(session, place, bucket, damages)?;
    }
    Ok(session.planned(!damages.is_empty()))
}

/// Says what a repair of a bucket costs in all: where nothing is damaged, it still reads everything, and looks for what nothing names.
fn tell_cost(session: &Session, place: &Place, bucket: &S3Store, damages: &[Damage]) -> Result<(), Failure> {
    let looked = bucket.objects().requests();
    let is_standing = !damages.iter().any(|damage| matches!(damage.what, Damaged::Object(_) | Damaged::Release(_)));
    let (requests, cost) = if is_standing {
        let stats = place.store().stats().map_err(|error| place.unread(&error))?;
        let work = costs::of_repair(&stats, &looked, damages.len() as u64);
        (Some(costs::estimate(&work).requests), format!("when another copy has what is damaged, in all {}", costs::words(&work)))
    } else {
        (None, "how many requests is known when what holds the cache together is whole again".to_owned())
    };
    session.output().result(&Event::Planned {
        node: None,
        action: format!("read {} back, and look for what nothing names there", place.name),
        bytes: Some(looked.bytes_down),
        requests,
        reason: cost,
        changes: !damages.is_empty(),
    });
    Ok(())
}

/// Returns how many bytes mending a damage takes, where that is known: of an image on a node all travels again.
fn bytes_of(place: &Place, damage: &Damage) -> Option<u64> {
    let image = damage.images.first()?;
    let manifest = place.store().manifest(*image).ok()?;
    match damage.what {
        _ if place.as_node().is_some() => Some(manifest.total_len()),
        Damaged::Blob(hurt) | Damaged::MissingBlob(hurt) => {
            manifest.blobs().into_iter().find(|(digest, _)| *digest == hurt).map(|(_, len)| len)
        }
        _ => None,
    }
}

/// Takes lost images whole from another copy; returns those that none has.
fn copy_again(session: &Session, place: &Place, copies: &Copies<'_>, lost: Vec<ImageId>) -> Vec<ImageId> {
    let is_left = |image: &ImageId| {
        let source = copies.with(*image, &|other| {
            let manifest = other.store().manifest(*image).ok()?;
            copy(other.store(), place.store(), &manifest, now()).ok()
        });
        let Some(source) = source else { return true };
        let placed = place.placed(0, 1, format!("from {source}"));
        session.output().result(&Event::Repaired(Placed { image: Some(*image), ..placed }));
        false
    };
    lost.into_iter().filter(is_left).collect()
}

/// Builds the lost images again from their commits; returns how many are still not whole.
fn build_again(session: &Session, place: &Place, releases: &[StoredRelease], lost: Vec<ImageId>) -> usize {
    let mut unhealed = 0;
    for image in lost {
        let named = releases.iter().rev().find(|stored| stored.release.image == image);
        let rebuilt = named.map(|stored| rebuild(session, place, stored));
        if let Some(Ok(())) = rebuilt {
            let placed = place.placed(0, 1, "built again from its commit");
            session.output().result(&Event::Repaired(Placed { image: Some(image), ..placed }));
            continue;
        }
        unhealed += 1;
        let why = match rebuilt {
            Some(Err(failure)) => failure.message,
            _ => "no release names a commit for it".into(),
        };
        session.output().result(&Event::Missing(Placed { image: Some(image), ..place.placed(0, 1, why) }));
    }
    unhealed
}

/// Builds a commit again, here; a cache elsewhere then takes what it lacks. Even when the image is another one now, the files that are the same heal.
fn rebuild(session: &Session, place: &Place, stored: &StoredRelease) -> Result<(), Failure> {
    let (commit, image) = (stored.release.commit.to_string(), stored.release.image);
    let (journey, here) = (pipeline::begin(session, Some(&commit))?, Shelf::open(session)?);
    let built = journey.build(session, &here, journey.turn(session)?)?;
    if place.is_elsewhere() {
        let written = |error: &(dyn std::error::Error + 'static)| place.unwritten(error);
        place.store().repair(here.store()).map_err(|error| written(&error))?;
        if built.image == image {
            use df_cache::store::Store as _;
            let manifest = here.store().manifest(image).map_err(|error| written(&error))?;
            copy(here.store(), place.store(), &manifest, now()).map_err(|error| written(&error))?;
        }
    }
    if built.image == image {
        return Ok(());
    }
    let (commit, again) = (built.commit.short(), built.image.short());
    Err(Failure::new(Exit::Differs, "repair", format!("built again, commit {commit} is image {again} now")))
}

/// A build makes its release the newest; the one that was it is it again.
fn keep_order(place: &Place, releases: &[StoredRelease]) -> Result<(), Failure> {
    let Some(newest) = releases.last().filter(|newest| place.store().has(newest.release.image).unwrap_or(false)) else {
        return Ok(());
    };
    place.store().put_release(&newest.release, now()).map_err(|error| place.unwritten(&error))
}

/// Removes what a build would not make: the blobs that nothing names. Only when nothing is lost, so that no last copy goes.
fn sweep(session: &Session, place: &Place) -> Result<(), Failure> {
    let collected = gc::perform(place.store(), &gc::Plan::default()).map_err(|error| place.unwritten(&error))?;
    if collected.n_blobs > 0 {
        let placed = place.placed(collected.bytes, collected.n_blobs, "no release, image or pin names it");
        session.output().result(&Event::Collected(placed));
    }
    Ok(())
}
