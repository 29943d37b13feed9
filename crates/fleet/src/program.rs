//! The program `df-node` that df puts on nodes.
//!
//! It comes from the directory that DF_NODE_PROGRAMS names (`df-node-<arch>`), else from this very program, which carries it compressed, else from
//! `df-node` beside this program. Its digest is its name on the node, so it is copied once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use df_core::Digest;
use serde::{Deserialize, Serialize};

/// The machine for which df carries a program.
pub const ARCH: &str = "x86_64";
/// Bytes of a program; more is no df-node.
const PROGRAM_LEN: usize = 512 << 20;

/// A df-node to put on nodes.
#[derive(Debug, Clone)]
pub struct NodeProgram {
    digest: Digest,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Packed(&'static [u8]),
}

/// What a df carries: the digest of its df-node and the program as a zstd frame.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    /// The digest of the unpacked program, hexadecimal.
    pub digest: &'static str,
    /// The program as one zstd frame.
    pub packed: &'static [u8],
}

/// There is no program for nodes.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProgramError {
    #[error("this df carries no df-node, and there is none beside it at {}", .0.display())]
    Missing(PathBuf),
    #[error("the df-node that this df carries is damaged")]
    Damaged,
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What is remembered of a program file, so that it is not hashed each time.
#[derive(PartialEq, Serialize, Deserialize)]
struct Memo {
    path: PathBuf,
    len: u64,
    modified_ns: u128,
    inode: u64,
    digest: Digest,
}

impl NodeProgram {
    /// Finds the program; `memo` is a file where its digest is remembered.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn find(carried: Option<Carried>, memo: &Path) -> Result<Self, ProgramError> {
        if let Some(directory) = std::env::var_os("DF_NODE_PROGRAMS") {
            return Self::file(&PathBuf::from(directory).join(format!("df-node-{ARCH}")), memo);
        }
        if let Some(carried) = carried {
            let digest = carried.digest.parse().map_err(|_| ProgramError::Damaged)?;
            return Ok(Self { digest, place: Place::Packed(carried.packed) });
        }
        let ours = std::env::current_exe().map_err(|source| ProgramError::Io { path: "/proc/self/exe".into(), source })?;
        Self::file(&ours.with_file_name("df-node"), memo)
    }

    /// Takes a file as the program.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    pub fn file(path: &Path, memo: &Path) -> Result<Self, ProgramError> {
        let metadata = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ProgramError::Missing(path.to_owned())),
            other => other.map_err(|source| ProgramError::Io { path: path.to_owned(), source })?,
        };
        let digest = match remembered(path, &metadata, memo) {
            Some(digest) => digest,
            None => {
                let bytes = std::fs::read(path).map_err(|source| ProgramError::Io { path: path.to_owned(), source })?;
                let digest = Digest::of(&bytes);
                remember(path, &metadata, digest, memo);
                digest
            }
        };
        Ok(Self { digest, place: Place::File(path.to_owned()) })
    }

    /// Returns the program's name on a node.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the program's bytes, checked.
    ///
    /// # Errors
    /// It cannot be read, or changed since it was found.
    pub fn bytes(&self) -> Result<Arc<[u8]>, ProgramError> {
        let bytes = match &self.place {
            Place::File(path) => std::fs::read(path).map_err(|source| ProgramError::Io { path: path.clone(), source })?,
            Place::Packed(packed) => zstd::bulk::decompress(packed, PROGRAM_LEN).map_err(|_| ProgramError::Damaged)?,
        };
        if Digest::of(&bytes) == self.digest { Ok(bytes.into()) } else { Err(ProgramError::Damaged) }
    }
}

fn facts(path: &Path, metadata: &std::fs::Metadata, digest: Digest) -> Memo {
    use std::os::unix::fs::MetadataExt as _;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Memo {
        path: path.to_owned(),
        len: metadata.len(),
        modified_ns: modified.map_or(0, |t| t.as_nanos()),
        inode: metadata.ino(),
        digest,
    }
}

fn remembered(path: &Path, metadata: &std::fs::Metadata, memo: &Path) -> Option<Digest> {
    let memo: Memo = serde_json::from_slice(&std::fs::read(memo).ok()?).ok()?;
    (memo == facts(path, metadata, memo.digest)).then_some(memo.digest)
}

/// Remembering saves time and nothing else: its errors are no errors.
fn remember(path: &Path, metadata: &std::fs::Metadata, digest: Digest, memo: &Path) {
    let json = serde_json::to_vec(&facts(path, metadata, digest)).expect("plain data");
    let _ = memo.parent().map(std::fs::create_dir_all);
    let _ = df_cache::durable::write(memo, &json, 0o644);
}
