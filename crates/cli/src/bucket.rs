//! Caches in buckets, opened as df.yaml, the flags and the environment say; and why one has no answer.

pub mod failure;

use std::sync::Arc;
use std::time::Duration;

use df_cache::s3::aws::{AwsObjects, AwsOptions, Patience, S3Address};
use df_cache::s3::{Options, S3Store};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Session, now, who};

/// Opens the cache in a bucket; no request goes there yet. `--timeout` bounds how long one request is tried.
///
/// # Errors
/// There are no credentials or no region, or the system has no random numbers.
pub fn open(session: &Session, address: &S3Address, is_alone: bool) -> Result<S3Store, Failure> {
    let config = &session.config.cache;
    let options = AwsOptions {
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        patience: patience(session.call.globals.timeout),
        ..AwsOptions::new(address.clone())
    };
    let objects = AwsObjects::open(&options).map_err(|error| Failure::usage("cache", &error).next(failure::CREDENTIALS))?;
    let random = |error: std::io::Error| Failure::new(Exit::Failed, "cache", format!("draw random numbers: {error}"));
    let options = Options { single_writer: is_alone, ..Options::new(&who(), now()).map_err(random)? };
    Ok(S3Store::open(Arc::new(objects), &session.cache_dir().join("s3"), options))
}

fn patience(timeout: Option<Duration>) -> Patience {
    let usual = Patience::default();
    timeout.map_or(usual, |timeout| Patience { altogether: timeout, silence: usual.silence.min(timeout), ..usual })
}
