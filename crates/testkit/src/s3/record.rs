//! What was asked of the server.

use hyper::Method;

/// What a request is for, as S3's price list sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// An object or a range of it.
    Get,
    /// An object's header.
    Head,
    /// An object, or one part of a multipart upload.
    Put,
    /// A page of a list.
    List,
    /// One object, or a batch.
    Delete,
    /// Begin, complete or abort a multipart upload.
    Multipart,
    /// Whatever is asked about the bucket itself.
    Other,
}

/// One request, in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub verb: Verb,
    /// The HTTP method.
    pub method: String,
    /// The object's key; of a list, the prefix.
    pub key: String,
    /// The query as it came, without the question mark.
    pub query: String,
    /// The range that was asked for, as in `bytes=0-9`.
    pub range: Option<String>,
    /// The status that was answered; `None` as long as there is none, and when the connection was cut instead.
    pub status: Option<u16>,
    /// Bytes of the request's body, as it announced them.
    pub bytes_up: u64,
    /// Bytes of the answer's body, as it announced them.
    pub bytes_down: u64,
}

/// How many requests there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the verbs say it")]
pub struct Counts {
    pub get: u64,
    pub head: u64,
    pub put: u64,
    pub list: u64,
    pub delete: u64,
    pub multipart: u64,
    pub other: u64,
    /// Bytes of bodies that clients sent.
    pub bytes_up: u64,
    /// Bytes of bodies that clients were sent.
    pub bytes_down: u64,
}

impl Counts {
    /// Returns how many requests there were of all kinds.
    pub fn all(&self) -> u64 {
        self.get + self.head + self.put + self.list + self.delete + self.multipart + self.other
    }

    pub(super) fn of(requests: &[Request]) -> Counts {
        let mut counts = Counts::default();
        for request in requests {
            let count = match request.verb {
                Verb::Get => &mut counts.get,
                Verb::Head => &mut counts.head,
                Verb::Put => &mut counts.put,
                Verb::List => &mut counts.list,
                Verb::Delete => &mut counts.delete,
                Verb::Multipart => &mut counts.multipart,
                Verb::Other => &mut counts.other,
            };
            *count += 1;
            counts.bytes_up += request.bytes_up;
            counts.bytes_down += request.bytes_down;
        }
        counts
    }
}

impl Request {
    /// Reads what a request is for from its head; `path` is still percent-encoded, as `query` is.
    pub(super) fn new(method: &Method, path: &str, query: &str) -> Request {
        let path = decoded(path.trim_start_matches('/'));
        let (_bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let verb = verb(method, key, query);
        let key = if verb == Verb::List { parameter(query, "prefix").unwrap_or_default() } else { key.to_owned() };
        let method = method.to_string();
        Request { verb, method, key, query: query.to_owned(), range: None, status: None, bytes_up: 0, bytes_down: 0 }
    }
}

fn verb(method: &Method, key: &str, query: &str) -> Verb {
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match *method {
        Method::GET if !key.is_empty() && !asks("uploadId") => Verb::Get,
        Method::GET if key.is_empty() && !["location", "versioning", "uploads"].into_iter().any(asks) => Verb::List,
        Method::HEAD if !key.is_empty() => Verb::Head,
        Method::PUT if !key.is_empty() => Verb::Put,
        Method::DELETE if asks("uploadId") => Verb::Multipart,
        Method::DELETE if !key.is_empty() => Verb::Delete,
        Method::POST if asks("delete") => Verb::Delete,
        Method::POST if asks("uploads") || asks("uploadId") => Verb::Multipart,
        _ => Verb::Other,
    }
}

/// Returns the decoded value of a query's parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_as_the_price_list_does() {
        for (method, path, query, verb, key) in [
            (Method::GET, "/b/a/head", "x-id=GetObject", Verb::Get, "a/head"),
            (Method::GET, "/b/a%2Fhead", "", Verb::Get, "a/head"),
            (Method::GET, "/b", "list-type=2&prefix=a%2Fp", Verb::List, "a/p"),
            (Method::GET, "/b/", "list-type=2", Verb::List, ""),
            (Method::GET, "/b", "location", Verb::Other, ""),
            (Method::PUT, "/b/p/1", "partNumber=1&uploadId=2", Verb::Put, "p/1"),
            (Method::POST, "/b/p/1", "uploads", Verb::Multipart, "p/1"),
            (Method::POST, "/b", "delete", Verb::Delete, ""),
            (Method::DELETE, "/b/p/1", "", Verb::Delete, "p/1"),
            (Method::HEAD, "/b", "", Verb::Other, ""),
        ] {
            let request = Request::new(&method, path, query);
            assert_eq!((request.verb, request.key.as_str()), (verb, key), "{method} {path}?{query}");
        }
    }
}
