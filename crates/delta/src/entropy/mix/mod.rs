//! A coder that guesses each bit from many contexts at once.

mod contexts;
mod light;
mod matches;
mod mixer;
mod model;
pub(super) mod place;
pub(super) mod quick;
mod slots;
mod tables;
mod walk;

use contexts::Recent;
use matches::{Matches, Past};
use model::{Bits, Model, View};

use super::range::{Reader, Writer};
use super::{EntropyError, Shape};

/// Packs; gives up with nothing when that takes `limit` bytes or more.
pub(super) fn encode(bytes: &[u8], context: &[u8], shape: Shape, limit: usize) -> Option<Vec<u8>> {
    let mut stream = Stream::new(context, shape, bytes.len());
    let mut writer = Writer::new();
    for (i, byte) in bytes.iter().enumerate() {
        stream.byte(&mut writer, *byte);
        stream.see(Past { context, seen: &bytes[..=i] });
        if writer.len() >= limit {
            return None;
        }
    }
    Some(writer.finish())
}

/// Unpacks exactly `len` bytes.
pub(super) fn decode(packed: &[u8], context: &[u8], shape: Shape, len: usize) -> Result<Vec<u8>, EntropyError> {
    let mut stream = Stream::new(context, shape, len);
    let mut reader = Reader::new(packed);
    let mut out = Vec::with_capacity(len);
    for _ in 0..len {
        out.push(stream.byte(&mut reader, 0));
        stream.see(Past { context, seen: &out });
    }
    if reader.finish() { Ok(out) } else { Err(EntropyError::Length { expected: len }) }
}

/// A stream and what is known of it.
struct Stream {
    model: Model,
    recent: Recent,
    matches: [Matches; 2],
}

impl Stream {
    fn new(context: &[u8], shape: Shape, len: usize) -> Self {
        let (short, long) = match shape {
            Shape::Numbers => (3, 6),
            Shape::Bytes => (4, 8),
            Shape::Text => (4, 7),
            Shape::Code => (4, 7),
        };
        let matches = [Matches::new(short, context, len), Matches::new(long, context, len)];
        Self { model: Model::new(len, contexts::PHASES), recent: Recent::new(shape), matches }
    }

    fn byte(&mut self, bits: &mut impl Bits, byte: u8) -> u8 {
        let view = View {
            contexts: self.recent.contexts(),
            expected: self.matches.each_ref().map(Matches::expected),
            beside: self.recent.last() as u8,
            phase: self.recent.phase(),
        };
        self.model.byte(bits, byte, &view)
    }

    /// Sees the last byte of the past.
    fn see(&mut self, past: Past) {
        self.recent.see(past.seen[past.seen.len() - 1]);
        for matches in &mut self.matches {
            matches.see(past);
        }
    }
}
