//! Writing an object in one request, under a condition.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::body::{self, Checksum, Sent};
use super::failure::{self, Failure, Kind};
use super::retry::Tries;
use super::{AwsObjects, Verb, reading};
use crate::s3::objects::{Body, Condition, Etag, Key, ObjectError};

impl AwsObjects {
    /// Writes a whole object.
    pub(super) fn write_whole(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        let (if_none_match, if_match) = headers(condition);
        let result = self.ask(Verb::Put, body.len(), async || {
            let bytes = body::read(body, 0, body.len())?;
            let sum = self.checksum.of(&bytes);
            let (crc32, crc64) = self.split(sum);
            let sent = Sent::default();
            let request = self
                .client
                .put_object()
                .bucket(self.address.bucket())
                .key(self.full(key))
                .content_length(i64::try_from(bytes.len()).map_err(|_| Failure::new(Kind::Hopeless, "too long"))?)
                .set_checksum_crc32(crc32)
                .set_checksum_crc64_nvme(crc64)
                .set_if_none_match(if_none_match.clone())
                .set_if_match(if_match.clone())
                .body(body::counted(bytes, sent.clone()));
            // The checksum is signed with the headers, so the body need not be hashed a second time for its signature.
            let reply = request.customize().disable_payload_signing().send();
            let reply = self.while_it_moves(sent, async { reply.await.map_err(|error| failure::of(&error)) }).await?;
            reading::etag(reply.e_tag())
        });
        result.map_err(|(failure, tries)| outcome(key, condition, failure, &tries))
    }

    /// Waits for the answer to a body as long as the body moves, and then for a silence.
    pub(super) async fn while_it_moves<T>(
        &self,
        sent: Sent,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let (begun, mut answer) = (Instant::now(), std::pin::pin!(answer));
        let mut before = 0;
        let result = loop {
            let left = self.patience.time_for(sent.get()).saturating_sub(begun.elapsed());
            match tokio::time::timeout(left.min(self.patience.silence), &mut answer).await {
                Ok(result) => break result,
                Err(_) if sent.get() == before || left.is_zero() => break Err(Failure::late()),
                Err(_) => before = sent.get(),
            }
        };
        self.counts.bytes_up.fetch_add(sent.get(), Ordering::Relaxed);
        result
    }

    /// Puts a checksum into the one header of two that is used.
    pub(super) fn split(&self, sum: String) -> (Option<String>, Option<String>) {
        match self.checksum {
            Checksum::Crc32 => (Some(sum), None),
            Checksum::Crc64Nvme => (None, Some(sum)),
        }
    }
}

/// Returns `If-None-Match` and `If-Match`.
pub(super) fn headers(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::Always => (None, None),
        Condition::Absent => (Some("*".to_owned()), None),
        Condition::Matches(etag) => (None, Some(etag.0.clone())),
    }
}

/// Decides what a write came to that was not answered as it should have been.
pub(super) fn outcome(key: &Key, condition: &Condition, failure: Failure, tries: &Tries) -> ObjectError {
    if let Some(unclear) = tries.unknown(&failure) {
        return ObjectError::Unknown { key: key.clone(), why: unclear.why.clone() };
    }
    match (failure.kind, condition) {
        // An object that must be in some state and is not there is in another.
        (Kind::Absent, Condition::Matches(_)) => ObjectError::Changed { key: key.clone() },
        (Kind::Absent | Kind::Changed, Condition::Always) => Failure::malformed(failure.why).about(key),
        (Kind::Absent, Condition::Absent) => Failure::malformed(failure.why).about(key),
        _ => failure.about(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kinds: &[Kind], condition: &Condition) -> String {
        let (mut tries, key) = (Tries::default(), Key::new("k").expect("a key"));
        let failures: Vec<Failure> = kinds.iter().map(|kind| Failure::new(*kind, "why")).collect();
        failures.iter().for_each(|failure| tries.add(failure));
        let error = outcome(&key, condition, failures.last().expect("one").clone(), &tries);
        format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_outcome_of_a_write_is_unknown_when_a_reply_was_lost_unless_a_condition_told() {
        use Kind::{Absent, Changed, Denied, Late, Lost, Overrun, Unsent};
        let state = Condition::Matches(Etag("e".to_owned()));
        assert_eq!(check(&[Changed], &state), "Changed");
        assert_eq!(check(&[Absent], &state), "Changed");
        assert_eq!(check(&[Lost, Changed], &Condition::Absent), "Changed");
        assert_eq!(check(&[Lost, Overrun], &Condition::Absent), "Unknown");
        assert_eq!(check(&[Late, Denied], &state), "Unknown");
        assert_eq!(check(&[Late, Absent], &state), "Unknown");
        assert_eq!(check(&[Overrun, Overrun], &Condition::Always), "Unreachable");
        assert_eq!(check(&[Unsent], &Condition::Always), "Unreachable");
        assert_eq!(check(&[Denied], &Condition::Absent), "Denied");
        assert_eq!(check(&[Changed], &Condition::Always), "Malformed", "no condition was made");
    }
}
