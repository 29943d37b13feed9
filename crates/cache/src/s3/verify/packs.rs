//! Packs and documents, byte by byte or by their ends only.

use df_core::Digest;
use rayon::prelude::*;

use super::{Findings, Lost};
use crate::s3::S3Store;
use crate::s3::failure::BucketError;
use crate::s3::format::name::{Reference, Space};
use crate::s3::format::pack::{self, TRAILER_LEN};
use crate::s3::format::slot::{DEPTH, Slot};
use crate::s3::gc::by_pack;
use crate::s3::index::{Index, Place};
use crate::s3::objects::{Key, ObjectError};
use crate::s3::rebuild::is_known;
use crate::s3::swap::View;
use crate::store::ReadError;

/// What is wrong with a pack, and which of its rows do not give what they name.
type Read = (Option<&'static str>, Vec<Place>);

const GONE: &str = "it is gone, or has another length";

impl S3Store {
    /// Asks for the end of every pack.
    pub(super) fn look_at_packs(&self, view: &View, findings: &mut Findings) -> Result<(), ReadError> {
        let index = self.index(view)?;
        let rows = by_pack(&index);
        let looked: Vec<_> =
            rows.par_iter().map(|(pack, slots)| Ok((pack, slots, self.look_at(pack)?))).collect::<Result<_, BucketError>>()?;
        for (pack, slots, why) in looked {
            if let Some(why) = why {
                findings.packs.insert(*pack, why);
                findings.rows.extend(slots.iter().map(|slot| Place { pack: *pack, slot: slot.clone() }));
            }
        }
        self.find_lost(view, &index, findings)
    }

    /// Reads some packs, or all, each whole, and finds out what that means for images.
    pub(super) fn read_packs(&self, view: &View, chosen: Option<&[Reference]>, findings: &mut Findings) -> Result<(), ReadError> {
        let index = self.index(view)?;
        let mut packs: Vec<(Reference, Vec<Slot>)> = by_pack(&index).into_iter().collect();
        if let Some(some) = chosen {
            packs.retain(|(pack, _)| some.contains(pack));
        }
        self.read_rows(&index, &packs, findings)?;
        self.find_lost(view, &index, findings)
    }

    /// Reads packs with their rows.
    pub(in super::super) fn read_rows(
        &self,
        index: &Index,
        packs: &[(Reference, Vec<Slot>)],
        findings: &mut Findings,
    ) -> Result<(), ReadError> {
        let read: Vec<(Reference, Read)> = packs
            .par_iter()
            .map(|(pack, slots)| Ok((*pack, self.read_pack_twice(index, pack, slots)?)))
            .collect::<Result<_, ReadError>>()?;
        for (pack, (why, bad)) in read {
            findings.packs.extend(why.map(|why| (pack, why)));
            findings.rows.extend(bad);
        }
        Ok(())
    }

    /// Reads the documents of all releases.
    pub(in super::super) fn read_documents(&self, view: &View, findings: &mut Findings) -> Result<(), ReadError> {
        for row in &view.roots.releases {
            for (document, place) in &row.documents {
                match self.read_document(row.stored.id, place) {
                    Err(ReadError::Damaged { .. }) => findings.documents.push((row.stored.id, *document, place.object)),
                    result => drop(result?),
                }
            }
        }
        Ok(())
    }

    /// Returns an object's bytes, whatever they are; nothing when it is gone or longer than it may be.
    pub(in super::super) fn get_object_as_it_is(&self, key: &Key, reference: &Reference) -> Result<Option<Vec<u8>>, BucketError> {
        match self.objects.get(key, u64::from(reference.len)) {
            Ok(object) => Ok(Some(object.bytes)),
            Err(ObjectError::Absent { .. } | ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says what is wrong with the end of a pack.
    fn look_at(&self, pack: &Reference) -> Result<Option<&'static str>, BucketError> {
        let start = u64::from(pack.len).saturating_sub(TRAILER_LEN as u64);
        match self.objects.get_range(&pack.name.key(Space::Pack), start, TRAILER_LEN as u64) {
            Ok(trailer) => Ok(pack::footer(&trailer, u64::from(pack.len)).err().map(|error| error.0)),
            Err(ObjectError::Absent { .. } | ObjectError::Malformed { .. } | ObjectError::TooLong { .. }) => Ok(Some(GONE)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a pack; once more when something is wrong, because what was read may have been damaged on its way.
    fn read_pack_twice(&self, index: &Index, pack: &Reference, slots: &[Slot]) -> Result<Read, ReadError> {
        match self.read_pack(index, pack, slots)? {
            (None, bad) if bad.is_empty() => Ok((None, bad)),
            _ => self.read_pack(index, pack, slots),
        }
    }

    fn read_pack(&self, index: &Index, pack: &Reference, slots: &[Slot]) -> Result<Read, ReadError> {
        let place = |slot: &Slot| Place { pack: *pack, slot: slot.clone() };
        let Some(bytes) = self.get_object_as_it_is(&pack.name.key(Space::Pack), pack)? else {
            return Ok((Some(GONE), slots.iter().map(place).collect()));
        };
        let whole = bytes.len() == pack.len as usize && (!is_known(pack) || Digest::of(&bytes) == pack.digest);
        let disorder =
            if whole { pack::rows(&bytes).err().map(|error| error.0) } else { Some("its bytes are not what its digest says") };
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
        Ok((disorder, bad))
    }

    /// Finds what images need and is not there, or only in rows that are bad.
    fn find_lost(&self, view: &View, index: &Index, findings: &mut Findings) -> Result<(), ReadError> {
        let good = index.without(&findings.rows);
        findings.lost.clear();
        for (&image, row) in view.roots.images.iter().filter(|(_, row)| row.whole) {
            let mut lose = |digest: Digest, len: u64, manifest: bool| {
                let missing = index.find(digest, Some(len)).is_none();
                let lost = findings.lost.entry(digest).or_insert_with(|| Lost { len, missing, manifest, ..Lost::default() });
                lost.images.insert(image);
            };
            if good.find(image.0, Some(row.manifest_len)).is_none() {
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
