//! Why the cache in a bucket has no answer.

use std::io;

use super::format::FormatError;
use super::objects::{Key, ObjectError};
use crate::store::{PutError, ReadError};

/// Why the cache in a bucket has no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BucketError {
    #[error("ask the bucket")]
    Object(#[from] ObjectError),
    /// Somebody changed or damaged it: a repair makes it again where that can be done.
    #[error("{key} is not what it was when it was written")]
    Damaged {
        key: Key,
        #[source]
        source: FormatError,
    },
    /// A newer program wrote it. Whoever took that for damage would throw away what it says.
    #[error("{key} was written by a newer df, in a format that this one does not know; it is left as it is")]
    Newer { key: Key },
    /// What the head names is gone: removed by hand, or the head is an older one that somebody put back.
    #[error("{key}, which the head of the cache names, is not in the bucket; a repair of the cache looks for what is left")]
    Gone { key: Key },
    /// There is a cache, but its head is gone.
    #[error("the head of the cache is gone; a repair makes it again from the log")]
    HeadLost,
    /// Nothing says any more what was in it.
    #[error(
        "the head of the cache is gone, and so is every record of its log: nothing says any more what was in it, and no repair can make it again"
    )]
    LogLost,
    /// It would lose what two writers write at once.
    #[error("the server writes even when a condition does not hold; with one writer at a time --single-writer makes do without")]
    Unconditional,
    #[error("others changed the cache {tries} times in a row while this was to be committed; try again")]
    Contended { tries: u32 },
    /// Done twice it would take away what others did in between, so it was not tried again.
    #[error(
        "others changed the cache so often since this was sent that nothing says any more whether it was done; it was not tried again, because that might take away what they did"
    )]
    Unsure,
    #[error("write what is remembered of the bucket")]
    Local(#[source] io::Error),
}

impl BucketError {
    /// Says what is wrong with an object that cannot be read.
    pub(crate) fn of(key: Key, source: FormatError) -> Self {
        if source == FormatError::NEWER { Self::Newer { key } } else { Self::Damaged { key, source } }
    }
}

impl From<BucketError> for io::Error {
    fn from(error: BucketError) -> Self {
        let kind = match &error {
            BucketError::Object(ObjectError::Absent { .. })
            | BucketError::Gone { .. }
            | BucketError::HeadLost
            | BucketError::LogLost => io::ErrorKind::NotFound,
            BucketError::Object(ObjectError::Denied { .. }) => io::ErrorKind::PermissionDenied,
            BucketError::Object(ObjectError::Malformed { .. } | ObjectError::TooLong { .. }) | BucketError::Damaged { .. } => {
                io::ErrorKind::InvalidData
            }
            BucketError::Unconditional | BucketError::Newer { .. } => io::ErrorKind::Unsupported,
            BucketError::Contended { .. } => io::ErrorKind::WouldBlock,
            BucketError::Local(source) => source.kind(),
            BucketError::Object(_) | BucketError::Unsure => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<BucketError> for PutError {
    fn from(error: BucketError) -> Self {
        Self::Store(error.into())
    }
}

impl From<BucketError> for ReadError {
    fn from(error: BucketError) -> Self {
        Self::Store(error.into())
    }
}
