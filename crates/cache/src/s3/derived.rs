//! Objects that follow from images and may vanish at any time: what nodes fetch by URL. Presigned are only these, never packs, which hold other images too.

use std::time::Duration;

use df_core::ImageId;

use super::S3Store;
use super::failure::BucketError;
use super::objects::{Body, Condition, Key, ObjectError};

/// What is made of images, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Derived {
    /// The change from one image to another, manifest included.
    Delta {
        /// What a node has.
        from: ImageId,
        /// What it shall have.
        to: ImageId,
    },
    /// A whole image as one stream.
    Whole(ImageId),
}

impl Derived {
    /// Returns where it lies.
    pub fn key(&self) -> Key {
        let text = match self {
            Self::Delta { from, to } => format!("d/{from}/{to}"),
            Self::Whole(image) => format!("w/{image}"),
        };
        Key::new(text).expect("made of words and digits")
    }
}

impl S3Store {
    /// Puts a derived object; one that is there is replaced by the same.
    ///
    /// # Errors
    /// Those of writing.
    pub fn derived_put(&self, derived: &Derived, body: &Body) -> Result<(), BucketError> {
        match self.objects.put(&derived.key(), body, &Condition::Always) {
            // Whatever became of the first, the second makes it so.
            Err(ObjectError::Unknown { .. }) => self.objects.put(&derived.key(), body, &Condition::Always).map(drop),
            result => result.map(drop),
        }
        .map_err(Into::into)
    }

    /// Returns whether a derived object of this length is there, by asking for its last byte.
    ///
    /// # Errors
    /// Those of asking.
    pub fn derived_has(&self, derived: &Derived, len: u64) -> Result<bool, BucketError> {
        match self.objects.get_range(&derived.key(), len.saturating_sub(1), 1) {
            Ok(_) => Ok(true),
            Err(ObjectError::Absent { .. } | ObjectError::Malformed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a derived object of at most `limit` bytes, unchecked: whoever applies it checks what comes out. `None` when it is not there.
    ///
    /// # Errors
    /// Those of asking.
    pub fn derived_get(&self, derived: &Derived, limit: u64) -> Result<Option<Vec<u8>>, BucketError> {
        match self.objects.get(&derived.key(), limit) {
            Ok(object) => Ok(Some(object.bytes)),
            Err(ObjectError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns an address by which anybody can read a derived object for some time. It is a secret.
    ///
    /// # Errors
    /// The bucket has no such addresses, or credentials cannot be had.
    pub fn derived_url(&self, derived: &Derived, lifetime: Duration) -> Result<String, BucketError> {
        Ok(self.objects.url(&derived.key(), lifetime)?)
    }
}
