//! The documents beside releases: written once, whole or not at all; gone with their release.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use df_core::{AppName, Digest, ReleaseId};

use super::read::read_release;
use super::{DiskStore, lock};
use crate::blobs::{open_file, read_checked};
use crate::document::{self, Document};
use crate::durable::{self, Pending};
use crate::gc::Collected;
use crate::index::list;
use crate::place::At as _;
use crate::store::{PutError, ReadError};

impl DiskStore {
    /// Returns the file that holds a document of a release, checked; `None` when there is none. It must not be written to.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when there is one that is not whole.
    pub fn document_file(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<PathBuf>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        Ok(self.find_document(app, release, document)?.map(|(path, _)| path))
    }

    pub(super) fn add_document(
        &self,
        app: &AppName,
        release: ReleaseId,
        document: Document,
        bytes: &[u8],
    ) -> Result<bool, PutError> {
        document.check_len(bytes)?;
        let _shared = lock::shared(&self.layout)?;
        if read_release(&self.layout.release(app, release)).is_none() {
            return Err(PutError::NoRelease { release });
        }
        let held = self.whole_documents(app, release, document)?;
        let Some(bytes) = document.combined(joined(document, &held).as_deref(), bytes) else { return Ok(false) };
        let directory = self.layout.documents(app, release);
        let above = durable::parent(&directory);
        [durable::parent(above), above, &directory].into_iter().try_for_each(make_dir)?;
        let workspace = lock::Workspace::make(&self.layout)?;
        let mut pending = Pending::beside(workspace.path())?;
        pending.file().write_all(&bytes).at("write", &directory)?;
        pending.replace(&directory.join(document.file_name(Digest::of(&bytes))), 0o444)?;
        // Only those that are joined in it: somebody else may have added another meanwhile.
        for (path, _) in held {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(PutError::Store(error));
            }
        }
        Ok(true)
    }

    /// Returns a document, joined when it lies in several files. Needs the lock.
    pub(super) fn read_document(
        &self,
        app: &AppName,
        release: ReleaseId,
        document: Document,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        match joined(document, &self.whole_documents(app, release, document)?) {
            Some(bytes) => Ok(Some(bytes)),
            // For the error, where what there is is not whole.
            None => Ok(self.find_document(app, release, document)?.map(|(_, bytes)| bytes)),
        }
    }

    /// Returns the files of a document that are whole, in order of their names. Needs the lock.
    fn whole_documents(&self, app: &AppName, release: ReleaseId, document: Document) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = list(&self.layout.documents(app, release))?;
        files.sort();
        let whole = |path: PathBuf| match of_name(&path) {
            Some((found, digest)) if found == document => read_whole(&path, digest).ok().map(|bytes| (path, bytes)),
            _ => None,
        };
        Ok(files.into_iter().filter_map(whole).collect())
    }

    /// Finds the first whole file of a document. Needs the lock.
    pub(super) fn find_document(
        &self,
        app: &AppName,
        release: ReleaseId,
        document: Document,
    ) -> Result<Option<(PathBuf, Vec<u8>)>, ReadError> {
        let mut files = list(&self.layout.documents(app, release))?;
        files.sort();
        let mut damaged = None;
        for path in files {
            match of_name(&path) {
                Some((found, digest)) if found == document => match read_whole(&path, digest) {
                    Ok(bytes) => return Ok(Some((path, bytes))),
                    Err(error) => drop(damaged.get_or_insert((digest, error))),
                },
                _ => {}
            }
        }
        match damaged {
            None => Ok(None),
            Some((digest, error)) => Err(match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ReadError::Damaged { digest },
                _ => ReadError::Store(error),
            }),
        }
    }

    /// Returns whether the document of a file that is not whole lies beside it in one that is.
    pub(super) fn is_there_again(&self, path: &Path) -> io::Result<bool> {
        let (Some((document, _)), Some(directory)) = (of_name(path), path.parent()) else { return Ok(false) };
        let is_whole =
            |path: &PathBuf| of_name(path).is_some_and(|(found, digest)| found == document && read_whole(path, digest).is_ok());
        Ok(list(directory)?.iter().any(is_whole))
    }

    /// Lists the files of documents that are not what their names say.
    pub(super) fn bad_documents(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = self.document_files()?;
        files.retain(|path| of_name(path).is_none_or(|(_, digest)| read_whole(path, digest).is_err()));
        Ok(files)
    }

    /// Lists the files of documents, whole or not.
    pub(super) fn document_files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = vec![];
        for release in self.document_dirs()? {
            files.extend(list(&release)?);
        }
        Ok(files)
    }

    /// Removes the documents of releases that are gone.
    pub(super) fn sweep_documents(&self, collected: &mut Collected) -> io::Result<()> {
        let refs = self.layout.dir("refs");
        for directory in self.document_dirs()? {
            let below = directory.strip_prefix(self.layout.dir("docs")).unwrap_or(&directory);
            // A name that cannot be looked at is not taken for gone.
            if fs::exists(refs.join(below)).at("look at", &directory)? {
                continue;
            }
            let len = |path: &PathBuf| fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
            collected.bytes += list(&directory)?.iter().map(len).sum::<u64>();
            durable::remove_tree(&directory)?;
        }
        Ok(())
    }

    fn document_dirs(&self) -> io::Result<Vec<PathBuf>> {
        let mut directories = vec![];
        for app in list(&self.layout.dir("docs"))? {
            directories.extend(list(&app)?);
        }
        Ok(directories)
    }
}

/// Returns what several files of a document say together.
fn joined(document: Document, files: &[(PathBuf, Vec<u8>)]) -> Option<Vec<u8>> {
    let (first, rest) = files.split_first()?;
    let join = |held: Vec<u8>, (_, bytes): &(PathBuf, Vec<u8>)| document.combined(Some(&held), bytes).unwrap_or(held);
    Some(rest.iter().fold(first.1.clone(), join))
}

fn of_name(path: &Path) -> Option<(Document, Digest)> {
    Document::parse(path.file_name()?.to_str()?)
}

fn read_whole(path: &Path, digest: Digest) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    let len = file.metadata()?.len();
    if len > document::LEN as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    read_checked(file, digest, len)
}

/// Makes a directory if it is missing, and syncs the one above then.
fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => {
            result.at("make directory", path)?;
            durable::sync_dir(durable::parent(path))
        }
    }
}
