//! The node's end of a session over two streams: the state machine of `df-wire`, with the IO it lacks.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use df_wire::session::{self, Heard, NodeSession, SessionError};
use df_wire::{Event, Reply, Request};

/// A session over two streams.
pub struct Conversation<R, W> {
    input: R,
    output: W,
    session: NodeSession,
    heard: VecDeque<Heard<Request>>,
}

/// A session is over before its end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TalkError {
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the session is over")]
    Session(#[source] SessionError),
}

impl<R: Read, W: Write> Conversation<R, W> {
    /// Greets.
    ///
    /// # Errors
    /// The greeting cannot be sent.
    pub fn open(input: R, output: W) -> Result<Self, TalkError> {
        let mut conversation = Self { input, output, session: NodeSession::default(), heard: VecDeque::new() };
        let hello = conversation.session.hello();
        conversation.send(&hello)?;
        Ok(conversation)
    }

    /// Waits for the next request; `None` when the other side is done.
    ///
    /// # Errors
    /// What came is not the protocol, or the connection broke.
    pub fn request(&mut self) -> Result<Option<Request>, TalkError> {
        loop {
            match self.next()? {
                Some(Heard::Message(request)) => return Ok(Some(request)),
                // Bytes that belong to a request which was refused: read past.
                Some(Heard::Hello(..) | Heard::Bytes(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Returns the announced bytes of the request just heard, as a stream of that length.
    pub fn announced(&mut self, len: u64) -> Announced<'_, R, W> {
        Announced { conversation: self, left: len, chunk: vec![], at: 0 }
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// The connection broke.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), TalkError> {
        self.send(&session::encode_reply(reply))
    }

    /// Sends an event.
    ///
    /// # Errors
    /// The connection broke.
    pub fn event(&mut self, event: &Event) -> Result<(), TalkError> {
        self.send(&session::encode_event(event))
    }

    /// Sends announced bytes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), TalkError> {
        self.send(&session::encode_bytes(bytes))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), TalkError> {
        self.output.write_all(bytes).and_then(|()| self.output.flush()).map_err(TalkError::Io)
    }

    fn next(&mut self) -> Result<Option<Heard<Request>>, TalkError> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(Some(heard));
            }
            match self.input.read(&mut buffer) {
                Ok(0) => return self.session.end().map(|()| None).map_err(TalkError::Session),
                Ok(len) => self.heard.extend(self.session.receive(&buffer[..len]).map_err(TalkError::Session)?),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TalkError::Io(error)),
            }
        }
    }
}

/// The announced bytes of a request as a reader.
pub struct Announced<'a, R, W> {
    conversation: &'a mut Conversation<R, W>,
    left: u64,
    chunk: Vec<u8>,
    at: usize,
}

impl<R: Read, W: Write> Read for Announced<'_, R, W> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && self.left > 0 {
            match self.conversation.next().map_err(io::Error::other)? {
                Some(Heard::Bytes(bytes)) => {
                    self.left = self.left.saturating_sub(bytes.len() as u64);
                    (self.chunk, self.at) = (bytes, 0);
                }
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let len = out.len().min(self.chunk.len() - self.at);
        out[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
