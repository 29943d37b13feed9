//! How an image gets to the nodes, and whether it arrived.

use clap::{Args, ValueEnum};

use df_fleet::Wish;

use super::word::{VERSIONS, revision};

/// `df cp`
#[derive(Debug, Clone, Args)]
pub struct Cp {
    /// Send the image whole, also where it is: what is there may be damaged
    #[arg(long, conflicts_with = "codec")]
    pub full: bool,
    /// Send this version instead of the current one
    #[arg(long, value_name = "V", value_parser = revision, value_hint = VERSIONS)]
    pub version: Option<String>,
    /// How the bytes are packed.
    #[command(flatten)]
    pub packing: Packing,
}

/// How the bytes that travel are packed; where nothing is given, the way that is done soonest.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Packing {
    /// Send the image so and not otherwise: patch, copy, elf, rsync or whole
    #[arg(long, value_name = "C", value_enum, hide_possible_values = true)]
    pub codec: Option<Codec>,
    /// Squeeze so hard and not otherwise: fast or small
    #[arg(long, value_name = "LEVEL", value_enum, hide_possible_values = true)]
    pub level: Option<Level>,
    /// Put the bytes into the cache that df.yaml names as cache.remote, once, and have each node fetch them from there
    #[arg(long)]
    pub through_cache: bool,
}

impl Packing {
    /// Returns the wish; `full`: whole, also where the image is.
    pub fn wish(self, full: bool) -> Wish {
        let codec = self.codec.map(|codec| match codec {
            Codec::Patch => df_fleet::Codec::Patch,
            Codec::Copy => df_fleet::Codec::Copy,
            Codec::Elf => df_fleet::Codec::Elf,
            Codec::Rsync => df_fleet::Codec::Rsync,
            Codec::Whole => df_fleet::Codec::Whole,
        });
        let level = self.level.map(|level| match level {
            Level::Fast => df_fleet::Level::Fast,
            Level::Small => df_fleet::Level::Small,
        });
        Wish { codec, level, full }
    }
}

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// Against the old bytes, with zstd
    Patch,
    /// As a list of what is copied from the old bytes
    Copy,
    /// With the references of programs predicted
    Elf,
    /// Against a signature of what the node holds
    Rsync,
    /// Against nothing
    Whole,
}

/// How hard bytes are squeezed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// For a delta that is sent once
    Fast,
    /// For one that is sent to many, or over a slow line
    Small,
}

/// `df compare-checksums`
#[derive(Debug, Clone, Args)]
pub struct CompareChecksums {}

/// `df __prepare`
#[derive(Debug, Clone, Args)]
pub struct Prepare {}

pub(super) const CP_EXAMPLES: &str = "\
Examples:
  df cp
  df cp --dry-run           say what each node lacks, how it would get it, and how long that takes
  df cp --level small       spend more time on fewer bytes
  df cp --full --address web1";
