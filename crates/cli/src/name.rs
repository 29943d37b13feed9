//! Whose word is it: ours, or the next `df`'s on PATH?
//!
//! The program is called `df`, and every machine has scripts that call another `df`. So the decision comes before any argument
//! parser, on the words as the system handed them over: no UTF-8 needed, no abbreviations, no guessing. Ours is a first word that is
//! one of our commands, `help`, `--help` or `--version`, or global flags of ours followed by one of our commands. All else goes on.
//!
//! [`decide`] is a function of the words and of two lazily asked [`Facts`]; [`crate::next`] finds the other `df` and becomes it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::next;

/// Whose the words are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Ours: parse them.
    Ours,
    /// The next `df`'s, untouched.
    Next,
    /// The next `df`'s, but they look like a misspelt command of ours: a person gets one hint first, a script nothing.
    NextAfterHint(&'static str),
    /// Our version line, then the version of the next `df`.
    VersionBoth,
    /// Our help, which ends by naming the next `df`.
    HelpThenNext,
}

/// What the decision may ask about the machine; asked only where the answer matters, since most calls are for the next `df`.
pub trait Facts {
    /// Tells whether a df.yaml is found: the file that was named, or one in `dir` (absent: the current directory) or in a parent of it.
    fn config_found(&self, dir: Option<&OsStr>, config: Option<&OsStr>) -> bool;
    /// Tells whether the word names something in the current directory, or is the path of something.
    fn path_exists(&self, word: &OsStr) -> bool;
}

/// The facts of the process's own current directory.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl Facts for Here {
    fn config_found(&self, dir: Option<&OsStr>, config: Option<&OsStr>) -> bool {
        let dir = Path::new(dir.unwrap_or(OsStr::new(".")));
        match config {
            Some(file) => dir.join(file).is_file(),
            None => find_config(dir).is_some(),
        }
    }

    fn path_exists(&self, word: &OsStr) -> bool {
        Path::new(word).symlink_metadata().is_ok()
    }
}

/// One of our commands, as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// What is typed.
    pub name: &'static str,
    /// Without a df.yaml it can do nothing, so where it names an existing path the next `df` was meant.
    pub needs_config: bool,
}

/// Our command words, other names included. A test holds them equal to those of the grammar.
pub const COMMANDS: &[Word] = &[
    word("init", false),
    word("add", true),
    word("remove", true),
    word("rm", true),
    word("list", true),
    word("ls", true),
    word("with", true),
    word("build", true),
    word("cp", true),
    word("start", true),
    word("stop", true),
    word("restart", true),
    word("compare-checksums", true),
    word("verify", true),
    word("deploy", true),
    word("rollback", true),
    word("repair", true),
    word("gc", true),
    word("status", true),
    word("logs", true),
    word("history", true),
    word("trust", true),
    word("cache", true),
    word("hook", true),
    word("completions", false),
    word("man", false),
    word("doctor", false),
    word("help", false),
    word("__complete", false),
    word("__prepare", true),
    word("__hook", true),
];

/// A global flag, as the decision and the reordering of words see it.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its letter, where it has one.
    pub letter: Option<u8>,
    /// Its long name without the dashes, where it has one.
    pub long: Option<&'static str>,
    /// A value belongs to it, attached or as the next word.
    pub takes_value: bool,
}

/// Our global flags. A test holds them equal to those of the grammar, and away from the names of GNU df.
pub const GLOBAL_FLAGS: &[Flag] = &[
    Flag { letter: Some(b'C'), long: None, takes_value: true },
    with_value("config"),
    with_value("state"),
    with_value("address"),
    with_value("parallel"),
    switch(None, "dry-run"),
    switch(None, "detailed-exitcode"),
    switch(None, "json"),
    switch(None, "yes"),
    switch(Some(b'q'), "quiet"),
    switch(Some(b'v'), "verbose"),
    with_value("color"),
    with_value("timeout"),
];

/// Decides whose the words are; `args` come without the program's own name.
pub fn decide(args: &[OsString], facts: &impl Facts) -> Decision {
    let leading = leading_flags(args);
    let Some(word) = args.get(leading.len) else { return Decision::Next };
    let rest = &args[leading.len + 1..];
    match word.as_bytes() {
        b"--help" if leading.len == 0 => return Decision::HelpThenNext,
        b"--version" if leading.len == 0 => return Decision::VersionBoth,
        b"help" if rest.is_empty() => return Decision::HelpThenNext,
        _ => {}
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name.as_bytes() == word.as_bytes()) else {
        return match near(word) {
            Some(command) if !facts.path_exists(word) => Decision::NextAfterHint(command),
            _ => Decision::Next,
        };
    };
    let means_path = command.needs_config
        && !asks_for_help(rest)
        && facts.path_exists(word)
        && !facts.config_found(leading.dir.as_deref(), leading.config.as_deref());
    if means_path { Decision::Next } else { Decision::Ours }
}

/// Acts on the decision. Returns nothing where the words are ours, else what to exit with: when all goes well there is no return, because
/// this process has become the next `df`. `print_help` writes our own help to stdout.
pub fn act(decision: Decision, args: &[OsString], print_help: impl FnOnce()) -> Option<Exit> {
    match decision {
        Decision::Ours => None,
        Decision::Next => Some(next::pass_on(args)),
        Decision::NextAfterHint(command) => {
            next::hint(&args[leading_flags(args).len], command);
            Some(next::pass_on(args))
        }
        Decision::VersionBoth => Some(next::version_both(args)),
        Decision::HelpThenNext => {
            print_help();
            next::name_the_next();
            Some(Exit::Done)
        }
    }
}

/// Returns the df.yaml in `dir` or in the nearest parent of it.
pub fn find_config(dir: &Path) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok()?;
    dir.ancestors().map(|dir| dir.join("df.yaml")).find(|file| file.is_file())
}

/// The global flags that stand before the first other word.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leading {
    /// How many words they and their values take.
    pub len: usize,
    dir: Option<OsString>,
    config: Option<OsString>,
}

/// Reads the global flags at the beginning of `args`. A flag whose value is missing, an abbreviation, and a group of letters that holds
/// one which is not ours end them.
pub(crate) fn leading_flags(args: &[OsString]) -> Leading {
    let mut leading = Leading::default();
    while let Some((flag, value, n_words)) = read_flag(&args[leading.len..]) {
        match (flag.letter, flag.long) {
            (Some(b'C'), _) => leading.dir = value,
            (_, Some("config")) => leading.config = value,
            _ => {}
        }
        leading.len += n_words;
    }
    leading
}

/// Returns the global flag that `args` begin with (of several letters in one word the last), its value, and how many words it takes.
fn read_flag(args: &[OsString]) -> Option<(Flag, Option<OsString>, usize)> {
    let word = args.first()?.as_bytes();
    match word.strip_prefix(b"--") {
        Some(long) => read_long(long, args.get(1)),
        None => read_letters(word.strip_prefix(b"-")?, args.get(1)),
    }
}

fn read_long(long: &[u8], next: Option<&OsString>) -> Option<(Flag, Option<OsString>, usize)> {
    let equals = long.iter().position(|&b| b == b'=');
    let name = &long[..equals.unwrap_or(long.len())];
    let flag = *GLOBAL_FLAGS.iter().find(|flag| flag.long.is_some_and(|long| long.as_bytes() == name))?;
    match (flag.takes_value, equals) {
        (true, Some(at)) => Some((flag, Some(OsStr::from_bytes(&long[at + 1..]).to_owned()), 1)),
        (true, None) => Some((flag, Some(next?.clone()), 2)),
        (false, Some(_)) => None,
        (false, None) => Some((flag, None, 1)),
    }
}

fn read_letters(letters: &[u8], next: Option<&OsString>) -> Option<(Flag, Option<OsString>, usize)> {
    let mut last = None;
    for (i, letter) in letters.iter().enumerate() {
        let flag = *GLOBAL_FLAGS.iter().find(|flag| flag.letter == Some(*letter))?;
        if flag.takes_value {
            let attached = &letters[i + 1..];
            let attached = attached.strip_prefix(b"=").unwrap_or(attached);
            return match letters.len() == i + 1 {
                true => Some((flag, Some(next?.clone()), 2)),
                false => Some((flag, Some(OsStr::from_bytes(attached).to_owned()), 1)),
            };
        }
        last = Some((flag, None, 1));
    }
    last
}

/// A command that is only asked what it does needs no df.yaml.
fn asks_for_help(rest: &[OsString]) -> bool {
    rest.iter().take_while(|word| *word != "--").any(|word| word == "--help")
}

/// Returns our command that the word is nearest to, when it is within two edits and more of it is right than wrong: every word of two
/// letters is within two edits of `cp`.
fn near(word: &OsStr) -> Option<&'static str> {
    let word = word.as_bytes();
    if word.len() < 2
        || word.len() > 24
        || !word.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
        || word[0] == b'-'
    {
        return None;
    }
    COMMANDS
        .iter()
        .filter(|command| !command.name.starts_with('_'))
        .map(|command| (edits(word, command.name.as_bytes()), command.name))
        .filter(|(n_edits, name)| *n_edits <= 2 && 2 * n_edits < name.len().min(word.len()).max(3))
        .min_by_key(|(n_edits, _)| *n_edits)
        .map(|(_, name)| name)
}

/// Returns how many insertions, deletions and replacements make `a` into `b` (Levenshtein's distance, one row at a time).
pub(crate) fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const fn word(name: &'static str, needs_config: bool) -> Word {
    Word { name, needs_config }
}

const fn with_value(long: &'static str) -> Flag {
    Flag { letter: None, long: Some(long), takes_value: true }
}

const fn switch(letter: Option<u8>, long: &'static str) -> Flag {
    Flag { letter, long: Some(long), takes_value: false }
}

#[cfg(test)]
mod tests;
