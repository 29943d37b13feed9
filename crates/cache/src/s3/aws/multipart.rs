//! Writing a long object in parts: in parallel, each part tried again by itself, the whole thing given up when one cannot be sent.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};

use super::body::{self, Checksum, Sent};
use super::failure::{self, Failure, Kind};
use super::retry::Tries;
use super::{AwsObjects, Verb, reading, within, writing};
use crate::s3::objects::{Body, Condition, Etag, Key, ObjectError};

/// Longer bodies go in parts.
pub(super) const FROM: u64 = 64 << 20;

/// How long a part is, as long as 10,000 of them suffice.
const PART_LEN: u64 = 16 << 20;

/// How many parts an object may have, and how long it may be, by the protocol.
const MOST_PARTS: u64 = 10_000;
const MOST_LEN: u64 = 5 << 40;

/// How many threads send parts of one object; the schedule bounds all objects together.
const THREADS: u64 = 8;

impl AwsObjects {
    /// Writes an object in parts. What is half done when this fails is removed; what a killed process left is for [`Objects::abandon`](crate::s3::objects::Objects::abandon).
    pub(super) fn write_in_parts(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        let parts =
            parts(body.len()).ok_or_else(|| Failure::new(Kind::Hopeless, "it is longer than an object may be").about(key))?;
        let upload = self.begin(key)?;
        let done = self.send_parts(key, &upload, body, &parts).map_err(|failure| (failure, Tries::default()));
        let result = done.and_then(|sent| self.complete(key, &upload, sent, condition));
        result.map_err(|(failure, tries)| {
            let error = writing::outcome(key, condition, failure, &tries);
            // An upload whose end was answered by nothing may be whole by now: then this finds nothing to remove.
            // Whatever comes of it: the failure that led here is what the caller must hear of.
            let _ = self.give_up(key, &upload);
            error
        })
    }

    fn begin(&self, key: &Key) -> Result<String, ObjectError> {
        let (algorithm, kind) = match self.checksum {
            Checksum::Crc32 => (ChecksumAlgorithm::Crc32, None),
            Checksum::Crc64Nvme => (ChecksumAlgorithm::Crc64Nvme, Some(ChecksumType::FullObject)),
        };
        self.ask_again(key, Verb::Put, 0, async || {
            let request = self
                .client
                .create_multipart_upload()
                .bucket(self.address.bucket())
                .key(self.full(key))
                .checksum_algorithm(algorithm.clone())
                .set_checksum_type(kind.clone());
            let reply = async { request.send().await.map_err(|error| failure::of(&error)) };
            let reply = within(self.patience.silence, reply).await?;
            let id = reply.upload_id().filter(|id| (1..=1024).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()));
            id.map(str::to_owned).ok_or_else(|| Failure::malformed("an upload in parts without a name"))
        })
    }

    fn send_parts(&self, key: &Key, upload: &str, body: &Body, parts: &[(u64, u64)]) -> Result<Vec<CompletedPart>, Failure> {
        let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
        let sent: Mutex<Vec<Result<CompletedPart, Failure>>> = Mutex::new(vec![]);
        let send_all = || {
            while !stopped.load(Ordering::Relaxed) {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(n as usize) else { return };
                let result = self.send_part(key, upload, body, n, *part);
                if result.is_err() {
                    stopped.store(true, Ordering::Relaxed);
                }
                sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
            }
        };
        std::thread::scope(|scope| (0..THREADS.min(parts.len() as u64)).for_each(|_| drop(scope.spawn(send_all))));
        let sent = sent.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut sent = sent.into_iter().collect::<Result<Vec<_>, _>>()?;
        sent.sort_by_key(CompletedPart::part_number);
        Ok(sent)
    }

    fn send_part(&self, key: &Key, upload: &str, body: &Body, n: u64, (from, len): (u64, u64)) -> Result<CompletedPart, Failure> {
        let number = i32::try_from(n + 1).expect("at most 10,000 parts");
        let once = async || {
            let bytes = body::read(body, from, len)?;
            let (crc32, crc64) = self.split(self.checksum.of(&bytes));
            let sent = Sent::default();
            let request = self
                .client
                .upload_part()
                .bucket(self.address.bucket())
                .key(self.full(key))
                .upload_id(upload)
                .part_number(number)
                .content_length(i64::try_from(len).map_err(|_| Failure::new(Kind::Hopeless, "too long"))?)
                .set_checksum_crc32(crc32.clone())
                .set_checksum_crc64_nvme(crc64.clone())
                .body(body::counted(bytes, sent.clone()));
            let reply = request.customize().disable_payload_signing().send();
            let reply = self.while_it_moves(sent, async { reply.await.map_err(|error| failure::of(&error)) }).await?;
            let part = CompletedPart::builder().part_number(number).e_tag(reading::etag(reply.e_tag())?.0);
            Ok(part.set_checksum_crc32(crc32).set_checksum_crc64_nvme(crc64).build())
        };
        self.ask(Verb::Put, len, once).map_err(|(failure, _)| failure)
    }

    fn complete(
        &self,
        key: &Key,
        upload: &str,
        parts: Vec<CompletedPart>,
        condition: &Condition,
    ) -> Result<Etag, (Failure, Tries)> {
        let (if_none_match, if_match) = writing::headers(condition);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        // The server puts the parts together before it answers: some minutes for the longest.
        let time = self.patience.silence * 6;
        self.ask(Verb::Put, 0, async || {
            let request = self
                .client
                .complete_multipart_upload()
                .bucket(self.address.bucket())
                .key(self.full(key))
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_none_match(if_none_match.clone())
                .set_if_match(if_match.clone());
            let reply = within(time, async { request.send().await.map_err(|error| failure::of(&error)) }).await?;
            reading::etag(reply.e_tag())
        })
    }
}

/// Cuts a length into parts: offset and length of each.
fn parts(len: u64) -> Option<Vec<(u64, u64)>> {
    let part_len = PART_LEN.max(len.div_ceil(MOST_PARTS));
    let part = |n: u64| (n * part_len, part_len.min(len - n * part_len));
    (len <= MOST_LEN).then(|| (0..len.div_ceil(part_len)).map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_of_the_body_and_never_too_many() {
        for len in [1, PART_LEN, PART_LEN + 1, FROM + 1, MOST_PARTS * PART_LEN, MOST_PARTS * PART_LEN + 1, MOST_LEN] {
            let parts = parts(len).expect("possible");
            assert!(parts.len() as u64 <= MOST_PARTS);
            let end = parts.iter().fold(0, |end, (from, part_len)| {
                assert_eq!(*from, end);
                assert!(*part_len > 0);
                from + part_len
            });
            assert_eq!(end, len);
        }
        assert_eq!(parts(MOST_LEN + 1), None);
    }
}
