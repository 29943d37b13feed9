//! The grammar of the command line: which words and flags there are, and what each may hold.
//!
//! Only what works is listed. [`parse`] is called after `name::decide` found the words to be ours. What a flag holds is checked
//! here once, so that a command gets durations and dates, and text of a bounded length; what a word *names* (a node, a commit, a version)
//! is for the command to find out.
//!
//! Here are the flags that every command takes, the commands in the order in which `df help` shows them, and how words are read. What each
//! command takes stands in the files below, by what it is about.

mod building;
mod cache;
mod moving;
mod nodes;
mod running;
mod shell;
mod word;

pub use building::{Build, Hook, HookCommand, HookInstall, Hooked, Init};
pub use cache::{Cache, CacheCommand, CacheVerify, Gc, Old, Persist};
pub use moving::{CompareChecksums, Cp, Packing, Prepare};
pub use nodes::{Add, Doctor, List, Listed, Remove, Trust, With};
pub use running::{Deploy, History, Logs, Repair, Restart, Rollback, RollbackTo, Start, Status, Stop, Verify};
pub use shell::{Complete, Completed, Completions, Man, Shell};
use word::{NODES, text};

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};

use crate::{name, time};

/// One call of `df`.
#[derive(Debug, Parser)]
#[command(
    name = "df",
    about = "From a git commit to a serving version on every machine, sending only the bytes they lack",
    long_about = None,
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    arg_required_else_help = false,
    subcommand_required = true,
    args_override_self = true,
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands",
    max_term_width = 120,
    after_help = MAIN_EXAMPLES
)]
pub struct Cli {
    /// The flags that every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print this help, then name the df that all other words go to
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print our version, then that of the next df on PATH
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The flags that every command takes, before it and after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global flags")]
pub struct Globals {
    /// Act as if started in this directory
    #[arg(short = 'C', global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Read this file instead of the df.yaml here or in a parent directory
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Keep the list of nodes and the context here instead of .df/ beside df.yaml
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// Act on this node or cache instead of the context; may be repeated
    #[arg(long, global = true, value_name = "NODE", value_parser = text, value_hint = NODES)]
    pub address: Vec<String>,
    /// Work on at most this many nodes at once
    #[arg(long, global = true, value_name = "N")]
    pub parallel: Option<NonZeroUsize>,
    /// Contact the nodes and print the plan, but change nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Exit 3 when the plan has changes
    #[arg(long, global = true)]
    pub detailed_exitcode: bool,
    /// Write one JSON value per line to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Answer every question with yes
    #[arg(long, global = true)]
    pub yes: bool,
    /// Show no progress, only results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more about each step
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Colour the output: auto, always or never; auto obeys NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto, hide_possible_values = true)]
    pub color: Color,
    /// Give a node up that stays silent for so long (30s, 5m, 2h)
    #[arg(long, global = true, value_name = "DURATION", value_parser = time::duration)]
    pub timeout: Option<Duration>,
}

/// When the output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a df.yaml that fits this repository, and say what to run next
    Init(Init),
    /// Put a node at the end of the list of nodes
    #[command(after_help = nodes::ADD_EXAMPLES)]
    Add(Add),
    /// Take a node off the list of nodes, and end what cache.remote keeps for it; nothing on it changes
    #[command(visible_alias = "rm")]
    Remove(Remove),
    /// List the nodes, or the versions known here and on the nodes
    #[command(visible_alias = "ls")]
    List(List),
    /// Push nodes onto the context stack, or show it
    #[command(after_help = nodes::WITH_EXAMPLES)]
    With(With),
    /// Make an image of a commit, and print its id
    #[command(after_help = building::BUILD_EXAMPLES)]
    Build(Build),
    /// Put the image on the nodes of the context, sending only what they lack
    #[command(after_help = moving::CP_EXAMPLES)]
    Cp(Cp),
    /// Start the executable of df.yaml on the nodes
    Start(Start),
    /// Stop the executable on the nodes; clients are refused until it is started
    Stop(Stop),
    /// Start the serving version anew beside itself, and switch to the new process
    Restart(Restart),
    /// Compare image and files on each node, read back from disk, with the current version here
    CompareChecksums(CompareChecksums),
    /// Probe the current version on each node as df.yaml says
    Verify(Verify),
    /// Build, cp, start the new version beside the old, verify it, switch to it, and shut the old one down
    #[command(after_help = running::DEPLOY_EXAMPLES)]
    Deploy(Deploy),
    /// Serve the previous good generation again, from the node's own records
    #[command(after_help = running::ROLLBACK_EXAMPLES)]
    Rollback(Rollback),
    /// Kill what fails its verification, copy it again where it is damaged, start and verify it
    #[command(after_help = running::REPAIR_EXAMPLES)]
    Repair(Repair),
    /// Collect old versions here and on the nodes
    #[command(after_help = cache::GC_EXAMPLES)]
    Gc(Gc),
    /// Show what serves where, since when, and whether it is well
    Status(Status),
    /// Show the output of the executable
    Logs(Logs),
    /// Show who deployed what, when, and how it ended
    History(History),
    /// Show whom the nodes believe about versions, or change it
    #[command(after_help = nodes::TRUST_EXAMPLES)]
    Trust(Trust),
    /// Work on the cache, here or at --address
    #[command(after_help = cache::CACHE_EXAMPLES)]
    Cache(Cache),
    /// Have git build what is committed or pushed here
    #[command(after_help = building::HOOK_EXAMPLES)]
    Hook(Hook),
    /// Print the completions of a shell; they complete nodes, versions and paths too
    #[command(after_help = shell::COMPLETIONS_EXAMPLES)]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(after_help = shell::MAN_EXAMPLES)]
    Man(Man),
    /// Check this machine and the nodes, and name what is missing
    Doctor(Doctor),
    /// Print the names that shell completions offer
    #[command(name = "__complete", hide = true)]
    Complete(Complete),
    /// Make the deltas that the next copy will want
    #[command(name = "__prepare", hide = true)]
    Prepare(Prepare),
    /// Do what a hook of git's does
    #[command(name = "__hook", hide = true)]
    Hooked(Hooked),
}

/// Reads the words that follow the program's name.
///
/// Global flags may stand anywhere. Clap lets the flags after a command replace those before it, so they are brought together first:
/// `df --address a cp --address b` means both.
pub fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let words = std::iter::once(OsString::from("df")).chain(gather(args));
    let matches = grammar().try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut grammar()))
}

/// Returns the grammar itself, for help, manual pages and completions.
pub fn grammar() -> clap::Command {
    Cli::command().mut_subcommands(with_help)
}

/// Gives a command and those below it `-h` and `--help`. At the top `-h` is GNU df's, so clap's own flag, which would be there too, is off.
fn with_help(command: clap::Command) -> clap::Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this help");
    command.arg(help).mut_subcommands(with_help)
}

/// Moves leading global flags behind the command word, and those before the second word of `cache`, `hook` and `list` behind that. `help` takes
/// only words.
fn gather(args: &[OsString]) -> Vec<OsString> {
    let (flags, rest) = args.split_at(name::leading_flags(args).len);
    let Some((command, rest)) = rest.split_first() else { return flags.to_vec() };
    let mut words = vec![command.clone()];
    if command == "help" {
        words.extend_from_slice(rest);
        return words;
    }
    let mut flags = flags.to_vec();
    let mut rest = rest;
    if ["cache", "hook", "list", "ls"].iter().any(|nested| command == nested) {
        let (more, after) = rest.split_at(name::leading_flags(rest).len);
        if let Some((second, after)) = after.split_first().filter(|(second, _)| !second.as_encoded_bytes().starts_with(b"-")) {
            flags.extend_from_slice(more);
            words.push(second.clone());
            rest = after;
        }
    }
    words.extend(flags);
    words.extend_from_slice(rest);
    words
}

const MAIN_EXAMPLES: &str = "\
Examples:
  df init                      write a df.yaml for this repository
  df add ops@web1.example.com  put a node on the list
  df deploy                    make HEAD the serving version on all nodes
  df status                    show what serves where
  df rollback                  serve the previous good generation again";

#[cfg(test)]
mod tests;
