//! As whom a bucket is asked, and in which region: the chain that every AWS tool goes along.
//!
//! Environment, profile (SSO, process, assumed roles), web identity, container, machine. The last one asks a link-local address that most machines do not have; it gets
//! half a second and one try, where AWS's own default is many seconds.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider};
use aws_smithy_http_client::tls::TlsContext;

use super::{AwsOptions, OpenError};
use super::{connection, failure};

/// How long the machine's own service may take to accept a connection, and to answer.
const MACHINE_CONNECT: Duration = Duration::from_millis(500);
const MACHINE_READ: Duration = Duration::from_secs(1);

/// An access key that is given rather than found. Never shown.
#[derive(Clone)]
pub struct AccessKey {
    /// Its public name.
    pub id: String,
    /// What requests are signed with.
    pub secret: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessKey")
    }
}

/// Who asks, and where.
#[derive(Debug)]
pub(super) struct Account {
    pub region: Region,
    pub credentials: SharedCredentialsProvider,
}

/// Finds region and credentials. With an endpoint that is not AWS's a region is only a word in signatures.
pub(super) async fn find(options: &AwsOptions, has_endpoint: bool, believed: &TlsContext) -> Result<Account, OpenError> {
    let config = ProviderConfig::without_region().with_http_client(connection::client(true, believed));
    let machine = imds::Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(connection::client(false, believed)))
        .max_attempts(1)
        .connect_timeout(MACHINE_CONNECT)
        .read_timeout(MACHINE_READ)
        .build();
    let region = match &options.region {
        Some(region) => Region::new(region.clone()),
        None => find_region(&config, &machine, has_endpoint).await?,
    };
    if !is_region(region.as_ref()) {
        return Err(OpenError::BadRegion);
    }
    let credentials = match &options.key {
        Some(key) => SharedCredentialsProvider::new(Credentials::new(&key.id, &key.secret, None, None, "given")),
        None => {
            let chain = DefaultCredentialsChain::builder().region(region.clone()).imds_client(machine).configure(config);
            let chain = chain.build().await;
            let first = chain.provide_credentials().await.map_err(|error| refuse(&error))?;
            SharedCredentialsProvider::new(Known { first: Mutex::new(Some(first)), chain })
        }
    };
    Ok(Account { region, credentials })
}

async fn find_region(config: &ProviderConfig, machine: &imds::Client, has_endpoint: bool) -> Result<Region, OpenError> {
    let said = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::builder().configure(config).build());
    match said.region().await {
        Some(region) => Ok(region),
        None if has_endpoint => Ok(Region::new("us-east-1")),
        None => {
            let machine = imds::region::ImdsRegionProvider::builder().imds_client(machine.clone()).build();
            machine.region().await.ok_or(OpenError::NoRegion)
        }
    }
}

/// A region becomes part of a host's name.
fn is_region(region: &str) -> bool {
    (1..=63).contains(&region.len())
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !region.starts_with('-')
        && !region.ends_with('-')
}

fn refuse(error: &CredentialsError) -> OpenError {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => OpenError::NoCredentials,
        error => OpenError::Credentials { why: failure::words(error) },
    }
}

/// Credentials that were found once are used before the chain is gone along again: it may ask a person.
struct Known {
    first: Mutex<Option<Credentials>>,
    chain: DefaultCredentialsChain,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    fn take(&self) -> Option<Credentials> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        first.expiry().is_none_or(|expiry| expiry > SystemTime::now() + Duration::from_secs(60)).then_some(first)
    }
}

impl ProvideCredentials for Known {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self.take() {
            Some(first) => future::ProvideCredentials::ready(Ok(first)),
            None => self.chain.provide_credentials(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_can_not_name_another_host() {
        for good in ["us-east-1", "eu-central-2", "auto", "garage"] {
            assert!(is_region(good), "{good}");
        }
        for bad in ["", "us-east-1.evil.example/", "a.b", "a/b", "a@b", "-a", "a-", "A", "a b", "a#"] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
