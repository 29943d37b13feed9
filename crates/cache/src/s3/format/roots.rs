//! What must live: images, releases, pins and leases, by name.
//!
//! # Format of the body, version 1 ("dft\x01")
//!
//! ```text
//! table    = last sequence u64, count, image*, count, release*, count, pin*, count, lease*
//! image    = digest, stored i64, length of the manifest u64, whole u8 (1; 0 when a repair found no copy of a blob)      ascending
//! release  = sequence u64, stored i64, canonical bytes (a text), count, document*                                     ascending by sequence
//! document = kind u8 (0 provenance, 1 bill of materials, 2 attestations, 3 that it was the newest), codec u8 (0 or 1), length u32, offset u32, stored length u32, reference      ascending by kind
//! pin      = image digest, why (a text)                                                                                 ascending
//! lease    = holder (a text), image digest                                                                              ascending
//! ```
//!
//! Documents that are put together lie in one object, one after the other, each as it is (codec 0) or as one zstd frame (1). A text is a length and so many bytes. An image's manifest is a blob under the image's digest. `last sequence` is that of the newest release ever put.

use std::collections::{BTreeMap, BTreeSet};

use df_core::{ImageId, Release, ReleaseId, Timestamp, limits};

use super::head::SEQUENCE;
use super::name::Reference;
use super::{BODY_LEN, FormatError, Reader, Writer, open, seal};
use crate::document::{self, Document};
use crate::s3::lease;
use crate::store::{Contents, StoredImage, StoredRelease};

const MAGIC: [u8; 4] = *b"dft\x01";
/// Bytes of a pin's reason or of a holder's name.
pub(crate) const TEXT_LEN: usize = limits::TEXT_LEN;

/// What is known of an image by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageRow {
    pub(crate) stored: Timestamp,
    /// Bytes of its manifest.
    pub(crate) manifest_len: u64,
    /// Whether all of it was there when somebody last looked.
    pub(crate) whole: bool,
}

/// Where a document lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DocumentRow {
    /// The object that holds it, beside others.
    pub(crate) object: Reference,
    /// Bytes of the document.
    pub(crate) len: u32,
    pub(crate) compressed: bool,
    /// Where it begins in the object.
    pub(crate) offset: u32,
    /// Bytes it takes there.
    pub(crate) stored: u32,
}

/// A release and what is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseRow {
    pub(crate) stored: StoredRelease,
    pub(crate) documents: BTreeMap<Document, DocumentRow>,
}

/// The root table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    /// That of the newest release ever put.
    pub(crate) sequence: u64,
    pub(crate) images: BTreeMap<ImageId, ImageRow>,
    /// In ascending order of their sequence.
    pub(crate) releases: Vec<ReleaseRow>,
    /// Images that somebody wants kept, and why.
    pub(crate) pins: BTreeMap<ImageId, String>,
    /// Images that a holder has: a node in one of its generations.
    pub(crate) leases: BTreeSet<(String, ImageId)>,
}

impl Roots {
    /// Returns what a collection decides upon.
    pub(crate) fn contents(&self) -> Contents {
        let mut leases: BTreeMap<ImageId, BTreeSet<String>> = BTreeMap::new();
        for (holder, image) in &self.leases {
            leases.entry(*image).or_default().insert(lease::parts(holder).1.to_owned());
        }
        Contents {
            releases: self.releases.iter().map(|row| row.stored.clone()).collect(),
            images: self
                .images
                .iter()
                .filter(|(_, row)| row.whole)
                .map(|(&image, row)| StoredImage { image, stored: row.stored })
                .collect(),
            pins: self.pins.keys().copied().collect(),
            leases,
        }
    }

    /// Returns a release's row.
    pub(crate) fn release(&self, id: ReleaseId) -> Option<&ReleaseRow> {
        self.releases.iter().find(|row| row.stored.id == id)
    }

    /// Makes a release the newest; its documents stay.
    pub(crate) fn put_release(&mut self, release: &Release, now: Timestamp) {
        self.sequence += 1;
        let stored = StoredRelease::new(release.clone(), self.sequence, now);
        let at = self.releases.iter().position(|row| row.stored.id == stored.id);
        let documents = at.map(|at| self.releases.remove(at).documents).unwrap_or_default();
        self.releases.push(ReleaseRow { stored, documents });
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.sequence).count(self.images.len());
        for (image, row) in &self.images {
            out.digest(image.0).u64(row.stored.0 as u64).u64(row.manifest_len).u8(u8::from(row.whole));
        }
        out.count(self.releases.len());
        for ReleaseRow { stored, documents } in &self.releases {
            out.u64(stored.sequence).u64(stored.stored.0 as u64).text(&stored.release.encode()).count(documents.len());
            for (document, row) in documents {
                out.u8(kind(*document)).u8(u8::from(row.compressed)).u32(row.len).u32(row.offset).u32(row.stored);
                row.object.write(&mut out);
            }
        }
        out.count(self.pins.len());
        self.pins.iter().for_each(|(image, why)| {
            out.digest(image.0).text(why.as_bytes());
        });
        out.count(self.leases.len());
        self.leases.iter().for_each(|(holder, image)| {
            out.text(holder.as_bytes()).digest(image.0);
        });
        seal(MAGIC, &out.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body = open(MAGIC, bytes, BODY_LEN)?;
        let mut reader = Reader::new(&body);
        let sequence = reader.u64()?;
        let count = reader.count(32 + 17)?;
        let images = reader.list(count, image_row)?;
        let count = reader.count(8 + 8 + 4 + 4)?;
        let releases = reader.list(count, release_row)?;
        let count = reader.count(32 + 4)?;
        let pins = reader.list(count, |r| Ok((ImageId(r.digest()?), text(r)?)))?;
        let count = reader.count(32 + 4)?;
        let leases = reader.list(count, |r| Ok((text(r)?, ImageId(r.digest()?))))?;
        reader.end()?;
        let sorted = images.is_sorted_by(|a, b| a.0 < b.0)
            && releases.is_sorted_by(|a, b| a.stored.sequence < b.stored.sequence)
            && releases.last().is_none_or(|row| row.stored.sequence <= sequence)
            && sequence <= SEQUENCE
            && pins.is_sorted_by(|a, b| a.0 < b.0)
            && leases.is_sorted_by(|a, b| a < b);
        if !sorted {
            return Err(FormatError("its rows are not in order"));
        }
        let (images, pins, leases) = (images.into_iter().collect(), pins.into_iter().collect(), leases.into_iter().collect());
        Ok(Self { sequence, images, releases, pins, leases })
    }
}

fn image_row(reader: &mut Reader<'_>) -> Result<(ImageId, ImageRow), FormatError> {
    let image = ImageId(reader.digest()?);
    let (stored, manifest_len) = (Timestamp(reader.u64()? as i64), reader.u64()?);
    let whole = flag(reader)?;
    if manifest_len > limits::MANIFEST_LEN {
        return Err(FormatError("a manifest in it is too long"));
    }
    Ok((image, ImageRow { stored, manifest_len, whole }))
}

fn release_row(reader: &mut Reader<'_>) -> Result<ReleaseRow, FormatError> {
    let (sequence, at) = (reader.u64()?, Timestamp(reader.u64()? as i64));
    let release =
        Release::decode(reader.text(limits::RELEASE_LEN)?).map_err(|_| FormatError("a release in it is not in order"))?;
    let count = reader.count(14 + Reference::LEN)?;
    let rows = reader.list(count, |reader| {
        let word = reader.u8()?;
        let document = Document::ALL
            .into_iter()
            .find(|document| kind(*document) == word)
            .ok_or(FormatError("it has a document that this program does not know"))?;
        let (compressed, len, offset, stored) = (flag(reader)?, reader.u32()?, reader.u32()?, reader.u32()?);
        if len as usize > document::LEN {
            return Err(FormatError("a document in it is too long"));
        }
        let object = Reference::read(reader)?;
        if object.len as usize > Document::ALL.len() * document::LEN {
            return Err(FormatError("documents in it are too long"));
        }
        if offset.checked_add(stored).is_none_or(|end| end > object.len) {
            return Err(FormatError("a document in it leaves its object"));
        }
        Ok((document, DocumentRow { object, len, compressed, offset, stored }))
    })?;
    if !rows.is_sorted_by(|a, b| kind(a.0) < kind(b.0)) {
        return Err(FormatError("its documents are not in order"));
    }
    Ok(ReleaseRow { stored: StoredRelease::new(release, sequence, at), documents: rows.into_iter().collect() })
}

fn kind(document: Document) -> u8 {
    match document {
        Document::Provenance => 0,
        Document::Sbom => 1,
        Document::Attestations => 2,
        Document::Channel => 3,
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, FormatError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FormatError("it has a flag that is none")),
    }
}

fn text(reader: &mut Reader<'_>) -> Result<String, FormatError> {
    let bytes = reader.text(TEXT_LEN)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| FormatError("a text in it is none"))
}

#[cfg(test)]
mod tests {
    use super::super::name::tests::reference;
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;
    use crate::contract::release;
    use df_core::Digest;

    fn image(n: u8) -> ImageId {
        ImageId(Digest::of(&[n]))
    }

    fn example() -> Roots {
        let row = |n: i64, whole| ImageRow { stored: Timestamp(n), manifest_len: 100, whole };
        let mut roots = Roots {
            sequence: 6,
            images: [(image(1), row(1, true)), (image(2), row(-2, false))].into(),
            pins: [(image(1), "for a test".to_owned())].into(),
            leases: [("node-a".to_owned(), image(2))].into(),
            ..Roots::default()
        };
        roots.put_release(&release("greeter", 1, image(1)), Timestamp(3));
        roots.put_release(&release("other", 2, image(1)), Timestamp(4));
        let document = DocumentRow { object: reference(8), len: 50, compressed: true, offset: 8, stored: 30 };
        roots.releases[0].documents.insert(Document::Sbom, document);
        roots
    }

    #[test]
    fn golden_bytes() {
        assert_golden("s3-roots-v1.bin", &example().encode());
        assert_eq!(Roots::decode(&example().encode()), Ok(example()));
        assert_guarded(&example().encode(), Roots::decode);
    }

    #[test]
    fn a_table_after_whose_newest_release_no_other_can_come_is_refused() {
        let mut roots = example();
        roots.sequence = SEQUENCE;
        assert!(Roots::decode(&roots.encode()).is_ok());
        roots.sequence = u64::MAX;
        assert!(Roots::decode(&roots.encode()).is_err());
    }

    #[test]
    fn a_release_that_is_put_again_is_the_newest_and_keeps_its_documents() {
        let mut roots = example();
        roots.put_release(&release("greeter", 1, image(1)), Timestamp(9));
        let rows: Vec<_> = roots.releases.iter().map(|row| (row.stored.sequence, row.documents.len())).collect();
        assert_eq!(rows, [(8, 0), (9, 1)]);
        assert_eq!(roots.contents().pins, [image(1)].into());
        assert_eq!(roots.contents().leases, [(image(2), ["node-a".to_owned()].into())].into());
        assert_eq!(roots.contents().images.len(), 1, "what is not whole is not there");
    }
}
