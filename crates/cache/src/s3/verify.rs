//! Reading everything back.

use std::collections::{BTreeMap, BTreeSet};

use df_core::{Digest, ImageId};
use rayon::prelude::*;

use super::S3Store;
use super::failure::BucketError;
use super::format::name::{Reference, Space};
use super::format::pack;
use super::format::slot::{DEPTH, Slot};
use super::index::{Index, Place};
use super::swap::View;
use crate::scrub::{Damage, Damaged};
use crate::store::ReadError;

/// What reading everything back found.
#[derive(Default)]
pub(super) struct Findings {
    /// Packs that are gone or have other bytes, and why.
    pub(super) packs: BTreeMap<Reference, &'static str>,
    /// Rows that do not give what they name.
    pub(super) rows: Vec<Place>,
    /// Blobs that an image needs and of which no whole copy is there; true for those that no row names.
    pub(super) lost: BTreeMap<Digest, Lost>,
    /// Documents that are not whole, by their release.
    pub(super) documents: Vec<(df_core::ReleaseId, crate::document::Document)>,
}

/// A blob, or a manifest, without a whole copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Its length.
    pub(super) len: u64,
    /// No row names it.
    pub(super) missing: bool,
    /// It is a manifest.
    pub(super) manifest: bool,
    pub(super) images: BTreeSet<ImageId>,
}

impl S3Store {
    pub(super) fn scrub(&self) -> Result<Vec<Damage>, ReadError> {
        let Some(view) = self.view()? else { return Ok(vec![]) };
        let findings = self.find_damage(&view)?;
        Ok(findings.damages())
    }

    /// Reads all packs, all documents and all manifests.
    pub(super) fn find_damage(&self, view: &View) -> Result<Findings, ReadError> {
        let index = self.index(view)?;
        let mut findings = Findings::default();
        let packs: Vec<(Reference, Vec<Slot>)> = index.segments().iter().flat_map(|segment| segment.by_pack()).collect();
        let read: Vec<_> =
            packs.par_iter().map(|(pack, slots)| self.read_pack(&index, pack, slots)).collect::<Result<_, ReadError>>()?;
        for (why, bad) in read {
            findings.packs.extend(why);
            findings.rows.extend(bad);
        }
        self.find_lost(view, &index, &mut findings)?;
        for row in &view.roots.releases {
            for (document, place) in &row.documents {
                match self.read_document(row.stored.id, place) {
                    Err(ReadError::Damaged { .. }) => findings.documents.push((row.stored.id, *document)),
                    result => drop(result?),
                }
            }
        }
        Ok(findings)
    }

    /// Reads a pack: what is wrong with it, and which of its rows do not give what they name.
    #[allow(clippy::type_complexity, reason = "two findings about one pack")]
    fn read_pack(
        &self,
        index: &Index,
        pack: &Reference,
        slots: &[Slot],
    ) -> Result<(Option<(Reference, &'static str)>, Vec<Place>), ReadError> {
        let place = |slot: &Slot| Place { pack: *pack, slot: slot.clone() };
        let key = pack.name.key(Space::Pack);
        let bytes = match self.get_object_as_it_is(&key, pack) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok((Some((*pack, "it is gone, or longer than it was")), slots.iter().map(place).collect())),
            Err(error) => return Err(error.into()),
        };
        let whole = Digest::of(&bytes) == pack.digest;
        let disorder =
            if !whole { Some("its bytes are not what its digest says") } else { pack::rows(&bytes).err().map(|error| error.0) };
        let mut bad = vec![];
        for slot in slots {
            let stored = bytes.get(slot.offset as usize..(slot.offset + slot.stored) as usize);
            let good = match stored.map(|stored| self.decode(index, slot, stored, DEPTH)) {
                None | Some(Err(ReadError::Damaged { .. })) => false,
                Some(result) => result.map(|_| true)?,
            };
            if !good {
                bad.push(place(slot));
            }
        }
        Ok((disorder.map(|why| (*pack, why)), bad))
    }

    /// Returns an object's bytes, whatever they are; nothing when it is gone or longer than it may be.
    fn get_object_as_it_is(&self, key: &super::objects::Key, reference: &Reference) -> Result<Option<Vec<u8>>, BucketError> {
        use super::objects::ObjectError;
        match self.objects.get(key, u64::from(reference.len)) {
            Ok(object) => Ok(Some(object.bytes)),
            Err(ObjectError::Absent { .. } | ObjectError::TooLong { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds what images need and is not there, or only in rows that are bad.
    fn find_lost(&self, view: &View, index: &Index, findings: &mut Findings) -> Result<(), ReadError> {
        let good = index.without(&findings.rows);
        for (&image, row) in view.roots.images.iter().filter(|(_, row)| row.whole) {
            let mut lose = |digest: Digest, len: u64, manifest: bool| {
                let missing = index.find(digest, Some(len)).is_none();
                let lost = findings.lost.entry(digest).or_insert_with(|| Lost { len, missing, manifest, ..Lost::default() });
                lost.images.insert(image);
            };
            if !good.holds(image.0, row.manifest_len) {
                lose(image.0, row.manifest_len, true);
            }
            match self.manifest_in(view, image) {
                Ok(manifest) => {
                    for (digest, len) in manifest.blobs().into_iter().filter(|&(digest, len)| !good.holds(digest, len)) {
                        lose(digest, len, false);
                    }
                }
                Err(ReadError::Damaged { .. }) => lose(image.0, row.manifest_len, true),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Findings {
    fn damages(&self) -> Vec<Damage> {
        let row = |what, why: &str, images| Damage { what, place: None, why: why.to_owned(), images };
        let packs = self.packs.iter().map(|(pack, why)| row(Damaged::Pack(pack.digest), why, vec![]));
        let lost = self.lost.iter().map(|(&digest, lost)| {
            let what = match lost {
                Lost { manifest: true, .. } => Damaged::Manifest(ImageId(digest)),
                Lost { missing: true, .. } => Damaged::MissingBlob(digest),
                Lost { .. } => Damaged::Blob(digest),
            };
            let why = if lost.missing { "no segment names it" } else { "no copy of it is whole" };
            row(what, why, lost.images.iter().copied().collect())
        });
        let documents = self.documents.iter().map(|(release, document)| {
            row(Damaged::Document(format!("{document} of {release}")), "its bytes are others, or gone", vec![])
        });
        packs.chain(lost).chain(documents).collect()
    }
}
