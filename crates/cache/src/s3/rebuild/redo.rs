//! What later commits did, done once more to an older root table.
//!
//! A record names images and releases, and no more. So an image is there when the index has its manifest, a release when another copy has it, and a document too; of pins and leases nothing
//! is known. Whatever does not come back is said, unless a later commit let go of it anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use df_core::{ImageId, ReleaseId};

use crate::blobs::Blobs;
use crate::document::{self, Document};
use crate::s3::S3Store;
use crate::s3::format::log::Record;
use crate::s3::format::roots::{ImageRow, Roots};
use crate::s3::index::Index;
use crate::s3::swap::Run;
use crate::store::PutError;

/// A root table on its way from an older commit to a newer one.
pub(super) struct Redo<'a> {
    pub(super) roots: Roots,
    index: &'a Index,
    source: &'a dyn Blobs,
    images: BTreeSet<ImageId>,
    /// With who put them.
    releases: BTreeMap<ReleaseId, String>,
    /// Commits that put several releases and list them as an older program did, by their names.
    unordered: Vec<u64>,
}

impl<'a> Redo<'a> {
    /// Begins with an older table.
    pub(super) fn new(roots: Roots, index: &'a Index, source: &'a dyn Blobs) -> Self {
        let (images, releases, unordered) = Default::default();
        Self { roots, index, source, images, releases, unordered }
    }

    /// Does what the next commit did.
    ///
    /// # Errors
    /// Another copy could not be asked for a release: then nobody knows that it is lost.
    pub(super) fn commit(&mut self, record: &Record) -> io::Result<()> {
        for image in &record.images_removed {
            self.roots.images.remove(image);
            self.images.remove(image);
        }
        for image in &record.images_added {
            match self.index.find(image.0, None) {
                // Whether all of it is whole the reading finds out that follows.
                Some(manifest) => {
                    let row = ImageRow { stored: record.when, manifest_len: manifest.len, whole: true };
                    self.roots.images.insert(*image, row);
                }
                None => drop(self.images.insert(*image)),
            }
        }
        self.roots.releases.retain(|row| !record.releases_removed.contains(&row.stored.id));
        record.releases_removed.iter().for_each(|id| drop(self.releases.remove(id)));
        if record.releases_put.len() > 1 && record.releases_put.is_sorted() {
            self.unordered.push(record.head.sequence);
        }
        for id in &record.releases_put {
            let known = self.roots.release(*id).map(|row| row.stored.release.clone());
            let found = match known {
                Some(release) => Some(release),
                None => self.source.release(*id)?.filter(|release| release.id() == *id),
            };
            match found.filter(|release| self.roots.images.contains_key(&release.image)) {
                Some(release) => {
                    self.roots.put_release(&release, record.when);
                    self.releases.remove(id);
                }
                None => drop(self.releases.insert(*id, record.who.clone())),
            }
        }
        Ok(())
    }

    /// Says what did not come back.
    pub(super) fn lost(&self) -> Vec<String> {
        let images = self.images.iter().map(|image| format!("image {image} is lost: no pack has its manifest; put it again"));
        let releases = self.releases.iter().map(|(id, who)| {
            let who = df_core::text::escape(who.as_bytes());
            format!("release {id} is lost: no other copy has what {who} put; put it again")
        });
        images.chain(releases).collect()
    }

    /// Says what came back and may not be as it was.
    pub(super) fn doubts(&self) -> Vec<String> {
        let doubt =
            |sequence| format!("the releases of commit {sequence}, maybe in another order: an older df kept none in its records");
        self.unordered.iter().map(doubt).collect()
    }
}

impl S3Store {
    /// Attaches to each release the documents that another copy has and the table does not.
    pub(super) fn take_documents(&self, roots: &mut Roots, run: &Run, source: &dyn Blobs) -> Result<(), PutError> {
        let releases: Vec<_> = roots.releases.iter().map(|row| (row.stored.id, row.stored.release.app.clone())).collect();
        for (id, app) in releases {
            let mut found = vec![];
            for document in Document::ALL {
                let bytes = source.document(&app, id, document)?.filter(|bytes| bytes.len() <= document::LEN);
                found.extend(bytes.map(|bytes| (document, bytes)));
            }
            let found: Vec<(Document, &[u8])> = found.iter().map(|(document, bytes)| (*document, bytes.as_slice())).collect();
            self.add_documents(roots, run, id, &found)?;
        }
        Ok(())
    }
}
