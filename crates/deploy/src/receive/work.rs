//! The directory of a receive: what it has so far, in a form that another process can go on with.
//!
//! ```text
//! ROOT/incoming/<image>/lock           held while somebody works here
//! ROOT/incoming/<image>/record.json    which delta this is made of
//! ROOT/incoming/<image>/base           the manifest of the base, when that is what lay here before (see `partial`)
//! ROOT/incoming/<image>/head           the bytes of the delta before its pieces
//! ROOT/incoming/<image>/manifest       the image's manifest
//! ROOT/incoming/<image>/marks          places in the delta up to which all is in the tree; 48 bytes each, only appended
//! ROOT/incoming/<image>/tree/          the image, growing
//! ```
//!
//! There is something to go on with when there is a mark: everything else is written before the first one. Nothing here is synced while bytes come: what a power cut
//! took is found when it is hashed, and costs its time again. Nothing here has a name in the store.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use df_cache::durable;
use df_core::{Digest, ImageId, Manifest, limits};
use df_delta::Mark;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::ReceiveError;
use crate::layout::{Layout, make_dir};

/// Bytes of a mark: offset, length of what is unfinished, its digest. Zeroes when nothing is.
const MARK_LEN: usize = 16 + Digest::LEN;

/// How long a lock that is held is tried again: that of a session which was cut is free when its process has noticed, and a process that is being
/// started holds all locks of its parent for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often.
const PAUSE: Duration = Duration::from_millis(10);

/// Which delta a receive is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The base it is to.
    pub base: Option<ImageId>,
    /// Its digest.
    pub delta: Digest,
}

impl Record {
    /// Makes one.
    pub fn new(base: Option<ImageId>, delta: Digest) -> Self {
        Self { format: 1, base, delta }
    }
}

/// The directory of a receive that is ours while this lives. Then it is removed, unless it is kept.
#[derive(Debug)]
pub struct Work {
    dir: PathBuf,
    keep: bool,
    _lock: File,
}

impl Work {
    /// Takes the directory of an image's receive, with what lies there.
    ///
    /// # Errors
    /// [`ReceiveError::Busy`] when another session works there.
    pub fn take(layout: &Layout, image: ImageId) -> Result<Self, ReceiveError> {
        let dir = dir(layout, image);
        let io = |source| ReceiveError::Io { path: dir.clone(), source };
        make_dir(&dir).map_err(io)?;
        let lock = OpenOptions::new().create(true).append(true).open(dir.join("lock")).map_err(io)?;
        let patience = Instant::now() + PATIENCE;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > patience {
                return Err(ReceiveError::Busy);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(Self { dir, keep: false, _lock: lock })
    }

    /// Removes what lies here and begins anew; `tree` says whether the tree stays.
    ///
    /// # Errors
    /// Something cannot be removed or written.
    pub fn begin(&self, record: Option<&Record>, base: Option<&Manifest>, keep_tree: bool) -> io::Result<()> {
        // The marks first: without them nothing can be gone on with, whatever else is left by a crash in the middle of this.
        for name in ["marks", "record.json", "head", "base", "manifest"] {
            remove(&self.dir.join(name))?;
        }
        if !keep_tree {
            durable::remove_tree(&self.tree())?;
        }
        if let Some(base) = base {
            fs::write(self.dir.join("base"), base.encode())?;
        }
        let json = record.map(|record| serde_json::to_vec(record).expect("plain data"));
        json.map_or(Ok(()), |json| fs::write(self.dir.join("record.json"), json))
    }

    /// Says that what lies here shall stay when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Returns where this is, for what goes with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns where the tree grows.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Reads what there is to go on with.
    pub fn left(&self) -> Option<Left> {
        Left::read(&self.dir)
    }

    /// Returns the manifest of a base that lay here before.
    pub fn base(&self) -> Option<Manifest> {
        manifest_in(&self.dir.join("base"))
    }

    /// Forgets all marks but the first so many.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn forget_marks(&self, n_marks: usize) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.dir.join("marks"))?.set_len((n_marks * MARK_LEN) as u64)
    }

    /// Opens the delta's head for reading.
    ///
    /// # Errors
    /// It is not there.
    pub fn head(&self) -> io::Result<impl Read + use<>> {
        File::open(self.dir.join("head")).map(io::BufReader::new)
    }

    /// Opens the delta's head for writing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new_head(&self) -> io::Result<BufWriter<File>> {
        File::create_new(self.dir.join("head")).map(BufWriter::new)
    }

    /// Writes the image's manifest.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        fs::write(self.dir.join("manifest"), manifest.encode())
    }

    /// Opens the marks for more of them.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn marks(&self) -> io::Result<Marks> {
        OpenOptions::new().create(true).append(true).open(self.dir.join("marks")).map(Marks)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            // The marks first, as always.
            let _ = remove(&self.dir.join("marks"));
            let _ = durable::remove_tree(&self.dir);
        }
    }
}

/// Takes marks.
#[derive(Debug)]
pub struct Marks(File);

impl Marks {
    /// Writes one more, in one call: a part of one is no mark.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, mark: &Mark) -> io::Result<()> {
        let (len, found) = mark.unfinished.unwrap_or((0, Digest::from_bytes([0; Digest::LEN])));
        self.0.write_all(&[&mark.offset.to_le_bytes()[..], &len.to_le_bytes(), found.as_bytes()].concat())
    }
}

/// What is left of a receive that was cut.
#[derive(Debug, Clone)]
pub struct Left {
    /// Which delta it is made of.
    pub record: Record,
    /// At least one.
    pub marks: Vec<Mark>,
    /// What it makes.
    pub manifest: Manifest,
}

impl Left {
    /// Reads what is left of an image's receive, if it can be gone on with.
    pub fn of(layout: &Layout, image: ImageId) -> Option<Self> {
        Self::read(&dir(layout, image)).filter(|left| left.manifest.image() == image)
    }

    fn read(dir: &Path) -> Option<Self> {
        let bytes = bounded(&dir.join("marks"), limits::MANIFEST_LEN)?;
        let marks: Vec<Mark> = bytes.chunks_exact(MARK_LEN).map(mark).collect();
        let record: Record = serde_json::from_slice(&bounded(&dir.join("record.json"), 4096)?).ok()?;
        let manifest = manifest_in(&dir.join("manifest"))?;
        (record.format == 1 && !marks.is_empty()).then_some(Self { record, marks, manifest })
    }

    /// Returns up to where the delta is worked in.
    pub fn offset(&self) -> u64 {
        self.marks[self.marks.len() - 1].offset
    }
}

fn mark(bytes: &[u8]) -> Mark {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let found = Digest::from_bytes(bytes[16..].try_into().expect("the rest of a mark"));
    Mark { offset: number(0), unfinished: (number(8) > 0).then_some((number(8), found)) }
}

fn dir(layout: &Layout, image: ImageId) -> PathBuf {
    layout.incoming().join(image.to_string())
}

/// Returns where the tree of an image's receive grows.
pub fn tree_in(layout: &Layout, image: ImageId) -> PathBuf {
    dir(layout, image).join("tree")
}

/// Returns the manifest of a base that lay in an image's receive before.
pub fn base_in(layout: &Layout, image: ImageId) -> Option<Manifest> {
    manifest_in(&dir(layout, image).join("base"))
}

/// Returns when the last mark of an image's receive was made, if there is one.
pub fn touched(layout: &Layout, image: ImageId) -> Option<SystemTime> {
    fs::metadata(dir(layout, image).join("marks")).ok()?.modified().ok()
}

fn manifest_in(path: &Path) -> Option<Manifest> {
    Manifest::decode(&bounded(path, limits::MANIFEST_LEN)?).ok()
}

fn bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![];
    File::open(path).ok()?.take(max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= max).then_some(bytes)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
