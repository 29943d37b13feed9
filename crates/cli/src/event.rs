//! What happened, for people and for scripts.
//!
//! # Format, version 1
//!
//! With `--json` each event is one line on stdout: a JSON object whose `type` is the event's name in snake case. `version` comes first and `result`
//! last, also when the command fails. Fields may be added; none is renamed or dropped. Times are `2026-01-31T12:00:00Z`, durations are seconds.

use df_build::Difference;
use df_core::{AppName, CommitId, Digest, ImageId, RecipeKey, ReleaseId, Timestamp};
use df_fleet::message::{GenerationResult, OwnQueue, ProbeOutcome};
use serde::Serialize;
use serde::Serializer;

/// The version of the format above.
pub const FORMAT: u32 = 1;

/// One thing that happened, or that is so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the contract names the fields, and they are what their names say")]
pub enum Event {
    /// Which df speaks. The first line.
    Version { df: &'static str, format: u32 },
    /// A commit has an image.
    Built {
        app: AppName,
        commit: CommitId,
        recipe_key: RecipeKey,
        image: ImageId,
        release: ReleaseId,
        /// Nothing was compiled.
        reused: bool,
        why: Vec<String>,
        seconds: f64,
        /// The file that holds its SLSA provenance.
        provenance: Option<String>,
        /// The file that holds its bill of materials.
        sbom: Option<String>,
    },
    /// Somebody vouches for a version, or for a change of trust.
    Attested {
        what: String,
        release: Option<ReleaseId>,
        /// Whose word this is: the fingerprint.
        key: String,
        /// All who vouch so far.
        keys: Vec<String>,
        /// How many are asked for.
        threshold: u32,
    },
    /// Whom a node believes.
    Trust {
        node: String,
        /// The number of the change that it believes them since; none: nobody.
        sequence: Option<u64>,
        threshold: u32,
        keys: Vec<String>,
        /// Whether that is what df.yaml names.
        agrees: bool,
        detail: String,
    },
    /// A commit was built again.
    Checked {
        app: AppName,
        commit: CommitId,
        image: ImageId,
        /// The image that it is now.
        again: ImageId,
        reproducible: bool,
        /// The paths that differ.
        differs: Vec<String>,
        /// What differs in them.
        differences: Vec<Difference>,
    },
    /// A node holds an image.
    Copied {
        node: String,
        image: ImageId,
        base: Option<ImageId>,
        /// How most of it was packed: `elf`, `copy`, `patch`, `rsync`, `whole`; `none` when it was there.
        codec: String,
        bytes_sent: u64,
        bytes_received: u64,
        /// What did not travel because an earlier session, which was cut, had brought it.
        bytes_resumed: u64,
        image_bytes: u64,
        through_cache: bool,
        /// What the node fetched from the cache.
        bytes_fetched: u64,
        seconds: f64,
    },
    /// A process was started.
    Started { node: String, app: AppName, generation: u64, pid: Option<i32> },
    /// A process ended.
    Stopped { node: String, app: AppName, generation: u64, pid: Option<i32> },
    /// Probes were asked.
    Verified { node: String, app: AppName, generation: u64, ok: bool, probes: Vec<ProbeOutcome> },
    /// `current` moved, and clients reach this generation.
    Activated(Activation),
    /// The new version stayed well.
    Confirmed(Activation),
    /// An earlier version serves again.
    RolledBack(Activation),
    /// A port went from one version to the next; for one that hands connections over there is another, when the old version has let go of them.
    Handoff {
        node: String,
        port: String,
        step: HandoffStep,
        queued: u32,
        /// Open connections that the new version goes on with; none where that is not known, or not yet.
        connections_handed_over: Option<u32>,
        /// Open connections that stay with the old version to their end; none where that is not known, or not yet.
        connections_drained: Option<u32>,
        /// Requests of the node's own, as a client of the port; none where it was no client.
        requests: Option<u64>,
        /// How many of them were lost.
        lost: Option<u64>,
        /// The longest that one took.
        worst_ms: Option<u64>,
        /// Whether a connection that was open before the switch was of use after it; none where the program keeps none open.
        connection_kept: Option<bool>,
        /// How the first request was lost.
        first_loss: Option<String>,
        /// What becomes of who waits at the old version when it ends, where the programs bind by themselves: `lost`, or `moved` by the kernel.
        own_queue: Option<OwnQueue>,
    },
    /// A node, as it is.
    Node(NodeState),
    /// A release, and where it is.
    Release {
        version: ReleaseId,
        commit: CommitId,
        image: ImageId,
        #[serde(serialize_with = "moment")]
        time: Timestamp,
        /// Nodes where it serves.
        nodes: Vec<String>,
        /// Whether it is in the cache here.
        here: bool,
    },
    /// Two things that should be equal are not.
    Difference { node: Option<String>, path: String, kind: String, here: String, there: String },
    /// What would be done.
    Planned {
        node: Option<String>,
        action: String,
        bytes: Option<u64>,
        requests: Option<u64>,
        reason: String,
        /// Whether doing it changes something.
        changes: bool,
    },
    /// How an image would get to a node: `planned` with more fields.
    #[serde(rename = "planned")]
    PlannedCopy(PlannedCopy),
    /// Something was put into a store.
    Stored(Placed),
    /// Something that nothing keeps was removed.
    Collected(Placed),
    /// Something damaged is whole again.
    Repaired(Placed),
    /// Something that should be in a store is not there, or damaged.
    Missing(Placed),
    /// One attempt at an application on a node.
    Attempt {
        node: String,
        #[serde(serialize_with = "moment")]
        at: Timestamp,
        who: String,
        what: String,
        generation: u64,
        from_generation: u64,
        commit: CommitId,
        ok: bool,
        detail: String,
    },
    /// A line of a program's output.
    Log { node: String, line: String },
    /// One level of the context stack; the top has the depth 0.
    Context { depth: usize, nodes: Vec<String> },
    /// Something that df needs, and whether it is there.
    Check { what: String, ok: bool, found: String, mend: Option<String> },
    /// One generation of an application on a node.
    Generation {
        node: String,
        app: AppName,
        generation: u64,
        release: ReleaseId,
        commit: CommitId,
        image: ImageId,
        #[serde(serialize_with = "moment")]
        since: Timestamp,
        result: GenerationResult,
        data_epoch: u32,
        /// Whether `current` names it.
        current: bool,
    },
    /// A commit was dealt with, and the next one is waited for.
    Waiting {
        commit: CommitId,
        /// How it ended, as the exit code of a deploy by itself.
        exit: u8,
    },
    /// Something that was said beside the results.
    Note { message: String },
    /// Something failed.
    Error {
        node: Option<String>,
        phase: String,
        message: String,
        serving: Option<String>,
        next: Option<String>,
        /// The last lines of the output of what failed.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        log: Vec<String>,
    },
    /// How it ended. The last line.
    Result { ok: bool, exit: u8 },
}

/// How far a port has gone over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoffStep {
    /// New connections go to the new version.
    Switch,
    /// The old version was told to leave, and its connections went where they go.
    Leave,
}

/// How an image would get to a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the contract names the fields")]
pub struct PlannedCopy {
    pub node: Option<String>,
    pub action: String,
    pub bytes: Option<u64>,
    pub requests: Option<u64>,
    pub reason: String,
    pub changes: bool,
    pub base: Option<ImageId>,
    /// As in [`Event::Copied`].
    pub codec: String,
    /// How long it is expected to take.
    pub seconds: f64,
    /// Whether the bytes are a guess.
    pub estimated: bool,
}

/// Which version serves on a node now, and which one did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the contract names the fields")]
pub struct Activation {
    pub node: String,
    pub app: AppName,
    pub generation: u64,
    pub image: Option<ImageId>,
    pub commit: Option<CommitId>,
    pub from_generation: u64,
    pub reason: String,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the contract names the fields")]
pub struct NodeState {
    pub name: Option<String>,
    pub address: String,
    pub listen: String,
    pub reachable: Option<bool>,
    pub app: Option<AppName>,
    pub generation: Option<u64>,
    pub image: Option<ImageId>,
    pub commit: Option<CommitId>,
    /// `serving`, `stopping` (it serves and said STOPPING=1), `stopped`, `down` (it should run and does not), `files` (nothing of it runs), `none`, or what else its
    /// process does.
    pub state: Option<String>,
    #[serde(serialize_with = "maybe_moment")]
    pub since: Option<Timestamp>,
    pub healthy: Option<bool>,
    /// Where its ports are.
    pub ports: Vec<String>,
    /// The last that its program said of itself, STATUS=.
    pub status: Option<String>,
    pub detail: Option<String>,
}

/// Something in a store, or on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the contract names the fields")]
pub struct Placed {
    pub place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    pub bytes: u64,
    pub objects: u64,
    pub requests: u64,
    pub why: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn moment<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[allow(clippy::ref_option, reason = "serde hands a reference")]
fn maybe_moment<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
