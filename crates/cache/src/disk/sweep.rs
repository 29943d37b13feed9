//! How things leave the store: names first, then the bytes that nothing names.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use df_core::{Digest, ImageId};

use super::read::name;
use super::{DiskStore, lock};
use crate::durable;
use crate::gc::{Collected, Plan};
use crate::index::{Index, list};
use crate::layout::DIRECTORIES;
use crate::pack;
use crate::place::At as _;
use crate::store::PutError;

impl DiskStore {
    pub(super) fn sweep(&self, plan: &Plan) -> Result<Collected, PutError> {
        let _alone = lock::exclusive(&self.layout)?;
        let (releases, images) = plan.still_valid(&self.list()?);
        let mut collected =
            Collected { n_releases: releases.len() as u64, n_images: images.len() as u64, ..Collected::default() };
        // Releases, then their documents, then manifests, then blobs, with a sync after each: whatever is named after a power cut is whole.
        let mut apps = BTreeSet::new();
        for stored in &releases {
            remove(&self.layout.release(&stored.release.app, stored.id))?;
            apps.insert(self.layout.app(&stored.release.app));
        }
        apps.iter().try_for_each(|app| durable::sync_dir(app))?;
        self.sweep_documents(&mut collected)?;
        for &image in &images {
            remove(&self.layout.image(image))?;
        }
        durable::sync_dir(&self.layout.dir("img"))?;
        let live = self.live()?;
        self.sweep_big(&live, &mut collected)?;
        self.sweep_packs(&live, &mut collected)?;
        self.sweep_rest()?;
        Ok(collected)
    }

    pub(super) fn empty(&self) -> io::Result<()> {
        let _alone = lock::exclusive(&self.layout)?;
        for directory in ["refs", "pins", "img"] {
            clear(&self.layout.dir(directory))?;
            durable::sync_dir(&self.layout.dir(directory))?;
        }
        for directory in ["packs", "big"] {
            list(&self.layout.dir(directory))?.iter().try_for_each(|fan| clear(fan))?;
        }
        for directory in ["docs", "idx", "d", "quarantine"] {
            clear(&self.layout.dir(directory))?;
        }
        lock::sweep_workspaces(&self.layout)?;
        self.set_index(None);
        durable::FileSystem::of(&self.layout.root)?.sync()
    }

    /// Returns each blob that some image needs.
    fn live(&self) -> io::Result<HashSet<Digest>> {
        let mut live = HashSet::new();
        for image in list(&self.layout.dir("img"))?.iter().filter_map(name::<ImageId>) {
            // What a damaged manifest needs is unknown, so nothing may go until it is repaired.
            live.extend(self.read_manifest(image)?.blobs().into_iter().map(|(digest, _)| digest));
        }
        Ok(live)
    }

    fn sweep_big(&self, live: &HashSet<Digest>, collected: &mut Collected) -> io::Result<()> {
        for path in self.big_files()? {
            if !name(&path).is_some_and(|digest: Digest| live.contains(&digest)) {
                collected.bytes += remove(&path)?;
                collected.n_blobs += 1;
            }
        }
        Ok(())
    }

    /// Removes packs of which nothing is live, and writes those anew of which less than half is.
    fn sweep_packs(&self, live: &HashSet<Digest>, collected: &mut Collected) -> io::Result<()> {
        let index = self.index()?;
        let mut packs: std::collections::BTreeMap<Digest, (u64, u64)> = index.packs().iter().map(|&id| (id, (0, 0))).collect();
        let (mut before, mut after) = (HashSet::new(), HashSet::new());
        for (pack, slot) in index.entries() {
            let (alive, all) = packs.entry(pack).or_default();
            *all += u64::from(slot.record_len);
            before.insert(slot.digest);
            if live.contains(&slot.digest) {
                *alive += u64::from(slot.record_len);
                after.insert(slot.digest);
            }
        }
        collected.n_blobs += before.len().saturating_sub(after.len()) as u64;
        // A pack that the index knows nothing of has a damaged footer: it may hold what is live, so only a repair moves it.
        packs.retain(|_, (alive, all)| *all > 0 && *alive * 2 < *all);
        self.repack(packs.iter().filter(|(_, (alive, _))| *alive > 0).map(|(id, _)| *id), live, collected)?;
        for (id, (alive, _)) in &packs {
            if *alive == 0 {
                collected.bytes += remove(&self.layout.pack(*id))?;
            }
        }
        let workspace = lock::Workspace::make(&self.layout)?;
        let index = Index::load(&self.layout)?;
        index.save_as_one(&self.layout, workspace.path())?;
        self.set_index(Some(index));
        Ok(())
    }

    fn repack(&self, ids: impl Iterator<Item = Digest>, live: &HashSet<Digest>, collected: &mut Collected) -> io::Result<()> {
        let mut batch = self.batch()?;
        let (mut old, mut records, mut bytes) = (vec![], vec![], 0);
        for id in ids {
            let path = self.layout.pack(id);
            let reading = pack::examine(&fs::read(&path).at("read", &path)?, Some(id));
            // A damaged pack stays: a repair may need what is left of it.
            if reading.disorder.is_some() || !reading.bad.is_empty() {
                continue;
            }
            for (_, record) in reading.good.into_iter().filter(|(digest, _)| live.contains(digest)) {
                bytes += record.len();
                records.push(record);
                if bytes > 24 << 20 {
                    batch.add_pack(self, &std::mem::take(&mut records))?;
                    bytes = 0;
                }
            }
            old.push(path);
        }
        if !records.is_empty() {
            batch.add_pack(self, &records)?;
        }
        let new: HashSet<_> = batch.packs.iter().map(|(id, _)| self.layout.pack(*id)).collect();
        batch.publish()?;
        let freed = old.iter().filter(|path| !new.contains(*path)).map(|path| remove(path)).sum::<io::Result<u64>>()?;
        let written: u64 = new.iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum();
        collected.bytes += freed.saturating_sub(written);
        Ok(())
    }

    /// Removes what dead processes left, and deltas to images that are gone.
    fn sweep_rest(&self) -> io::Result<()> {
        lock::sweep_workspaces(&self.layout)?;
        for directory in DIRECTORIES {
            for path in list(&self.layout.dir(directory))? {
                if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(durable::TEMPORARY.as_bytes())) {
                    remove(&path)?;
                }
            }
        }
        self.deltas().retain(|image| self.layout.image(image).exists())
    }
}

/// Removes a file and returns its length; one that is not there is no error.
fn remove(path: &Path) -> io::Result<u64> {
    let len = fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        result => result.at("remove", path).map(|()| len),
    }
}

fn clear(directory: &Path) -> io::Result<()> {
    list(directory)?.iter().try_for_each(|path| durable::remove_tree(path))
}
