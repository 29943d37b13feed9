//! What serves on the nodes: how it comes to, how it is looked at, and how it goes back.

use clap::Args;

use super::moving::Packing;
use super::word::{VERSIONS, WordError, revision};

/// `df start`
#[derive(Debug, Clone, Args)]
pub struct Start {}

/// `df stop`
#[derive(Debug, Clone, Args)]
pub struct Stop {
    /// Stop every version, not only the serving one
    #[arg(long)]
    pub all: bool,
    /// Stop at once (SIGKILL), without draining; also what a deploy has not confirmed yet, which fails then, and what another stop waits for
    #[arg(long)]
    pub now: bool,
}

/// `df restart`
#[derive(Debug, Clone, Args)]
pub struct Restart {}

/// `df verify`
#[derive(Debug, Clone, Args)]
pub struct Verify {}

/// `df deploy`
#[derive(Debug, Clone, Args)]
pub struct Deploy {
    /// Deploy this commit instead of HEAD
    #[arg(long, value_name = "H", value_parser = revision, value_hint = VERSIONS, conflicts_with = "version")]
    pub commit_hash: Option<String>,
    /// Deploy this version, which is known here, without building
    #[arg(long, value_name = "V", value_parser = revision, value_hint = VERSIONS)]
    pub version: Option<String>,
    /// Then deploy each new commit when it is there, until Ctrl-C: of HEAD, or of the branch that --commit-hash names
    #[arg(long, conflicts_with = "version")]
    pub watch: bool,
    /// How the bytes are packed.
    #[command(flatten)]
    pub packing: Packing,
}

/// `df repair`
#[derive(Debug, Clone, Copy, Args)]
pub struct Repair {
    /// Send the image whole, also where every file of it is what it should be
    #[arg(long)]
    pub full_copy: bool,
    /// Look again and again, and repair what falls ill, until Ctrl-C; one line of log for each event
    #[arg(long)]
    pub watch: bool,
}

/// `df rollback`
#[derive(Debug, Clone, Args)]
pub struct Rollback {
    /// Go back to this generation or commit instead of the previous good one
    #[arg(long, value_name = "GENERATION-OR-COMMIT", value_parser = rollback_to, value_hint = VERSIONS)]
    pub to: Option<RollbackTo>,
    /// Show the generations there are, and ask which one
    #[arg(long, conflicts_with = "to")]
    pub pick: bool,
    /// Go back also to a version that was made for another form of the data (run.data_epoch)
    #[arg(long)]
    pub force: bool,
}

/// Where `df rollback --to` goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackTo {
    /// A node's numbered slot.
    Generation(u64),
    /// A commit, or the beginning of one.
    Commit(String),
}

/// `df status`
#[derive(Debug, Clone, Args)]
pub struct Status {}

/// `df logs`
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// Go on showing what is written from now, also by the generation that comes to serve next
    #[arg(short, long)]
    pub follow: bool,
    /// Show what this generation wrote instead of the serving one; a node keeps those of versions that failed too
    #[arg(long, value_name = "N")]
    pub generation: Option<u64>,
    /// Show this many of the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100)]
    pub lines: u32,
}

/// `df history`
#[derive(Debug, Clone, Args)]
pub struct History {}

/// Up to six digits are a generation; anything else, also the seven digits that begin a commit, is a commit.
fn rollback_to(word: &str) -> Result<RollbackTo, WordError> {
    let word = revision(word)?;
    let is_number = word.len() <= 6 && word.bytes().all(|b| b.is_ascii_digit());
    Ok(match word.parse() {
        Ok(number) if is_number => RollbackTo::Generation(number),
        _ => RollbackTo::Commit(word),
    })
}

pub(super) const DEPLOY_EXAMPLES: &str = "\
Examples:
  df deploy
  df deploy --dry-run --detailed-exitcode
  df deploy --commit-hash v1.2.0 --address web1
  df deploy --watch         while you work: each commit is deployed when it is made";

pub(super) const REPAIR_EXAMPLES: &str = "\
Examples:
  df repair --dry-run       say which nodes are ill, and of what
  df repair
  df repair --full-copy --address web1
  df repair --watch >> repair.log 2>&1";

pub(super) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  df rollback
  df rollback --to 12
  df rollback --to 3f2a9c1
  df rollback --pick        choose one of those that the nodes have";
