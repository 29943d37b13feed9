//! What says that here is a cache, and which: one text, written with the first commit, at two places that are not lost together.
//!
//! ```text
//! df-cache.json, log/cache.json = {"format":1,"cache":"<32 hexadecimal digits>"} and a line feed
//! ```
//!
//! Where there is no head, they tell a bucket in which no cache was made yet from a cache that lost its head: two reads, no list. The second lies beside the records, because a head is
//! made again from those: who removes it with all of them has left nothing to make one from. Both are written before the record of the first commit, under a head that is there
//! already, so nobody who dies between two of these writes leaves what would be taken for a loss.
//!
//! A program that knows only `df-cache.json` leaves the other one alone, because it is no record. A cache that such a program made has it after its next collection or repair; that it
//! is not there is no damage.

use super::S3Store;
use super::failure::BucketError;
use super::format::head::HEAD_LEN;
use super::format::name::{hex, unhex};
use super::objects::{Key, ObjectError};

/// The key of what says which cache this is.
pub(crate) fn cache_key() -> Key {
    Key::new("df-cache.json").expect("a word")
}

/// The key of the same once more.
pub(crate) fn copy_key() -> Key {
    Key::new("log/cache.json").expect("two words")
}

/// Returns whether this is one of the two, or was.
pub(crate) fn is_identity(key: &Key) -> bool {
    *key == cache_key() || *key == copy_key()
}

/// Returns what is written at both places.
pub(crate) fn text(cache: [u8; 16]) -> Vec<u8> {
    format!("{BEGIN}{}{END}", hex(&cache)).into_bytes()
}

const BEGIN: &str = "{\"format\":1,\"cache\":\"";
const END: &str = "\"}\n";

/// Returns which cache a text names.
pub(crate) fn cache_of(bytes: &[u8]) -> Option<[u8; 16]> {
    unhex(std::str::from_utf8(bytes).ok()?.strip_prefix(BEGIN)?.strip_suffix(END)?)
}

impl S3Store {
    /// Returns whether a cache was made here, when there is no head.
    pub(crate) fn has_identity(&self) -> Result<bool, BucketError> {
        for key in [cache_key(), copy_key()] {
            match self.objects.get(&key, HEAD_LEN) {
                Err(ObjectError::Absent { .. }) => {}
                // Whatever it says now, it was written once.
                Ok(_) | Err(ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Returns which caches the two places name: two when one of them is damaged, none when both are.
    pub(crate) fn identities(&self) -> Result<Vec<[u8; 16]>, BucketError> {
        let mut found = vec![];
        for key in [cache_key(), copy_key()] {
            match self.objects.get(&key, HEAD_LEN) {
                Ok(object) => found.extend(cache_of(&object.bytes)),
                Err(ObjectError::Absent { .. } | ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Writes both, with the first commit.
    pub(crate) fn write_identity(&self, cache: [u8; 16]) -> Result<(), BucketError> {
        [cache_key(), copy_key()].iter().try_for_each(|key| self.write_once(key, &text(cache).into()))
    }

    /// Writes the second one where it is not; returns whether it was not.
    pub(crate) fn complete_identity(&self, cache: [u8; 16]) -> Result<bool, BucketError> {
        match self.objects.get(&copy_key(), HEAD_LEN) {
            Err(ObjectError::Absent { .. }) => self.write_once(&copy_key(), &text(cache).into()).map(|()| true),
            // What else may be there a reading finds.
            Ok(_) | Err(ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::FormatError;
    use super::super::format::name::owner;
    use super::super::format::tests::assert_guarded;
    use super::*;

    #[test]
    fn a_text_names_one_cache_and_no_byte_of_it_may_change() {
        let bytes = text([0xa7; 16]);
        assert_eq!(bytes, format!("{{\"format\":1,\"cache\":\"{}\"}}\n", "a7".repeat(16)).into_bytes());
        assert_eq!(cache_of(&bytes), Some([0xa7; 16]));
        let is_that = |bytes: &[u8]| cache_of(bytes).filter(|cache| *cache == [0xa7; 16]).ok_or(FormatError("another"));
        assert_guarded(&bytes, is_that);
    }

    #[test]
    fn neither_place_is_that_of_a_record_or_of_anything_else_that_a_collection_takes() {
        for key in [cache_key(), copy_key()] {
            assert_eq!(owner(&key), None, "{key}");
        }
    }
}
