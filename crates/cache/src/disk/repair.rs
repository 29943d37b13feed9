//! Reading everything back, and putting right what is wrong: the new is checked, synced and named before the old is moved away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use df_core::{Digest, ImageId, Manifest, limits};
use rayon::prelude::*;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::put::{Batch, groups, take_small};
use super::read::{name, read_release};
use super::{DiskStore, lock};
use crate::blobs::{Blobs, Bytes, hash, open_file};
use crate::durable::{self, Pending};
use crate::index::{Index, list};
use crate::layout::BIG_FROM;
use crate::pack;
use crate::place::At as _;
use crate::scrub::{Damage, Damaged, Repaired};
use crate::store::{PutError, ReadError};

/// What reading a whole store found.
#[derive(Default)]
struct Survey {
    manifests: BTreeMap<ImageId, Manifest>,
    /// Blobs of which a whole copy was read.
    whole: HashSet<Digest>,
    bad_manifests: Vec<ImageId>,
    bad_releases: Vec<PathBuf>,
    bad_documents: Vec<PathBuf>,
    bad_packs: Vec<BadPack>,
    bad_big: BTreeMap<PathBuf, String>,
}

struct BadPack {
    id: Digest,
    why: String,
    bad: Vec<Digest>,
    /// Whole records in it.
    good: Vec<(Digest, Vec<u8>)>,
}

impl DiskStore {
    pub(super) fn scrub(&self) -> Result<Vec<Damage>, ReadError> {
        let _shared = lock::shared(&self.layout)?;
        Ok(self.survey()?.damage(self)?)
    }

    pub(super) fn heal(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let _alone = lock::exclusive(&self.layout)?;
        let mut survey = self.survey()?;
        let mut repaired = Repaired::default();
        if survey.damage(self)?.is_empty() {
            return Ok(repaired);
        }
        self.heal_manifests(&mut survey, source, &mut repaired)?;
        self.heal_blobs(&survey, source, &mut repaired)?;
        for (what, path) in survey.unread() {
            if !self.is_there_again(path)? {
                repaired.gone.push(format!("{what} is lost: a build of its commit makes it again, or put it again"));
            }
            repaired.quarantined.push(self.quarantine(path)?);
        }
        // The index may still name what was moved away.
        list(&self.layout.dir("idx"))?.iter().for_each(|path| drop(fs::remove_file(path)));
        self.set_index(None);
        let index = Index::load(&self.layout)?;
        index.save_as_one(&self.layout, lock::Workspace::make(&self.layout)?.path())?;
        let complete = |manifest: &Manifest| manifest.blobs().into_iter().all(|(digest, len)| self.holds(&index, digest, len));
        repaired.images = survey.manifests.iter().filter(|(_, manifest)| !complete(manifest)).map(|(&image, _)| image).collect();
        repaired.images.extend(survey.bad_manifests.iter().filter(|image| !survey.manifests.contains_key(image)));
        self.set_index(Some(index));
        Ok(repaired)
    }

    fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for image in list(&self.layout.dir("img"))?.iter().filter_map(name::<ImageId>) {
            match self.read_manifest(image) {
                Ok(manifest) => drop(survey.manifests.insert(image, manifest)),
                Err(_) => survey.bad_manifests.push(image),
            }
        }
        survey.bad_releases = self.release_files()?.into_iter().filter(|path| read_release(path).is_none()).collect();
        survey.bad_documents = self.bad_documents()?;
        let ids: Vec<Digest> = crate::index::list_packs(&self.layout)?.into_iter().collect();
        let readings: Vec<(Vec<Digest>, Option<BadPack>)> = ids.par_iter().map(|&id| self.examine(id)).collect();
        for (whole, bad) in readings {
            survey.whole.extend(whole);
            survey.bad_packs.extend(bad);
        }
        let files = self.big_files()?;
        let checked: Vec<(PathBuf, Result<Digest, String>)> =
            files.into_par_iter().map(|path| (path.clone(), check_big(&path))).collect();
        for (path, result) in checked {
            match result {
                Ok(digest) => drop(survey.whole.insert(digest)),
                Err(why) => drop(survey.bad_big.insert(path, why)),
            }
        }
        Ok(survey)
    }

    fn examine(&self, id: Digest) -> (Vec<Digest>, Option<BadPack>) {
        let bytes = match fs::read(self.layout.pack(id)) {
            Ok(bytes) => bytes,
            Err(error) => return (vec![], Some(BadPack { id, why: error.to_string(), bad: vec![], good: vec![] })),
        };
        let reading = pack::examine(&bytes, Some(id));
        let whole = reading.good.iter().map(|(digest, _)| *digest).collect();
        let why = match reading.disorder {
            Some(disorder) => disorder.to_string(),
            None if reading.bad.is_empty() => return (whole, None),
            None => "a record in it is not the blob that it is listed as".to_owned(),
        };
        (whole, Some(BadPack { id, why, bad: reading.bad, good: reading.good }))
    }

    fn heal_manifests(&self, survey: &mut Survey, source: &dyn Blobs, repaired: &mut Repaired) -> Result<(), PutError> {
        for &image in &survey.bad_manifests {
            let path = self.layout.image(image);
            let Some(manifest) = fetch_manifest(image, source) else {
                repaired.quarantined.push(self.quarantine(&path)?);
                repaired.lost.push(image.0);
                continue;
            };
            let workspace = lock::Workspace::make(&self.layout)?;
            let new = workspace.path().join("manifest");
            let mut pending = Pending::beside(workspace.path())?;
            pending.file().write_all(&manifest.encode()).at("write", &new)?;
            pending.create(&new, 0o444)?;
            durable::exchange(&new, &path)?;
            repaired.quarantined.push(self.quarantine_as(&new, &image.to_string())?);
            repaired.healed.push(image.0);
            survey.manifests.insert(image, manifest);
        }
        Ok(())
    }

    fn heal_blobs(&self, survey: &Survey, source: &dyn Blobs, repaired: &mut Repaired) -> Result<(), PutError> {
        let mut batch = self.batch()?;
        let wanted: BTreeMap<Digest, u64> =
            survey.manifests.values().flat_map(Manifest::blobs).filter(|(digest, _)| !survey.whole.contains(digest)).collect();
        self.fetch(&wanted.into_iter().collect::<Vec<_>>(), source, &mut batch, repaired)?;
        let salvage: HashMap<Digest, &Vec<u8>> =
            survey.bad_packs.iter().flat_map(|pack| &pack.good).map(|(digest, record)| (*digest, record)).collect();
        let salvage: BTreeMap<Digest, &Vec<u8>> = salvage.into_iter().collect();
        let sizes: Vec<(Digest, u64)> = salvage.iter().map(|(&digest, record)| (digest, record.len() as u64)).collect();
        for group in groups(&sizes) {
            let records: Vec<Vec<u8>> = group.iter().map(|(digest, _)| salvage[digest].clone()).collect();
            batch.add_pack(self, &records)?;
        }
        batch.sync_files()?;
        let mut replaced = HashSet::new();
        for (from, to) in batch.take_renames() {
            match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {
                    // The name is never missing: the whole file and the damaged one change places.
                    durable::exchange(&from, &to)?;
                    let name = to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    repaired.quarantined.push(self.quarantine_as(&from, &name)?);
                }
                result => result.at("rename to", &to)?,
            }
            durable::sync_dir(durable::parent(&to))?;
            replaced.insert(to);
        }
        for pack in survey.bad_packs.iter().map(|pack| self.layout.pack(pack.id)).filter(|path| !replaced.contains(path)) {
            repaired.quarantined.push(self.quarantine(&pack)?);
        }
        for path in survey.bad_big.keys().filter(|path| !replaced.contains(*path)) {
            repaired.quarantined.push(self.quarantine(path)?);
        }
        Ok(())
    }

    /// Gets blobs from the source, as far as it has them whole.
    fn fetch(
        &self,
        wanted: &[(Digest, u64)],
        source: &dyn Blobs,
        batch: &mut Batch,
        repaired: &mut Repaired,
    ) -> Result<(), PutError> {
        let (big, small): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(|(_, len)| *len >= BIG_FROM);
        let mut outcome = |digest, fetched: Result<(), PutError>| {
            match fetched {
                Ok(()) => repaired.healed.push(digest),
                Err(PutError::Source { .. } | PutError::WrongBytes { .. }) => repaired.lost.push(digest),
                Err(error) => return Err(error),
            }
            Ok(())
        };
        for blob in big {
            let fetched = batch.take_all(self, &[blob], source);
            if fetched.is_err() {
                // What was begun is in the workspace only; the same name is needed if it comes up again.
                let _ = fs::remove_file(batch.path().join(blob.0.to_string()));
            }
            outcome(blob.0, fetched)?;
        }
        for group in groups(&small) {
            let mut records = vec![];
            for &(digest, len) in group {
                outcome(digest, take_small(digest, len, source).map(|record| records.push(record)))?;
            }
            if !records.is_empty() {
                batch.add_pack(self, &records)?;
            }
        }
        Ok(())
    }

    fn quarantine(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.quarantine_as(path, &name)
    }

    /// Moves a damaged file where nothing reads it, under a name that is free.
    fn quarantine_as(&self, path: &Path, name: &str) -> io::Result<PathBuf> {
        for n in 0_u64.. {
            let to = self.layout.dir("quarantine").join(format!("{name}.{n}"));
            match durable::rename_new(path, &to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result.map(|()| to),
            }
        }
        unreachable!("2^64 names are taken")
    }
}

impl Survey {
    /// Returns what is a file of its own, is damaged, and comes from no source of blobs: releases and documents.
    fn unread(&self) -> impl Iterator<Item = (Damaged, &PathBuf)> {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let releases = self.bad_releases.iter().map(move |path| (Damaged::Release(name(path)), path));
        releases.chain(self.bad_documents.iter().map(move |path| (Damaged::Document(name(path)), path)))
    }

    fn damage(&self, store: &DiskStore) -> io::Result<Vec<Damage>> {
        let mut users: HashMap<Digest, Vec<ImageId>> = HashMap::new();
        for (&image, manifest) in &self.manifests {
            manifest.blobs().iter().for_each(|(digest, _)| users.entry(*digest).or_default().push(image));
        }
        let images = |digest: &Digest| users.get(digest).cloned().unwrap_or_default();
        let row =
            |what, place: &Path, why: &str, images| Damage { what, place: Some(place.to_owned()), why: why.to_owned(), images };
        let mut damage = vec![];
        for &image in &self.bad_manifests {
            damage.push(row(
                Damaged::Manifest(image),
                &store.layout.image(image),
                "it is not the manifest that its name says",
                vec![image],
            ));
        }
        for (what, path) in self.unread() {
            let why = match what {
                Damaged::Release(_) => "it is not the release that its name says",
                _ => "it is not the document that its name says",
            };
            damage.push(row(what, path, why, vec![]));
        }
        let mut bad: BTreeMap<Digest, (PathBuf, String)> = BTreeMap::new();
        let index = store.index()?;
        for pack in &self.bad_packs {
            let path = store.layout.pack(pack.id);
            damage.push(row(Damaged::Pack(pack.id), &path, &pack.why, vec![]));
            let known = index.entries().filter(|(id, _)| *id == pack.id).map(|(_, slot)| slot.digest);
            for digest in known.chain(pack.bad.iter().copied()).filter(|digest| !self.whole.contains(digest)) {
                bad.insert(digest, (path.clone(), "its record in a damaged pack is not whole".to_owned()));
            }
        }
        for (path, why) in &self.bad_big {
            match name(path) {
                Some(digest) => drop(bad.insert(digest, (path.clone(), why.clone()))),
                None => damage.push(row(
                    Damaged::Release(path.display().to_string()),
                    path,
                    "a file that does not belong here",
                    vec![],
                )),
            }
        }
        damage.extend(bad.iter().map(|(digest, (path, why))| row(Damaged::Blob(*digest), path, why, images(digest))));
        let needed: BTreeSet<Digest> = users.keys().copied().collect();
        for digest in needed.into_iter().filter(|digest| !self.whole.contains(digest) && !bad.contains_key(digest)) {
            let why = "an image needs it and it is nowhere".to_owned();
            damage.push(Damage { what: Damaged::MissingBlob(digest), place: None, why, images: images(&digest) });
        }
        Ok(damage)
    }
}

fn check_big(path: &PathBuf) -> Result<Digest, String> {
    let digest: Digest = name(path).ok_or("its name is no digest")?;
    let (found, _) = open_file(path).and_then(hash).map_err(|error| error.to_string())?;
    if found == digest { Ok(digest) } else { Err("its bytes are not those of its name".to_owned()) }
}

/// Asks a source for a manifest by its digest.
fn fetch_manifest(image: ImageId, source: &dyn Blobs) -> Option<Manifest> {
    let mut bytes = vec![];
    source.blob(image.0).and_then(Bytes::reader).ok()?.take(limits::MANIFEST_LEN + 1).read_to_end(&mut bytes).ok()?;
    (Digest::of(&bytes) == image.0).then(|| Manifest::decode(&bytes).ok())?
}
