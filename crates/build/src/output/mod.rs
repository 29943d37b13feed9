//! The output directory: programs, what a command left, what is included; copied into new files, nothing of the wrong kind let through.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use df_core::limits;
use df_core::name::PathText;
use df_core::spec::BuildSection;
use df_core::text::escape;
use rustix::fs::FileType;

use crate::directory;
use crate::source::{Commit, Item, Repository, TreeError, WriteError};

pub(crate) mod relocate;

/// Directories in directories.
const DEPTH: usize = 256;

/// What a build left cannot become an image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OutputError {
    #[error("the command left no {path}, which build.output names")]
    Missing { path: String },
    #[error("the build's output {path} is a symbolic link; it must be a directory of its own")]
    Link { path: String },
    #[error("the build's output {path} is no directory")]
    NotADirectory { path: String },
    #[error("the build left {path}, which is {what}; an image holds files, directories and links")]
    Kind { path: String, what: &'static str },
    #[error("the build left {path}, which runs with its owner's rights (setuid or setgid); an image holds no such file")]
    SetUid { path: String },
    #[error("the build left {path}, deeper than {DEPTH} directories")]
    TooDeep { path: String },
    #[error("the build left more than {} files and directories", limits::MANIFEST_ENTRIES)]
    TooMany,
    #[error("build.include names {path}, which is not in the commit")]
    NotInCommit { path: String },
    #[error("build.include puts {path} where the build already has something")]
    Taken { path: String },
    #[error("the build left nothing")]
    Empty,
    #[error("cannot copy {path} to the output")]
    Copy { path: String, source: io::Error },
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Copies programs, each of a name and a path below a directory that a build wrote, to `bin/`.
///
/// A build may have put a link in place of any directory on the way: none is followed.
pub(crate) fn programs(programs: &[(String, PathBuf)], dir: &Path, out: &Path) -> Result<(), OutputError> {
    for (name, file) in programs {
        let shown = escape(name.as_bytes());
        let failed = |source| OutputError::Copy { path: format!("bin/{shown}"), source };
        let out = directory::open(out).map_err(failed)?;
        let bin = directory::make_in(out.as_fd(), b"bin").map_err(failed)?;
        let mut from = directory::open(dir).map_err(failed)?;
        let mut names: Vec<&[u8]> = file.as_os_str().as_encoded_bytes().split(|&b| b == b'/').collect();
        let last = names.pop().unwrap_or_default();
        for name in names {
            from = directory::open_in(&from, name).map_err(failed)?;
        }
        let stat = directory::look(&from, last).map_err(failed)?;
        match stat.as_ref().map(|stat| (directory::type_of(stat), stat.st_mode & 0o6000)) {
            Some((FileType::RegularFile, 0)) => {}
            Some((FileType::RegularFile, _)) => return Err(OutputError::SetUid { path: shown }),
            _ => return Err(OutputError::Kind { path: shown, what: "no regular file" }),
        }
        let mut from = directory::open_file(&from, last).map_err(failed)?;
        let mut to = directory::create_file(bin.as_fd(), name.as_bytes(), true).map_err(failed)?;
        io::copy(&mut from, &mut to).map_err(failed)?;
    }
    Ok(())
}

/// Copies the directory that a command left below the source.
pub(crate) fn directory_left(source: &Path, output: &PathText, out: &Path) -> Result<(), OutputError> {
    let failed = |source| OutputError::Copy { path: output.to_string(), source };
    let mut from = directory::open(source).map_err(failed)?;
    for component in output.as_str().as_bytes().split(|&b| b == b'/') {
        let stat = directory::look(&from, component).map_err(failed)?;
        match stat.as_ref().map(directory::type_of) {
            None => return Err(OutputError::Missing { path: output.to_string() }),
            Some(FileType::Symlink) => return Err(OutputError::Link { path: output.to_string() }),
            Some(FileType::Directory) => from = directory::open_in(&from, component).map_err(failed)?,
            Some(_) => return Err(OutputError::NotADirectory { path: output.to_string() }),
        }
    }
    let to = directory::open(out).map_err(failed)?;
    Copier { n: 0 }.directory(&from, to.as_fd(), output.as_str().as_bytes(), 0)
}

/// Writes what `build.include` names, straight from the commit.
pub(crate) fn include(repository: &Repository, commit: &Commit, section: &BuildSection, out: &Path) -> Result<(), OutputError> {
    if section.include.is_empty() {
        return Ok(());
    }
    let items = repository.items(commit)?;
    for (from, to) in &section.include {
        let from_bytes = from.as_str().as_bytes();
        let within = |item: &&Item| {
            let rest = item.path.as_bytes().strip_prefix(from_bytes);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let part: Vec<&Item> = items.iter().filter(within).collect();
        if part.is_empty() {
            return Err(OutputError::NotInCommit { path: from.to_string() });
        }
        let (dir, name) = place(out, to, part.len() == 1)?;
        let taken = |error| match error {
            WriteError::Write { path, source }
                if matches!(source.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) =>
            {
                OutputError::Taken { path: format!("{path} (into {to})") }
            }
            error => error.into(),
        };
        repository.write_part(&part, from_bytes.len(), dir.as_fd(), &name).map_err(taken)?;
    }
    Ok(())
}

/// Refuses an output that holds nothing at all.
pub(crate) fn refuse_empty(out: &Path) -> Result<(), OutputError> {
    let names = directory::open(out).and_then(directory::names);
    let names = names.map_err(|source| OutputError::Copy { path: "the top directory".into(), source })?;
    if names.is_empty() { Err(OutputError::Empty) } else { Ok(()) }
}

/// Makes the directories above a place, and says where it is.
fn place(out: &Path, to: &PathText, alone: bool) -> Result<(OwnedFd, Vec<u8>), OutputError> {
    let failed = |source| OutputError::Copy { path: to.to_string(), source };
    let mut dir = directory::open(out).map_err(failed)?;
    let names: Vec<&[u8]> = to.as_str().as_bytes().split(|&b| b == b'/').collect();
    let (last, above) = names.split_last().expect("a split has at least one part");
    for name in above {
        dir = directory::make_in(dir.as_fd(), name).map_err(failed)?;
    }
    let taken = directory::look(&dir, last)
        .map_err(failed)?
        .is_some_and(|stat| alone || directory::type_of(&stat) != FileType::Directory);
    if taken { Err(OutputError::Taken { path: to.to_string() }) } else { Ok((dir, last.to_vec())) }
}

struct Copier {
    n: usize,
}

impl Copier {
    fn directory(&mut self, from: &OwnedFd, to: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<(), OutputError> {
        if depth > DEPTH {
            return Err(OutputError::TooDeep { path: escape(path) });
        }
        let failed = |path: &[u8], source| OutputError::Copy { path: escape(path), source };
        for name in directory::names(from).map_err(|source| failed(path, source))? {
            self.n += 1;
            if self.n > limits::MANIFEST_ENTRIES {
                return Err(OutputError::TooMany);
            }
            let path = [path, b"/", &name].concat();
            self.entry(from, to, &name, &path, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, to: BorrowedFd<'_>, name: &[u8], path: &[u8], depth: usize) -> Result<(), OutputError> {
        let failed = |source| OutputError::Copy { path: escape(path), source };
        let Some(stat) = directory::look(from, name).map_err(failed)? else {
            return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
        };
        let refuse = |what| Err(OutputError::Kind { path: escape(path), what });
        match directory::type_of(&stat) {
            FileType::Directory => {
                let inner = directory::open_in(from, name).map_err(failed)?;
                let made = directory::make_in(to, name).map_err(failed)?;
                self.directory(&inner, made.as_fd(), path, depth + 1)
            }
            FileType::RegularFile if stat.st_mode & 0o6000 != 0 => Err(OutputError::SetUid { path: escape(path) }),
            FileType::RegularFile => copy_file(from, to, name).map_err(failed),
            FileType::Symlink => {
                directory::read_link(from, name).and_then(|target| directory::link(to, name, &target)).map_err(failed)
            }
            FileType::Fifo => refuse("a named pipe"),
            FileType::Socket => refuse("a socket"),
            FileType::CharacterDevice | FileType::BlockDevice => refuse("a device"),
            _ => refuse("of an unknown kind"),
        }
    }
}

fn copy_file(from: impl AsFd, to: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut from: File = directory::open_file(from, name)?;
    let executable = from.metadata()?.permissions().mode() & 0o111 != 0;
    let mut to = directory::create_file(to, name, executable)?;
    io::copy(&mut from, &mut to).map(drop)
}
