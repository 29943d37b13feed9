//! The program `df`: words in, events and an exit code out.
//!
//! First it is decided whose words they are (`name`); ours are parsed ([`args`]) and become a command (`commands`), which is short: it resolves what
//! the words mean (`session`), calls the rooms (`df-build`, `df-cache`, `df-fleet`), and renders what they say (`event`, `render`, `output`).
//! `pipeline` shows the whole journey on one page.
//!
//! It refuses to: know a format of another room, speak to a node but through `df-fleet`, print a foreign byte unescaped, guess an abbreviation.
//!
//! Invariants: results go to stdout, all else to stderr; with `--json` the first line is `version` and the last is `result`, also when it fails; every
//! failure has an exit code ([`exit`]) and says what to type next.

mod across;
pub mod args;
mod asking;
mod bucket;
mod building;
mod commands;
mod completions;
pub mod config;
mod confirming;
mod copying;
mod documents;
mod event;
pub mod exit;
mod failure;
mod hook;
mod init;
mod interrupt;
mod leases;
mod man;
mod name;
mod next;
mod node_event;
mod output;
mod pipeline;
mod preparing;
mod progress;
mod proof;
mod render;
mod rolling;
mod session;
mod store;
mod through;
mod time;
mod trust;

pub use df_fleet::Paged;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command, Globals};
use exit::Exit;
use failure::Failure;
use interrupt::Interrupt;
use output::Output;
use progress::{Mode, Progress, Terminal};
use session::Call;

/// Runs `df` with the words and in the directory of this process.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let decision = name::decide(&words, &name::Here);
    if let Some(exit) = name::act(decision, &words, print_help) {
        return exit.into();
    }
    match args::parse(&words) {
        Ok(cli) => run(cli).into(),
        Err(error) => refuse(&error, &words).into(),
    }
}

fn run(cli: Cli) -> Exit {
    let Globals { json, quiet, color, .. } = cli.globals;
    // Scripts read events; nobody looks at bars then, nor in a log.
    let is_log = matches!(&cli.command, Command::Repair(repair) if repair.watch);
    let progress = Progress::new(Mode::choose(quiet || json || is_log, color, Terminal::of_stderr()));
    let output = Output::begin(json, quiet, progress);
    let output = if is_log { output.into_log() } else { output };
    let ended = begin(&cli, &output).and_then(|call| commands::run(&cli.command, call));
    let exit = ended.unwrap_or_else(|failure| {
        output.progress().finish();
        output.error(&failure.event());
        failure.exit
    });
    output.end(exit);
    exit
}

/// Goes where `-C` says and prepares what every command needs.
fn begin(cli: &Cli, output: &Output) -> Result<Call, Failure> {
    let globals = cli.globals.clone();
    if let Some(dir) = &globals.dir {
        std::env::set_current_dir(dir).map_err(|error| Failure::new(Exit::Usage, "-C", format!("{}: {error}", dir.display())))?;
    }
    let here = std::env::current_dir().map_err(|error| Failure::here("current directory", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::here("start", &error))?;
    let interrupt = {
        let _inside = runtime.enter();
        Interrupt::listen(output.clone())
    };
    Ok(Call { globals, output: output.clone(), interrupt, runtime, here })
}

fn print_help() {
    // A reader that went away is no failure.
    let _ = args::grammar().print_long_help();
}

/// Prints what clap says of words that it refuses, or the help that was asked for. Scripts that asked for JSON get it as JSON.
fn refuse(error: &clap::Error, words: &[OsString]) -> Exit {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
    if exit == Exit::Usage && words.iter().any(|word| word == "--json") {
        let output = Output::begin(true, true, Progress::new(Mode::Silent));
        let text = error.to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        output.error(&Failure::new(exit, "arguments", message).next("df --help").event());
        output.end(exit);
    } else {
        let _ = error.print();
    }
    exit
}
