//! The commit: found in a repository, read from its objects, never from a working tree.
//!
//! Everything goes through libgit2's object database, which checks each object against its id, follows no replace refs, starts no programs and
//! never fetches. Trees are parsed here, not by libgit2, so that no name is seen by anything before it was judged.

mod entry_name;
mod record;
mod tree;
mod write;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use df_core::text::{escape, shorten};
use df_core::{CommitId, Timestamp};
use git2::{ErrorCode, ObjectType, Oid};

pub use tree::TreeError;
pub use write::WriteError;

use entry_name::is_git_directory;

pub(crate) use record::{Source, n_changed, write_source};
pub(crate) use tree::Item;

/// Bytes of a text that names a commit.
const REVISION_LEN: usize = 256;

/// A git repository, of which only objects and refs are read.
pub struct Repository {
    git: git2::Repository,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its full id.
    pub id: CommitId,
    /// When it was committed, as it says.
    pub committed: Timestamp,
    /// The first line of its message, fit for a terminal, at most 200 bytes.
    pub summary: String,
    pub(crate) tree: Oid,
}

/// A repository cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("{} is in no git repository", dir.display())]
    NotFound { dir: PathBuf },
    #[error(
        "the git repository at {0} belongs to another user; to trust it: git config --global --add safe.directory {0}",
        dir.display()
    )]
    Owner { dir: PathBuf },
    #[error("cannot open the git repository at {}", dir.display())]
    Open { dir: PathBuf, source: git2::Error },
}

impl OpenError {
    /// Returns the command that helps.
    pub fn mend(&self) -> String {
        let quoted = |dir: &Path| format!("'{}'", dir.display().to_string().replace('\'', r"'\''"));
        match self {
            Self::NotFound { .. } => "git init".into(),
            Self::Owner { dir } => format!("git config --global --add safe.directory {}", quoted(dir)),
            Self::Open { dir, .. } => format!("git -C {} status", quoted(dir)),
        }
    }
}

/// A text names no single commit.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ResolveError {
    #[error("\"{text}\" cannot name a commit: {why}")]
    Text { text: String, why: &'static str },
    #[error("the repository has no commits yet")]
    NoCommits,
    #[error("there is no commit \"{text}\" in the repository")]
    Unknown { text: String },
    #[error("\"{text}\" could be several things; write the full commit id")]
    Ambiguous { text: String },
    #[error("\"{text}\" is a {kind}, not a commit")]
    NotACommit { text: String, kind: &'static str },
    #[error("cannot read the commit \"{text}\"")]
    Read { text: String, source: git2::Error },
}

impl Repository {
    /// Opens the repository that holds a directory, looking upward from it; a bare one by its own directory.
    ///
    /// # Errors
    /// Refuses a repository of another user, as git does, unless `safe.directory` names it.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let ceiling: [&Path; 0] = [];
        let opened = git2::Repository::open_ext(dir, git2::RepositoryOpenFlags::CROSS_FS, ceiling);
        match opened {
            Ok(git) => Ok(Self { git }),
            Err(error) if error.code() == ErrorCode::NotFound => Err(OpenError::NotFound { dir: dir.into() }),
            Err(error) if error.code() == ErrorCode::Owner => Err(OpenError::Owner { dir: dir.into() }),
            Err(source) => Err(OpenError::Open { dir: dir.into(), source }),
        }
    }

    /// Returns the top of the working tree; `None` for a bare repository.
    pub fn work_dir(&self) -> Option<&Path> {
        self.git.workdir()
    }

    /// Finds the commit that a text names: an id or the beginning of one, a branch, a tag, `HEAD`, with `~N` and `^N`.
    ///
    /// From here on only its full id counts. Searches (`:/text`), reflogs (`@{1}`) and paths (`HEAD:file`) are no names.
    ///
    /// # Errors
    /// Says why no single commit is meant. A hexadecimal text that names both a ref and another commit's id is ambiguous.
    pub fn resolve(&self, revision: &str) -> Result<Commit, ResolveError> {
        check_text(revision)?;
        let text = || shown(revision);
        let object = match self.find(revision) {
            Ok(object) => object,
            Err(error) if error.code() == ErrorCode::Ambiguous => return Err(ResolveError::Ambiguous { text: text() }),
            Err(_) if self.has_no_commits(revision) => return Err(ResolveError::NoCommits),
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::InvalidSpec | ErrorCode::UnbornBranch) => {
                return Err(ResolveError::Unknown { text: text() });
            }
            Err(source) => return Err(ResolveError::Read { text: text(), source }),
        };
        let kind = object.kind().map_or("thing of unknown kind", |kind| kind.str());
        let commit = object.peel_to_commit().map_err(|source| match source.code() {
            ErrorCode::NotFound => ResolveError::Read { text: text(), source },
            _ => ResolveError::NotACommit { text: text(), kind },
        })?;
        let first_line = commit.message_bytes().split(|&b| b == b'\n').next().unwrap_or_default();
        Ok(Commit {
            id: CommitId::new(&commit.id().to_string()).expect("libgit2 writes an id as 40 lower-case hexadecimal digits"),
            committed: Timestamp(commit.committer().when().seconds()),
            summary: shorten(&escape(first_line), 200),
            tree: commit.tree_id(),
        })
    }

    /// Returns how many files of the working tree differ from `HEAD` or are new and not ignored: what a build of a commit leaves out.
    ///
    /// `None` when it took longer than `within`, when the repository is bare, or when git's index cannot be read: a mention is never worth a failure.
    /// libgit2 compares by the index's times and sizes and runs nothing.
    pub fn n_uncommitted(&self, within: Duration) -> Option<usize> {
        let dir = self.git.workdir()?.to_owned();
        let (sender, receiver) = mpsc::channel();
        // The comparison cannot be interrupted, so it gets a thread of its own, which outlives the question when it is slow.
        std::thread::spawn(move || {
            let n = git2::Repository::open(dir).and_then(|git| {
                let mut options = git2::StatusOptions::new();
                options.include_untracked(true).recurse_untracked_dirs(true).exclude_submodules(true).no_refresh(true);
                git.statuses(Some(&mut options)).map(|statuses| statuses.len())
            });
            sender.send(n.ok()).ok();
        });
        receiver.recv_timeout(within).ok().flatten()
    }

    fn find(&self, revision: &str) -> Result<git2::Object<'_>, git2::Error> {
        if !is_hex(revision) {
            return self.git.revparse_single(revision);
        }
        let by_name = ["refs/heads/", "refs/tags/"]
            .iter()
            .find_map(|prefix| self.git.find_reference(&format!("{prefix}{revision}")).ok())
            .map(|reference| reference.peel(ObjectType::Commit))
            .transpose()?;
        let by_id = self.git.odb()?.exists_prefix(Oid::from_str(revision)?, revision.len());
        match (by_name, by_id) {
            (Some(commit), Ok(id)) if commit.id() != id => {
                Err(git2::Error::new(ErrorCode::Ambiguous, git2::ErrorClass::Reference, "a ref and an id"))
            }
            (Some(commit), _) => Ok(commit),
            (None, id) => self.git.find_object(id?, None),
        }
    }

    fn has_no_commits(&self, revision: &str) -> bool {
        let unborn = self.git.head().is_err_and(|error| error.code() == ErrorCode::UnbornBranch);
        let no_refs = || self.git.references().is_ok_and(|mut refs| refs.next().is_none());
        unborn && (matches!(revision, "HEAD" | "@") || no_refs())
    }
}

fn is_hex(text: &str) -> bool {
    (4..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn shown(text: &str) -> String {
    shorten(&escape(text.as_bytes()), 80)
}

fn check_text(text: &str) -> Result<(), ResolveError> {
    let refuse = |why| Err(ResolveError::Text { text: shown(text), why });
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > REVISION_LEN {
        return refuse("it is too long");
    }
    if text.starts_with('-') {
        return refuse("it begins with -");
    }
    if text.contains("..") {
        return refuse("it is a range");
    }
    let allowed = |c: char| c.is_alphanumeric() || "/._-+~^@#=,%".contains(c);
    if !text.chars().all(allowed) {
        return refuse("write an id, a branch, a tag or HEAD, with ~N or ^N");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_type_about_a_repository_of_another_user_is_not_git_init() {
        let owner = OpenError::Owner { dir: "/srv/a's".into() };
        assert_eq!(owner.mend(), r"git config --global --add safe.directory '/srv/a'\''s'");
        assert_eq!(OpenError::NotFound { dir: "/srv".into() }.mend(), "git init");
    }
}
