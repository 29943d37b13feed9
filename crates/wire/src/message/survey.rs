//! What a node says of itself: what it holds and runs.

use df_core::attestation::Pinned;
use df_core::name::Label;
use df_core::{AppName, CommitId, Digest, ImageId, ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Request;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The machine: `x86_64`.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The newest version of the GNU C library whose symbols it has, `2.36`; `None` when there is none.
    pub libc: Option<String>,
    /// The programs that load other programs, by their whole paths; `None` when the node does not look for them.
    #[serde(default)]
    pub interpreters: Option<Vec<String>>,
    /// Free bytes where images are kept.
    pub free: u64,
    /// The node's clock.
    pub now: Timestamp,
    /// Images held, whole.
    pub images: Vec<ImageId>,
    /// Receives that were cut and may go on, the youngest first; at most 8.
    #[serde(default)]
    pub incoming: Vec<Incoming>,
    /// Who holds the lock, if somebody does.
    pub lock: Option<LockHolder>,
    /// Whom the node believes; `None` from a node that is too old to know.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// Whether the node hands out what it holds: releases, and the contents of files.
    #[serde(default)]
    pub hands_out: bool,
    /// Where its haproxy is, for programs that take no socket (`handoff: proxy`): empty when it has none, `None` from a node that is too old to say.
    #[serde(default)]
    pub proxy: Option<String>,
    /// What starts its supervisor after a boot; `None` from a node that is too old to say.
    #[serde(default)]
    pub boot: Option<Boot>,
    /// Which node this is, whatever it is called; `None` where nobody changed anything yet, and from a node that is too old to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Digest>,
    /// Applications, by name.
    pub apps: Vec<AppState>,
}

/// What starts a node's supervisor when its machine starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// A unit of systemd.
    Unit {
        /// Its name.
        unit: String,
        /// It is a unit of the user's own systemd.
        user: bool,
        /// Nobody switched it off.
        enabled: bool,
    },
    /// A unit that will be written at the first activation.
    Later {
        /// Its name.
        unit: String,
    },
    /// There would be a unit, but this user's services end when nobody is logged in.
    NotLingering {
        /// Who.
        user: String,
    },
    /// Nothing that df knows of.
    Nothing,
}

/// Whom a node believes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// What it was told; `None`: nothing yet, and it takes what an operator with a login sends.
    pub pinned: Option<Pinned>,
}

/// A receive that was cut. What it has so far is checked again before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// What it makes.
    pub image: ImageId,
    /// The image that its delta is to; `None`: whole.
    pub base: Option<ImageId>,
    /// The digest of its delta.
    pub delta: Digest,
    /// How many bytes of the delta are worked in: [`Request::Receive`] with the same image, base and delta goes on from here.
    pub offset: u64,
    /// The image of those files that are complete. It can be the base of a delta to any image, and its manifest can be asked for; `None` when there is none.
    #[serde(default)]
    pub partial: Option<ImageId>,
}

/// What an application is on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppState {
    /// Its name.
    pub app: AppName,
    /// The generation that `current` names; 0: none.
    pub current: u64,
    /// Whether it is meant to run.
    pub wanted: bool,
    /// What runs now, the serving one first.
    pub running: Vec<Running>,
    /// Generations kept, oldest first.
    pub generations: Vec<Generation>,
    /// Releases copied here that no generation holds.
    pub staged: Vec<Staged>,
    /// Why it does not run although it is meant to, where the node tries no more: it crashed too often. An older node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
}

/// A release that was copied to a node and not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The release.
    pub release: ReleaseId,
    /// Its commit.
    pub commit: CommitId,
    /// Its image.
    pub image: ImageId,
    /// When it came.
    pub since: Timestamp,
}

/// A numbered slot that holds one release of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number; numbers only grow.
    pub number: u64,
    /// The release in it.
    pub release: ReleaseId,
    /// Its commit.
    pub commit: CommitId,
    /// Its image.
    pub image: ImageId,
    /// When it was made.
    pub since: Timestamp,
    /// What is known of it.
    pub result: GenerationResult,
    /// Which form the application's own data has while it serves.
    #[serde(default = "first_epoch")]
    pub data_epoch: u32,
}

fn first_epoch() -> u32 {
    df_core::spec::FIRST_EPOCH
}

/// What is known of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationResult {
    /// It served and was confirmed.
    Good,
    /// It failed before it was confirmed.
    Bad,
    /// Nobody knows: it is on trial, or whoever watched was killed.
    Unknown,
}

/// A process of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its generation.
    pub generation: u64,
    /// Its process id.
    pub pid: i32,
    /// What it does.
    pub state: RunState,
    /// Since when.
    pub since: Timestamp,
    /// Where it is reached: port name and address.
    pub ports: Vec<(Label, df_core::Endpoint)>,
    /// The last that it said of itself (STATUS=), for people; nodes of before say nothing. Foreign text: escape it before it is printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// It said that it stops (STOPPING=1).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
}

/// What a process of a generation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Started, not ready yet.
    Starting,
    /// On trial: it answers the prober alone.
    Trial,
    /// Clients reach it.
    Serving,
    /// It served before and waits, to serve again if the new one fails.
    Warm,
    /// It was told to end.
    Draining,
}

/// Who holds a node's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// `user@host`.
    pub who: String,
    /// At what.
    pub command: String,
    /// Since when.
    pub since: Timestamp,
}
