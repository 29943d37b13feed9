//! Reading an object or a range of it: as many bytes as were agreed on, in time, or an error.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use tokio::time::Instant;

use super::failure::{self, Failure, Kind};
use super::{AwsObjects, Verb, within};
use crate::s3::objects::{Etag, Key, Object, ObjectError};

/// What a whole object is taken to hold in memory while its length is not known, in bytes.
const UNKNOWN_LEN: u64 = 1 << 20;

/// Room that is made for a body before any of it came, at most, in bytes: what it announces is a stranger's word.
const ROOM: usize = 64 << 20;

/// The longest state a server may give an object, in bytes.
const ETAG_LEN: usize = 256;

impl AwsObjects {
    /// Reads a whole object.
    pub(super) fn read_whole(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        // Nobody knows how long it is before it is asked for.
        self.ask_again(key, Verb::Get, limit.min(UNKNOWN_LEN), async || {
            let reply = self.send(key, None).await?;
            let len = whole_len(reply.content_length(), reply.content_range(), limit)?;
            let etag = etag(reply.e_tag())?;
            Ok(Object { bytes: self.receive(reply.body, len).await?, etag })
        })
    }

    /// Reads exactly `len` bytes at `offset`.
    pub(super) fn read_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        let Some(last) = offset.checked_add(len).map(|end| end.saturating_sub(1)).filter(|_| len > 0) else {
            return if len == 0 { Ok(vec![]) } else { Err(Failure::malformed("it ends before that").about(key)) };
        };
        self.ask_again(key, Verb::Get, len, async || {
            let reply = self.send(key, Some(format!("bytes={offset}-{last}"))).await?;
            check_range(reply.content_length(), reply.content_range(), offset, len)?;
            self.receive(reply.body, len).await
        })
    }

    async fn send(&self, key: &Key, range: Option<String>) -> Result<GetObjectOutput, Failure> {
        let request = self.reads.get_object().bucket(self.address.bucket()).key(self.full(key)).set_range(range);
        within(self.patience.silence, async { request.send().await.map_err(|error| failure::of(&error)) }).await
    }

    /// Takes a body that must have `len` bytes. The time it may take grows only with what came: a server that drips is left.
    async fn receive(&self, mut body: ByteStream, len: u64) -> Result<Vec<u8>, Failure> {
        let begun = Instant::now();
        let whole = usize::try_from(len).map_err(|_| Failure::new(Kind::TooLong(len), ""))?;
        let mut bytes = Vec::with_capacity(whole.min(ROOM));
        loop {
            let time = self.patience.time_for(bytes.len() as u64);
            let left = time.checked_sub(begun.elapsed()).unwrap_or(Duration::ZERO);
            let piece = tokio::time::timeout(left.min(self.patience.silence), body.next()).await.map_err(|_| Failure::late())?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| Failure::cut(&error))?;
            self.counts.bytes_down.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if (bytes.len() + piece.len()) as u64 > len {
                return Err(Failure::malformed("more bytes came than were announced"));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 == len {
            Ok(bytes)
        } else {
            Err(Failure::new(Kind::Lost, format!("it broke off after {} of {len} bytes", bytes.len())))
        }
    }
}

/// Checks a server's word for an object's state: it is sent back in a header.
pub(super) fn etag(etag: Option<&str>) -> Result<Etag, Failure> {
    let good = |etag: &&str| (1..=ETAG_LEN).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_graphic()) && *etag != "*";
    etag.filter(good)
        .map(|etag| Etag(etag.to_owned()))
        .ok_or_else(|| Failure::malformed("an answer without the object's state (ETag)"))
}

/// Returns how long a whole object is.
fn whole_len(len: Option<i64>, range: Option<&str>, limit: u64) -> Result<u64, Failure> {
    let len = len.and_then(|len| u64::try_from(len).ok()).ok_or_else(|| Failure::malformed("an object without a length"))?;
    if range.is_some() {
        return Err(Failure::malformed("a part of an object when all of it was asked for"));
    }
    if len > limit { Err(Failure::new(Kind::TooLong(limit), "")) } else { Ok(len) }
}

/// Checks that an answer is the range that was asked for. Without `Content-Range` it is the whole object (200), whose first bytes are the wrong ones.
fn check_range(got_len: Option<i64>, range: Option<&str>, offset: u64, len: u64) -> Result<(), Failure> {
    let range =
        range.ok_or_else(|| Failure::malformed("the whole object when a part was asked for: the server knows no ranges"))?;
    let end = offset + len;
    let fits = |total: &str| total == "*" || total.parse::<u64>().is_ok_and(|total| total >= end);
    let agrees = range.strip_prefix(&format!("bytes {offset}-{}/", end - 1)).is_some_and(fits);
    if agrees && got_len == i64::try_from(len).ok() {
        Ok(())
    } else {
        Err(Failure::malformed("other bytes than were asked for (Content-Range)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_length_within_the_bound() {
        assert_eq!(whole_len(Some(10), None, 10), Ok(10));
        let kind = |len, range| whole_len(len, range, 10).expect_err("refused").kind;
        assert_eq!(kind(Some(11), None), Kind::TooLong(10));
        assert_eq!(kind(Some(i64::MAX), None), Kind::TooLong(10));
        for (len, range) in [(None, None), (Some(-1), None), (Some(5), Some("bytes 0-4/10"))] {
            assert_eq!(kind(len, range), Kind::Malformed);
        }
    }

    #[test]
    fn a_range_is_exactly_what_was_asked_for() {
        for good in ["bytes 5-9/10", "bytes 5-9/1000", "bytes 5-9/*"] {
            assert_eq!(check_range(Some(5), Some(good), 5, 5), Ok(()), "{good}");
        }
        for bad in [
            "",
            "bytes 5-9/9",
            "bytes 5-8/10",
            "bytes 4-9/10",
            "bytes 0-4/10",
            "bytes */10",
            "bytes 5-9",
            "bytes 5-9/x",
            "bytes 5-9/-1",
            "bytes=5-9/10",
        ] {
            assert!(check_range(Some(5), Some(bad), 5, 5).is_err(), "{bad}");
        }
        assert!(check_range(Some(5), None, 5, 5).is_err(), "200 for 206");
        assert!(check_range(Some(4), Some("bytes 5-9/10"), 5, 5).is_err());
        assert!(check_range(None, Some("bytes 5-9/10"), 5, 5).is_err());
    }

    #[test]
    fn a_state_is_a_short_word() {
        assert!(etag(Some("\"abc-1\"")).is_ok());
        let long = "a".repeat(ETAG_LEN + 1);
        for bad in [None, Some(""), Some("*"), Some("a b"), Some("a\r\nX: y"), Some("\u{e9}"), Some(&*long)] {
            assert!(etag(bad).is_err(), "{bad:?}");
        }
    }
}
