//! What one try of a request came to, when not what was asked: read from the answer, and only from it.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use df_core::text;

use crate::s3::objects::{Key, ObjectError};
use crate::s3::schedule::pace::Answer;

/// The longest text of a stranger that an error repeats, in bytes.
const WORDS_LEN: usize = 300;

/// Why a try has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub kind: Kind,
    /// For people; escaped and short.
    pub why: String,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object, says a server that knows the bucket.
    Absent,
    /// The upload in parts is not there.
    NoUpload,
    /// A condition does not hold.
    Changed,
    /// Too much at once; nothing was done.
    Overrun,
    /// No answer in time; it may have been done.
    Late,
    /// The answer is lost or none; it may have been done.
    Lost,
    /// Certainly not done, and the next try may well succeed.
    Unsent,
    /// 401, 403.
    Denied,
    /// Longer than it may be, with the bound.
    TooLong(u64),
    /// No server that is right answers so.
    Malformed,
    /// Nothing that another try would change.
    Hopeless,
}

impl Failure {
    pub(super) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    /// Something the server said that it should not have.
    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, why)
    }

    /// No answer within a time.
    pub(super) fn late() -> Self {
        Self::new(Kind::Late, "no progress in time")
    }

    /// A body that could not be read to its end.
    pub(super) fn cut(error: &(dyn StdError + 'static)) -> Self {
        Self::new(Kind::Lost, words(error))
    }

    /// Returns whether another try may succeed.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Overrun | Kind::Late | Kind::Lost | Kind::Unsent)
    }

    /// Returns whether what was asked may have been done all the same.
    pub(super) fn is_unclear(&self) -> bool {
        matches!(self.kind, Kind::Late | Kind::Lost)
    }

    /// Returns what the failure tells about load.
    pub(super) fn answer(&self) -> Answer {
        match self.kind {
            Kind::Overrun => Answer::SlowDown,
            // Connections that are refused or reset are how some servers say that there are too many.
            Kind::Late | Kind::Lost | Kind::Unsent => Answer::Late,
            Kind::Hopeless => Answer::Nothing,
            _ => Answer::Served,
        }
    }

    /// Says it to the caller.
    pub(super) fn about(self, key: &Key) -> ObjectError {
        let (key, why) = (key.clone(), self.why);
        match self.kind {
            Kind::Absent => ObjectError::Absent { key },
            Kind::Changed => ObjectError::Changed { key },
            Kind::TooLong(limit) => ObjectError::TooLong { key, limit },
            Kind::Denied => ObjectError::Denied { key, why },
            Kind::Malformed | Kind::NoUpload => ObjectError::Malformed { key, why },
            Kind::Overrun | Kind::Late | Kind::Lost | Kind::Unsent | Kind::Hopeless => ObjectError::Unreachable { key, why },
        }
    }
}

/// Reads an error of the SDK.
pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => Failure::new(Kind::Hopeless, words(error)),
        SdkError::TimeoutError(_) => Failure::late(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Failure::late(),
        // Whoever is there, it is not who was meant: asked again it will not be either.
        SdkError::DispatchFailure(_) if says(error, "invalid peer certificate") => Failure::new(
            Kind::Hopeless,
            format!("its certificate is not believed, unless AWS_CA_BUNDLE names a file of who vouches for it: {}", words(error)),
        ),
        // Before the connection stood nothing can have been done.
        SdkError::DispatchFailure(_) if says(error, "(Connect)") => Failure::new(Kind::Unsent, words(error)),
        SdkError::DispatchFailure(_) => Failure::new(Kind::Lost, words(error)),
        SdkError::ServiceError(service) => {
            let said = service.err();
            read(service.raw().status().as_u16(), said.code().unwrap_or_default(), said.message().unwrap_or_default())
        }
        SdkError::ResponseError(response) => match response.raw().status().as_u16() {
            // The answer began well and then broke off, or was no answer at all: bounded tries tell.
            200..=299 => Failure::new(Kind::Lost, words(error)),
            status => read(status, "", ""),
        },
        _ => Failure::new(Kind::Lost, words(error)),
    }
}

/// Decides what a status with S3's code means. The code alone decides that an object is absent: a 404 without it may be a proxy's, or a bucket's that is not there.
pub(super) fn read(status: u16, code: &str, message: &str) -> Failure {
    let kind = match (status, code) {
        (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests") | (429, _) => {
            Kind::Overrun
        }
        (404, "NoSuchKey") => Kind::Absent,
        (404, "NoSuchUpload") => Kind::NoUpload,
        (412, _) | (409, "ConditionalRequestConflict") => Kind::Changed,
        // What arrived was not what was sent, or came too slowly: nothing was done.
        (409, "OperationAborted")
        | (
            400,
            "BadDigest" | "IncompleteBody" | "RequestTimeout" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch",
        ) => Kind::Unsent,
        (503, _) => Kind::Overrun,
        // A long work is answered with 200 before it is done; what follows then may be cut.
        (200..=299, "") => Kind::Lost,
        (_, "InternalError" | "ServiceUnavailable") | (500 | 502 | 504, _) => Kind::Lost,
        (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") | (401 | 403, _) => Kind::Denied,
        (404, "NoSuchBucket") => Kind::Hopeless,
        _ => Kind::Malformed,
    };
    Failure::new(kind, said(status, code, message))
}

/// Puts an answer into words: what is known of it, the server's own words escaped.
fn said(status: u16, code: &str, message: &str) -> String {
    let own = match (status, code) {
        (_, "NoSuchBucket") => "there is no bucket of this name",
        (_, "RequestTimeTooSkewed") => "this machine's clock is wrong by more than 15 minutes",
        (_, "ExpiredToken" | "TokenRefreshRequired") => "the credentials have expired",
        (_, "SignatureDoesNotMatch") => "the secret key is not the one of the access key",
        (_, "InvalidAccessKeyId") => "the access key is unknown there",
        (300..=399, _) => "it redirects elsewhere, which is never followed: the region or the endpoint is another one",
        (416, _) => "it ends before the bytes that were asked for",
        (501, _) | (_, "NotImplemented") => "the server cannot do what a cache needs",
        _ => "",
    };
    let its = [code, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    let its = text::escape(text::shorten(&its, WORDS_LEN).as_bytes());
    match (own, its.as_str()) {
        ("", "") => format!("status {status}"),
        ("", its) => format!("status {status}, {its}"),
        (own, "") => format!("{own} (status {status})"),
        (own, its) => format!("{own} (status {status}, {its})"),
    }
}

/// Returns the causes of an error in one line, the same words once.
pub(super) fn words(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = vec![];
    for cause in chain(error) {
        let part = cause.to_string();
        if parts.last().is_none_or(|last| !last.contains(&part)) {
            parts.push(part);
        }
    }
    text::escape(text::shorten(&parts.join(": "), WORDS_LEN).as_bytes())
}

fn says(error: &(dyn StdError + 'static), word: &str) -> bool {
    chain(error).any(|cause| cause.to_string().contains(word))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source()).take(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, code: &str, kind: Kind) {
        assert_eq!(read(status, code, "").kind, kind, "{status} {code}");
    }

    #[test]
    fn only_a_server_that_knows_the_bucket_makes_an_object_absent() {
        check(404, "NoSuchKey", Kind::Absent);
        check(404, "NoSuchBucket", Kind::Hopeless);
        check(404, "", Kind::Malformed);
        check(404, "NotFound", Kind::Malformed);
        check(403, "AccessDenied", Kind::Denied);
        check(403, "NoSuchKey", Kind::Denied);
        check(401, "", Kind::Denied);
        check(200, "NoSuchKey", Kind::Malformed);
    }

    #[test]
    fn what_may_have_been_done_is_told_from_what_was_not() {
        for (status, code, kind) in [
            (503, "SlowDown", Kind::Overrun),
            (503, "", Kind::Overrun),
            (200, "SlowDown", Kind::Overrun),
            (429, "", Kind::Overrun),
            (500, "InternalError", Kind::Lost),
            (200, "InternalError", Kind::Lost),
            (200, "", Kind::Lost),
            (502, "", Kind::Lost),
            (504, "", Kind::Lost),
            (400, "RequestTimeout", Kind::Unsent),
            (400, "BadDigest", Kind::Unsent),
            (409, "OperationAborted", Kind::Unsent),
            (409, "ConditionalRequestConflict", Kind::Changed),
            (412, "PreconditionFailed", Kind::Changed),
        ] {
            check(status, code, kind);
        }
    }

    #[test]
    fn redirects_and_oddities_are_refused_and_never_tried_again() {
        for (status, code) in [
            (301, "PermanentRedirect"),
            (307, "TemporaryRedirect"),
            (302, ""),
            (400, "InvalidRequest"),
            (418, ""),
            (501, "NotImplemented"),
        ] {
            let failure = read(status, code, "");
            assert_eq!((failure.kind, failure.is_transient()), (Kind::Malformed, false), "{status}");
        }
        assert!(!read(400, "ExpiredToken", "").is_transient());
    }

    #[test]
    fn a_stranger_s_words_are_escaped_and_short() {
        let failure = read(400, "\x1b[31mX", &"y\n".repeat(1000));
        assert!(!failure.why.contains(['\x1b', '\n']) && failure.why.len() < 1000, "{}", failure.why);
    }
}
