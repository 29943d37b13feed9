//! What is asked of a node and what it answers.
//!
//! Messages are JSON values; unknown fields are ignored, so a newer side may say more. Releases travel as their canonical bytes (a JSON text inside the
//! JSON), so that their digest survives. Nothing a node says is a path on the operator's machine, and nothing the operator says is a path on the node.
//!
//! One long file on purpose: it is the whole contract between the two sides, and it is read as one.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use df_core::attestation::{Pinned, Policy, Subject};
use df_core::name::Label;
use df_core::spec::milliseconds;
use df_core::{AppName, CommitId, Digest, ImageId, ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};

/// What the operator asks. One at a time is served, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What the node holds and runs. Answer: [`Reply::Survey`].
    Survey,
    /// What the node holds and runs, unless it has this release already: holds its image, and was given the release within the hour or has a generation of
    /// it. Answer: [`Reply::Held`], a few bytes, or [`Reply::Survey`].
    SurveyUnless {
        /// The release.
        held: ReleaseId,
    },
    /// Takes the node for one operator until the session ends; everything that changes something needs it. Answer: [`Reply::Done`] or
    /// [`FaultKind::Locked`].
    Lock {
        /// Who, for the loser to read: `user@host`.
        who: String,
        /// At what: `deploy greeter`.
        command: String,
    },
    /// The manifest of an image that the node holds. Answer: [`Reply::Bytes`].
    Manifest {
        /// Which.
        image: ImageId,
    },
    /// Signatures (fast_rsync, MD4, 16 bytes) of stretches of an image's files, one after the other. Answer: [`Reply::Signatures`], then bytes.
    Sign {
        /// Which image.
        image: ImageId,
        /// Each stretch: the slices that follow one another in it.
        stretches: Vec<Vec<Slice>>,
        /// Bytes of a block, 256..=1 MiB.
        block_len: u32,
    },
    /// Here come `len` bytes that make an image. Answer: [`Reply::Received`], or a fault: [`FaultKind::DeltaRefused`] asks for another codec,
    /// [`FaultKind::Elsewhere`] for the same delta from another place on.
    Receive {
        /// What it makes.
        image: ImageId,
        /// The image that it is a delta to, or an [`Incoming::partial`]; `None`: whole.
        base: Option<ImageId>,
        /// The digest of the whole delta; when it is given, what was received stays after a cut, and a later session can go on from there.
        #[serde(default)]
        delta: Option<Digest>,
        /// Where in the delta the bytes begin: 0, or the [`Incoming::offset`] that the node told.
        #[serde(default)]
        from: u64,
        /// How many bytes come: from there to the delta's end.
        len: u64,
        /// Bytes of the image's files, for the question whether there is room.
        image_len: u64,
    },
    /// Fetch the bytes that make an image, as [`Request::Receive`] brings them, from where they were put for this transfer. Answer: events
    /// [`Event::Applied`], then [`Reply::Received`], or a fault: [`FaultKind::Expired`] asks for a fresh URL, [`FaultKind::Unfetched`] for the bytes themselves,
    /// [`FaultKind::DeltaRefused`] says that others came than were named.
    Fetch {
        /// What they make.
        image: ImageId,
        /// The image that they are a delta to; `None`: whole.
        base: Option<ImageId>,
        /// The digest of them all.
        delta: Digest,
        /// From where on they are wanted: 0, or the offset that the node told.
        from: u64,
        /// How many there are in all.
        len: u64,
        /// Bytes of the image's files, for the question whether there is room.
        image_len: u64,
        /// Where they are.
        source: Source,
    },
    /// Reads an image back from disk and compares it with its manifest. Answer: [`Reply::Checked`].
    Check {
        /// Which.
        image: ImageId,
    },
    /// Remembers a release whose image the node holds, without running it. Answer: [`Reply::Done`].
    Stage {
        /// The canonical bytes of the release.
        release: String,
    },
    /// Makes a release the serving version: start beside the old, ready, verify, switch, soak, drain the old. Events, then [`Reply::Serving`]; a fault
    /// says what serves.
    Activate {
        /// The canonical bytes of the release; the node holds its image.
        release: String,
        /// What has to be the current generation for this to go on (compare-and-swap); 0: none.
        expect: u64,
        /// How long the new version must stay well after the switch.
        #[serde(with = "milliseconds")]
        soak: Duration,
        /// Who asks, for the history.
        who: String,
        /// The address for ports that name none.
        listen: IpAddr,
    },
    /// Makes an earlier generation serve again, from the node's own records. Events, then [`Reply::Serving`].
    Rollback {
        /// The application.
        app: AppName,
        /// Where to; `None`: the newest good generation before the current one that holds another release.
        to: Option<RollbackTarget>,
        /// What has to be the current generation; 0: none.
        expect: u64,
        /// How long it must stay well after the switch.
        #[serde(with = "milliseconds")]
        soak: Duration,
        /// Who asks.
        who: String,
        /// The address for ports that name none.
        listen: IpAddr,
    },
    /// Takes back an activation because other nodes failed: what served before serves again, and the generation counts as unknown. Events, then
    /// [`Reply::Serving`], or [`Reply::Stopped`] where nothing served before: `current` is gone then.
    TakeBack {
        /// The application.
        app: AppName,
        /// The generation that is taken back; it has to be the current one.
        expect: u64,
        /// The generation that served before; 0: none.
        to: u64,
        /// Who asks.
        who: String,
        /// Why, for the record.
        why: String,
        /// The address for ports that name none.
        listen: IpAddr,
    },
    /// Starts what `current` says. Answer: [`Reply::Serving`].
    Start {
        /// The application.
        app: AppName,
        /// The address for ports that name none.
        listen: IpAddr,
    },
    /// Stops the serving version, or every version, and closes the listeners. Answer: [`Reply::Stopped`].
    Stop {
        /// The application.
        app: AppName,
        /// Every version, also one on trial or warm.
        all: bool,
        /// By SIGKILL.
        now: bool,
    },
    /// Asks the serving version its probes. Answer: [`Reply::Verified`].
    Verify {
        /// The application.
        app: AppName,
    },
    /// The last lines of the serving version's output. Answer: [`Reply::Bytes`]; with `follow`, events [`Event::Log`] each followed by bytes, until the
    /// session ends.
    Logs {
        /// The application.
        app: AppName,
        /// Which generation; `None`: the current one.
        generation: Option<u64>,
        /// How many lines, at most 10,000.
        lines: u32,
        /// Whether what is written later is wanted too.
        follow: bool,
    },
    /// Who activated what and how it ended, newest last. Answer: [`Reply::History`].
    History {
        /// The application.
        app: AppName,
        /// How many entries, at most 1,000.
        limit: u32,
    },
    /// Removes generations and images that nothing keeps. Answer: [`Reply::Collected`].
    Collect {
        /// The application whose generations are judged.
        app: AppName,
        /// How many generations stay at least.
        count: u32,
        /// Only what is older than this goes.
        older: Timestamp,
        /// Only say what would go.
        dry_run: bool,
    },
    /// Whom the node shall believe, when nobody told it before. Answer: [`Reply::Done`], also when it was told just that, or [`FaultKind::Untrusted`]. Only for
    /// a node whose survey says that it knows what trust is: older ones do not know this request, nor the two below.
    Pin {
        /// Who must vouch.
        policy: Policy,
    },
    /// Whom the node shall believe from now on, attested by those whom it believes so far. Answer: [`Reply::Done`] or [`FaultKind::Untrusted`].
    Trust {
        /// The change; its sequence is larger than the node's.
        pinned: Pinned,
        /// A bundle of attestations of it.
        attestations: String,
    },
    /// Who vouches for a release whose image, record or activation follows. A node that believes somebody takes none of these before. Answer: [`Reply::Done`]
    /// or [`FaultKind::Untrusted`].
    Admit {
        /// The release.
        subject: Subject,
        /// A bundle of attestations of it.
        attestations: String,
    },
}

/// Where a node finds bytes that were put there for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In a bucket, read by HTTPS; the URL is valid for some minutes.
    Url(Secret),
    /// In the directory that the node was started with for this, because it is on the operator's own machine; what it is called there follows from the images.
    Beside,
}

/// What nobody else may see: not logged, no argument, in no error.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text that is secret from now on.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, to whoever uses it and tells nobody.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A part of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The file's content.
    pub digest: Digest,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub len: u64,
}

/// Where a rollback goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackTarget {
    /// A generation by number.
    Generation(u64),
    /// The newest generation of a commit whose id begins so (at least 4 digits).
    Commit(String),
}

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
    /// Applications, by name.
    pub apps: Vec<AppState>,
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
    pub ports: Vec<(Label, std::net::SocketAddr)>,
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
    /// Anything of the system: no descriptor, an error of the disk.
    Failed,
}

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
    /// Connections that were in the old version's queue at the switch were all taken.
    Handoff {
        /// The port's name.
        port: Label,
        /// Connections that waited at the switch.
        queued: u32,
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
    /// Output of a program; so many bytes follow in frames.
    Log {
        /// How many.
        len: u64,
    },
}
