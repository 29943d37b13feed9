//! What is no longer live and not yet deleted.
//!
//! # Format of the body, version 1 ("dfc\x01")
//!
//! ```text
//! condemned = count, row*               ascending by name, none twice
//! row       = reference of a pack, since i64
//! ```
//!
//! A pack that was condemned is never live again. Whoever condemns one raises the fence of the same head to or above the beginning of the pack's session: no writer that still takes it for its own can commit.

use df_core::Timestamp;

use super::name::Reference;
use super::{BODY_LEN, FormatError, Reader, Writer, open, seal};

const MAGIC: [u8; 4] = *b"dfc\x01";

/// Packs, and since when they are condemned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Condemned(pub(crate) Vec<(Reference, Timestamp)>);

impl Condemned {
    /// Condemns more packs; what was condemned already stays as it is.
    pub(crate) fn with(mut self, packs: impl IntoIterator<Item = Reference>, now: Timestamp) -> Self {
        self.0.extend(packs.into_iter().map(|pack| (pack, now)));
        self.0.sort_by_key(|&(pack, _)| pack);
        self.0.dedup_by_key(|(pack, _)| *pack);
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.count(self.0.len());
        for (pack, since) in &self.0 {
            pack.write(&mut out);
            out.u64(since.0 as u64);
        }
        seal(MAGIC, &out.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body = open(MAGIC, bytes, BODY_LEN)?;
        let mut reader = Reader::new(&body);
        let count = reader.count(Reference::LEN + 8)?;
        let rows = reader.list(count, |reader| Ok((Reference::read(reader)?, Timestamp(reader.u64()? as i64))))?;
        reader.end()?;
        if rows.is_sorted_by(|a, b| a.0 < b.0) { Ok(Self(rows)) } else { Err(FormatError("its packs are not in order")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::tests::reference;
    use super::super::tests::{assert_golden, assert_guarded};
    use super::*;

    #[test]
    fn golden_bytes() {
        let example = Condemned::default().with([reference(2), reference(1)], Timestamp(-5)).with([reference(2)], Timestamp(9));
        assert_golden("s3-condemned-v1.bin", &example.encode());
        assert_eq!(Condemned::decode(&example.encode()), Ok(example.clone()));
        assert_eq!(example.0[1], (reference(2), Timestamp(-5)));
        assert_guarded(&example.encode(), Condemned::decode);
    }
}
