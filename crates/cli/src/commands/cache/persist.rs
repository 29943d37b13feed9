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
