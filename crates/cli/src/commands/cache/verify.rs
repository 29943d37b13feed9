//! `df cache verify`: quickly, in part, slice by slice, or every byte.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use df_cache::s3::{Depth, S3Store};
use df_cache::scrub::{Damage, Damaged};
use df_cache::store::{ReadError, Store};
use df_core::{Digest, ImageId};

use super::Place;
use crate::args::CacheVerify;
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::units::count;
use crate::session::Session;

/// Reads back so much, and says what is damaged or missing: exit 8.
pub fn run(args: &CacheVerify, session: &Session, place: &Place) -> Result<Exit, Failure> {
    session.output().progress().phase(&format!("reading {} back", place.name));
    let (damages, read) = match place.bucket() {
        Some(bucket) => in_bucket(args, bucket).map_err(|error| place.unread(&error))?,
        None if args.slice.is_some() => {
            let message = "a directory is read at once; --slice is for buckets, --sample N reads some files";
            return Err(Failure::new(Exit::Usage, "cache", message).next(place.command("verify --sample 100")));
        }
        None => in_directory(args, place.store()).map_err(|error| place.unread(&error))?,
    };
    for damage in &damages {
        session.output().result(&Event::Missing(missing(place, damage)));
    }
    if damages.is_empty() {
        session.output().note(format!("{}: {read}", place.name));
        return Ok(Exit::Done);
    }
    session.output().note(format!("{} damaged; next: {}", damages.len(), place.command("repair")));
    Ok(Exit::Differs)
}

/// Returns what is told of a damage.
pub fn missing(place: &Place, damage: &Damage) -> Placed {
    let (digest, image): (Option<Digest>, Option<ImageId>) = match &damage.what {
        Damaged::Blob(digest) | Damaged::MissingBlob(digest) | Damaged::Pack(digest) => (Some(*digest), None),
        Damaged::Manifest(image) => (None, Some(*image)),
        Damaged::Release(_) | Damaged::Document(_) | Damaged::Object(_) => (None, None),
    };
    let images: Vec<String> = damage.images.iter().map(ImageId::short).collect();
    let hurts = if images.is_empty() { String::new() } else { format!("; hurts {}", images.join(" ")) };
    Placed { digest, image, ..place.placed(0, 1, format!("{}: {}{hurts}", damage.what, damage.why)) }
}

fn in_bucket(args: &CacheVerify, bucket: &S3Store) -> Result<(Vec<Damage>, String), ReadError> {
    if let Some(n) = args.slice {
        let slice = bucket.verify_slice(n)?;
        let more = if slice.is_last { "all of it" } else { "the next --slice goes on there" };
        return Ok((slice.damages, format!("{} of {} packs are what their names say; {more}", slice.done, slice.packs)));
    }
    let (depth, read) = match args {
        CacheVerify { quick: true, .. } => (Depth::Quick, "all that is named is there; nothing was read whole".to_owned()),
        CacheVerify { sample: Some(n), .. } => {
            (Depth::Sample { packs: *n, seed: seed() }, format!("all that is named is there; of {n} packs every byte is right"))
        }
        _ => (Depth::Everything, EVERYTHING.to_owned()),
    };
    Ok((bucket.verify_by(&depth)?, read))
}

const EVERYTHING: &str = "every file is what its name says";

fn in_directory(args: &CacheVerify, store: &dyn Store) -> Result<(Vec<Damage>, String), ReadError> {
    if !args.quick && args.sample.is_none() {
        return Ok((store.verify()?, EVERYTHING.to_owned()));
    }
    let (mut damages, mut blobs) = look(store)?;
    let Some(n) = args.sample else {
        return Ok((damages, format!("{} with a place; nothing was read whole", count(blobs.len(), "file"))));
    };
    let seed = seed().to_le_bytes();
    blobs.sort_by_cached_key(|(digest, _)| Digest::of(&[&seed[..], digest.as_bytes()].concat()));
    blobs.truncate(n);
    for (digest, len) in &blobs {
        match store.read(*digest, *len) {
            Ok(_) => {}
            Err(ReadError::Store(error)) => return Err(ReadError::Store(error)),
            Err(error) => damages.push(damage(Damaged::Blob(*digest), error.to_string(), vec![])),
        }
    }
    Ok((damages, format!("all files have a place; of {} every byte was read", count(blobs.len(), "file"))))
}

/// What is wrong, and all files with their lengths.
type Looked = (Vec<Damage>, Vec<(Digest, u64)>);

/// Looks whether each image has its manifest and a place for each of its files; returns the files too.
fn look(store: &dyn Store) -> Result<Looked, ReadError> {
    let contents = store.contents()?;
    let mut damages = vec![];
    let (mut blobs, mut lacking): (BTreeMap<Digest, u64>, BTreeMap<Digest, Vec<ImageId>>) = Default::default();
    let mut images: Vec<ImageId> = contents.images.iter().map(|stored| stored.image).collect();
    images.extend(contents.releases.iter().map(|stored| stored.release.image));
    images.sort_unstable();
    images.dedup();
    for image in images {
        let manifest = match store.manifest(image) {
            Ok(manifest) => manifest,
            Err(ReadError::Store(error)) => return Err(ReadError::Store(error)),
            Err(error) => {
                damages.push(damage(Damaged::Manifest(image), error.to_string(), vec![image]));
                continue;
            }
        };
        blobs.extend(manifest.blobs());
        for (digest, _) in store.lacking(&manifest)? {
            lacking.entry(digest).or_default().push(image);
        }
    }
    let absent = |(digest, images)| damage(Damaged::MissingBlob(digest), "it has no place".into(), images);
    damages.extend(lacking.into_iter().map(absent));
    Ok((damages, blobs.into_iter().collect()))
}

fn damage(what: Damaged, why: String, images: Vec<ImageId>) -> Damage {
    Damage { what, place: None, why, images }
}

/// Another one each time: what is drawn shall not be the same for ever.
fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() ^ u64::from(since.subsec_nanos()) << 32)
}
