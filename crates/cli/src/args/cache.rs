//! What is kept, here, on the nodes and in caches elsewhere, and for how long.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::word::{VERSIONS, revision, text};
use crate::time::{self, Older};

/// `df cache`
#[derive(Debug, Clone, Args)]
pub struct Cache {
    /// What to do with the cache.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What `df cache` does.
#[derive(Debug, Clone, Subcommand)]
pub enum CacheCommand {
    /// Empty the cache
    Flush,
    /// Add a release to the cache
    Put {
        /// A version known here, or an image as a tar file; the current version when absent
        #[arg(value_name = "VERSION or FILE.tar", value_parser = text, value_hint = ValueHint::FilePath)]
        what: Option<String>,
    },
    /// Take a release out of the cache, as a tree
    Get {
        /// The version; the current one when absent
        #[arg(value_name = "VERSION", value_parser = revision, value_hint = VERSIONS)]
        version: Option<String>,
        /// Write the tree, or with --tar the archive, here
        #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
        output: Option<PathBuf>,
        /// Write a canonical tar archive instead of a tree
        #[arg(long)]
        tar: bool,
    },
    /// Compare the cache with what the source here would build and with the images here
    Diff,
    /// Make the cache have what is new here
    Update,
    /// Replace damaged and missing blobs, from another copy or by building the commit again
    Repair,
    /// Send what is new here to a bucket, or to the cache that df.yaml or --address names
    Persist(Persist),
    /// Collect old releases from the cache; in one elsewhere what nodes hold stays
    Gc(Gc),
    /// Read every blob back and compare it with its digest
    Verify(CacheVerify),
    /// Show what the cache holds
    Status,
}

/// `df cache persist`
#[derive(Debug, Clone, Args)]
pub struct Persist {
    /// Send it to this bucket: its name, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "BUCKET", value_parser = text)]
    pub s3_bucket: Option<String>,
    /// Use a server that knows no conditional writes: nobody else may write there meanwhile
    #[arg(long)]
    pub single_writer: bool,
}

/// `df cache verify`
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct CacheVerify {
    /// Only look whether all that is named is there
    #[arg(long, conflicts_with_all = ["sample", "slice"])]
    pub quick: bool,
    /// That, and read this many packs of a bucket, or files of a directory, drawn anew each time
    #[arg(long, value_name = "N", conflicts_with = "slice")]
    pub sample: Option<usize>,
    /// Read this many packs of a bucket, from where the last such command stopped
    #[arg(long, value_name = "N")]
    pub slice: Option<usize>,
}

impl CacheVerify {
    /// Returns whether less than everything is to be read.
    pub fn is_partial(&self) -> bool {
        self.quick || self.sample.is_some() || self.slice.is_some()
    }
}

/// `df gc`
#[derive(Debug, Clone, Args)]
pub struct Gc {
    /// What is old.
    #[command(flatten)]
    pub old: Old,
    /// Say for each version why it is kept or collected
    #[arg(long)]
    pub why: bool,
}

/// What counts as old; where neither is given, `keep` of df.yaml does.
#[derive(Debug, Clone, Copy, Args)]
pub struct Old {
    /// Keep at least this many of the newest
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Collect only what is older: an age (30d) or a date (2026-01-31, in UTC)
    #[arg(long, value_name = "DATE", value_parser = time::older)]
    pub older: Option<Older>,
}

pub(super) const CACHE_EXAMPLES: &str = "\
Examples:
  df cache status
  df cache put
  df cache get --output ./tree 3f2a9c1
  df cache diff --address file:/srv/cache
  df cache persist --s3-bucket releases
  df cache persist --s3-bucket s3://releases/greeter --dry-run
  df cache verify --address s3://releases --sample 3
  df cache status --address s3://releases";

pub(super) const GC_EXAMPLES: &str = "\
Examples:
  df gc --dry-run --why
  df gc --count 3 --older 30d";
