//! The sections that belong to the file on disk: nodes, cache, rollout, what is kept, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_cache::s3::aws::{Endpoint, S3Address};
use df_core::name::PathText;
use df_fleet::address::Address;

use super::error::{Fault, show};
use super::value::{Section, Value};

/// Where blobs and images lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// The directory as df.yaml says it: absolute, below `~/`, or relative to df.yaml.
    pub local: String,
    /// Where persisted releases go.
    pub remote: Option<Remote>,
    /// The region of a bucket; without one the environment or the AWS profile says it.
    pub region: Option<String>,
    /// The server of a bucket that is not AWS's.
    pub endpoint: Option<Endpoint>,
}

/// A cache elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A bucket.
    Bucket(S3Address),
    /// A directory, relative to where df runs.
    Directory(String),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(address) => address.fmt(f),
            Self::Directory(path) => write!(f, "file:{path}"),
        }
    }
}

impl Remote {
    /// Reads an address: `s3://bucket[/prefix]` or `file:PATH`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some("") => Err("file: needs a path behind it".to_owned()),
            Some(path) => Ok(Self::Directory(path.to_owned())),
            None if text.starts_with("s3:") => {
                text.parse().map(Self::Bucket).map_err(|error: df_cache::s3::aws::BadAddress| error.to_string())
            }
            None => Err(format!("\"{}\" is no address of a cache: write s3://BUCKET/PREFIX or file:PATH", show(text))),
        }
    }
}

impl Remote {
    /// Returns whether a word is meant as the address of a cache, right or wrong, and not of a node.
    pub fn is_meant(word: &str) -> bool {
        word.starts_with("s3:") || word.starts_with("file:")
    }
}

impl CacheConfig {
    /// Returns the directory; `~` is `home`, and what is relative lies in `base`.
    pub fn directory(&self, home: &Path, base: &Path) -> PathBuf {
        self.local.strip_prefix("~/").map_or_else(|| base.join(&self.local), |below| home.join(below))
    }
}

/// How a release comes to many nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Nodes at once.
    pub parallel: usize,
    /// Nodes that go first.
    pub canary: usize,
    /// More failed nodes than this stop the rest.
    pub max_failures: usize,
    /// How long a batch serves before the next.
    pub soak: Duration,
    /// How long a node waits to be confirmed before it goes back by itself; zero: it does not wait.
    pub confirm: Duration,
    /// A person is asked before more nodes than this change.
    pub confirm_above: usize,
}

/// What `gc` keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// As many generations.
    pub count: usize,
    /// And all that are not older.
    pub older: Duration,
}

/// Directories on a node; the ones it has unless its address or its login says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Images and generations.
    pub app: String,
    /// What applications keep.
    pub data: String,
    /// What applications may lose.
    pub tmp: String,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { local: "~/.cache/df".to_owned(), remote: None, region: None, endpoint: None }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            parallel: 10,
            canary: 1,
            max_failures: 0,
            soak: Duration::from_secs(10),
            confirm: Duration::from_secs(30),
            confirm_above: 20,
        }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: 5, older: Duration::from_secs(30 * 86_400) }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self { app: "/var/lib/df".to_owned(), data: "/var/lib/df-data".to_owned(), tmp: "/var/lib/df-tmp".to_owned() }
    }
}

/// The most nodes that a number may speak of.
const MANY: u64 = 10_000;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn nodes(value: &Value<'_>) -> Result<Vec<String>, Fault> {
    let mut nodes: Vec<String> = Vec::new();
    for value in value.list()? {
        let address = value.word()?;
        // Only whether it is an address matters here; where it begins is for who uses it.
        Address::parse(address, Path::new("/")).map_err(|error| value.refuse(error.to_string()))?;
        if nodes.iter().any(|node| node == address) {
            return Err(value.refuse(format!("\"{}\" stands here already", show(address))));
        }
        nodes.push(address.to_owned());
    }
    Ok(nodes)
}

pub(super) fn cache(value: &Value<'_>) -> Result<CacheConfig, Fault> {
    let section = Section::open(value, "cache")?;
    Ok(CacheConfig {
        local: section.or("local", CacheConfig::default().local, cache_directory)?,
        remote: section.option("remote", |value| Remote::parse(value.word()?).map_err(|why| value.refuse(why)))?,
        region: section.option("region", region)?,
        endpoint: section.option("endpoint", |value| {
            value.word()?.parse().map_err(|error: df_cache::s3::aws::BadEndpoint| value.refuse(error.to_string()))
        })?,
    })
}

pub(super) fn rollout(value: &Value<'_>) -> Result<Rollout, Fault> {
    let section = Section::open(value, "rollout")?;
    let default = Rollout::default();
    Ok(Rollout {
        parallel: section.or("parallel", default.parallel, |value| count(value, 1))?,
        canary: section.or("canary", default.canary, |value| count(value, 0))?,
        max_failures: section.or("max_failures", default.max_failures, |value| count(value, 0))?,
        soak: section.or("soak", default.soak, |value| value.duration(Duration::ZERO, DAY))?,
        confirm: section.or("confirm", default.confirm, |value| value.duration(Duration::ZERO, DAY))?,
        confirm_above: section.or("confirm_above", default.confirm_above, |value| count(value, 0))?,
    })
}

pub(super) fn keep(value: &Value<'_>) -> Result<Keep, Fault> {
    let section = Section::open(value, "keep")?;
    let default = Keep::default();
    Ok(Keep {
        count: section.or("count", default.count, |value| count(value, 1))?,
        older: section.or("older", default.older, |value| value.duration(Duration::ZERO, 36_500 * DAY))?,
    })
}

pub(super) fn paths(value: &Value<'_>) -> Result<Paths, Fault> {
    let section = Section::open(value, "paths")?;
    let default = Paths::default();
    let paths = Paths {
        app: section.or("app", default.app, node_directory)?,
        data: section.or("data", default.data, node_directory)?,
        tmp: section.or("tmp", default.tmp, node_directory)?,
    };
    // What is emptied or collected must not hold what is kept.
    let named = [("app", &paths.app), ("data", &paths.data), ("tmp", &paths.tmp)];
    for (outer_name, outer) in named {
        for (inner_name, inner) in named {
            if outer_name != inner_name && Path::new(inner).starts_with(outer) {
                return Err(
                    section.refuse(format!("{inner_name} ({inner}) lies within {outer_name} ({outer}); they must be apart"))
                );
            }
        }
    }
    Ok(paths)
}

fn count(value: &Value<'_>, min: u64) -> Result<usize, Fault> {
    value.whole(min, MANY).map(|n| usize::try_from(n).expect("bounded by ten thousand"))
}

fn cache_directory(value: &Value<'_>) -> Result<String, Fault> {
    let text = value.word()?;
    let path = text.strip_prefix("~/").or_else(|| text.strip_prefix('/')).unwrap_or(text);
    if path.starts_with('~') {
        return Err(value.refuse(format!("\"{}\" begins with ~; only your own home directory, ~/, is known", show(text))));
    }
    PathText::new(path).map_err(|error| value.refuse(error.to_string()))?;
    Ok(text.to_owned())
}

fn region(value: &Value<'_>) -> Result<String, Fault> {
    let word = value.word()?;
    let is_region = word.len() <= 64 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_region { Ok(word.to_owned()) } else { Err(value.range("a region as in eu-west-1", word)) }
}

fn node_directory(value: &Value<'_>) -> Result<String, Fault> {
    let text = value.word()?;
    let Some(path) = text.strip_prefix('/') else {
        return Err(value.range("an absolute path on the node", text));
    };
    PathText::new(path).map_err(|error| value.refuse(error.to_string()))?;
    Ok(text.to_owned())
}
