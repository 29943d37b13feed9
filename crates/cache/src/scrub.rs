//! What reading a whole store back finds, and what a repair made of it.

use std::fmt;
use std::path::PathBuf;

use df_core::{Digest, ImageId};

/// One thing that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub what: Damaged,
    /// Where; nothing when it is missing, or not in a file.
    pub place: Option<PathBuf>,
    /// Why it is taken for damaged.
    pub why: String,
    /// The images that are incomplete because of it.
    pub images: Vec<ImageId>,
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damaged {
    /// A blob, of which no whole copy is in the store.
    Blob(Digest),
    /// A blob that an image needs is not there at all.
    MissingBlob(Digest),
    /// A pack; the blobs in it that are damaged are listed beside it.
    Pack(Digest),
    /// An image's manifest.
    Manifest(ImageId),
    /// A release.
    Release(String),
    /// A document beside a release; a build of the commit makes it again.
    Document(String),
    /// An object that holds a store in a bucket together: the head, a table, a segment of the index, a record.
    Object(String),
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::MissingBlob(digest) => write!(f, "missing blob {digest}"),
            Self::Pack(id) => write!(f, "pack {id}"),
            Self::Manifest(image) => write!(f, "manifest of image {image}"),
            Self::Document(name) => write!(f, "document {}", df_core::text::escape(name.as_bytes())),
            Self::Object(key) => write!(f, "object {}", df_core::text::escape(key.as_bytes())),
            Self::Release(name) => write!(f, "release {}", df_core::text::escape(name.as_bytes())),
        }
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Blobs and manifests that are whole again, from the source.
    pub healed: Vec<Digest>,
    /// Blobs and manifests that no source had: what needs them is incomplete until it is put again.
    pub lost: Vec<Digest>,
    /// Images that are incomplete now.
    pub images: Vec<ImageId>,
    /// Where damaged files are now.
    pub quarantined: Vec<PathBuf>,
    /// What holds the store together and was made again, in words.
    pub rebuilt: Vec<String>,
    /// What was there and is not any more, nor anywhere that could be asked, in words. It is said once: a later repair knows nothing of it.
    pub gone: Vec<String>,
}
