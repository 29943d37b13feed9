//! `df cache persist`: what is new here goes where it outlives this machine.

use super::{Place, moving};
use crate::args;
use crate::config::Remote;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// Sends the releases that a cache elsewhere lacks, with all that is kept beside them, in one commit.
pub fn run(args: &args::Persist, session: &Session) -> Result<Exit, Failure> {
    let place = Place::remote(session, &destination(args, session)?, args.single_writer)?;
    moving::push(session, &place)
}

/// Sends the releases that a node holds and a cache elsewhere lacks.
pub fn from_node(args: &args::Persist, session: &Session, node: &Place) -> Result<Exit, Failure> {
    let remote = match &args.s3_bucket {
        Some(bucket) => named(bucket).map_err(usage)?,
        None => configured(session)?,
    };
    moving::push_from(session, node, &Place::remote(session, &remote, args.single_writer)?)
}

/// Says where it goes: `--s3-bucket`, else `--address`, else `cache.remote` of df.yaml.
fn destination(args: &args::Persist, session: &Session) -> Result<Remote, Failure> {
    let addresses = &session.call.globals.address;
    match (&args.s3_bucket, addresses.as_slice()) {
        (Some(bucket), []) => named(bucket).map_err(usage),
        (None, [address]) => Remote::parse(address).map_err(usage),
        (None, []) => configured(session),
        _ => Err(usage("one cache at a time".into())),
    }
}

fn named(bucket: &str) -> Result<Remote, String> {
    if bucket.starts_with("s3://") { Remote::parse(bucket) } else { Remote::parse(&format!("s3://{bucket}")) }
}

fn configured(session: &Session) -> Result<Remote, Failure> {
    let unnamed = "df.yaml names no cache.remote; say where with --s3-bucket BUCKET or --address file:PATH";
    session.config.cache.remote.clone().ok_or_else(|| usage(unnamed.into()))
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, "cache", message).next("df cache persist --s3-bucket BUCKET")
}
