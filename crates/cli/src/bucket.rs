//! Caches in buckets, opened as df.yaml, the flags and the environment say; and why one has no answer.

pub mod failure;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use df_cache::s3::aws::{AwsObjects, AwsOptions, OpenError, Patience, S3Address};
use df_cache::s3::{Options, S3Store};

use crate::config::CacheConfig;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Session, now, who};

/// Opens the cache in a bucket; no request goes there yet. `--timeout` bounds how long one request is tried.
///
/// # Errors
/// There are no credentials or no region, or the system has no random numbers.
pub fn open(session: &Session, address: &S3Address, is_alone: bool) -> Result<S3Store, Failure> {
    open_below(&session.cache_dir(), &session.config.cache, session.call.globals.timeout, address, is_alone)
}

/// As [`open`], with what is remembered of buckets below `dir`.
///
/// # Errors
/// As [`open`].
pub fn open_below(
    dir: &Path,
    config: &CacheConfig,
    timeout: Option<Duration>,
    address: &S3Address,
    is_alone: bool,
) -> Result<S3Store, Failure> {
    let options = AwsOptions {
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        patience: patience(timeout),
        ..AwsOptions::new(address.clone())
    };
    let objects = AwsObjects::open(&options).map_err(|error| Failure::usage("cache", &error).next(mend(&error)))?;
    let random = |error: std::io::Error| Failure::new(Exit::Failed, "cache", format!("draw random numbers: {error}"));
    let options = Options { single_writer: is_alone, ..Options::new(&who(), now()).map_err(random)? };
    Ok(S3Store::open(Arc::new(objects), &dir.join("s3"), options))
}

/// Returns what to do about what is not known yet of a bucket.
fn mend(error: &OpenError) -> String {
    match error {
        OpenError::NoCredentials | OpenError::Credentials { .. } => failure::CREDENTIALS.to_owned(),
        OpenError::NoRegion | OpenError::BadRegion => "set AWS_REGION, or cache.region in df.yaml, then type it again".to_owned(),
        OpenError::Endpoint { name, .. } => format!("set {name} to https://HOST, or unset it, then type it again"),
        OpenError::Bundle { .. } => {
            "set AWS_CA_BUNDLE to a file of certificates (PEM), or unset it, then type it again".to_owned()
        }
        OpenError::Runtime { .. } => "df doctor".to_owned(),
    }
}

fn patience(timeout: Option<Duration>) -> Patience {
    let usual = Patience::default();
    timeout.map_or(usual, |timeout| Patience { altogether: timeout, silence: usual.silence.min(timeout), ..usual })
}

#[cfg(test)]
mod tests {
    use df_cache::authorities::BadAuthorities;

    use super::*;

    #[test]
    fn each_thing_that_is_wrong_with_the_surroundings_has_a_mend_of_its_own() {
        let endpoint = "ftp://x".parse::<df_cache::s3::aws::Endpoint>().expect_err("refused");
        let table = [
            (OpenError::NoCredentials, "AWS_ACCESS_KEY_ID"),
            (OpenError::NoRegion, "AWS_REGION"),
            (OpenError::BadRegion, "AWS_REGION"),
            (OpenError::Endpoint { name: "AWS_ENDPOINT_URL_S3", source: endpoint }, "AWS_ENDPOINT_URL_S3"),
            (OpenError::Bundle { source: BadAuthorities::Empty { path: "ca.pem".into() } }, "AWS_CA_BUNDLE"),
        ];
        for (error, named) in table {
            let next = mend(&error);
            assert!(next.contains(named), "{error}: {next}");
        }
    }
}
