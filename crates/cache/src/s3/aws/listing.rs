//! Listing and removing objects, a page of at most 1,000 at a time.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{Delete, EncodingType, Object, ObjectIdentifier};
use df_core::Timestamp;

use super::failure::{self, Failure};
use super::{AwsObjects, Verb, within};
use crate::s3::objects::{Key, Listed, ObjectError};

/// How many objects one request removes.
const PAGE: usize = 1000;

/// How many objects a cache may have: 64 TB in packs of 16 MiB. A list without end must end.
const MOST: usize = 4_000_000;

impl AwsObjects {
    /// Lists everything below a prefix.
    pub(super) fn list_all(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        let about = about(prefix);
        let (mut all, mut token): (Vec<Listed>, Option<String>) = (vec![], None);
        let (mut n_named, mut last) = (0, String::new());
        loop {
            let page = self.ask_again(&about, Verb::List, 0, async || self.page(prefix, token.clone()).await)?;
            for object in page.contents() {
                let name =
                    object.key().map(|name| if is_encoded(&page) { decode(name) } else { name.to_owned() }).unwrap_or_default();
                // A list in order cannot repeat itself, so one that goes on for ever is found out.
                if name <= last {
                    return Err(Failure::malformed("a list that is not in order").about(&about));
                }
                n_named += 1;
                all.extend(self.ours(&name, object, prefix));
                last = name;
            }
            if n_named > MOST {
                return Err(Failure::malformed(format!("a list of more than {MOST} objects")).about(&about));
            }
            match page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)) {
                None if page.is_truncated() == Some(true) => {
                    return Err(Failure::malformed("a page without a next one").about(&about));
                }
                None => return Ok(all),
                Some(_) if page.contents().is_empty() => {
                    return Err(Failure::malformed("an empty page that is not the last").about(&about));
                }
                Some(next) => token = Some(next.to_owned()),
            }
        }
    }

    async fn page(&self, prefix: &str, token: Option<String>) -> Result<ListObjectsV2Output, Failure> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(self.address.bucket())
            .prefix(self.address.full(prefix))
            // Names of others may hold what XML cannot.
            .encoding_type(EncodingType::Url)
            .set_continuation_token(token);
        within(self.patience.time_for(0), async { request.send().await.map_err(|error| failure::of(&error)) }).await
    }

    fn ours(&self, name: &str, object: &Object, prefix: &str) -> Option<Listed> {
        let key = self.address.below(name).filter(|key| key.starts_with(prefix)).and_then(|key| Key::new(key).ok())?;
        let written = object.last_modified().map(|at| Timestamp(at.secs()));
        Some(Listed { key, len: u64::try_from(object.size()?).ok()?, written })
    }

    /// Removes objects.
    pub(super) fn remove(&self, keys: &[Key]) -> Result<(), ObjectError> {
        keys.chunks(PAGE).try_for_each(|page| self.remove_page(page))
    }

    fn remove_page(&self, keys: &[Key]) -> Result<(), ObjectError> {
        let names = |key: &Key| ObjectIdentifier::builder().key(self.full(key)).build().expect("it has a key");
        let names =
            Delete::builder().set_objects(Some(keys.iter().map(names).collect())).quiet(true).build().expect("it has objects");
        let removed = self.ask(Verb::Delete, 0, async || {
            let request = self.client.delete_objects().bucket(self.address.bucket()).delete(names.clone());
            let reply =
                within(self.patience.silence, async { request.send().await.map_err(|error| failure::of(&error)) }).await?;
            // Removing again what is gone is no error, so the whole page may be tried again for one of them.
            reply.errors().iter().find_map(refusal).map_or(Ok(()), Err)
        });
        removed.map_err(|(failure, _)| failure.about(&keys[0]))
    }
}

/// Reads what a server says of one object that it did not remove.
fn refusal(error: &aws_sdk_s3::types::Error) -> Option<Failure> {
    let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
    let status = match code {
        "NoSuchKey" => return None,
        "AccessDenied" => 403,
        "SlowDown" | "ServiceUnavailable" => 503,
        "InternalError" => 500,
        _ => 400,
    };
    Some(failure::read(status, code, message))
}

/// A list is about a place, not about an object: its errors name the place.
fn about(prefix: &str) -> Key {
    Key::new(prefix.trim_end_matches('/')).or_else(|_| Key::new("everything")).expect("that is a key")
}

fn is_encoded(page: &ListObjectsV2Output) -> bool {
    page.encoding_type() == Some(&EncodingType::Url)
}

/// Undoes the encoding of a URL. What is no such encoding stays as it is: it is no name of ours.
fn decode(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_as_urls_are() {
        for (encoded, name) in [
            ("p/0a/x-1", "p/0a/x-1"),
            ("a%2Fb", "a/b"),
            ("a+b%2b", "a b+"),
            ("%", "%"),
            ("%zz", "%zz"),
            ("%+f", "% f"),
            ("%c3%a4", "\u{e4}"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode(encoded), name);
        }
    }

    #[test]
    fn a_list_of_everything_has_a_name_too() {
        assert_eq!((about("p/").as_str(), about("").as_str()), ("p", "everything"));
    }
}
