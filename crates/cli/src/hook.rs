//! Hooks of git: what they are, where they go, and what they do when git calls them.
//!
//! A work tree gets `post-commit`, a bare repository `post-receive`. The file holds one call of `df __hook` and nothing that decides anything; it names no
//! directory, because git calls it in the right one, so a repository may be moved. A hook that somebody else wrote is never touched.

mod called;
mod script;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_core::text::{escape, shorten};

pub use called::{pushed, wanted};
pub use script::{Orders, text};

/// Which hook of git's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// After each commit in a work tree.
    PostCommit,
    /// After each push to a bare repository.
    PostReceive,
}

impl Kind {
    /// Returns git's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PostCommit => "post-commit",
            Self::PostReceive => "post-receive",
        }
    }
}

/// Why there is no hook.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HookError {
    #[error("{} is in no git repository", shown(.dir))]
    NoRepository { dir: PathBuf },
    #[error("git cannot be asked: {why}")]
    Git { why: String },
    /// Its owner decides.
    #[error("{} is there already and was not written by df; nothing was changed. It can call df itself, as its last line:\n{call}", shown(.file))]
    Exists { file: PathBuf, call: String },
    /// What is written there would run in other repositories too.
    #[error("core.hooksPath is {}, outside of this repository: other repositories may use it too; nothing was changed", shown(.dir))]
    Shared { dir: PathBuf },
    #[error("{text:?} is no name of a branch")]
    Branch { text: String },
    #[error("read or write {}", shown(.path))]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A repository, as far as hooks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which hook it has.
    pub kind: Kind,
    /// The directory that git calls it in: the top of the work tree, or the bare repository itself.
    pub top: PathBuf,
    /// The file.
    pub file: PathBuf,
}

/// Finds the repository around a directory.
///
/// # Errors
/// There is none, or its hooks are not its own.
pub fn find(dir: &Path) -> Result<Place, HookError> {
    let no_repository = || HookError::NoRepository { dir: dir.to_owned() };
    let common = ask(dir, &["rev-parse", "--path-format=absolute", "--git-common-dir"])?.ok_or_else(no_repository)?;
    let hooks = ask(dir, &["rev-parse", "--path-format=absolute", "--git-path", "hooks"])?.ok_or_else(no_repository)?;
    let is_bare = ask(dir, &["rev-parse", "--is-bare-repository"])?.ok_or_else(no_repository)?;
    let (kind, top) = match is_bare.as_os_str().as_bytes() {
        b"true" => (Kind::PostReceive, common.clone()),
        _ => (Kind::PostCommit, ask(dir, &["rev-parse", "--show-toplevel"])?.ok_or_else(no_repository)?),
    };
    if !hooks.starts_with(&common) && !hooks.starts_with(&top) {
        return Err(HookError::Shared { dir: hooks });
    }
    Ok(Place { kind, file: hooks.join(kind.name()), top })
}

/// Returns whether df wrote the hook that is there; `None` when there is none.
///
/// # Errors
/// It cannot be read.
pub fn is_ours(place: &Place) -> Result<Option<bool>, HookError> {
    match fs::read(&place.file) {
        Ok(text) => Ok(Some(script::is_ours(&text))),
        // A link that leads nowhere is somebody's too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place.file.symlink_metadata().is_ok().then_some(false)),
        Err(source) => Err(HookError::Io { path: place.file.clone(), source }),
    }
}

/// Writes the hook, in place of one of ours, never of another's.
///
/// # Errors
/// Somebody else's hook is there, or it cannot be written; then what was there is there still.
pub fn install(place: &Place, orders: &Orders) -> Result<(), HookError> {
    if is_ours(place)? == Some(false) {
        return Err(HookError::Exists { file: place.file.clone(), call: script::call(place.kind, orders) });
    }
    let dir = place.file.parent().expect("a file in a directory of hooks");
    fs::create_dir_all(dir).map_err(|source| HookError::Io { path: dir.to_owned(), source })?;
    // Renamed when it is whole: git may call it at any moment.
    let beside = dir.join(format!(".df-{}-{}", place.kind.name(), std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&beside)?;
        file.write_all(&text(place.kind, orders))?;
        fs::rename(&beside, &place.file)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside);
        HookError::Io { path: place.file.clone(), source }
    })
}

/// Returns the commit that HEAD is.
pub fn head(dir: &Path) -> Option<String> {
    commit_of(dir, "HEAD")
}

/// Returns the commit that a branch is at.
pub fn tip(dir: &Path, branch: &str) -> Option<String> {
    commit_of(dir, &format!("refs/heads/{branch}"))
}

fn commit_of(dir: &Path, name: &str) -> Option<String> {
    let id = ask(dir, &["rev-parse", "--quiet", "--verify", &format!("{name}^{{commit}}")]).ok()??;
    called::commit(id.to_str()?)
}

/// Returns the branch that HEAD names: of a bare repository its default branch.
pub fn branch(dir: &Path) -> Option<String> {
    let name = ask(dir, &["symbolic-ref", "--quiet", "HEAD"]).ok()??;
    name.to_str()?.strip_prefix("refs/heads/").map(str::to_owned)
}

/// Asks git one question; `None` when it says no. What a hook's environment says about another repository is not heard.
fn ask(dir: &Path, words: &[&str]) -> Result<Option<PathBuf>, HookError> {
    let mut git = Command::new("git");
    git.arg("-C").arg(dir).args(words).stdin(Stdio::null());
    for name in GIT_VARIABLES {
        git.env_remove(name);
    }
    let output = git.output().map_err(|error| HookError::Git { why: error.to_string() })?;
    if !output.status.success() {
        return Ok(None);
    }
    let line = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
    Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(line.to_vec()))))
}

/// What git sets for its hooks, and what would lead our own git, and cargo's, to another repository.
pub const GIT_VARIABLES: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

fn shown(path: &Path) -> String {
    shorten(&escape(path.as_os_str().as_bytes()), 300)
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}
