//! Why a cache has no answer: what the caller sees of it, and what to type next.

use std::error::Error;
use std::io;

use df_cache::s3::BucketError;
use df_cache::s3::objects::ObjectError;
use df_cache::store::ReadError;
use df_fleet::transfer::CopyError;
use df_fleet::{NodeError, TakeError};

use crate::exit::Exit;
use crate::failure::{Failure, chain};

/// What to do when a bucket lets nobody in.
pub const CREDENTIALS: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, then type it again; df doctor";

/// Another copy that may have what is lost did not answer, so that nobody knows whether it is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place} may have it, and could not be asked")]
pub struct Unasked {
    /// What it is called.
    pub place: String,
}

/// What a failure of a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers.
    Unreachable,
    /// Whoever asks may not.
    Denied,
    /// Somebody else does not answer who may have what is lost here.
    Unasked,
    /// Something of it is gone, or not what was written.
    Damaged,
    /// Nothing says any more what was in it.
    Forgotten,
    /// A newer df wrote it.
    Newer,
    /// The server knows no conditional writes.
    Unconditional,
    /// Others change it all the time.
    Contended,
    /// Nobody knows whether it was done.
    Unsure,
    /// A disk of this machine has no room.
    Full,
    /// A directory of this machine may not be changed.
    Unwritable,
    /// Anything else.
    Other,
}

/// Returns the failure of reading a cache.
pub fn unread(place: &str, error: &(dyn Error + 'static)) -> Failure {
    of(place, error, "nothing was changed")
}

/// Returns the failure of changing a cache.
pub fn unwritten(place: &str, error: &(dyn Error + 'static)) -> Failure {
    of(place, error, "it names what it named before; what arrived there is not sent again")
}

/// Returns a command on the cache that is called `place`.
pub fn command(word: &str, place: &str) -> String {
    if place == "cache" { format!("df cache {word}") } else { format!("df cache {word} --address {place}") }
}

fn of(place: &str, error: &(dyn Error + 'static), changed: &str) -> Failure {
    let trouble = trouble(error);
    let exit = if matches!(trouble, Trouble::Unreachable | Trouble::Unasked) { Exit::Unreachable } else { Exit::Failed };
    let next = match trouble {
        Trouble::Unreachable if place == "cache" => "df doctor, then type it again".to_owned(),
        Trouble::Unreachable => format!("df doctor --address {place}, then type it again"),
        Trouble::Unasked => "df doctor, then type it again".to_owned(),
        Trouble::Denied => CREDENTIALS.to_owned(),
        Trouble::Forgotten => format!("remove what is left below {place}, or name another place; then df cache persist"),
        Trouble::Damaged => command("repair", place),
        Trouble::Newer => "use the df that wrote it, or a newer one".to_owned(),
        Trouble::Unconditional => format!("df cache persist --single-writer --address {place}"),
        Trouble::Contended => "type it again".to_owned(),
        Trouble::Unsure => format!("{}, then type it again if it was not done", command("status", place)),
        Trouble::Full => "make room there, then type it again".to_owned(),
        Trouble::Unwritable => "make it writable, or name another place, then type it again".to_owned(),
        Trouble::Other => command("verify", place),
    };
    let why = chain(error);
    let says_all = matches!(trouble, Trouble::Forgotten | Trouble::Unsure);
    let message = if says_all { format!("{place}: {why}") } else { format!("{place}: {why}; {changed}") };
    Failure::new(exit, "cache", message).next(next)
}

fn trouble(error: &(dyn Error + 'static)) -> Trouble {
    match error.downcast_ref::<ObjectError>() {
        Some(ObjectError::Unreachable { .. } | ObjectError::Unknown { .. }) => return Trouble::Unreachable,
        Some(ObjectError::Denied { .. }) => return Trouble::Denied,
        Some(ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => return Trouble::Damaged,
        Some(_) | None => {}
    }
    if error.is::<Unasked>() {
        return Trouble::Unasked;
    }
    match error.downcast_ref::<BucketError>() {
        Some(BucketError::Damaged { .. } | BucketError::Gone { .. } | BucketError::HeadLost) => return Trouble::Damaged,
        Some(BucketError::Newer { .. }) => return Trouble::Newer,
        Some(BucketError::LogLost) => return Trouble::Forgotten,
        Some(BucketError::Unconditional) => return Trouble::Unconditional,
        Some(BucketError::Contended { .. }) => return Trouble::Contended,
        Some(BucketError::Unsure) => return Trouble::Unsure,
        Some(_) | None => {}
    }
    let node = match (error.downcast_ref::<TakeError>(), error.downcast_ref::<CopyError>()) {
        (Some(TakeError::Node(error)), _) | (_, Some(CopyError::Node(error))) => Some(error),
        _ => None,
    };
    if let Some(NodeError::Unreachable { .. } | NodeError::Broken { .. } | NodeError::Silent(_)) = node {
        return Trouble::Unreachable;
    }
    if let Some(ReadError::Damaged { .. } | ReadError::NoBlob { .. } | ReadError::NoImage { .. }) = error.downcast_ref() {
        return Trouble::Damaged;
    }
    // An error that wraps another one names that one's cause as its own.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
    match wrapped.or_else(|| error.source()).map_or(Trouble::Other, trouble) {
        // What a bucket or a node said has words of its own; the rest is this machine's.
        Trouble::Other => error.downcast_ref::<io::Error>().map_or(Trouble::Other, |error| of_this_machine(error.kind())),
        known => known,
    }
}

fn of_this_machine(kind: io::ErrorKind) -> Trouble {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Trouble::Unwritable,
        _ => Trouble::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_cache::s3::objects::Key;
    use df_cache::store::PutError;

    #[test]
    fn what_a_bucket_said_is_found_below_all_that_wraps_it() {
        let key = || Key::new("head").expect("a key");
        let table = [
            (ObjectError::Unreachable { key: key(), why: "refused".into() }, Exit::Unreachable, "df doctor --address s3://b"),
            (ObjectError::Unknown { key: key(), why: "reset".into() }, Exit::Unreachable, "df doctor"),
            (ObjectError::Denied { key: key(), why: "403".into() }, Exit::Failed, "AWS_ACCESS_KEY_ID"),
            (ObjectError::Malformed { key: key(), why: "short".into() }, Exit::Failed, "df cache repair --address s3://b"),
            (ObjectError::Absent { key: key() }, Exit::Failed, "df cache verify --address s3://b"),
        ];
        for (error, exit, next) in table {
            let words = error.to_string();
            let error = PutError::Store(ReadError::Store(BucketError::Object(error).into()).into());
            let failure = unwritten("s3://b", &error);
            assert_eq!(failure.exit, exit, "{words}");
            assert!(failure.next.as_ref().is_some_and(|it| it.contains(next)), "{failure:?}");
            assert!(failure.message.starts_with("s3://b: ") && failure.message.contains(&words), "{failure:?}");
        }
        assert_eq!(unread("cache", &ReadError::Store(BucketError::HeadLost.into())).next.as_deref(), Some("df cache repair"));
    }

    #[test]
    fn a_cache_of_which_nothing_says_what_it_held_is_not_sent_from_verify_to_repair_and_back() {
        let failure = unwritten("s3://b", &PutError::Store(BucketError::LogLost.into()));
        let next = failure.next.expect("a way out");
        assert!(next.starts_with("remove what is left below s3://b, or name another place"), "{next}");
        assert!(!next.contains("verify") && !next.contains("repair"), "{next}");
        assert!(!failure.message.contains("names what it named before"), "{}", failure.message);
    }

    #[test]
    fn who_does_not_know_whether_it_was_done_is_not_told_that_it_was_not() {
        let failure = unwritten("s3://b", &PutError::Store(BucketError::Unsure.into()));
        assert!(!failure.message.contains("names what it named before"), "{}", failure.message);
        assert!(failure.next.is_some_and(|next| next.starts_with("df cache status --address s3://b, ")));
    }

    #[test]
    fn a_copy_that_does_not_answer_is_nobody_who_has_nothing() {
        let unasked = Unasked { place: "s3://other".into() };
        let failure = unwritten("s3://b", &PutError::Store(io::Error::other(unasked)));
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("s3://other may have it"), "{}", failure.message);
    }

    #[test]
    fn a_full_disk_is_no_damage() {
        for (kind, next) in [(io::ErrorKind::StorageFull, "make room"), (io::ErrorKind::ReadOnlyFilesystem, "make it writable")] {
            let error = PutError::Store(io::Error::new(kind, "write x"));
            for failure in [unwritten("file:/x", &error), unread("file:/x", &error)] {
                assert!(failure.next.as_ref().is_some_and(|it| it.starts_with(next)), "{failure:?}");
            }
        }
    }
}
