//! Images, releases and documents into the bucket, many in one commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use df_core::{AppName, Digest, ImageId, Manifest, Release, ReleaseId, Timestamp};

use super::S3Store;
use super::failure::BucketError;
use super::format::name::Reference;
use super::format::roots::{DocumentRow, ImageRow, Roots, TEXT_LEN};
use super::index::Index;
use super::lease::Lease;
use super::prefix::{Choice, Older};
use super::sending::Sending;
use super::swap::{Change, Plan, Run, View};
use crate::blobs::Blobs;
use crate::document::Document;
use crate::store::{Added, PutError, ReadError};

/// What is put again within this time, in seconds, and is the newest already, is left as it is: one request.
const FRESH: i64 = 24 * 60 * 60;

/// So many older images are looked at for blobs that new ones may be like.
const OLDER: usize = 12;

/// One image, and what is put with it in the same commit.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// The image.
    pub manifest: &'a Manifest,
    /// Its release.
    pub release: Option<&'a Release>,
    /// What is kept beside the release.
    pub documents: &'a [(Document, &'a [u8])],
}

impl S3Store {
    /// Puts images, their releases and documents in one commit.
    ///
    /// # Errors
    /// As [`crate::Store::put_image`], [`crate::Store::put_release`] and [`crate::Store::attach`]; then none of them is there, and what was sent is found again.
    pub fn put_items(&self, items: &[Item<'_>], blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        self.put_leased(items, &[], blobs, now)
    }

    /// As [`S3Store::put_items`]. Images that were not there and that a holder has are leased to it in the same commit, besides what it has.
    ///
    /// # Errors
    /// As [`S3Store::put_items`].
    pub fn put_leased(&self, items: &[Item<'_>], leases: &[Lease], blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        let texts: HashMap<Digest, Vec<u8>> =
            items.iter().map(|item| item.manifest.encode()).map(|text| (Digest::of(&text), text)).collect();
        let images: Vec<ImageId> = items.iter().map(|item| item.manifest.image()).collect();
        for (item, &image) in items.iter().zip(&images) {
            if item.release.is_some_and(|release| release.image != image) {
                return Err(PutError::NoImage { image: item.release.expect("looked at above").image });
            }
            check_documents(item.documents)?;
        }
        let mut sending = Sending::new(blobs, &texts);
        let added = self.commit_first(|view, run| {
            let lacking: Vec<usize> =
                (0..items.len()).filter(|&i| !view.roots.images.get(&images[i]).is_some_and(|row| row.whole)).collect();
            let mut roots = (*view.roots).clone();
            let mut change = Change::default();
            let mut added = Added::default();
            if !lacking.is_empty() {
                let wanted = wanted(lacking.iter().map(|&i| (items[i].manifest, images[i], texts[&images[i].0].len() as u64)));
                let index = self.index(view)?;
                let lacking: Vec<(Digest, u64)> =
                    wanted.blobs.iter().copied().filter(|&(digest, len)| !index.holds(digest, len)).collect();
                sending.older = self.older(view, items, &lacking, &index);
                change.added = sending.complete(self, &index, view, run, &lacking)?;
                added = wanted.count(&lacking);
                texts.iter().for_each(|(digest, text)| self.local.keep_manifest(view.head.cache, ImageId(*digest), text));
            }
            for &i in &lacking {
                let row = ImageRow { stored: now, manifest_len: texts[&images[i].0].len() as u64, whole: true };
                roots.images.insert(images[i], row);
            }
            let new: Vec<ImageId> = lacking.iter().map(|&i| images[i]).collect();
            leases.iter().for_each(|lease| lease.add_new(&mut roots, &new));
            for item in items {
                if let Some(release) = item.release.filter(|release| !is_newest(&roots, release, now)) {
                    roots.put_release(release, now);
                }
                if let Some(release) = item.release {
                    self.add_documents(&mut roots, run, release.id(), item.documents)?;
                }
            }
            if roots == *view.roots {
                return Ok(Plan::Leave(added));
            }
            change.roots = Some(roots);
            Ok::<_, PutError>(Plan::Commit(Box::new(change), added))
        })?;
        sending.finish(self);
        Ok(added)
    }

    pub(super) fn add_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError> {
        self.commit(|view, _| {
            if !view.roots.images.get(&release.image).is_some_and(|row| row.whole) {
                return Err(PutError::NoImage { image: release.image });
            }
            if is_newest(&view.roots, release, now) {
                return Ok(Plan::Leave(()));
            }
            Ok(change_roots(view, (), |roots| roots.put_release(release, now)))
        })
    }

    pub(super) fn add_document(
        &self,
        app: &AppName,
        release: ReleaseId,
        document: Document,
        bytes: &[u8],
    ) -> Result<bool, PutError> {
        check_documents(&[(document, bytes)])?;
        self.commit(|view, run| {
            if view.roots.release(release).is_none_or(|row| row.stored.release.app != *app) {
                return Err(PutError::NoRelease { release });
            }
            let mut roots = (*view.roots).clone();
            self.add_documents(&mut roots, run, release, &[(document, bytes)])?;
            if roots == *view.roots {
                return Ok(Plan::Leave(false));
            }
            Ok(Plan::Commit(Box::new(Change { roots: Some(roots), ..Change::default() }), true))
        })
    }

    pub(super) fn find_document(
        &self,
        app: &AppName,
        release: ReleaseId,
        document: Document,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let find = |view: &Arc<View>| {
            let row = view.roots.release(release).filter(|row| row.stored.release.app == *app);
            row.and_then(|row| row.documents.get(&document)).map(|row| self.read_document(release, row)).transpose()
        };
        // As it was when the release was found, which costs no request; what was not there then may be now.
        let known = self.last_view()?.map(|view| self.with_newer(view, find)).transpose()?;
        match known.flatten() {
            None => self.with_view(find).map(Option::flatten),
            found => Ok(found),
        }
    }

    /// Reads a document, checked.
    pub(super) fn read_document(&self, release: ReleaseId, row: &DocumentRow) -> Result<Vec<u8>, ReadError> {
        let damaged = || ReadError::Damaged { digest: row.object.digest };
        let object = match self.get_object(&row.object.name.documents(release), &row.object) {
            Err(BucketError::Gone { .. } | BucketError::Damaged { .. }) => return Err(damaged()),
            result => result?,
        };
        let stored = object.get(row.offset as usize..(row.offset + row.stored) as usize).ok_or_else(damaged)?;
        let bytes = if row.compressed {
            zstd::bulk::decompress(stored, row.len as usize).map_err(|_| damaged())?
        } else {
            stored.to_vec()
        };
        if bytes.len() == row.len as usize { Ok(bytes) } else { Err(damaged()) }
    }

    pub(super) fn add_pin(&self, image: ImageId, why: &str) -> Result<(), PutError> {
        let why = df_core::text::shorten(&df_core::text::escape(why.as_bytes()), TEXT_LEN / 4);
        self.commit(|view, _| {
            if !view.roots.images.get(&image).is_some_and(|row| row.whole) {
                return Err(PutError::NoImage { image });
            }
            if view.roots.pins.get(&image) == Some(&why) {
                return Ok(Plan::Leave(()));
            }
            Ok(change_roots(view, (), |roots| drop(roots.pins.insert(image, why.clone()))))
        })
    }

    pub(super) fn remove_pin(&self, image: ImageId) -> Result<bool, PutError> {
        // Not a pin that somebody sets after it was done.
        self.commit_once(|view, _| {
            if !view.roots.pins.contains_key(&image) {
                return Ok(Plan::Leave(false));
            }
            Ok(change_roots(view, true, |roots| drop(roots.pins.remove(&image))))
        })
    }

    /// Says which older blobs new ones may be like: by their paths in images of the same application, as far as their manifests are on this machine.
    fn older(&self, view: &View, items: &[Item<'_>], lacking: &[(Digest, u64)], index: &Index) -> HashMap<Digest, Older> {
        let mut choice = Choice::new(lacking, index);
        let mut stored: HashMap<&AppName, Vec<Manifest>> = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            let Some(app) = item.release.map(|release| &release.app) else { continue };
            let stored = stored.entry(app).or_insert_with(|| self.stored_manifests(view, app));
            let before = items[..i].iter().rev().filter(|item| item.release.is_some_and(|release| release.app == *app));
            let older: Vec<&Manifest> = before.map(|item| item.manifest).chain(stored.iter()).take(OLDER).collect();
            choice.choose(item.manifest, &older);
        }
        choice.chosen
    }

    /// Returns the manifests of an application's newest images, as far as they are on this machine: no request is worth it.
    fn stored_manifests(&self, view: &View, app: &AppName) -> Vec<Manifest> {
        let mut seen = HashSet::new();
        let rows = view.roots.releases.iter().rev().map(|row| &row.stored.release).filter(|release| release.app == *app);
        let images = rows.map(|release| release.image).filter(|image| seen.insert(*image)).take(OLDER);
        images.filter_map(|image| Manifest::decode(&self.local.manifest(view.head.cache, image)?).ok()).collect()
    }

    /// Writes the documents that say something new, in one object.
    pub(super) fn add_documents(
        &self,
        roots: &mut Roots,
        run: &Run,
        release: ReleaseId,
        documents: &[(Document, &[u8])],
    ) -> Result<(), PutError> {
        let Some(at) = roots.releases.iter().position(|row| row.stored.id == release) else { return Ok(()) };
        let mut object = vec![];
        let mut rows = vec![];
        for &(document, bytes) in documents {
            let held = match (document, roots.releases[at].documents.get(&document)) {
                (_, None) => None,
                // Only these grow; of the others it counts that one is there.
                (Document::Attestations | Document::Channel, Some(row)) => Some(match self.read_document(release, row) {
                    Err(ReadError::Damaged { .. }) => vec![],
                    // That it could not be asked for says nothing about what it holds.
                    result => result.map_err(std::io::Error::from)?,
                }),
                (Document::Provenance | Document::Sbom, Some(_)) => Some(vec![]),
            };
            let Some(new) = document.combined(held.as_deref(), bytes) else { continue };
            check_documents(&[(document, &new)])?;
            let compressed = zstd::bulk::compress(&new, 3).ok().filter(|c| c.len() < new.len());
            let stored = compressed.as_deref().unwrap_or(&new);
            rows.push((document, new.len(), compressed.is_some(), object.len(), stored.len()));
            object.extend_from_slice(stored);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let small = |len: usize| u32::try_from(len).expect("documents stay below 16 MiB");
        let name = run.name();
        let reference = Reference { name, len: small(object.len()), digest: Digest::of(&object) };
        self.write_once(&name.documents(release), &Arc::from(object))?;
        for (document, len, compressed, offset, stored) in rows {
            let row =
                DocumentRow { object: reference, len: small(len), compressed, offset: small(offset), stored: small(stored) };
            roots.releases[at].documents.insert(document, row);
        }
        Ok(())
    }
}

/// What a commit must find in the index or bring.
struct Wanted {
    blobs: Vec<(Digest, u64)>,
    /// Those of them that are manifests, and not counted as blobs.
    manifests: HashSet<Digest>,
}

impl Wanted {
    /// Counts the blobs of these that are no manifests.
    fn count(&self, lacking: &[(Digest, u64)]) -> Added {
        let counted = lacking.iter().filter(|(digest, _)| !self.manifests.contains(digest));
        counted.fold(Added::default(), |sum, (_, len)| Added { n_blobs: sum.n_blobs + 1, bytes: sum.bytes + len })
    }
}

fn wanted<'a>(images: impl Iterator<Item = (&'a Manifest, ImageId, u64)>) -> Wanted {
    let mut wanted = Wanted { blobs: vec![], manifests: HashSet::new() };
    let mut seen = HashSet::new();
    for (manifest, image, len) in images {
        let blobs = manifest.blobs();
        wanted.blobs.extend(blobs.iter().copied().filter(|(digest, _)| seen.insert(*digest)));
        if seen.insert(image.0) {
            wanted.blobs.push((image.0, len));
            wanted.manifests.insert(image.0);
        }
    }
    wanted
}

/// Returns whether a release is the newest of its application, and put lately.
fn is_newest(roots: &Roots, release: &Release, now: Timestamp) -> bool {
    let newest = roots.releases.iter().rfind(|row| row.stored.release.app == release.app);
    newest.is_some_and(|row| row.stored.release == *release && now.0.saturating_sub(row.stored.stored.0) < FRESH)
}

fn change_roots<T>(view: &View, done: T, change: impl FnOnce(&mut Roots)) -> Plan<T> {
    let mut roots = (*view.roots).clone();
    change(&mut roots);
    Plan::Commit(Box::new(Change { roots: Some(roots), ..Change::default() }), done)
}

fn check_documents(documents: &[(Document, &[u8])]) -> Result<(), PutError> {
    documents.iter().try_for_each(|(document, bytes)| document.check_len(bytes))
}
