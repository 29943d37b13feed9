//! What a commit did: written before the head, for people and for a head that was lost.
//!
//! # Format of the body, version 1 ("dfl\x01", at most 1 MiB)
//!
//! ```text
//! record = when i64, who (a text), count, image added*, count, image removed*, count, release put*, count, release removed*, head
//! head   = the whole head that the commit is to make, as an object
//! ```
//!
//! Images and releases are digests, at most 4,096 of each kind are listed; releases that were put in the order in
//! which they were, but in the order of their digests by programs before that. That a record is there does not mean that its head ever was: the chain of the txids of later heads says so.

use df_core::{Digest, ImageId, ReleaseId, Timestamp};

use super::head::{HEAD_LEN, Head};
use super::name::log_key;
use super::{FormatError, Reader, Writer, open, seal};
use crate::s3::objects::Key;

/// The longest record, in bytes.
pub(crate) const LOG_LEN: u64 = 1 << 20;
/// More names of a kind are left out.
const NAMES: usize = 4096;
const WHO_LEN: usize = 256;
const MAGIC: [u8; 4] = *b"dfl\x01";

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// By the clock of whoever committed.
    pub(crate) when: Timestamp,
    /// Who, in words of their own.
    pub(crate) who: String,
    pub(crate) images_added: Vec<ImageId>,
    pub(crate) images_removed: Vec<ImageId>,
    pub(crate) releases_put: Vec<ReleaseId>,
    pub(crate) releases_removed: Vec<ReleaseId>,
    /// What the cache is after it.
    pub(crate) head: Head,
}

impl Record {
    /// Returns where it lies.
    pub(crate) fn key(&self) -> Key {
        log_key(self.head.sequence, self.head.txid().unwrap_or_default())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.when.0 as u64).text(df_core::text::shorten(&self.who, WHO_LEN).as_bytes());
        let images = |list: &[ImageId]| list.iter().take(NAMES).map(|image| image.0).collect::<Vec<Digest>>();
        let releases = |list: &[ReleaseId]| list.iter().take(NAMES).map(|release| release.0).collect::<Vec<Digest>>();
        let lists = [
            images(&self.images_added),
            images(&self.images_removed),
            releases(&self.releases_put),
            releases(&self.releases_removed),
        ];
        for list in lists {
            out.count(list.len());
            list.iter().for_each(|digest| {
                out.digest(*digest);
            });
        }
        out.text(&self.head.encode());
        seal(MAGIC, &out.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body = open(MAGIC, bytes, LOG_LEN as usize)?;
        let mut reader = Reader::new(&body);
        let when = Timestamp(reader.u64()? as i64);
        let who = String::from_utf8(reader.text(4 * WHO_LEN)?.to_vec()).map_err(|_| FormatError("a text in it is none"))?;
        let mut names = || {
            let count = reader.count(Digest::LEN)?;
            reader.list(count, Reader::digest)
        };
        let (added, removed, put, gone) = (names()?, names()?, names()?, names()?);
        let head = Head::decode(reader.text(HEAD_LEN as usize)?)?;
        reader.end()?;
        let images = |list: Vec<Digest>| list.into_iter().map(ImageId).collect();
        let releases = |list: Vec<Digest>| list.into_iter().map(ReleaseId).collect();
        Ok(Self {
            when,
            who,
            images_added: images(added),
            images_removed: images(removed),
            releases_put: releases(put),
            releases_removed: releases(gone),
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::head;
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;

    #[test]
    fn golden_bytes() {
        let digest = |n: u8| Digest::of(&[n]);
        let example = Record {
            when: Timestamp(77),
            who: "ci@example".into(),
            images_added: vec![ImageId(digest(1))],
            images_removed: vec![],
            releases_put: vec![ReleaseId(digest(2))],
            releases_removed: vec![ReleaseId(digest(3)), ReleaseId(digest(4))],
            head: head::tests::example(),
        };
        assert_golden("s3-log-v1.bin", &example.encode());
        assert_eq!(Record::decode(&example.encode()), Ok(example.clone()));
        assert_guarded(&example.encode(), Record::decode);
        assert_eq!(example.key().as_str(), format!("log/0000000000000003-{}", "02".repeat(16)));
    }
}
