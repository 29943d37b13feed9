//! Both ends of a conversation as state machines without IO.
//!
//! ```text
//! node:      PREAMBLE, hello                         as soon as it runs
//! operator:  hello, request, bytes as announced, request, ...
//! node:      (event, bytes as announced)*, reply, bytes as announced         for each request, in order
//! ```
//!
//! Requests may be sent before earlier ones are answered, and before the node has greeted: a question and its answer cost one round trip with both
//! greetings. Each end feeds what arrived into `receive` and gets back what it means, or a
//! [`SessionError`], after which the session is over.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{self, Decoder, Frame, FrameError, FrameKind};
use crate::message::{Event, Fault, FaultKind, Reply, Request};
use crate::version::{self, Hello};

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SessionError {
    #[error("no df-node answered; the other side said: {said}")]
    Noise { said: String },
    #[error("the other side sent something that is not the protocol")]
    Frame(#[source] FrameError),
    #[error("the other side sent a message that does not parse")]
    Message(#[source] serde_json::Error),
    #[error("the other side sent a {0} when none was due")]
    Order(&'static str),
    #[error("the other side speaks protocol {}..{}, this program {}..{}", .0.oldest, .0.newest, version::OLDEST, version::NEWEST)]
    Version(Hello),
    #[error("the other side stopped in the middle of a message")]
    Cut,
}

/// What arrived.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard<M> {
    /// The other side greeted; the version that both speak.
    Hello(Hello, u32),
    /// A message.
    Message(M),
    /// The next of the bytes that were announced.
    Bytes(Vec<u8>),
}

/// What a node says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromNode {
    /// The answer to the oldest request that has none.
    Reply(Reply),
    /// Something on the way to it.
    Event(Event),
}

/// The operator's end.
#[derive(Debug, Default)]
pub struct OperatorSession {
    /// What came before the preamble; `None` once it was seen.
    noise: Option<Vec<u8>>,
    incoming: Incoming,
    waiting: VecDeque<()>,
    /// Bytes of noise, preamble and greeting.
    greeting_len: u64,
}

/// The node's end.
#[derive(Debug, Default)]
pub struct NodeSession {
    incoming: Incoming,
}

#[derive(Debug, Default)]
struct Incoming {
    decoder: Decoder,
    greeted: bool,
    /// Announced bytes that have not come yet.
    due: u64,
}

impl OperatorSession {
    /// Starts a session that waits for the node's preamble.
    pub fn new() -> Self {
        Self { noise: Some(vec![]), ..Self::default() }
    }

    /// Returns the bytes of our greeting; they may be sent at once.
    pub fn hello(&self) -> Vec<u8> {
        encode_json(FrameKind::Hello, &Hello::ours())
    }

    /// Returns the bytes of a request and remembers that an answer is due.
    pub fn request(&mut self, request: &Request) -> Vec<u8> {
        self.waiting.push_back(());
        encode_json(FrameKind::Request, request)
    }

    /// Returns how many of the bytes that arrived were the node's greeting, with what a login shell said before it; 0 until it has greeted.
    pub fn greeting_len(&self) -> u64 {
        if self.incoming.greeted { self.greeting_len } else { 0 }
    }

    /// Takes what arrived.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Heard<FromNode>>, SessionError> {
        let Some(rest) = self.after_preamble(bytes)? else { return Ok(vec![]) };
        self.incoming.decoder.push(&rest);
        let mut heard = vec![];
        while let Some(frame) = self.incoming.next()? {
            if frame.kind == FrameKind::Hello {
                self.greeting_len += frame.len();
            }
            match self.incoming.common(&frame)? {
                Some(common) => heard.push(common),
                None => heard.push(Heard::Message(self.message(&frame)?)),
            }
        }
        Ok(heard)
    }

    /// Says that nothing more will arrive.
    ///
    /// # Errors
    /// It ended before the preamble, in the middle of something, or with an answer due.
    pub fn end(&self) -> Result<(), SessionError> {
        if let Some(noise) = &self.noise {
            return Err(SessionError::Noise { said: said(noise) });
        }
        if self.waiting.is_empty() { self.incoming.end() } else { Err(SessionError::Cut) }
    }

    fn after_preamble(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, SessionError> {
        let Some(noise) = &mut self.noise else { return Ok(Some(bytes.to_vec())) };
        noise.extend_from_slice(bytes);
        let found = noise.windows(version::PREAMBLE.len()).position(|window| window == version::PREAMBLE);
        match found {
            Some(at) if at <= version::NOISE_LEN => {
                self.greeting_len = (at + version::PREAMBLE.len()) as u64;
                let rest = noise.split_off(at + version::PREAMBLE.len());
                self.noise = None;
                Ok(Some(rest))
            }
            _ if noise.len() > version::NOISE_LEN + version::PREAMBLE.len() => Err(SessionError::Noise { said: said(noise) }),
            _ => Ok(None),
        }
    }

    fn message(&mut self, frame: &Frame) -> Result<FromNode, SessionError> {
        if self.waiting.is_empty() {
            return Err(SessionError::Order("message"));
        }
        match frame.kind {
            FrameKind::Reply => {
                let reply: Reply = decode_json(frame)?;
                self.waiting.pop_front();
                self.incoming.due = match &reply {
                    Reply::Bytes { len } => *len,
                    Reply::Signatures { lens } => lens.iter().fold(0, |sum: u64, len| sum.saturating_add(*len)),
                    _ => 0,
                };
                Ok(FromNode::Reply(reply))
            }
            FrameKind::Event => {
                let event: Event = decode_json(frame)?;
                self.incoming.due = if let Event::Log { len } | Event::Blob { len, .. } = event { len } else { 0 };
                Ok(FromNode::Event(event))
            }
            _ => Err(SessionError::Order("request")),
        }
    }
}

impl NodeSession {
    /// Returns the first bytes that a node sends: preamble and greeting.
    pub fn hello(&self) -> Vec<u8> {
        [version::PREAMBLE, &encode_json(FrameKind::Hello, &Hello::ours())].concat()
    }

    /// Takes what arrived.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Heard<Request>>, SessionError> {
        self.incoming.decoder.push(bytes);
        let mut heard = vec![];
        while let Some(frame) = self.incoming.next()? {
            if let Some(common) = self.incoming.common(&frame)? {
                heard.push(common);
                continue;
            }
            if frame.kind != FrameKind::Request {
                return Err(SessionError::Order("reply"));
            }
            let request: Request = decode_json(&frame)?;
            self.incoming.due = if let Request::Receive { len, .. } = request { len } else { 0 };
            heard.push(Heard::Message(request));
        }
        Ok(heard)
    }

    /// Says that nothing more will arrive.
    ///
    /// # Errors
    /// It ended in the middle of something.
    pub fn end(&self) -> Result<(), SessionError> {
        self.incoming.end()
    }
}

/// Returns the bytes of a reply; one that does not fit a frame becomes a fault that says so.
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    let json = serde_json::to_vec(reply).expect("messages have no map keys that are not strings");
    if json.len() <= frame::PAYLOAD_LEN {
        return frame::encode(FrameKind::Reply, &json);
    }
    let message = format!("the answer has {} bytes, more than a message holds", json.len());
    let fault = Fault { kind: FaultKind::Failed, message, log: String::new(), probes: vec![], serving: None };
    encode_json(FrameKind::Reply, &Reply::Fault(Box::new(fault)))
}

/// Returns the bytes of an event.
pub fn encode_event(event: &Event) -> Vec<u8> {
    encode_json(FrameKind::Event, event)
}

/// Returns what comes before so many announced bytes, at most [`frame::PAYLOAD_LEN`], that are one frame.
pub fn head_of_bytes(len: u32) -> [u8; frame::HEAD_LEN] {
    frame::head(FrameKind::Bytes, len)
}

/// Returns announced bytes as frames.
pub fn encode_bytes(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(frame::PAYLOAD_LEN).flat_map(|chunk| frame::encode(FrameKind::Bytes, chunk)).collect()
}

impl Incoming {
    fn next(&mut self) -> Result<Option<Frame>, SessionError> {
        self.decoder.take().map_err(SessionError::Frame)
    }

    /// Handles what both ends treat alike: greeting and announced bytes.
    fn common<M>(&mut self, frame: &Frame) -> Result<Option<Heard<M>>, SessionError> {
        match frame.kind {
            FrameKind::Hello if self.greeted => Err(SessionError::Order("second greeting")),
            FrameKind::Hello => {
                let hello: Hello = decode_json(frame)?;
                self.greeted = true;
                match Hello::ours().common(&hello) {
                    Some(common) => Ok(Some(Heard::Hello(hello, common))),
                    None => Err(SessionError::Version(hello)),
                }
            }
            _ if !self.greeted => Err(SessionError::Order("message before the greeting")),
            FrameKind::Bytes => {
                self.due = self.due.checked_sub(frame.payload.len() as u64).ok_or(SessionError::Order("byte"))?;
                Ok(Some(Heard::Bytes(frame.payload.clone())))
            }
            _ if self.due > 0 => Err(SessionError::Order("message before all bytes")),
            _ => Ok(None),
        }
    }

    fn end(&self) -> Result<(), SessionError> {
        if self.greeted && self.due == 0 && self.decoder.is_between_frames() { Ok(()) } else { Err(SessionError::Cut) }
    }
}

fn encode_json(kind: FrameKind, message: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(message).expect("messages have no map keys that are not strings");
    frame::encode(kind, &json)
}

fn decode_json<M: DeserializeOwned>(frame: &Frame) -> Result<M, SessionError> {
    serde_json::from_slice(&frame.payload).map_err(SessionError::Message)
}

fn said(noise: &[u8]) -> String {
    let end = noise.len().min(1024);
    if noise.is_empty() { "nothing".to_owned() } else { df_core::text::escape(&noise[..end]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeted() -> OperatorSession {
        let mut operator = OperatorSession::new();
        operator.receive(&NodeSession::default().hello()).expect("a greeting");
        operator
    }

    #[test]
    fn a_copy_of_what_is_there_costs_a_few_bytes() {
        let held = df_core::ReleaseId(df_core::Digest::of(b""));
        let asked = OperatorSession::new().request(&Request::SurveyUnless { held });
        assert!(asked.len() + encode_reply(&Reply::Held).len() < 150);
    }

    #[test]
    fn what_an_older_side_says_still_parses() {
        let digest = df_core::Digest::of(b"").to_string();
        let receive = format!(r#"{{"receive":{{"image":"{digest}","base":null,"len":3,"image_len":4}}}}"#);
        let request: Request = serde_json::from_str(&receive).expect("of an older side");
        assert!(matches!(request, Request::Receive { delta: None, from: 0, len: 3, .. }));
        let survey = r#"{"survey":{"arch":"","kernel":"","libc":null,"free":0,"now":0,"images":[],"lock":null,"apps":[]}}"#;
        let Reply::Survey(survey) = serde_json::from_str(survey).expect("of an older side") else { panic!("a survey") };
        assert_eq!((survey.incoming, survey.trust), (vec![], None));
        assert_eq!(serde_json::to_string(&Request::Survey).expect("JSON"), r#""survey""#, "what older supervisors know");
    }

    #[test]
    fn who_does_not_know_of_connections_neither_asks_for_them_nor_is_told() {
        let handoff = r#"{"handoff":{"port":"http","queued":3,"seen":null}}"#;
        let event: Event = serde_json::from_str(handoff).expect("of an older side");
        assert!(matches!(event, Event::Handoff { open: None, own: None, queued: 3, .. }));
        assert_eq!(serde_json::to_string(&event).expect("JSON"), handoff, "what older sides know");
        let rollback = r#"{"rollback":{"app":"a","to":null,"expect":2,"soak":0,"who":"w","listen":"::1","force":false}}"#;
        let request: Request = serde_json::from_str(rollback).expect("of an older side");
        assert!(matches!(request, Request::Rollback { follow_ms: None, .. }), "nobody is told what was not asked for");
        assert_eq!(serde_json::to_string(&request).expect("JSON"), rollback, "what older sides know");
        let newer = rollback.replace("false", r#"false,"follow_ms":5000"#).replace("\"who\"", r#""not-known-yet":1,"who""#);
        let request: Request = serde_json::from_str(&newer).expect("what is not known is left out");
        assert!(matches!(request, Request::Rollback { follow_ms: Some(5000), .. }));
    }

    #[test]
    fn what_an_older_node_says_of_itself_is_that_it_hands_out_nothing() {
        let survey = r#"{"survey":{"arch":"","kernel":"","libc":null,"free":0,"now":0,"images":[],"lock":null,"apps":[]}}"#;
        let Reply::Survey(survey) = serde_json::from_str(survey).expect("of an older side") else { panic!("a survey") };
        assert!(!survey.hands_out);
    }

    #[test]
    fn as_many_contents_as_may_be_asked_for_fit_a_message() {
        let digest = df_core::Digest::of(b"");
        let request = Request::Blobs { image: df_core::ImageId(digest), digests: vec![digest; crate::message::BLOBS] };
        assert!(OperatorSession::new().request(&request).len() <= frame::PAYLOAD_LEN);
    }

    #[test]
    fn of_a_content_come_as_many_bytes_as_were_announced() {
        let digest = df_core::Digest::of(b"abc");
        let blob = |len| encode_event(&Event::Blob { digest, len });
        let said = |bytes: &[&[u8]]| {
            let mut operator = greeted();
            let _ = operator.request(&Request::Blobs { image: df_core::ImageId(digest), digests: vec![digest] });
            operator.receive(&bytes.concat())
        };
        let heard = said(&[&blob(3), &encode_bytes(b"abc"), &encode_reply(&Reply::Done)]).expect("a good stream");
        assert_eq!(heard.len(), 3);
        assert!(said(&[&blob(3), &encode_bytes(b"abcd")]).is_err(), "more than announced");
        assert!(said(&[&blob(3), &encode_bytes(b"ab"), &encode_reply(&Reply::Done)]).is_err(), "fewer than announced");
        assert!(said(&[&blob(0), &encode_bytes(b"a")]).is_err(), "an empty one has none");
        assert!(said(&[&encode_bytes(b"abc")]).is_err(), "without being announced");
    }

    #[test]
    fn a_conversation() {
        let (mut operator, mut node) = (OperatorSession::new(), NodeSession::default());
        let request = Request::Receive {
            image: df_core::ImageId(df_core::Digest::of(b"")),
            base: None,
            delta: None,
            from: 0,
            len: 3,
            image_len: 3,
        };
        let up =
            [operator.hello(), operator.request(&request), encode_bytes(b"abc"), operator.request(&Request::Survey)].concat();
        let heard = node.receive(&up).expect("a good stream");
        assert!(
            matches!(&heard[..], [Heard::Hello(_, 1), Heard::Message(Request::Receive { .. }), Heard::Bytes(b), Heard::Message(Request::Survey)] if b == b"abc")
        );
        let down = [
            node.hello(),
            encode_event(&Event::Applied { bytes: 3 }),
            encode_reply(&Reply::Done),
            encode_reply(&Reply::Bytes { len: 2 }),
            encode_bytes(b"xy"),
        ]
        .concat();
        let noisy = [b"Welcome to Debian!\n", &down[..]].concat();
        let mut heard = vec![];
        for piece in noisy.chunks(7) {
            heard.extend(operator.receive(piece).expect("a good stream"));
        }
        assert_eq!(heard.len(), 5);
        assert_eq!(operator.greeting_len(), (b"Welcome to Debian!\n".len() + node.hello().len()) as u64);
        assert_eq!(heard[4], Heard::Bytes(b"xy".to_vec()));
        operator.end().expect("all answered");
        node.end().expect("all read");
    }

    #[test]
    fn who_is_no_node_is_quoted() {
        let mut operator = OperatorSession::new();
        operator.receive(b"bash: df-node: \x1b[31mnot found\n").expect("still waiting");
        assert_eq!(
            operator.end().expect_err("no node").to_string(),
            r"no df-node answered; the other side said: bash: df-node: \u{1b}[31mnot found\n"
        );
        let mut endless = OperatorSession::new();
        assert!(endless.receive(&vec![b'y'; 70_000]).is_err());
    }

    #[test]
    fn what_is_out_of_order_ends_the_session() {
        let mut early = OperatorSession::new();
        assert!(
            early.receive(&[version::PREAMBLE, &encode_reply(&Reply::Done)].concat()).is_err(),
            "a reply before the greeting"
        );
        assert!(greeted().receive(&encode_reply(&Reply::Done)).is_err(), "a reply without a request");
        assert!(greeted().receive(&encode_bytes(b"x")).is_err(), "bytes that nobody announced");
        let mut cut = greeted();
        let _ = cut.request(&Request::Survey);
        assert!(cut.end().is_err(), "an end with an answer due");
        let mut much = greeted();
        let _ = much.request(&Request::Survey);
        assert!(
            much.receive(&[encode_reply(&Reply::Bytes { len: 1 }), encode_bytes(b"xy")].concat()).is_err(),
            "more bytes than announced"
        );
        let mut node = NodeSession::default();
        assert!(node.receive(&encode_reply(&Reply::Done)).is_err(), "a node is not answered");
    }

    #[test]
    fn versions_without_a_common_one_part_in_words() {
        let future = Hello { program: "9.0".into(), oldest: 7, newest: 9 };
        let bytes = [version::PREAMBLE, &encode_json(FrameKind::Hello, &future)].concat();
        assert_eq!(
            OperatorSession::new().receive(&bytes).expect_err("too new").to_string(),
            "the other side speaks protocol 7..9, this program 1..1"
        );
    }

    proptest! {
        #[test]
        fn random_bytes_end_a_session_or_wait_but_never_panic(bytes: Vec<u8>) {
            let _ = NodeSession::default().receive(&bytes);
            let _ = greeted().receive(&bytes);
        }
    }
}
