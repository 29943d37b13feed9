//! Where things lie in a store on disk, and its two smallest formats.
//!
//! # Layout, version 1
//!
//! ```text
//! FORMAT                       "df store 1 blake3\n"
//! lock                         flock: shared for put and get, exclusive for sweep, repair and flush
//! tmp/<pid>-<n>/               work under way, same file system; flock on the directory; swept when that is free
//! packs/aa/<id>.pack           small blobs (see `pack`); the id is the BLAKE3 in its trailer, aa its first two digits
//! big/aa/<digest>              blobs of 1 MiB and more, as they are
//! idx/<digest>.idx             segments of the index (see `index`); a cache of the packs' footers
//! img/<image>                  manifest; there only when all its blobs are synced
//! refs/<application>/<release> release; its rename is the commit
//! docs/<application>/<release>/ documents beside a release (see `document`); made when the first one comes
//! pins/<image>                 why it is kept
//! d/<from>-<to>-<level>        derived deltas; may vanish at any time
//! quarantine/                  what was found damaged
//! ```
//!
//! A release's file holds its canonical bytes too, so that one rename commits both:
//!
//! ```text
//! df-release 1 <sequence> <stored>\n <canonical bytes of the release> \n <BLAKE3 of all before it, 64 digits> \n
//! ```
//!
//! `sequence` grows by one with each put and orders releases; `stored` is in seconds since 1970 and only paces deletion. A reader refuses a version that it
//! does not know.

use std::path::{Path, PathBuf};

use df_core::{AppName, Digest, ImageId, Release, ReleaseId, Timestamp};

use crate::store::StoredRelease;

/// What the file FORMAT holds.
pub(crate) const FORMAT: &str = "df store 1 blake3\n";
/// Blobs from this length on are files of their own.
pub(crate) const BIG_FROM: u64 = 1 << 20;

/// The paths of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

/// The directories directly below the top.
pub(crate) const DIRECTORIES: [&str; 10] = ["tmp", "packs", "big", "idx", "img", "refs", "docs", "pins", "d", "quarantine"];

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn pack(&self, id: Digest) -> PathBuf {
        let name = id.to_string();
        self.root.join("packs").join(&name[..2]).join(format!("{name}.pack"))
    }

    pub(crate) fn big(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("big").join(&name[..2]).join(name)
    }

    pub(crate) fn image(&self, image: ImageId) -> PathBuf {
        self.root.join("img").join(image.to_string())
    }

    pub(crate) fn app(&self, app: &AppName) -> PathBuf {
        self.root.join("refs").join(app.as_str())
    }

    pub(crate) fn release(&self, app: &AppName, id: ReleaseId) -> PathBuf {
        self.app(app).join(id.to_string())
    }

    pub(crate) fn documents(&self, app: &AppName, id: ReleaseId) -> PathBuf {
        self.root.join("docs").join(app.as_str()).join(id.to_string())
    }

    pub(crate) fn pin(&self, image: ImageId) -> PathBuf {
        self.root.join("pins").join(image.to_string())
    }
}

/// Returns the bytes of a release's file.
pub(crate) fn encode_release(stored: &StoredRelease) -> Vec<u8> {
    let mut bytes = format!("df-release 1 {} {}\n", stored.sequence, stored.stored.0).into_bytes();
    bytes.extend_from_slice(&stored.release.encode());
    bytes.push(b'\n');
    let check = Digest::of(&bytes);
    bytes.extend_from_slice(format!("{check}\n").as_bytes());
    bytes
}

/// Reads a release's file; `None` when any byte of it is not what was written.
pub(crate) fn decode_release(bytes: &[u8]) -> Option<StoredRelease> {
    let (checked, check) = bytes.split_at_checked(bytes.len().checked_sub(2 * Digest::LEN + 1)?)?;
    if check != format!("{}\n", Digest::of(checked)).as_bytes() {
        return None;
    }
    let end = checked.iter().position(|&b| b == b'\n')?;
    let line = std::str::from_utf8(&checked[..end]).ok()?;
    let mut words = line.strip_prefix("df-release 1 ")?.split(' ');
    let (sequence, stored) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let release = Release::decode(checked.get(end + 1..checked.len().checked_sub(1)?)?).ok()?;
    Some(StoredRelease { id: release.id(), release, sequence, stored: Timestamp(stored) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::release;

    #[test]
    fn every_flipped_byte_and_every_truncation_of_a_release_is_found() {
        let stored = StoredRelease::new(release("greeter", 1, ImageId(Digest::of(b"i"))), 7, Timestamp(-1));
        let bytes = encode_release(&stored);
        assert!(bytes.starts_with(b"df-release 1 7 -1\n{\"format\":1,"));
        assert_eq!(decode_release(&bytes), Some(stored));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode_release(&flipped), None, "byte {at}");
            assert_eq!(decode_release(&bytes[..at]), None, "{at} bytes");
        }
    }
}
