//! What a node hands out of what it holds: the contents of an image's files, and releases with those who vouched for them.
//!
//! A content is read back and compared with its digest before the first of its bytes leaves; what is damaged is said to be, and stays. Only contents of an
//! image that is held are handed out, by the names that its manifest gives them: nobody asks for a path.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use df_core::{AppName, Digest, Hasher, ImageId, ReleaseId};
use df_wire::message::{BLOBS, Fault, FaultKind, Unread};
use df_wire::{Event, Reply, frame};
use rustix::fs::OFlags;

use crate::conversation::{Conversation, TalkError};
use crate::layout::Layout;
use crate::serve::{failed, fault, of_store};
use crate::store::{self, Contents};
use crate::{generation, staged};

/// A content that is longer is not held in memory, but read twice.
const MEMORY_LEN: u64 = frame::PAYLOAD_LEN as u64;

/// The files of an image, to be handed out.
pub struct Files {
    contents: Contents,
    /// How long each content is.
    lens: HashMap<Digest, u64>,
}

/// A content that was compared with its digest.
enum Whole {
    Bytes(Vec<u8>),
    /// At its first byte.
    File(File),
}

/// Opens an image whose contents are asked for.
///
/// # Errors
/// It is not held, its manifest is damaged, or more is asked for than is answered at once.
pub fn open(layout: &Layout, image: ImageId, digests: &[Digest]) -> Result<Files, Box<Fault>> {
    if digests.len() > BLOBS {
        return Err(fault(FaultKind::Refused, format!("{} contents at once, the limit is {BLOBS}", digests.len())));
    }
    let manifest = store::manifest(layout, image).map_err(of_store)?;
    Ok(Files { contents: Contents::new(layout, image, &manifest), lens: manifest.blobs().into_iter().collect() })
}

/// Returns a release that a generation holds or that was copied here, with who vouched for it.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn release(layout: &Layout, app: &AppName, id: ReleaseId) -> Result<Reply, Box<Fault>> {
    let records = generation::list(layout, app).map_err(failed)?;
    let held = records.into_iter().map(|record| record.release).find(|release| release.id() == id);
    let held = match held {
        Some(held) => Some(held),
        None => staged::find(layout, app, id).map_err(failed)?,
    };
    let Some(release) = held else {
        return Err(fault(FaultKind::Missing, format!("the node has no release {} of {app}", id.short())));
    };
    let attestations = match fs::read_to_string(layout.attested_release(app, id)) {
        Ok(bundle) => Some(bundle),
        // What is damaged vouches for nothing, as if it were not there.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => None,
        Err(error) => return Err(failed(error)),
    };
    Ok(Reply::Release { release: String::from_utf8(release.encode()).expect("JSON is UTF-8"), attestations })
}

impl Files {
    /// Sends the contents that were asked for, in this order, and says which it does not.
    ///
    /// # Errors
    /// The connection broke, or a file became shorter after it was compared.
    pub fn send<R: Read, W: Write>(&self, digests: &[Digest], talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
        for &digest in digests {
            match self.whole(digest) {
                Err(why) => talk.event(&Event::NoBlob { digest, why })?,
                Ok((len, whole)) => {
                    talk.event(&Event::Blob { digest, len })?;
                    match whole {
                        Whole::Bytes(bytes) => talk.bytes(&bytes)?,
                        Whole::File(file) => send_file(file, len, talk)?,
                    }
                }
            }
        }
        talk.reply(&Reply::Done)
    }

    /// Finds a file whose bytes are these; of a damaged one there may be a twin with the other executable bit.
    fn whole(&self, digest: Digest) -> Result<(u64, Whole), Unread> {
        let len = *self.lens.get(&digest).ok_or(Unread::Missing)?;
        let mut why = Unread::Missing;
        for path in [false, true].into_iter().filter_map(|executable| self.contents.exact(digest, executable)) {
            match compare(&path, digest, len) {
                Ok(Some(whole)) => return Ok((len, whole)),
                Ok(None) => why = Unread::Damaged,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => why = Unread::Unreadable,
            }
        }
        Err(why)
    }
}

/// Compares a file with a digest; `None`: it has other bytes.
fn compare(path: &Path, digest: Digest, len: u64) -> io::Result<Option<Whole>> {
    // No link is followed and no pipe waited for, whoever put one there.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != len {
        return Ok(None);
    }
    // One byte more than there should be shows that there are more.
    let mut reader = (&file).take(len + 1);
    if len <= MEMORY_LEN {
        let mut bytes = Vec::with_capacity(len as usize + 1);
        reader.read_to_end(&mut bytes)?;
        return Ok((Digest::of(&bytes) == digest).then_some(Whole::Bytes(bytes)));
    }
    let mut hasher = Hasher::new();
    io::copy(&mut reader, &mut hasher)?;
    if hasher.finish() != digest {
        return Ok(None);
    }
    file.rewind()?;
    Ok(Some(Whole::File(file)))
}

fn send_file<R: Read, W: Write>(mut file: File, len: u64, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    let (mut left, mut buffer) = (len, vec![0; 256 << 10]);
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        // Announced bytes that do not come are the end of the session; the other side keeps nothing of them.
        file.read_exact(&mut buffer[..most]).map_err(TalkError::Io)?;
        talk.bytes(&buffer[..most])?;
        left -= most as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
