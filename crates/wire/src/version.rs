//! Which versions of the protocol can speak to each other.
//!
//! df puts its own df-node on a node by digest, so both ends nearly always come from one build. The version exists for the rest: a `df-node` put
//! into `DF_NODE_PROGRAMS` by hand, and supervisors that outlive the df that started them.

use serde::{Deserialize, Serialize};

/// The bytes with which a node begins. What a login shell says before them is skipped, up to [`NOISE_LEN`] bytes.
pub const PREAMBLE: &[u8] = b"\x00df-node\x00\n";

/// How many bytes of a login shell's greeting are skipped.
pub const NOISE_LEN: usize = 64 * 1024;

/// The newest version of the protocol that this program speaks.
pub const NEWEST: u32 = 1;
/// The oldest version of the protocol that this program speaks.
pub const OLDEST: u32 = 1;

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The program's version, for people.
    pub program: String,
    /// The oldest version of the protocol it speaks.
    pub oldest: u32,
    /// The newest version of the protocol it speaks.
    pub newest: u32,
}

impl Hello {
    /// Returns what this program says of itself.
    pub fn ours() -> Self {
        Self { program: env!("CARGO_PKG_VERSION").to_owned(), oldest: OLDEST, newest: NEWEST }
    }

    /// Returns the newest version both sides speak, if there is one.
    pub fn common(&self, other: &Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken_or_none() {
        let hello = |oldest, newest| Hello { program: String::new(), oldest, newest };
        for (a, b, expected) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((1, 2), (3, 4), None),
            ((4, 9), (1, 3), None),
            ((1, 9), (4, 4), Some(4)),
        ] {
            assert_eq!(hello(a.0, a.1).common(&hello(b.0, b.1)), expected);
            assert_eq!(hello(b.0, b.1).common(&hello(a.0, a.1)), expected);
        }
    }
}
