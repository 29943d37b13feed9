//! Messages cut out of a stream of bytes.
//!
//! # Format
//!
//! ```text
//! frame = kind (1 byte), length (4 bytes, little endian, at most 1 MiB), payload
//! kind  = 1 hello | 2 request | 3 reply | 4 event     payload: one JSON value
//!       | 5 bytes                                     payload: 1 byte or more of what was announced
//! ```
//!
//! Example: the event `{"log":{"len":2}}` is `04  11 00 00 00  7b 22 6c 6f 67 ...`.

/// Bytes of a payload.
pub const PAYLOAD_LEN: usize = 1 << 20;
/// Bytes before a payload.
pub const HEAD_LEN: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the module's documentation lists them")]
pub enum FrameKind {
    Hello = 1,
    Request = 2,
    Reply = 3,
    Event = 4,
    Bytes = 5,
}

/// One message as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// At most [`PAYLOAD_LEN`] bytes.
    pub payload: Vec<u8>,
}

/// Bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FrameError {
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes, the limit is {PAYLOAD_LEN}")]
    Length(u32),
    #[error("an empty frame of bytes")]
    Empty,
}

impl Frame {
    /// Returns the bytes that travel.
    ///
    /// # Panics
    /// When the payload is longer than [`PAYLOAD_LEN`]: whoever makes frames keeps to it.
    pub fn encode(&self) -> Vec<u8> {
        encode(self.kind, &self.payload)
    }

    /// Returns how many bytes travel.
    #[allow(clippy::len_without_is_empty, reason = "no frame is empty: it has a head")]
    pub fn len(&self) -> u64 {
        (HEAD_LEN + self.payload.len()) as u64
    }
}

/// Returns what travels before a payload of so many bytes.
///
/// # Panics
/// When that is more than [`PAYLOAD_LEN`].
pub fn head(kind: FrameKind, len: u32) -> [u8; HEAD_LEN] {
    assert!(len as usize <= PAYLOAD_LEN, "whoever makes frames keeps to the limit");
    let [a, b, c, d] = len.to_le_bytes();
    [kind as u8, a, b, c, d]
}

/// Returns a payload as the bytes that travel.
///
/// # Panics
/// When the payload is longer than [`PAYLOAD_LEN`].
pub fn encode(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= PAYLOAD_LEN, "whoever makes frames keeps to the limit");
    let mut out = Vec::with_capacity(HEAD_LEN + payload.len());
    out.extend_from_slice(&head(kind, payload.len() as u32));
    out.extend_from_slice(payload);
    out
}

/// Collects bytes until a frame is whole; never holds more than one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame.
    ///
    /// # Errors
    /// What is not a frame; the decoder is of no use after that.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_LEN>() else { return Ok(None) };
        let kind = kind(head[0])?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if len as usize > PAYLOAD_LEN {
            return Err(FrameError::Length(len));
        }
        if len == 0 && kind == FrameKind::Bytes {
            return Err(FrameError::Empty);
        }
        let Some(payload) = rest.get(..len as usize) else { return Ok(None) };
        let frame = Frame { kind, payload: payload.to_vec() };
        self.taken += HEAD_LEN + len as usize;
        Ok(Some(frame))
    }

    /// Returns whether bytes of a frame that is not whole are left.
    pub fn is_between_frames(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

fn kind(byte: u8) -> Result<FrameKind, FrameError> {
    Ok(match byte {
        1 => FrameKind::Hello,
        2 => FrameKind::Request,
        3 => FrameKind::Reply,
        4 => FrameKind::Event,
        5 => FrameKind::Bytes,
        _ => return Err(FrameError::Kind(byte)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_documentation() {
        let bytes = encode(FrameKind::Event, br#"{"log":{"len":2}}"#);
        assert_eq!(bytes[..10], [4, 0x11, 0, 0, 0, 0x7b, 0x22, 0x6c, 0x6f, 0x67]);
    }

    #[test]
    fn wrong_heads_are_refused_before_their_payload_is_awaited() {
        for (head, error) in [
            ([0, 0, 0, 0, 0], FrameError::Kind(0)),
            ([2, 0xff, 0xff, 0xff, 0xff], FrameError::Length(u32::MAX)),
            ([2, 1, 0, 0x10, 0], FrameError::Length((1 << 20) + 1)),
            ([5, 0, 0, 0, 0], FrameError::Empty),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&head);
            assert_eq!(decoder.take(), Err(error));
        }
    }

    proptest! {
        #[test]
        fn however_the_stream_is_cut_the_frames_are_the_same(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..6), step in 1_usize..20) {
            let frames: Vec<Frame> = payloads.into_iter().map(|payload| Frame { kind: FrameKind::Bytes, payload }).collect();
            let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let mut decoder = Decoder::default();
            let mut seen = vec![];
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.take().expect("good frames") {
                    seen.push(frame);
                }
            }
            prop_assert!(decoder.is_between_frames());
            prop_assert_eq!(seen, frames);
        }
    }
}
