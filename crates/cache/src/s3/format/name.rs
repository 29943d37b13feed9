//! What objects are called. A name is used once, ever: it holds the session that wrote it, and a session's random part is never drawn twice.
//!
//! ```text
//! session = <sequence of the head that it began with, 16 digits>-<random, 32 digits>
//! p/xx/<session>-<n>     pack; xx, two digits, spreads them: the first byte of the random part plus n
//! i/<session>-<n>        index segment
//! t/<session>-<n>        root table, or list of the condemned
//! a/<release>/<session>-<n>      documents of a release
//! log/<sequence, 16 digits>-<txid, 32 digits>
//! ```
//!
//! Beside the records lies `log/cache.json`, which is none ([`super::super::identity`]). Digits are hexadecimal, `n` without leading zeros. In bytes: `session = began u64, random 16`; `name = session, n u32`; `reference = name, length u32, digest of the whole object`.

use df_core::{Digest, ReleaseId};

use super::{FormatError, Reader, Writer};
use crate::s3::objects::Key;

/// One writer's run. Sessions at or below a head's fence may not commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Session {
    /// The sequence of the head that it read when it began.
    pub(crate) began: u64,
    /// Drawn once.
    pub(crate) random: [u8; 16],
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Space {
    /// `p/`
    Pack,
    /// `i/`
    Segment,
    /// `t/`
    Table,
}

/// The n-th object of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) session: Session,
    pub(crate) n: u32,
}

/// An object written once, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub(crate) name: Name,
    /// Bytes.
    pub(crate) len: u32,
    /// Of the whole object.
    pub(crate) digest: Digest,
}

/// Names one commit.
pub(crate) type Txid = [u8; 16];

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A session's object.
    Named(Space, Name),
    /// A session's documents of a release.
    Documents(ReleaseId, Name),
    /// A commit record.
    Log(u64, Txid),
}

impl Session {
    /// Returns it as it is in keys.
    pub(crate) fn text(&self) -> String {
        format!("{:016x}-{}", self.began, hex(&self.random))
    }
}

impl Name {
    pub(crate) fn key(&self, space: Space) -> Key {
        let Self { session, n } = self;
        let text = match space {
            Space::Pack => format!("p/{:02x}/{}-{n:x}", self.spread(), session.text()),
            Space::Segment => format!("i/{}-{n:x}", session.text()),
            Space::Table => format!("t/{}-{n:x}", session.text()),
        };
        Key::new(text).expect("made of words and digits")
    }

    /// Returns the key of a release's documents.
    pub(crate) fn documents(&self, release: ReleaseId) -> Key {
        Key::new(format!("a/{release}/{}-{:x}", self.session.text(), self.n)).expect("made of words and digits")
    }

    fn spread(&self) -> u8 {
        self.session.random[0].wrapping_add(self.n as u8)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.session.began).raw(&self.session.random).u32(self.n);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let session = Session { began: reader.u64()?, random: reader.bytes16()? };
        Ok(Self { session, n: reader.u32()? })
    }
}

impl Reference {
    /// Bytes of one.
    pub(crate) const LEN: usize = 28 + 4 + Digest::LEN;

    pub(crate) fn write(&self, out: &mut Writer) {
        self.name.write(out);
        out.u32(self.len).digest(self.digest);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { name: Name::read(reader)?, len: reader.u32()?, digest: reader.digest()? })
    }
}

/// Returns the key of a commit record.
pub(crate) fn log_key(sequence: u64, txid: Txid) -> Key {
    Key::new(format!("log/{sequence:016x}-{}", hex(&txid))).expect("made of words and digits")
}

/// Reads a key; `None` when it is not one of those that are written once.
pub(crate) fn owner(key: &Key) -> Option<Owner> {
    let words: Vec<&str> = key.as_str().split('/').collect();
    let owner = match words.as_slice() {
        ["p", _, rest] => Owner::Named(Space::Pack, name(rest)?),
        ["i", rest] => Owner::Named(Space::Segment, name(rest)?),
        ["t", rest] => Owner::Named(Space::Table, name(rest)?),
        ["a", release, rest] => Owner::Documents(ReleaseId(release.parse().ok()?), name(rest)?),
        ["log", rest] => {
            let (sequence, txid) = rest.split_once('-')?;
            Owner::Log(u64::from_str_radix(sequence, 16).ok()?, unhex(txid)?)
        }
        _ => return None,
    };
    // One name, one key: what would be written otherwise is a stranger's.
    let again = match owner {
        Owner::Named(space, name) => name.key(space),
        Owner::Documents(release, name) => name.documents(release),
        Owner::Log(sequence, txid) => log_key(sequence, txid),
    };
    (again == *key).then_some(owner)
}

fn name(text: &str) -> Option<Name> {
    let mut words = text.split('-');
    let (began, random, n) = (words.next()?, words.next()?, words.next()?);
    let session = Session { began: u64::from_str_radix(began, 16).ok()?, random: unhex(random)? };
    words.next().is_none().then_some(Name { session, n: u32::from_str_radix(n, 16).ok()? })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 16]> {
    let fits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(n: u32) -> Name {
        Name { session: Session { began: 31, random: [0xab; 16] }, n }
    }

    pub(crate) fn reference(n: u32) -> Reference {
        Reference { name: example(n), len: 100 + n, digest: Digest::of(&n.to_le_bytes()) }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_no_others() {
        let release = ReleaseId(Digest::of(b"r"));
        let owners = [Space::Pack, Space::Segment, Space::Table].map(|space| Owner::Named(space, example(300)));
        for whose in owners.into_iter().chain([Owner::Documents(release, example(1)), Owner::Log(7, [3; 16])]) {
            let key = match whose {
                Owner::Named(space, name) => name.key(space),
                Owner::Documents(release, name) => name.documents(release),
                Owner::Log(sequence, txid) => log_key(sequence, txid),
            };
            assert_eq!(owner(&key), Some(whose), "{key}");
            for bad in [format!("{key}0x"), format!("{key}-1"), format!("{key}/a"), key.as_str().replacen("00", "0", 1)] {
                assert_eq!(owner(&Key::new(bad.clone()).expect("a key")), None, "{bad}");
            }
        }
        let key = example(300).key(Space::Pack);
        assert_eq!(key.as_str(), format!("p/d7/000000000000001f-{}-12c", "ab".repeat(16)));
    }
}
