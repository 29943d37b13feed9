//! What can be wrong with a df.yaml, and where.

use std::fmt;
use std::io;

use df_core::text::{escape, shorten};

/// A df.yaml that cannot be used. What it prints begins with the file, and where there is one with the line and the column.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("read {origin}")]
    Read {
        /// The file, fit for a terminal.
        origin: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A link, a pipe, a directory: what is read must be what everybody sees under the name.
    #[error("{origin}: is {what}, not a regular file")]
    NotRegular {
        /// The file.
        origin: String,
        /// What it is instead.
        what: &'static str,
    },
    /// Nobody writes so much by hand.
    #[error("{origin}: is longer than {limit} bytes")]
    TooLong {
        /// The file.
        origin: String,
        /// The longest that is read.
        limit: usize,
    },
    /// The text or a value in it is wrong.
    #[error("{origin}:{at}: {wrong}")]
    Wrong {
        /// The file.
        origin: String,
        /// Where in it.
        at: Place,
        /// What is wrong.
        wrong: Box<Wrong>,
    },
}

/// A place in a text; lines and columns (of characters) count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    pub(super) const TOP: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong at a place. Keys are paths such as `run.ports.http`; what stood in the file is kept as it was and printed escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The text is no YAML, or of a kind that is not read.
    #[error("{0}")]
    Syntax(Box<str>),
    /// No such key, here.
    #[error("unknown key \"{}\"{}{}", show(.key), within(.section), hinted(.hint))]
    UnknownKey {
        /// What stands there.
        key: String,
        /// The section it stands in; empty at the top.
        section: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// The key stands there twice.
    #[error("the key \"{}\" stands here already, in line {}", show(.key), .first.line)]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands first.
        first: Place,
    },
    /// A key that must be there is not.
    #[error("{}\"{key}\" is missing", prefix(.section))]
    Missing {
        /// Where it is missing.
        section: String,
        /// What is missing.
        key: &'static str,
    },
    /// A value of another kind is needed.
    #[error("{}{wanted} is needed, not {found}", prefix(.key))]
    Kind {
        /// Whose value.
        key: String,
        /// What is needed.
        wanted: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// The value is outside its range, or none of the few that there are.
    #[error("{}{wanted} is needed, not \"{}\"", prefix(.key), show(.found))]
    Range {
        /// Whose value.
        key: String,
        /// What is needed.
        wanted: Box<str>,
        /// What stands there.
        found: String,
    },
    /// What the contract promises and this version does not do yet.
    #[error("{}{what} not built yet", prefix(.key))]
    NotBuilt {
        /// Whose value.
        key: String,
        /// "an S3 cache is"
        what: &'static str,
    },
    /// The value breaks a rule.
    #[error("{}{why}", prefix(.key))]
    Refused {
        /// Whose value.
        key: String,
        /// The rule, with the value where that helps; fit for a terminal.
        why: Box<str>,
    },
}

/// What may have been meant by an unknown key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A key of this section that is written almost so.
    Nearest(&'static str),
    /// The key belongs elsewhere.
    Elsewhere(String),
    /// All there are.
    All(Vec<&'static str>),
}

/// Something wrong, before it is known which file it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: Place,
    pub wrong: Wrong,
}

impl Fault {
    pub fn new(at: Place, wrong: Wrong) -> Self {
        Self { at, wrong }
    }

    pub fn syntax(at: Place, why: impl Into<Box<str>>) -> Self {
        Self::new(at, Wrong::Syntax(why.into()))
    }

    pub fn within(self, origin: &str) -> ConfigError {
        ConfigError::Wrong { origin: origin.to_owned(), at: self.at, wrong: Box::new(self.wrong) }
    }
}

/// Makes a foreign text short and fit for a terminal.
pub(super) fn show(text: &str) -> String {
    shorten(&escape(text.as_bytes()), 80)
}

fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{}: ", shorten(&escape(key.as_bytes()), 120)) }
}

fn within(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in {}", shorten(&escape(section.as_bytes()), 120)) }
}

fn hinted(hint: &Hint) -> String {
    match hint {
        Hint::Nearest(key) => format!(" (nearest: \"{key}\")"),
        Hint::Elsewhere(key) => format!(" (nearest: \"{key}\")"),
        Hint::All(keys) => format!(" (there are: {})", keys.join(", ")),
    }
}
