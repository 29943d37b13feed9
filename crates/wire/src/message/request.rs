//! What the operator asks of a node.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use df_core::attestation::{Pinned, Policy, Subject};
use df_core::spec::milliseconds;
use df_core::{AppName, Digest, ImageId, ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::{Event, FaultKind, Incoming, Reply};

/// How many contents are asked for at once: as JSON, one takes 67 bytes.
pub const BLOBS: usize = 4096;

/// A `df-node`, for the question which of two is newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The format in which it hands on what it supervises.
    pub format: u32,
    /// Its version.
    pub version: String,
    /// When it came to the machine, in nanoseconds of the machine's clock.
    pub came: i64,
}

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
    /// The contents of files of an image that the node holds, each read back and compared with its digest before any of it is sent. Answer: for each, in the
    /// order asked, [`Event::Blob`] and its bytes, or [`Event::NoBlob`]; then [`Reply::Done`]. Whoever was cut off asks for what is lacking. Only for a node
    /// whose survey says that it hands out: older ones do not know this request, nor the one below.
    Blobs {
        /// Which image.
        image: ImageId,
        /// Which contents of it, at most [`BLOBS`].
        digests: Vec<Digest>,
    },
    /// A release that the node has a generation of, or that was copied there. Answer: [`Reply::Release`] or [`FaultKind::Missing`].
    Release {
        /// Whose.
        app: AppName,
        /// Which.
        release: ReleaseId,
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
        /// How long whoever asks has, once the new version is well ([`Event::Awaiting`]), to confirm over another connection that the node is within reach;
        /// after that the node goes back by itself. `None`: nobody has to. A node that is too old to know this asks nobody.
        #[serde(default)]
        confirm_ms: Option<u64>,
        /// How long the answer may be kept back, once the new version is confirmed, for what becomes of the connections that the old one hands over ([`Event::Moved`]).
        /// `None`: nobody wants to know. A node that is too old to know this answers at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        follow_ms: Option<u64>,
    },
    /// Confirms the generation that an activation made the current one; needs no lock, and comes over another connection than the activation was asked for.
    /// Answer: [`Reply::Serving`], also when it was confirmed before; [`FaultKind::Reverted`] when the node went back; [`FaultKind::Refused`] when it is not
    /// time yet.
    Confirm {
        /// The application.
        app: AppName,
        /// The generation.
        generation: u64,
    },
    /// Takes a generation back that was switched to and is not confirmed yet; needs no lock, because whoever activates it has that. Answer:
    /// [`Reply::Serving`] with what serves again; [`FaultKind::Refused`] when it is not on its soak, or nothing came before it.
    Withdraw {
        /// The application.
        app: AppName,
        /// The generation.
        generation: u64,
        /// `user@host` of who does not want it.
        who: String,
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
        /// Also where the data has another form since: else that is [`FaultKind::Epoch`].
        #[serde(default)]
        force: bool,
        /// As in [`Request::Activate`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        follow_ms: Option<u64>,
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
        /// It is started again right away by whoever stops it: should that not come to pass, a boot starts it, and it counts as ill, not as stopped.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// Ends at once, by SIGKILL, what others have under way with an application, and every version that takes part in it: an activation that is not confirmed yet, or a
    /// stop that waits for a program. Needs no lock, because whoever is at it has that. Answer: [`Reply::Stopped`]; [`FaultKind::Refused`] when there is nothing of that, and then
    /// nothing was done: [`Request::Stop`] is what to ask.
    Halt {
        /// The application.
        app: AppName,
        /// Every version, also those that drain.
        all: bool,
        /// `user@host` of who wants that.
        who: String,
    },
    /// Only between programs of one node: the supervisor shall become the program of whoever asks this over the control socket, if that is newer, nothing of what
    /// serves being touched. Answer: [`Reply::Done`] when it is not newer, a fault when it cannot be now; the connection ends when it was done.
    Replace {
        /// The program of whoever asks.
        program: Program,
        /// Also if it is older.
        back: bool,
    },
    /// Asks the serving version its probes. Answer: [`Reply::Verified`].
    Verify {
        /// The application.
        app: AppName,
    },
    /// The last lines of the serving version's output. Answer: [`Reply::Bytes`]; with `follow`, events [`Event::Log`] each followed by bytes, until the
    /// session ends; where no generation is named, of each that comes to serve, behind a line that says which.
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
