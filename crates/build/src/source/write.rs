//! A commit's tree written to a directory, and nothing else left there.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use df_core::{Digest, Hasher, Manifest, TreePath};
use rustix::fs::FileType;

use super::tree::{Item, ItemKind, TreeError};
use super::{Commit, Repository};
use crate::directory::{self, Children};

/// A tree cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WriteError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("cannot write {path} of the source")]
    Write { path: String, source: io::Error },
}

impl Repository {
    /// Makes a directory hold exactly the commit's tree: files 0644 or 0755, all times 1980-01-01.
    ///
    /// The directory exists already, and may hold another tree or what a build left. Files that already have the right content keep their inode; all else goes.
    /// Returns the tree's manifest. When it fails midway the directory holds a mixture; writing again mends it.
    ///
    /// # Errors
    /// A tree that cannot be source files, or a file that cannot be written, by name.
    pub fn write_tree(&self, commit: &Commit, dest: &Path) -> Result<Manifest, WriteError> {
        let manifest = self.manifest(commit)?;
        self.write_listed(commit, &manifest, dest)?;
        Ok(manifest)
    }

    /// Does the same with the commit's manifest at hand, or that of a part of it: what it does not list is not written.
    pub(crate) fn write_listed(&self, commit: &Commit, manifest: &Manifest, dest: &Path) -> Result<(), WriteError> {
        let mut items = self.items(commit)?;
        items.retain(|item| manifest.get(item.path.as_bytes()).is_some());
        let children = Children::of(items.iter().map(|item| &item.path));
        let failed = |source| WriteError::Write { path: "the top directory".into(), source };
        let root = directory::open(dest).map_err(failed)?;
        let writer = Writer { repository: self, manifest, items: &items, children: &children };
        writer.directory(root.as_fd(), &[])
    }

    /// Writes a file or directory of the commit into another directory under a new name, where nothing has it yet.
    pub(crate) fn write_part(&self, part: &[&Item], strip: usize, to: BorrowedFd<'_>, name: &[u8]) -> Result<(), WriteError> {
        for item in part {
            let failed = |source| WriteError::Write { path: item.path.to_string(), source };
            let below = item.path.as_bytes()[strip..].strip_prefix(b"/").unwrap_or(&item.path.as_bytes()[strip..]);
            let at: Vec<&[u8]> = std::iter::once(name).chain(below.split(|&b| b == b'/').filter(|c| !c.is_empty())).collect();
            let (last, dirs) = at.split_last().expect("the name is always there");
            let mut dir = to.try_clone_to_owned().map_err(failed)?;
            for component in dirs {
                dir = directory::make_in(dir.as_fd(), component).map_err(failed)?;
            }
            match item.kind {
                ItemKind::Directory => drop(directory::make_in(dir.as_fd(), last).map_err(failed)?),
                kind => self.write_leaf(item, kind, dir.as_fd(), last)?,
            }
        }
        Ok(())
    }

    fn write_leaf(&self, item: &Item, kind: ItemKind, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), WriteError> {
        let bytes = self.blob(item)?;
        let written = match kind {
            ItemKind::File { executable } => directory::write_file(dir, name, executable, &bytes),
            _ => directory::link(dir, name, &bytes),
        };
        written.map_err(|source| WriteError::Write { path: item.path.to_string(), source })
    }
}

struct Writer<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
    items: &'a [Item],
    children: &'a Children,
}

impl Writer<'_> {
    fn directory(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), WriteError> {
        let items: Vec<&Item> = self.children.in_directory(path).iter().map(|&i| &self.items[i]).collect();
        let shown = |source| WriteError::Write { path: df_core::text::escape(path), source };
        let wanted: std::collections::HashSet<&[u8]> = items.iter().map(|item| item.path.file_name()).collect();
        for name in directory::names(dir).map_err(shown)? {
            if !wanted.contains(&name[..]) {
                directory::remove(dir, &name).map_err(shown)?;
            }
        }
        for item in items {
            let (name, failed) = (item.path.file_name(), |source| WriteError::Write { path: item.path.to_string(), source });
            if item.kind == ItemKind::Directory {
                let is_directory = directory::look(dir, name)
                    .map_err(failed)?
                    .is_some_and(|stat| directory::type_of(&stat) == FileType::Directory);
                if !is_directory {
                    directory::remove(dir, name).map_err(failed)?;
                }
                let inner = directory::make_in(dir, name).map_err(failed)?;
                self.directory(inner.as_fd(), item.path.as_bytes())?;
            } else if !self.is_there(dir, item).map_err(failed)? {
                directory::remove(dir, name).map_err(failed)?;
                self.repository.write_leaf(item, item.kind, dir, name)?;
            }
            directory::set_epoch(dir, name).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns whether the directory already holds this file or link, with this mode, these bytes and no second name.
    fn is_there(&self, dir: BorrowedFd<'_>, item: &Item) -> io::Result<bool> {
        let name = item.path.file_name();
        let Some(stat) = directory::look(dir, name)? else { return Ok(false) };
        match (&self.entry(&item.path), directory::type_of(&stat)) {
            (df_core::Kind::Symlink { target }, FileType::Symlink) => Ok(directory::read_link(dir, name)? == **target),
            (df_core::Kind::File { executable, len, digest }, FileType::RegularFile) => {
                let mode = if *executable { 0o755 } else { 0o644 };
                // A second name would let an earlier build's output change with the source.
                let may_be = stat.st_mode & 0o7777 == mode && stat.st_nlink == 1 && u64::try_from(stat.st_size) == Ok(*len);
                Ok(may_be && digest_of(directory::open_file(dir, name)?)? == *digest)
            }
            _ => Ok(false),
        }
    }

    fn entry(&self, path: &TreePath) -> df_core::Kind {
        self.manifest.get(path.as_bytes()).map_or(df_core::Kind::Directory, |entry| entry.kind.clone())
    }
}

fn digest_of(mut file: std::fs::File) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => drop(hasher.update(&buffer[..n])),
        }
    }
}
