//! What the protocol needs of a bucket, and nothing else: objects by key, written once or by compare-and-swap.
//!
//! Every call blocks; many threads may call at once, the implementation bounds what is in flight. A reply is data of a stranger: lengths are bounded by the caller,
//! and what came is checked by whoever asked, against a digest it knows.

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use df_core::Timestamp;

/// The longest key below a prefix, in bytes.
pub const KEY_LEN: usize = 512;

/// The name of an object below the cache's prefix: words of `a-z 0-9 . _ -` between slashes, none of them `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks a key.
    ///
    /// # Errors
    /// [`BadKey`]: it is no such name.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let is_word = |word: &str| {
            !matches!(word, "" | "." | "..")
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
        };
        if text.len() <= KEY_LEN && text.split('/').all(is_word) { Ok(Self(text)) } else { Err(BadKey) }
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that nothing of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key of a cache")]
pub struct BadKey;

/// What a server calls one state of an object; opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Etag(pub String);

/// An object with the state it was in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes, as many as the server said there are.
    pub bytes: Vec<u8>,
    /// Its state.
    pub etag: Etag,
}

/// When a put counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there: only for derived objects, whose bytes follow from their names.
    Always,
    /// Nothing has this name.
    Absent,
    /// The object is in this state.
    Matches(Etag),
}

/// What is put; can be sent again from its start.
#[derive(Debug, Clone)]
pub enum Body {
    /// From memory.
    Bytes(Arc<[u8]>),
    /// `len` bytes at `offset` of a file that nobody changes.
    File {
        /// The file.
        file: Arc<File>,
        /// Where the body begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
    },
}

impl Body {
    /// Returns how long the body is, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object in a list. Lists may be stale: they are evidence for gc, never for correctness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its length, in bytes.
    pub len: u64,
    /// When it was written, by the bucket's clock, where the bucket says so.
    pub written: Option<Timestamp>,
}

/// How many requests were sent, retries included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Reads of objects or of ranges.
    pub get: u64,
    /// Writes, parts of multipart uploads included.
    pub put: u64,
    /// Lists, a page each.
    pub list: u64,
    /// Deletes, up to 1,000 names each.
    pub delete: u64,
    /// Bytes of bodies sent.
    pub bytes_up: u64,
    /// Bytes of bodies received.
    pub bytes_down: u64,
}

/// Why a request has no result. Transient failures were tried again before this is said.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ObjectError {
    #[error("{key} is not in the bucket")]
    Absent { key: Key },
    /// A condition did not hold (412, 409): somebody else wrote.
    #[error("{key} was changed by somebody else")]
    Changed { key: Key },
    /// The request may or may not have been done: its reply was lost.
    #[error("no reply about {key}: {why}")]
    Unknown { key: Key, why: String },
    #[error("{key} has more than the {limit} bytes it may have")]
    TooLong { key: Key, limit: u64 },
    /// 401 and 403: never taken for absent.
    #[error("the bucket refused access to {key}: {why}")]
    Denied { key: Key, why: String },
    /// The server answered what no server should: data of a stranger.
    #[error("the bucket answered nonsense about {key}: {why}")]
    Malformed { key: Key, why: String },
    #[error("the bucket could not be asked about {key}: {why}")]
    Unreachable { key: Key, why: String },
}

/// A bucket, below one prefix.
pub trait Objects: Send + Sync {
    /// Returns a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// Any but [`ObjectError::Changed`].
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError>;

    /// Returns exactly `len` bytes at `offset` of an object.
    ///
    /// # Errors
    /// Any but [`ObjectError::Changed`]; an object that ends earlier is [`ObjectError::Malformed`].
    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError>;

    /// Writes a whole object and returns its state; the server checks the bytes it got (CRC).
    ///
    /// # Errors
    /// [`ObjectError::Changed`] when the condition does not hold, also when it was this very put whose reply was lost and that was tried again:
    /// who must know looks. [`ObjectError::Unknown`] when no try was answered.
    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError>;

    /// Removes objects; those that are not there are no error.
    ///
    /// # Errors
    /// Names the first that could not be removed.
    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError>;

    /// Lists the objects whose keys begin with `prefix`, in order of their keys. Names that are no [`Key`] are left out: they are not ours.
    ///
    /// # Errors
    /// Those of asking.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError>;

    /// Removes what uploads in parts left that were begun before some time and never ended, and returns how many there were. What is being uploaded now must be
    /// younger than that; most kinds of bucket have none.
    ///
    /// # Errors
    /// Those of asking.
    fn abandon(&self, _before: Timestamp) -> Result<u64, ObjectError> {
        Ok(0)
    }

    /// Returns an address by which anybody can read an object for some time, or until the credentials it is signed with end. It is a secret.
    ///
    /// # Errors
    /// The bucket has no such addresses, or credentials cannot be had.
    fn url(&self, key: &Key, lifetime: Duration) -> Result<String, ObjectError>;

    /// Returns how many requests were sent so far.
    fn requests(&self) -> Requests;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_prefix_or_confuse_a_server_are_refused() {
        for good in ["head", "p/0a/x-1", "d/aa/bb", "df-cache.json", "log/12-ab"] {
            assert_eq!(Key::new(good).expect("good").as_str(), good);
        }
        let long = "a".repeat(KEY_LEN + 1);
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "A", "a b", "a%2e", "a\0", "ä", &long] {
            assert_eq!(Key::new(bad), Err(BadKey), "{bad}");
        }
    }
}
