//! `df cache persist`: what is new here goes where it outlives this machine.

use df_cache::Document;
use df_cache::s3::{Item, S3Store};
use df_cache::store::{Added, Store as _, StoredRelease};
use df_core::Manifest;

use super::{Place, failed, moving};
use crate::args;
use crate::config::Remote;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Session, now};
use crate::store::Shelf;

/// Sends the releases that a cache elsewhere lacks, with all that is kept beside them, in one commit.
pub fn run(args: &args::Persist, session: &Session) -> Result<Exit, Failure> {
    let place = Place::remote(session, &destination(args, session)?, args.single_writer)?;
    let here = Shelf::open(session)?;
    let lacking = moving::lacking(session, &place, &here)?;
    if session.is_dry_run() {
        return moving::plan_all(session, &place, &lacking);
    }
    if lacking.is_empty() {
        session.output().note(format!("  {} has all that is here", place.name));
        return Ok(Exit::Done);
    }
    match place.bucket() {
        None => moving::push_all(session, &place, &here, &lacking)?,
        Some(bucket) => {
            let added = send(&here, bucket, &lacking)?;
            let newest = lacking.last().map(|stored| stored.release.image);
            let requests = bucket.objects().requests();
            let placed = crate::event::Placed {
                image: newest,
                requests: requests.get + requests.put + requests.list + requests.delete,
                ..place.placed(added.bytes, added.n_blobs, format!("{} releases in one commit", lacking.len()))
            };
            session.output().result(&Event::Stored(placed));
        }
    }
    Ok(Exit::Done)
}

/// Says where it goes: `--s3-bucket`, else `--address`, else `cache.remote` of df.yaml.
fn destination(args: &args::Persist, session: &Session) -> Result<Remote, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, "cache", message).next("df cache persist --s3-bucket BUCKET");
    let addresses = &session.call.globals.address;
    match (&args.s3_bucket, addresses.as_slice()) {
        (Some(bucket), []) if bucket.starts_with("s3://") => Remote::parse(bucket).map_err(usage),
        (Some(bucket), []) => Remote::parse(&format!("s3://{bucket}")).map_err(usage),
        (None, [address]) => Remote::parse(address).map_err(usage),
        (None, []) => session.config.cache.remote.clone().ok_or_else(|| {
            usage("df.yaml names no cache.remote; say where with --s3-bucket BUCKET or --address file:PATH".into())
        }),
        _ => Err(usage("one cache at a time".into())),
    }
}

fn send(here: &Shelf, bucket: &S3Store, lacking: &[StoredRelease]) -> Result<Added, Failure> {
    let mut manifests: Vec<Manifest> = vec![];
    let mut documents: Vec<Vec<(Document, Vec<u8>)>> = vec![];
    for StoredRelease { release, .. } in lacking {
        manifests.push(here.store().manifest(release.image).map_err(|error| failed(&error))?);
        let kept = Document::ALL.iter().filter_map(|&document| {
            // One that is damaged is left out: it can be made again, or is asked for later.
            Some((document, here.store().attached(&release.app, release.id(), document).ok().flatten()?))
        });
        documents.push(kept.collect());
    }
    let documents: Vec<Vec<(Document, &[u8])>> =
        documents.iter().map(|kept| kept.iter().map(|(document, bytes)| (*document, bytes.as_slice())).collect()).collect();
    let items: Vec<Item<'_>> = lacking
        .iter()
        .zip(&manifests)
        .zip(&documents)
        .map(|((stored, manifest), documents)| Item { manifest, release: Some(&stored.release), documents })
        .collect();
    bucket.put_items(&items, here.store(), now()).map_err(|error| failed(&error))
}
