//! What a node tells while it works.

use df_core::Digest;
use df_core::name::Label;
use serde::{Deserialize, Serialize};

use super::ProbeOutcome;

/// What a node tells while it works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Bytes of the stream that have been applied.
    Applied {
        /// So far.
        bytes: u64,
    },
    /// A process was started.
    Started {
        /// Its generation.
        generation: u64,
        /// Its process id.
        pid: i32,
    },
    /// It said READY=1, or its first probe passed.
    Ready {
        /// Its generation.
        generation: u64,
    },
    /// The probes were asked.
    Verified {
        /// The generation that was asked.
        generation: u64,
        /// One outcome a probe.
        probes: Vec<ProbeOutcome>,
    },
    /// `current` moved and new connections go to this generation.
    Activated {
        /// The generation.
        generation: u64,
        /// The one before; 0: none.
        from: u64,
    },
    /// Connections that were in the old version's queue at the switch were all taken, or what the node saw as a client of the port.
    Handoff {
        /// The port's name.
        port: Label,
        /// Connections that waited at the switch.
        queued: u32,
        /// What the node saw as a client, when it was one.
        #[serde(default)]
        seen: Option<Seen>,
        /// What becomes of who waits at the old version when it ends, where programs bind by themselves and nobody can wait for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        own: Option<OwnQueue>,
        /// How many connections the old version has open and serves to their end, where the port does not hand them over and they can be counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        open: Option<u32>,
    },
    /// The old version, which hands the connections of a port over, has let go of them; only told to who asked for that (`follow_ms`).
    Moved {
        /// The port's name.
        port: Label,
        /// How many the new version has taken; `None`: the old one did not say.
        handed_over: Option<u32>,
        /// How many stayed, to be served to their end; `None`: nobody can know.
        drained: Option<u32>,
    },
    /// The new version stayed well, and [`Request::Confirm`](super::Request::Confirm) is waited for; only told to who asked for that.
    Awaiting {
        /// The generation.
        generation: u64,
    },
    /// The new version stayed well; the old may end.
    Confirmed {
        /// The generation.
        generation: u64,
    },
    /// `current` went back.
    RolledBack {
        /// The generation that serves again.
        generation: u64,
        /// The one that failed.
        from: u64,
        /// Why.
        reason: String,
    },
    /// A process ended.
    Stopped {
        /// Its generation.
        generation: u64,
        /// The process id it had.
        pid: i32,
    },
    /// A content that was asked for: it is what its digest says. So many bytes follow in frames.
    Blob {
        /// Which.
        digest: Digest,
        /// How many.
        len: u64,
    },
    /// A content that was asked for and is not handed out.
    NoBlob {
        /// Which.
        digest: Digest,
        /// Why.
        why: Unread,
    },
    /// Output of a program; so many bytes follow in frames.
    Log {
        /// How many.
        len: u64,
    },
}

/// What becomes of the queue of a socket that a program has bound by itself, beside that of the next version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnQueue {
    /// Who waits there is lost when it closes.
    Lost,
    /// The kernel gives them to the next version (net.ipv4.tcp_migrate_req).
    Moved,
}

/// What the node saw as a client of a port, from just before the switch until the old version's queue was empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Requests, each over a connection of its own but those of the one that stayed.
    pub requests: u64,
    /// How many of them were not answered as they should.
    pub failed: u64,
    /// The longest that one took.
    pub worst_ms: u64,
    /// Whether a connection that was open before the switch was of use after it; `None` when the port's program keeps none open.
    pub kept: Option<bool>,
    /// How the first that failed did so; foreign bytes, to be escaped when printed.
    #[serde(default)]
    pub first_loss: String,
}

/// Why a content is not handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unread {
    /// The image has no such content, or its file is gone.
    Missing,
    /// What lies there are other bytes.
    Damaged,
    /// It cannot be read.
    Unreadable,
}
