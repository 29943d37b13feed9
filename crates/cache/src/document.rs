//! Documents that are kept beside a release: how it was built, what of, and who vouches for it.
//!
//! # Files, version 1
//!
//! A store on disk keeps each as a file of its own, so that other programs can read it: `docs/<application>/<release>/<document>-<digest>.json`, where
//! `digest` is the BLAKE3 of the file's bytes, 64 digits. One rename makes it; its name says whether it is whole. Limit: [`LEN`].
//!
//! A pointer says that its release was the newest, by somebody's word: of two the one with the larger sequence stays. Attestations grow: what one more key vouches for is a new file with all of them, after which those that it was joined from are removed. Where two did
//! that at once there are two files, and a reader joins them.
//!
//! The directory was added to version 1 of the store: programs that do not know it leave it alone, and what they left of releases that are gone is
//! removed by the next collection of a program that does. Attestations came later: programs before them take such a file for one that is not whole,
//! and only their `repair` moves it away.

use std::fmt;

use df_core::attestation::Channel;
use df_core::{Bundle, Digest};

use crate::store::PutError;

/// Bytes of one document; that of a thousand packages has about one million.
pub const LEN: usize = 16 << 20;

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Document {
    /// How the image was built: an in-toto statement with SLSA provenance.
    Provenance,
    /// What it was built of: a CycloneDX bill of materials.
    Sbom,
    /// Who vouches for it: a bundle of attestations, which grows.
    Attestations,
    /// That it was the newest of its application, and who vouches for that.
    Channel,
}

impl Document {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Provenance, Self::Sbom, Self::Attestations, Self::Channel];

    /// Returns what is to be kept when `new` is attached where `held` is; `None`: what is held says all of it.
    ///
    /// Attestations are joined, and bytes that are none change nothing. Of the others the first stays.
    pub fn combined(self, held: Option<&[u8]>, new: &[u8]) -> Option<Vec<u8>> {
        let bundle = |bytes: &[u8]| Bundle::decode(bytes).ok();
        match (self, held) {
            (Self::Provenance | Self::Sbom, Some(_)) => None,
            (Self::Provenance | Self::Sbom, None) => Some(new.to_vec()),
            (Self::Attestations, None) => bundle(new).map(|new| new.encode()),
            (Self::Attestations, Some(held)) => match bundle(held) {
                Some(held) => held.joined(&bundle(new)?).map(|joined| joined.encode()),
                None => self.combined(None, new),
            },
            (Self::Channel, held) => newer(held, new),
        }
    }

    /// Checks that a document is not too long to be kept.
    pub(crate) fn check_len(self, bytes: &[u8]) -> Result<(), PutError> {
        if bytes.len() > LEN { Err(PutError::LongDocument { document: self, len: bytes.len() }) } else { Ok(()) }
    }

    /// Returns the name of the file that holds these bytes.
    pub(crate) fn file_name(self, digest: Digest) -> String {
        format!("{self}-{digest}.json")
    }

    /// Reads the name of a file; `None` when it is that of no document.
    pub(crate) fn parse(name: &str) -> Option<(Self, Digest)> {
        let (word, digest) = name.strip_suffix(".json")?.split_once('-')?;
        let document = Self::ALL.into_iter().find(|document| document.word() == word)?;
        Some((document, digest.parse().ok()?))
    }

    fn word(self) -> &'static str {
        match self {
            Self::Provenance => "provenance",
            Self::Sbom => "sbom",
            Self::Attestations => "attestations",
            Self::Channel => "channel",
        }
    }
}

/// Returns the pointer that stays of two, `None` when it is the one that is held.
fn newer(held: Option<&[u8]>, new: &[u8]) -> Option<Vec<u8>> {
    let (channel, bundle) = Channel::decode(new).ok()?;
    match held.and_then(|held| Channel::decode(held).ok()) {
        Some((held, by)) if held == channel => by.joined(&bundle).map(|joined| channel.encode(&joined)),
        Some((held, _)) if held.sequence >= channel.sequence => None,
        _ => Some(channel.encode(&bundle)),
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use df_core::attestation::Statement;
    use df_core::{ReleaseId, Timestamp};

    use super::*;

    #[test]
    fn of_two_pointers_the_larger_sequence_stays_and_equal_ones_gather() {
        let both = Bundle::decode(include_bytes!("../../core/testdata/attestations-v1.json")).expect("a bundle");
        let channel = |sequence| Channel {
            app: "greeter".parse().expect("a name"),
            sequence,
            release: ReleaseId(Digest::of(b"release")),
            expires: Timestamp(9),
        };
        let by = |sequence, n: usize| {
            let channel = channel(sequence);
            channel.encode(&Bundle::new(&Statement::channel(&channel), vec![both.attestations()[n].clone()]))
        };
        let combined = |held: Option<&[u8]>, new: &[u8]| Document::Channel.combined(held, new);
        assert_eq!(combined(None, &by(1, 0)), Some(by(1, 0)));
        assert_eq!(combined(None, b"{}"), None);
        assert_eq!(combined(Some(b"{}"), &by(1, 0)), Some(by(1, 0)));
        assert_eq!(combined(Some(&by(1, 0)), &by(2, 0)), Some(by(2, 0)));
        assert_eq!(combined(Some(&by(2, 0)), &by(1, 1)), None);
        let gathered = combined(Some(&by(2, 0)), &by(2, 1)).expect("one more");
        assert_eq!(Channel::decode(&gathered).expect("a pointer").1.attestations(), both.attestations());
        assert_eq!(combined(Some(&gathered), &by(2, 1)), None);
    }

    #[test]
    fn names_of_files_are_read_as_they_are_written_and_no_others() {
        for document in Document::ALL {
            let name = document.file_name(Digest::of(b"bytes"));
            assert_eq!(Document::parse(&name), Some((document, Digest::of(b"bytes"))));
            for bad in [name.replace('-', "_"), name.to_uppercase(), format!("x{name}"), name[..name.len() - 6].to_owned()] {
                assert_eq!(Document::parse(&bad), None, "{bad}");
            }
        }
    }
}
