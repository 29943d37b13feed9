//! A bucket by the protocol of AWS: [`Objects`] on a client and a runtime of its own.
//!
//! The client does only what the protocol is: signing, checksums, parsing. When to try again, what to wait for, how much may be in flight and which answers to
//! believe is decided here. Nothing is ever followed to another host, an answer is bounded before it is read, and nothing counts as absent because access was denied.
//!
//! Calls block and drive the runtime from the caller's thread: do not call them inside an async task (there: `spawn_blocking`).

mod account;
mod address;
mod body;
mod connection;
mod failure;
mod listing;
mod multipart;
mod reading;
mod retry;
mod uploads;
mod writing;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, ResponseChecksumValidation, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::presigning::PresigningConfig;
use df_core::Timestamp;
use tokio::runtime::{Builder, Runtime};

use super::objects::{Body, Condition, Etag, Key, Listed, Object, ObjectError, Objects, Requests};
use super::schedule::Schedule;
use super::schedule::pace::Answer;
use crate::authorities::BadAuthorities;
pub use account::AccessKey;
pub use address::{BadAddress, BadEndpoint, Endpoint, S3Address};
use body::{BoundAnswers, Checksum};
use failure::Failure;
pub use retry::Patience;
use retry::Tries;

/// How many requests are in flight at first, and how many ever: 62 puts or 14 gets of AWS's planning figures fill 10 Gb/s.
const UP: (usize, usize) = (32, 64);
const DOWN: (usize, usize) = (24, 64);

/// How many bytes of bodies are in memory at most, in each direction.
const BYTES: u64 = 512 << 20;

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a bucket is and how it is asked.
#[derive(Debug, Clone)]
pub struct AwsOptions {
    /// The bucket and the prefix.
    pub address: S3Address,
    /// The region; without one the AWS chain says it.
    pub region: Option<String>,
    /// A server that is not AWS; without one `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, else AWS.
    pub endpoint: Option<Endpoint>,
    /// The key to sign with; without one the AWS chain is gone along.
    pub key: Option<AccessKey>,
    /// How patient to be.
    pub patience: Patience,
}

impl AwsOptions {
    /// Leaves everything but the address to the environment.
    pub fn new(address: S3Address) -> Self {
        Self { address, region: None, endpoint: None, key: None, patience: Patience::default() }
    }
}

/// Why a bucket cannot be asked at all.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws/config")]
    NoCredentials,
    #[error("the AWS credentials cannot be had: {why}")]
    Credentials { why: String },
    #[error("no AWS region: set AWS_REGION, or `region` in the profile of ~/.aws/config")]
    NoRegion,
    #[error("a region is a word of a-z 0-9 and -")]
    BadRegion,
    #[error("{name} names no server to ask")]
    Endpoint { name: &'static str, source: BadEndpoint },
    #[error("AWS_CA_BUNDLE names nobody to believe")]
    Bundle { source: BadAuthorities },
    #[error("start the client's threads")]
    Runtime { source: std::io::Error },
}

/// Objects of a bucket, by the AWS SDK.
pub struct AwsObjects {
    address: S3Address,
    /// For objects: their bodies are bounded while they are read.
    reads: Client,
    /// For everything else.
    client: Client,
    checksum: Checksum,
    patience: Patience,
    up: Schedule,
    down: Schedule,
    counts: Counts,
    /// Here until the end, when it is shut down without waiting: it may be dropped inside another runtime.
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Counts {
    get: AtomicU64,
    put: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// What a request counts as, and which permits it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    List,
    Delete,
}

impl AwsObjects {
    /// Finds region and credentials and makes a client; no request goes to the bucket.
    ///
    /// # Errors
    /// [`OpenError`]: what to set.
    pub fn open(options: &AwsOptions) -> Result<Self, OpenError> {
        let endpoint = match &options.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None => endpoint_of_environment()?,
        };
        let n_threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 4);
        let runtime = Builder::new_multi_thread()
            .worker_threads(n_threads)
            .thread_name("df-bucket")
            .enable_all()
            .build()
            .map_err(|source| OpenError::Runtime { source })?;
        let believed = connection::believed().map_err(|source| OpenError::Bundle { source })?;
        let account = runtime.block_on(account::find(options, endpoint.is_some(), &believed))?;
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(connection::client(endpoint.as_ref().is_none_or(Endpoint::is_elsewhere), &believed))
            .region(account.region)
            .credentials_provider(account.credentials)
            // Every byte is compared with its digest later, by who can still use the other bytes of a damaged object.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // All three are done here instead, where it is known what a request is worth.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT.min(options.patience.silence)).build());
        if let Some(endpoint) = &endpoint {
            config = config.endpoint_url(endpoint.as_str()).force_path_style(true);
        }
        let client = |only_errors| Client::from_conf(config.clone().interceptor(BoundAnswers { only_errors }).build());
        Ok(Self {
            address: options.address.clone(),
            reads: client(true),
            client: client(false),
            checksum: if endpoint.is_some() { Checksum::Crc32 } else { Checksum::Crc64Nvme },
            patience: options.patience,
            up: Schedule::new(UP.0, UP.1, BYTES),
            down: Schedule::new(DOWN.0, DOWN.1, BYTES),
            counts: Counts::default(),
            runtime: Some(runtime),
        })
    }

    /// Returns where the bucket is.
    pub fn address(&self) -> &S3Address {
        &self.address
    }

    /// Tries a request until it is answered for good or patience ends, and returns what was learned on the way too.
    fn ask<T>(&self, verb: Verb, len: u64, once: impl AsyncFn() -> Result<T, Failure>) -> Result<T, (Failure, Tries)> {
        let (begun, mut tries) = (Instant::now(), Tries::default());
        loop {
            let permit = self.schedule(verb).enter(len);
            self.count(verb);
            let result = self.block_on(once());
            permit.done(result.as_ref().map_or_else(Failure::answer, |_| Answer::Served));
            let failure = match result {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            tries.add(&failure);
            match self.patience.next(&failure, tries.count, begun.elapsed(), retry::random()) {
                Some(pause) => std::thread::sleep(pause),
                None => return Err((failure, tries)),
            }
        }
    }

    /// The same for what can be done twice without harm: only the last answer matters.
    fn ask_again<T>(
        &self,
        key: &Key,
        verb: Verb,
        len: u64,
        once: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, ObjectError> {
        self.ask(verb, len, once).map_err(|(failure, _)| failure.about(key))
    }

    fn schedule(&self, verb: Verb) -> &Schedule {
        if verb == Verb::Get { &self.down } else { &self.up }
    }

    fn count(&self, verb: Verb) {
        let counter = match verb {
            Verb::Get => &self.counts.get,
            Verb::Put => &self.counts.put,
            Verb::List => &self.counts.list,
            Verb::Delete => &self.counts.delete,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("here until the end").block_on(future)
    }

    fn full(&self, key: &Key) -> String {
        self.address.full(key.as_str())
    }
}

/// Waits for an answer for at most some time.
async fn within<T>(time: Duration, future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| Err(Failure::late()))
}

fn endpoint_of_environment() -> Result<Option<Endpoint>, OpenError> {
    let name = |name: &'static str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value));
    match name("AWS_ENDPOINT_URL_S3").or_else(|| name("AWS_ENDPOINT_URL")) {
        None => Ok(None),
        Some((name, value)) => value.parse().map(Some).map_err(|source| OpenError::Endpoint { name, source }),
    }
}

impl Objects for AwsObjects {
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        self.read_whole(key, limit)
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        self.read_range(key, offset, len)
    }

    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        if body.len() > multipart::FROM {
            self.write_in_parts(key, body, condition)
        } else {
            self.write_whole(key, body, condition)
        }
    }

    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError> {
        self.remove(keys)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        self.list_all(prefix)
    }

    fn abandon(&self, before: Timestamp) -> Result<u64, ObjectError> {
        self.abandon_before(before)
    }

    fn url(&self, key: &Key, lifetime: Duration) -> Result<String, ObjectError> {
        let hopeless = |why: String| ObjectError::Unreachable { key: key.clone(), why };
        let config = PresigningConfig::expires_in(lifetime).map_err(|error| hopeless(failure::words(&error)))?;
        let request = self.reads.get_object().bucket(self.address.bucket()).key(self.full(key));
        let signed = self.block_on(request.presigned(config)).map_err(|error| failure::of(&error).about(key))?;
        if signed.headers().next().is_some() {
            return Err(hopeless("its address would need headers beside it".to_owned()));
        }
        Ok(signed.uri().to_owned())
    }

    fn requests(&self) -> Requests {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            get: get(&self.counts.get),
            put: get(&self.counts.put),
            list: get(&self.counts.list),
            delete: get(&self.counts.delete),
            bytes_up: get(&self.counts.bytes_up),
            bytes_down: get(&self.counts.bytes_down),
        }
    }
}

impl Drop for AwsObjects {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Says where, never as whom.
impl fmt::Debug for AwsObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AwsObjects");
        shown.field("address", &self.address).field("up", &self.up).field("down", &self.down).finish_non_exhaustive()
    }
}
