//! From a repository to an image: what says how, what builds it, and what has git ask for it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::word::{VERSIONS, revision, text};
use crate::hook::Kind;

/// `df init`
#[derive(Debug, Clone, Args)]
pub struct Init {}

/// `df build`
#[derive(Debug, Clone, Args)]
pub struct Build {
    /// Build this commit instead of HEAD
    #[arg(long, value_name = "H", value_parser = revision, value_hint = VERSIONS)]
    pub commit_hash: Option<String>,
    /// Build it again, from nothing and under other conditions, and compare: exit 8 and what differs
    #[arg(long)]
    pub check: bool,
    /// Make a symlink to the image's tree here
    #[arg(long, value_name = "LINK", value_hint = ValueHint::AnyPath)]
    pub output: Option<PathBuf>,
    /// Attest the version with an ssh key, so that nodes and others who believe the key take it
    #[arg(long)]
    pub sign: bool,
    /// Sign with this key, or the agent's whose .pub file this is; else with the first of trust.keys that is at hand
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "sign")]
    pub key: Option<PathBuf>,
}

/// `df hook`
#[derive(Debug, Clone, Args)]
pub struct Hook {
    /// What to do about the hook.
    #[command(subcommand)]
    pub command: HookCommand,
}

/// What `df hook` does.
#[derive(Debug, Clone, Subcommand)]
pub enum HookCommand {
    /// Write git's post-commit hook, or in a bare repository its post-receive hook
    Install(HookInstall),
}

/// `df hook install`
#[derive(Debug, Clone, Args)]
pub struct HookInstall {
    /// Only this branch; else every branch of a work tree, and the default branch of a bare repository
    #[arg(long, value_parser = text)]
    pub branch: Option<String>,
    /// Also deploy what was built
    #[arg(long)]
    pub deploy: bool,
}

/// `df __hook KIND`
#[derive(Debug, Clone, Args)]
pub struct Hooked {
    /// Which hook it is.
    #[arg(value_enum)]
    pub kind: Kind,
    /// The branch that counts.
    #[arg(long, value_parser = text)]
    pub branch: Option<String>,
    /// Also deploy.
    #[arg(long)]
    pub deploy: bool,
    /// Nobody waits for it.
    #[arg(long)]
    pub detached: bool,
}

pub(super) const BUILD_EXAMPLES: &str = "\
Examples:
  df build
  df build --check          prove that the commit always gives this image
  df build --sign           attest it, for nodes that believe only keys
  df build --commit-hash v1.2.0 --output ./image";

pub(super) const HOOK_EXAMPLES: &str = "\
Examples:
  df hook install                       build each commit, in the background
  df hook install --branch main --deploy
  df -C /srv/git/app.git hook install   build each push to the default branch";
