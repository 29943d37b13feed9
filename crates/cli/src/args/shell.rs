//! What helps a person at a prompt: completions and manual pages.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

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

/// `df __complete`
#[derive(Debug, Clone, Args)]
pub struct Complete {
    /// Which names
    #[arg(value_enum)]
    pub what: Completed,
}

/// Names that completions ask for while a person waits: from the records here alone, one per line, silent about errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Completed {
    /// Names and addresses of nodes
    Nodes,
    /// Versions known here
    Versions,
}

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  df completions bash > ~/.local/share/bash-completion/completions/df
  df completions zsh > ~/.zfunc/_df
  df completions fish > ~/.config/fish/completions/df.fish";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  df man ~/.local/share/man/man1
  man distributive-flow";
