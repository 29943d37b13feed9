//! Lists that are not what the bucket holds.

use super::fault::matches;
use s3s::dto::{ListObjectsV2Output, Object};

/// How the next list lies.
#[derive(Debug, Clone)]
pub(super) enum ListFault {
    /// As it was, keys with lengths.
    Stale(Vec<(String, u64)>),
    Hide(String),
    Double,
    Add(Vec<String>),
    Endless,
}

/// Changes one page of a list.
pub(super) fn spoil(page: &mut ListObjectsV2Output, fault: &ListFault) {
    let mut contents = page.contents.take().unwrap_or_default();
    match fault {
        ListFault::Stale(then) => {
            contents = stale(page, then);
            (page.is_truncated, page.next_continuation_token) = (Some(false), None);
        }
        ListFault::Hide(keys) => contents.retain(|object| !matches(keys, object.key.as_deref().unwrap_or_default())),
        ListFault::Double => contents = contents.iter().flat_map(|object| [object.clone(), object.clone()]).collect(),
        ListFault::Add(keys) => contents.extend(keys.iter().map(|key| object(key, 1))),
        ListFault::Endless => {
            let last = contents.last().and_then(|object| object.key.clone());
            page.is_truncated = Some(true);
            page.next_continuation_token = Some(last.unwrap_or_else(|| "a".to_owned()));
        }
    }
    page.key_count = Some(i32::try_from(contents.len()).unwrap_or(i32::MAX));
    page.contents = Some(contents);
}

fn stale(page: &ListObjectsV2Output, then: &[(String, u64)]) -> Vec<Object> {
    let prefix = page.prefix.as_deref().unwrap_or_default();
    let after = [page.continuation_token.as_deref(), page.start_after.as_deref()].into_iter().flatten().max().unwrap_or_default();
    let those = then.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
    those.map(|(key, len)| object(key, *len)).collect()
}

fn object(key: &str, len: u64) -> Object {
    Object { key: Some(key.to_owned()), size: i64::try_from(len).ok(), ..Default::default() }
}
