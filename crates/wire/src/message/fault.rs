//! Why a node did not do what it was asked.

use serde::{Deserialize, Serialize};

use super::{LockHolder, ProbeOutcome, Serving};

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind, for programs.
    pub kind: FaultKind,
    /// What happened, for people: one line, at most 4 KiB; escaped when printed.
    pub message: String,
    /// The last lines of the program's output, when it is the program that failed; at most 16 KiB.
    pub log: String,
    /// How the probes ended, when they were asked.
    pub probes: Vec<ProbeOutcome>,
    /// What serves now.
    pub serving: Option<Serving>,
}

/// Kinds of faults that the operator's side acts upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Somebody else holds the lock.
    Locked(LockHolder),
    /// The current generation is another than expected.
    Moved {
        /// What it is.
        found: u64,
    },
    /// The node holds no such image, generation or application.
    Missing,
    /// The bytes did not make the image: send it another way.
    DeltaRefused,
    /// What lies here of the same delta ends elsewhere than the request begins: send it from there. 0: nothing lies here.
    Elsewhere {
        /// Where to begin.
        offset: u64,
    },
    /// The URL of what is fetched is not valid any more, or has been used for long: the same again with another one, from `offset` on.
    Expired {
        /// Up to where the bytes are worked in.
        offset: u64,
    },
    /// The bytes cannot be fetched: send them, from `offset` on.
    Unfetched {
        /// Up to where the bytes are worked in.
        offset: u64,
    },
    /// No room.
    DiskFull,
    /// A port is held by another application.
    PortHeld,
    /// The application's own data has another form since that version served, which it may not understand.
    Epoch {
        /// The newest good generation before the current one that knows the data as it is; the current one when there is none.
        safe: u64,
    },
    /// The program did not start, or ended.
    StartFailed,
    /// The program was not ready in time.
    NotReady,
    /// A probe failed.
    ProbeFailed,
    /// The new version served and was taken back.
    Reverted,
    /// An image on the node is not what its name says.
    Damaged,
    /// The node cannot do this: its system, or a setting it does not know.
    Unsupported,
    /// Too few of those whom the node believes vouch for it.
    Untrusted,
    /// The request makes no sense now.
    Refused,
    /// The supervisor ended while it was asked: the next one knows what came of it.
    Unknown,
    /// Anything of the system: no descriptor, an error of the disk.
    Failed,
}
