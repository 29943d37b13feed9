//! A store in memory: for tests, and the simplest reading of the contract.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};

use df_core::{AppName, Digest, ImageId, Manifest, Release, ReleaseId, Timestamp};

use crate::blobs::{Blobs, Bytes, absent, read_checked};
use crate::document::Document;
use crate::gc;
use crate::scrub::{Damage, Damaged, Repaired};
use crate::store::{Added, Contents, PutError, ReadError, Stats, Store, StoredImage, StoredRelease};

/// A store that is gone with the process.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Arc<[u8]>>,
    images: BTreeMap<ImageId, (Manifest, Timestamp)>,
    releases: BTreeMap<ReleaseId, StoredRelease>,
    pins: BTreeSet<ImageId>,
    documents: BTreeMap<(AppName, ReleaseId, Document), Arc<[u8]>>,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the bytes of a blob without telling anybody, as a rotten disk does: for tests of whatever reads a store.
    pub fn damage(&self, digest: Digest, bytes: &[u8]) {
        self.state().blobs.insert(digest, bytes.into());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave a half-made change: each is one assignment.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn is_complete(&self, manifest: &Manifest) -> bool {
        manifest.blobs().iter().all(|(digest, _)| self.blobs.contains_key(digest))
    }

    fn contents(&self) -> Contents {
        let mut releases: Vec<_> = self.releases.values().cloned().collect();
        releases.sort_by_key(|stored| stored.sequence);
        let images = self.images.iter().map(|(&image, &(_, stored))| StoredImage { image, stored }).collect();
        Contents { releases, images, pins: self.pins.clone(), ..Contents::default() }
    }

    fn hurt(&self, digest: Digest) -> Vec<ImageId> {
        let uses = |manifest: &Manifest| manifest.blobs().iter().any(|(blob, _)| *blob == digest);
        self.images.iter().filter(|(_, (manifest, _))| uses(manifest)).map(|(&image, _)| image).collect()
    }

    fn damage(&self) -> Vec<(Damaged, Digest)> {
        let wrong =
            self.blobs.iter().filter(|(digest, bytes)| Digest::of(bytes) != **digest).map(|(&d, _)| (Damaged::Blob(d), d));
        let needed: BTreeSet<Digest> = self.images.values().flat_map(|(manifest, _)| manifest.blobs()).map(|(d, _)| d).collect();
        let missing = needed.into_iter().filter(|d| !self.blobs.contains_key(d)).map(|d| (Damaged::MissingBlob(d), d));
        let mut damage: Vec<_> = wrong.chain(missing).collect();
        damage.sort();
        damage
    }
}

impl Blobs for MemoryStore {
    fn blob(&self, digest: Digest) -> std::io::Result<Bytes> {
        let bytes = self.state().blobs.get(&digest).cloned().ok_or_else(|| absent(digest))?;
        let len = bytes.len() as u64;
        Ok(Bytes::Read(Box::new(crate::blobs::Checked::new(Cursor::new(bytes), digest, len))))
    }
}

impl Store for MemoryStore {
    fn put_image(&self, manifest: &Manifest, blobs: &dyn Blobs, now: Timestamp) -> Result<Added, PutError> {
        let mut added = Added::default();
        for (digest, len) in manifest.blobs() {
            if self.state().blobs.contains_key(&digest) {
                continue;
            }
            let failed = |source: std::io::Error| match source.kind() {
                std::io::ErrorKind::InvalidData => PutError::WrongBytes { digest },
                _ => PutError::Source { digest, source },
            };
            let reader = blobs.blob(digest).and_then(Bytes::reader).map_err(failed)?;
            let bytes = read_checked(reader, digest, len).map_err(failed)?;
            self.state().blobs.insert(digest, bytes.into());
            added = Added { n_blobs: added.n_blobs + 1, bytes: added.bytes + len };
        }
        self.state().images.insert(manifest.image(), (manifest.clone(), now));
        Ok(added)
    }

    fn put_release(&self, release: &Release, now: Timestamp) -> Result<(), PutError> {
        let mut state = self.state();
        if !state.images.get(&release.image).is_some_and(|(manifest, _)| state.is_complete(manifest)) {
            return Err(PutError::NoImage { image: release.image });
        }
        let sequence = 1 + state.releases.values().map(|stored| stored.sequence).max().unwrap_or(0);
        let stored = StoredRelease::new(release.clone(), sequence, now);
        state.releases.insert(stored.id, stored);
        Ok(())
    }

    fn contents(&self) -> Result<Contents, ReadError> {
        Ok(self.state().contents())
    }

    fn manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        self.state().images.get(&image).map(|(manifest, _)| manifest.clone()).ok_or(ReadError::NoImage { image })
    }

    fn has(&self, image: ImageId) -> Result<bool, ReadError> {
        let state = self.state();
        Ok(state.images.get(&image).is_some_and(|(manifest, _)| state.is_complete(manifest)))
    }

    fn read(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        let bytes = self.state().blobs.get(&digest).cloned().ok_or(ReadError::NoBlob { digest })?;
        if bytes.len() as u64 == len && Digest::of(&bytes) == digest {
            Ok(bytes.to_vec())
        } else {
            Err(ReadError::Damaged { digest })
        }
    }

    fn read_blob(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let bytes = self.state().blobs.get(&digest).cloned().ok_or(ReadError::NoBlob { digest })?;
        if Digest::of(&bytes) != digest {
            return Err(ReadError::Damaged { digest });
        }
        let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start.checked_add(len)?));
        part.map(<[u8]>::to_vec).ok_or(ReadError::Range { digest, offset, len })
    }

    fn attach(&self, app: &AppName, release: ReleaseId, document: Document, bytes: &[u8]) -> Result<bool, PutError> {
        let mut state = self.state();
        document.check_len(bytes)?;
        if state.releases.get(&release).is_none_or(|stored| stored.release.app != *app) {
            return Err(PutError::NoRelease { release });
        }
        let key = (app.clone(), release, document);
        let combined = document.combined(state.documents.get(&key).map(|held| &held[..]), bytes);
        Ok(combined.map(|bytes| state.documents.insert(key, bytes.into())).is_some())
    }

    fn attached(&self, app: &AppName, release: ReleaseId, document: Document) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.state().documents.get(&(app.clone(), release, document)).map(|bytes| bytes.to_vec()))
    }

    fn pin(&self, image: ImageId, _why: &str) -> Result<(), PutError> {
        let mut state = self.state();
        if !state.images.contains_key(&image) {
            return Err(PutError::NoImage { image });
        }
        state.pins.insert(image);
        Ok(())
    }

    fn unpin(&self, image: ImageId) -> Result<bool, PutError> {
        Ok(self.state().pins.remove(&image))
    }

    fn collect(&self, plan: &gc::Plan) -> Result<gc::Collected, PutError> {
        let mut state = self.state();
        let (releases, images) = plan.still_valid(&state.contents());
        releases.iter().for_each(|stored| drop(state.releases.remove(&stored.id)));
        let State { documents, releases: kept, .. } = &mut *state;
        documents.retain(|(_, release, _), _| kept.contains_key(release));
        images.iter().for_each(|image| drop(state.images.remove(image)));
        let live: BTreeSet<Digest> = state.images.values().flat_map(|(manifest, _)| manifest.blobs()).map(|(d, _)| d).collect();
        let mut collected =
            gc::Collected { n_releases: releases.len() as u64, n_images: images.len() as u64, ..gc::Collected::default() };
        state.blobs.retain(|digest, bytes| {
            let keep = live.contains(digest);
            collected.n_blobs += u64::from(!keep);
            collected.bytes += if keep { 0 } else { bytes.len() as u64 };
            keep
        });
        Ok(collected)
    }

    fn verify(&self) -> Result<Vec<Damage>, ReadError> {
        let state = self.state();
        let row = |(what, digest)| Damage {
            what,
            place: None,
            why: "its bytes are others, or gone".to_owned(),
            images: state.hurt(digest),
        };
        Ok(state.damage().into_iter().map(row).collect())
    }

    fn repair(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let damage = self.state().damage();
        let mut repaired = Repaired::default();
        for (_, digest) in damage {
            let lens = self.state().images.values().flat_map(|(m, _)| m.blobs()).find(|(d, _)| *d == digest).map(|(_, len)| len);
            let good = lens.and_then(|len| read_checked(source.blob(digest).ok()?.reader().ok()?, digest, len).ok());
            let mut state = self.state();
            match good {
                Some(bytes) => {
                    state.blobs.insert(digest, bytes.into());
                    repaired.healed.push(digest);
                }
                None => {
                    state.blobs.remove(&digest);
                    repaired.images.extend(state.hurt(digest));
                    repaired.lost.push(digest);
                }
            }
        }
        repaired.images.sort();
        repaired.images.dedup();
        Ok(repaired)
    }

    fn flush(&self) -> Result<(), PutError> {
        *self.state() = State::default();
        Ok(())
    }

    fn stats(&self) -> Result<Stats, ReadError> {
        let state = self.state();
        let bytes = state.blobs.values().map(|bytes| bytes.len() as u64).sum();
        Ok(Stats {
            n_images: state.images.len() as u64,
            n_releases: state.releases.len() as u64,
            n_blobs: state.blobs.len() as u64,
            blob_bytes: bytes,
            stored_bytes: bytes,
            n_packs: 0,
            free_bytes: None,
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::run(super::MemoryStore::new);
    }
}
