//! How an image gets to the nodes, and whether it arrived.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use df_fleet::{Codec, Level, Wish};

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
    #[arg(long, value_name = "C", value_parser = one_of(&CODECS), hide_possible_values = true)]
    pub codec: Option<Codec>,
    /// Squeeze so hard and not otherwise: fast or small
    #[arg(long, value_name = "LEVEL", value_parser = one_of(&LEVELS), hide_possible_values = true)]
    pub level: Option<Level>,
    /// Put the bytes into the cache that df.yaml names as cache.remote, once, and have each node fetch them from there
    #[arg(long)]
    pub through_cache: bool,
}

impl Packing {
    /// Returns the wish; `full`: whole, also where the image is.
    pub fn wish(self, full: bool) -> Wish {
        Wish { codec: self.codec, level: self.level, full }
    }
}

/// A value, the word for it, and what it means.
type Named<T> = (T, &'static str, &'static str);

const CODECS: [Named<Codec>; 5] = [
    (Codec::Patch, Codec::Patch.word(), "Against the old bytes, with zstd"),
    (Codec::Copy, Codec::Copy.word(), "As a list of what is copied from the old bytes"),
    (Codec::Elf, Codec::Elf.word(), "With the references of programs predicted"),
    (Codec::Rsync, Codec::Rsync.word(), "Against a signature of what the node holds"),
    (Codec::Whole, Codec::Whole.word(), "Against nothing"),
];

const LEVELS: [Named<Level>; 2] = [
    (Level::Fast, "fast", "For a delta that is sent once"),
    (Level::Small, "small", "For one that is sent to many, or over a slow line"),
];

/// Takes one of these words for its value.
fn one_of<T: Copy + Send + Sync + 'static>(all: &'static [Named<T>]) -> impl TypedValueParser<Value = T> {
    let words = all.iter().map(|(_, word, meaning)| PossibleValue::new(*word).help(*meaning));
    PossibleValuesParser::new(words)
        .map(|said| all.iter().find(|(_, word, _)| *word == said).expect("no other word is let through").0)
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
