//! In which ways the server misbehaves, and for which requests.

use super::record::{Request, Verb};
use std::time::Duration;

/// One way to misbehave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// 503 SlowDown; nothing is done.
    SlowDown,
    /// 409 ConditionalRequestConflict; nothing is done.
    Conflict,
    /// An error of this status and S3 code, nothing is done: 403 AccessDenied, 500 InternalError, 412 PreconditionFailed.
    Refuse {
        /// The status.
        status: u16,
        /// S3's code for it.
        code: &'static str,
    },
    /// Does what was asked and closes the connection without a word; a client that tries a conditional write again sees 412.
    LostReply,
    /// Does nothing and closes the connection without a word.
    Drop,
    /// Resets the connection once so many bytes of the request's body came; nothing is done.
    CutRequest {
        /// After so many bytes.
        after: u64,
    },
    /// Announces the whole answer, sends so many bytes of its body, then resets the connection.
    CutAnswer {
        /// After so many bytes.
        after: u64,
    },
    /// Announces so many bytes more than there are, sends those that are, and closes.
    LongLength {
        /// How many more.
        by: u64,
    },
    /// Sends only so many bytes and announces exactly these: a shorter object, well formed.
    Truncate {
        /// How many are left.
        to: u64,
    },
    /// Flips the lowest bit of one byte of the body; checksum headers are left out, as a malicious server does.
    Flip {
        /// Which byte.
        at: u64,
    },
    /// Sends these bytes as the object, well formed.
    Body(Vec<u8>),
    /// Has these bytes as the whole object, ranges kept: what somebody wrote there who may write.
    Holds(Vec<u8>),
    /// Says these bytes in place of an answer, then those again and again until the client goes: what no server of HTTP says.
    Raw {
        /// Said once.
        first: Vec<u8>,
        /// Said until the client goes; nothing: the connection ends.
        then: Vec<u8>,
    },
    /// Sends another object of the bucket, well formed.
    Swap {
        /// Its key.
        with: String,
    },
    /// Says another state than the object has.
    Etag(String),
    /// Sends the whole object with 200, whatever range was asked for.
    IgnoreRange,
    /// Says 206 and sends another range, so many bytes later (wrapping around), under its true name.
    WrongRange {
        /// How much later.
        by: u64,
    },
    /// Sends another range, so many bytes later (wrapping around), as if it were the one asked for.
    WrongBytes {
        /// How much later.
        by: u64,
    },
    /// Says 206 and sends only the first bytes, although the whole object was asked for.
    Partial {
        /// So many bytes.
        to: u64,
    },
    /// A right answer with one more header, such as `content-encoding: gzip` for bytes that are none.
    Header {
        /// Its name, in lower case.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// 307 to another address; nothing is done.
    Redirect {
        /// The address.
        to: String,
    },
    /// Status 200 with an error's XML as the body; nothing is done.
    ErrorWith200,
    /// A body without an end.
    Endless,
    /// A body that comes one byte at a time.
    Drip {
        /// How long each takes.
        every: Duration,
    },
    /// Does nothing and never answers; the request stays open until its client goes.
    Hold,
    /// Does what was asked and never answers.
    HoldDone,
    /// A list as it was when this fault was set.
    StaleList,
    /// A list without the keys that this pattern matches.
    HideFromList {
        /// The pattern, as of [`Fault::key`].
        keys: String,
    },
    /// A list that names every key twice.
    DoubleList,
    /// A list that also names these.
    AddToList {
        /// Keys, whatever they may hold.
        keys: Vec<String>,
    },
    /// A list whose pages go on for ever.
    EndlessList,
}

/// A way to misbehave, and for which requests: the first one to any object, unless more is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(super) act: Act,
    verb: Option<Verb>,
    key: String,
    skip: u64,
    times: u64,
    pub(super) struck: u64,
}

impl Fault {
    /// Misbehaves once, at the first request.
    pub fn new(act: Act) -> Fault {
        Fault { act, verb: None, key: "*".to_owned(), skip: 0, times: 1, struck: 0 }
    }

    /// Only for requests of this kind.
    pub fn on(mut self, verb: Verb) -> Fault {
        self.verb = Some(verb);
        self
    }

    /// Only for keys (of a list: prefixes) that this pattern matches; `*` stands for any characters, slashes too.
    pub fn key(mut self, pattern: &str) -> Fault {
        pattern.clone_into(&mut self.key);
        self
    }

    /// Not before the `n`th of these requests; the first is 1.
    pub fn nth(mut self, n: u64) -> Fault {
        self.skip = n.saturating_sub(1);
        self
    }

    /// So many times in a row.
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// From then on, every time.
    pub fn always(self) -> Fault {
        self.times(u64::MAX)
    }

    /// Returns the pattern of the keys.
    pub(super) fn pattern(&self) -> &str {
        &self.key
    }

    /// Returns whether it is time to misbehave at this request, and counts it.
    pub(super) fn strikes(&mut self, request: &Request) -> bool {
        let named = self.verb.is_none_or(|verb| verb == request.verb) && matches(&self.key, &request.key);
        if !named || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.saturating_sub(u64::from(self.times != u64::MAX));
        self.struck += 1;
        true
    }
}

/// Returns whether a pattern of characters and `*` matches the whole text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().expect("a split has at least one piece");
    for piece in pieces {
        // The earliest place leaves the most for the others.
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Method;

    #[test]
    fn patterns_match_whole_keys() {
        for (pattern, text, expected) in [
            ("head", "head", true),
            ("head", "a/head", false),
            ("*", "", true),
            ("*/head", "a/b/head", true),
            ("p/*", "p/0a/x", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_fault_strikes_the_requests_it_names_and_no_other() {
        let put = Request::new(&Method::PUT, "/b/a/head", "");
        let get = Request::new(&Method::GET, "/b/a/head", "");
        let mut fault = Fault::new(Act::SlowDown).on(Verb::Put).key("*head").nth(2).times(2);
        let struck: Vec<bool> = [&put, &get, &put, &get, &put, &put].map(|request| fault.strikes(request)).into();
        assert_eq!(struck, [false, false, true, false, true, false]);
    }
}
