//! What a reading found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use df_core::{Digest, ImageId, ReleaseId};

use crate::document::Document;
use crate::s3::format::name::{Reference, Space};
use crate::s3::index::Place;
use crate::s3::objects::Key;
use crate::scrub::{Damage, Damaged};

/// What a reading found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Objects that hold the cache together, and why they are damaged.
    pub(crate) objects: BTreeMap<Key, String>,
    /// Packs that are gone or have other bytes, and why.
    pub(crate) packs: BTreeMap<Reference, &'static str>,
    /// Rows that do not give what they name.
    pub(crate) rows: Vec<Place>,
    /// Blobs that an image needs and of which no whole copy is there.
    pub(crate) lost: BTreeMap<Digest, Lost>,
    /// Documents that are not whole, by their release, and the object that was read.
    pub(crate) documents: Vec<(ReleaseId, Document, Reference)>,
}

/// A blob, or a manifest, without a whole copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Its length.
    pub(crate) len: u64,
    /// No row names it.
    pub(crate) missing: bool,
    /// It is a manifest.
    pub(crate) manifest: bool,
    /// Those that need it.
    pub(crate) images: BTreeSet<ImageId>,
}

impl Findings {
    /// Returns whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.is_about_documents() && self.documents.is_empty()
    }

    /// Returns whether at most documents are wrong of what the head leads to: then the index stays as it is.
    pub(crate) fn is_about_documents(&self) -> bool {
        self.packs.is_empty() && self.rows.is_empty() && self.lost.is_empty()
    }

    /// Returns all of it as damages, what holds the cache together first.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        let row = |what, why: &str, images| Damage { what, place: None, why: why.to_owned(), images };
        let objects = self.objects.iter().map(|(key, why)| row(Damaged::Object(key.to_string()), why, vec![]));
        let packs = self.packs.iter().map(|(pack, why)| {
            let place = Some(PathBuf::from(pack.name.key(Space::Pack).as_str()));
            Damage { place, ..row(Damaged::Pack(pack.digest), why, vec![]) }
        });
        let lost = self.lost.iter().map(|(&digest, lost)| {
            let what = match lost {
                Lost { manifest: true, .. } => Damaged::Manifest(ImageId(digest)),
                Lost { missing: true, .. } => Damaged::MissingBlob(digest),
                Lost { .. } => Damaged::Blob(digest),
            };
            let why = if lost.missing { "no segment names it" } else { "no copy of it is whole" };
            row(what, why, lost.images.iter().copied().collect())
        });
        let documents = self.documents.iter().map(|(release, document, _)| {
            row(Damaged::Document(format!("{document} of {release}")), "its bytes are others, or gone", vec![])
        });
        objects.chain(packs).chain(lost).chain(documents).collect()
    }
}
