//! The grammar of the command line: which words and flags there are, and what each may hold.
//!
//! Only what works is listed. [`parse`] is called after `name::decide` found the words to be ours. What a flag holds is checked
//! here once, so that a command gets durations and dates, and text of a bounded length; what a word *names* (a node, a commit, a version)
//! is for the command to find out. One long file on purpose: the whole grammar, in the order in which `df help` shows it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};

use df_fleet::Wish;

use crate::hook::Kind;
use crate::name;
use crate::time::{self, Older};

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
    #[command(after_help = ADD_EXAMPLES)]
    Add(Add),
    /// Take a node off the list of nodes; nothing on it changes
    #[command(visible_alias = "rm")]
    Remove(Remove),
    /// List the nodes, or the versions known here and on the nodes
    #[command(visible_alias = "ls")]
    List(List),
    /// Push nodes onto the context stack, or show it
    #[command(after_help = WITH_EXAMPLES)]
    With(With),
    /// Make an image of a commit, and print its id
    #[command(after_help = BUILD_EXAMPLES)]
    Build(Build),
    /// Put the image on the nodes of the context, sending only what they lack
    #[command(after_help = CP_EXAMPLES)]
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
    #[command(after_help = DEPLOY_EXAMPLES)]
    Deploy(Deploy),
    /// Serve the previous good generation again, from the node's own records
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback(Rollback),
    /// Collect old versions here and on the nodes
    #[command(after_help = GC_EXAMPLES)]
    Gc(Gc),
    /// Show what serves where, since when, and whether it is well
    Status(Status),
    /// Show the output of the executable
    Logs(Logs),
    /// Show who deployed what, when, and how it ended
    History(History),
    /// Show whom the nodes believe about versions, or change it
    #[command(after_help = TRUST_EXAMPLES)]
    Trust(Trust),
    /// Work on the cache, here or at --address
    #[command(after_help = CACHE_EXAMPLES)]
    Cache(Cache),
    /// Have git build what is committed or pushed here
    #[command(after_help = HOOK_EXAMPLES)]
    Hook(Hook),
    /// Print the completions of a shell; they complete nodes, versions and paths too
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(after_help = MAN_EXAMPLES)]
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

/// `df init`
#[derive(Debug, Clone, Args)]
pub struct Init {}

/// `df add ADDRESS`
#[derive(Debug, Clone, Args)]
pub struct Add {
    /// Where the node is: ssh://[user@]host[:port][/root], user@host, host, or local:PATH
    #[allow(rustdoc::broken_intra_doc_links, reason = "the words are df's help, and the brackets no links")]
    #[arg(id = "new", value_name = "ADDRESS", value_parser = text)]
    pub address: String,
    /// Call the node by this name
    #[arg(long, value_parser = text)]
    pub name: Option<String>,
    /// The IP address that the executable's ports listen on
    #[arg(long, value_name = "IP")]
    pub listen: Option<std::net::IpAddr>,
    /// Run df-node by `sudo -n`, so that it is root
    #[arg(long)]
    pub sudo: bool,
}

/// `df remove NAME-OR-ADDRESS`
#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The node
    #[arg(value_name = "NAME-OR-ADDRESS", value_parser = text, value_hint = NODES)]
    pub node: String,
}

/// `df list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// What to list.
    #[command(subcommand)]
    pub what: Listed,
}

/// What `df list` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Listed {
    /// List the nodes, named and unnamed, each in the order added
    Nodes,
    /// List the releases known here and on the nodes: commit, image, time, where it serves
    Versions,
}

/// `df with`
#[derive(Debug, Clone, Args)]
pub struct With {
    /// Names or addresses of the nodes that commands act on from now
    #[arg(value_name = "ADDRESS", value_parser = text, value_hint = NODES, conflicts_with_all = ["pop", "clear"])]
    pub nodes: Vec<String>,
    /// Take the top off the stack
    #[arg(long, conflicts_with = "clear")]
    pub pop: bool,
    /// Empty the stack, so that commands act on all nodes
    #[arg(long)]
    pub clear: bool,
}

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

/// `df start`
#[derive(Debug, Clone, Args)]
pub struct Start {}

/// `df stop`
#[derive(Debug, Clone, Args)]
pub struct Stop {
    /// Stop every version, not only the serving one
    #[arg(long)]
    pub all: bool,
    /// Stop at once (SIGKILL), without draining
    #[arg(long)]
    pub now: bool,
}

/// `df restart`
#[derive(Debug, Clone, Args)]
pub struct Restart {}

/// `df compare-checksums`
#[derive(Debug, Clone, Args)]
pub struct CompareChecksums {}

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
    /// How the bytes are packed.
    #[command(flatten)]
    pub packing: Packing,
}

/// `df rollback`
#[derive(Debug, Clone, Args)]
pub struct Rollback {
    /// Go back to this generation or commit instead of the previous good one
    #[arg(long, value_name = "GENERATION-OR-COMMIT", value_parser = rollback_to, value_hint = VERSIONS)]
    pub to: Option<RollbackTo>,
}

/// Where `df rollback --to` goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackTo {
    /// A node's numbered slot.
    Generation(u64),
    /// A commit, or the beginning of one.
    Commit(String),
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

/// `df status`
#[derive(Debug, Clone, Args)]
pub struct Status {}

/// `df logs`
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// Go on showing what is written from now
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

/// `df trust`
#[derive(Debug, Clone, Args)]
pub struct Trust {
    /// Attest that nodes shall believe whom df.yaml names, and tell them when enough keys attested it
    #[arg(long)]
    pub sign: bool,
    /// Sign with this key, or the agent's whose .pub file this is; else with the first that the nodes believe and that is at hand
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "sign")]
    pub key: Option<PathBuf>,
    /// Tell the nodes what was attested
    #[arg(long, conflicts_with = "sign")]
    pub send: bool,
}

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
    /// Collect old releases from the cache
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

/// `df completions SHELL`
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// `df man DIR`
#[derive(Debug, Clone, Args)]
pub struct Man {
    /// Where to write distributive-flow.1 and the df-COMMAND.1
    #[arg(id = "pages", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// `df doctor`
#[derive(Debug, Clone, Args)]
pub struct Doctor {}

/// `df __complete`
#[derive(Debug, Clone, Args)]
pub struct Complete {
    /// Which names
    #[arg(value_enum)]
    pub what: Completed,
}

/// `df __prepare`
#[derive(Debug, Clone, Args)]
pub struct Prepare {}

/// Names that completions ask for while a person waits: from the records here alone, one per line, silent about errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Completed {
    /// Names and addresses of nodes
    Nodes,
    /// Versions known here
    Versions,
}

/// The hints stand for what they mark, not for what clap calls them: the shells' scripts get our own lookup in their place (see
/// [`crate::completions`]), because clap's has no hint for words that a program of one's own knows.
pub(crate) const NODES: ValueHint = ValueHint::Hostname;
/// Marks a version, see [`NODES`].
pub(crate) const VERSIONS: ValueHint = ValueHint::Username;

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

/// The longest name, address or revision that is taken from the command line.
const MAX_TEXT_BYTES: usize = 4096;

/// Why a word is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum WordError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    #[error("holds a control character")]
    Control,
    #[error("begins with `-`")]
    Dash,
}

fn text(word: &str) -> Result<String, WordError> {
    match word {
        "" => Err(WordError::Empty),
        _ if word.len() > MAX_TEXT_BYTES => Err(WordError::TooLong),
        _ if word.chars().any(char::is_control) => Err(WordError::Control),
        _ if word.starts_with('-') => Err(WordError::Dash),
        _ => Ok(word.to_owned()),
    }
}

fn revision(word: &str) -> Result<String, WordError> {
    text(word)
}

/// Up to six digits are a generation; anything else, also the seven digits that begin a commit, is a commit.
fn rollback_to(word: &str) -> Result<RollbackTo, WordError> {
    let word = revision(word)?;
    let is_number = word.len() <= 6 && word.bytes().all(|b| b.is_ascii_digit());
    Ok(match word.parse() {
        Ok(number) if is_number => RollbackTo::Generation(number),
        _ => RollbackTo::Commit(word),
    })
}

const MAIN_EXAMPLES: &str = "\
Examples:
  df init                      write a df.yaml for this repository
  df add ops@web1.example.com  put a node on the list
  df deploy                    make HEAD the serving version on all nodes
  df status                    show what serves where
  df rollback                  serve the previous good generation again";
const ADD_EXAMPLES: &str = "\
Examples:
  df add ops@web1.example.com --name web1 --sudo
  df add ssh://ops@web2.example.com:2222/srv/df
  df add local:/srv/nodes/a --name a";
const WITH_EXAMPLES: &str = "\
Examples:
  df with web1 web2  act on these two nodes from now
  df with            show the stack
  df with --pop      go back to what it was before";
const BUILD_EXAMPLES: &str = "\
Examples:
  df build
  df build --check          prove that the commit always gives this image
  df build --sign           attest it, for nodes that believe only keys
  df build --commit-hash v1.2.0 --output ./image";
const CP_EXAMPLES: &str = "\
Examples:
  df cp
  df cp --dry-run           say what each node lacks, how it would get it, and how long that takes
  df cp --level small       spend more time on fewer bytes
  df cp --full --address web1";
const DEPLOY_EXAMPLES: &str = "\
Examples:
  df deploy
  df deploy --dry-run --detailed-exitcode
  df deploy --commit-hash v1.2.0 --address web1";
const ROLLBACK_EXAMPLES: &str = "\
Examples:
  df rollback
  df rollback --to 12
  df rollback --to 3f2a9c1";
const GC_EXAMPLES: &str = "\
Examples:
  df gc --dry-run --why
  df gc --count 3 --older 30d";
const TRUST_EXAMPLES: &str = "\
Examples:
  df trust                          show whom each node believes
  df trust --sign                   attest that it shall be whom df.yaml names
  df trust --sign --key release.pub the same with a key that the agent has
  df trust --send --address web3    tell a node what it missed";
const CACHE_EXAMPLES: &str = "\
Examples:
  df cache status
  df cache put
  df cache get --output ./tree 3f2a9c1
  df cache diff --address file:/srv/cache
  df cache persist --s3-bucket releases
  df cache persist --s3-bucket s3://releases/greeter --dry-run
  df cache verify --address s3://releases --sample 3
  df cache status --address s3://releases";
const HOOK_EXAMPLES: &str = "\
Examples:
  df hook install                       build each commit, in the background
  df hook install --branch main --deploy
  df -C /srv/git/app.git hook install   build each push to the default branch";
const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  df completions bash > ~/.local/share/bash-completion/completions/df
  df completions zsh > ~/.zfunc/_df
  df completions fish > ~/.config/fish/completions/df.fish";
const MAN_EXAMPLES: &str = "\
Examples:
  df man ~/.local/share/man/man1
  man distributive-flow";

#[cfg(test)]
mod tests;
