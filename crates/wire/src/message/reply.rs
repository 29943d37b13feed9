//! What a node answers.

use df_core::{CommitId, ImageId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Fault, Survey};

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is so now.
    Done,
    /// What the node holds and runs.
    Survey(Box<Survey>),
    /// The release that was asked for needs nothing: its image is held, and it is remembered.
    Held,
    /// So many bytes follow in frames.
    Bytes {
        /// How many.
        len: u64,
    },
    /// A release that was asked for.
    Release {
        /// Its canonical bytes.
        release: String,
        /// The bundle of attestations that it was admitted with.
        attestations: Option<String>,
    },
    /// Signatures of the given lengths follow as bytes, one after the other.
    Signatures {
        /// The length of each.
        lens: Vec<u64>,
    },
    /// The image is there, whole, checked and synced.
    Received {
        /// Bytes that were read from the base.
        reused: u64,
        /// It was there before: nothing had to be done.
        held: bool,
        /// Bytes that the node fetched for it.
        #[serde(default)]
        fetched: u64,
    },
    /// What differs from the manifest; nothing when the image is what its name says.
    Checked {
        /// At most 1,000.
        differences: Vec<Difference>,
    },
    /// This version serves.
    Serving(Serving),
    /// These processes ended.
    Stopped {
        /// Each generation and the process id it had.
        stopped: Vec<(u64, i32)>,
    },
    /// How the probes ended.
    Verified {
        /// The generation that was asked.
        generation: u64,
        /// One outcome a probe.
        probes: Vec<ProbeOutcome>,
    },
    /// What was activated.
    History {
        /// Newest last.
        entries: Vec<HistoryEntry>,
    },
    /// What was removed, or would be.
    Collected {
        /// Generations and images.
        collected: Vec<Collected>,
    },
    /// It cannot be, or it failed; nothing changed unless `serving` says so.
    Fault(Box<Fault>),
}

/// Which version serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its generation.
    pub generation: u64,
    /// Its commit.
    pub commit: CommitId,
    /// Its image.
    pub image: ImageId,
    /// Its process id; `None` for an application that is only files, or one that is stopped.
    pub pid: Option<i32>,
    /// The generation that served before; 0: none.
    pub from: u64,
}

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeOutcome {
    /// `http /health`.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// What it saw; foreign bytes, to be escaped when printed.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}

/// One attempt at an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it ended.
    pub at: Timestamp,
    /// Who asked.
    pub who: String,
    /// `activate`, `rollback`, `start`, `stop`, `boot`, `crash`.
    pub what: String,
    /// Of which generation.
    pub generation: u64,
    /// Which generation served before; 0: none.
    pub from: u64,
    /// Its commit.
    pub commit: CommitId,
    /// Whether it succeeded.
    pub ok: bool,
    /// Why it failed, or what else there is to say.
    pub detail: String,
}

/// Something gc removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The generation, when it was one.
    pub generation: Option<u64>,
    /// The image, when it was one.
    pub image: Option<ImageId>,
    /// Bytes given back.
    pub bytes: u64,
    /// Why it could go.
    pub why: String,
}

/// A place where a tree is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where in the image; bytes that are not UTF-8 replaced.
    pub path: String,
    /// `missing`, `extra`, `content`, `mode`, `kind`, `target`, `unreadable`.
    pub kind: String,
    /// What the manifest says.
    pub expected: String,
    /// What is there.
    pub found: String,
}
