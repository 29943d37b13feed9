//! What an activation is told and tells: its plan, its states, what happens and what is to be done.

use std::time::Duration;

/// What is known before an activation begins; it does not change on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The generation that shall serve.
    pub new: u64,
    /// The generation that `current` names; 0: none.
    pub old: u64,
    /// Whether the old generation has a process.
    pub old_runs: bool,
    /// How the two change places.
    pub style: Style,
    /// What can be asked of the new one.
    pub readiness: Readiness,
    /// Whether READY=1 is known to come: it is waited for, also where all probes pass before and an old version serves meanwhile.
    pub says_ready: bool,
    /// The time until it has to be ready.
    pub ready: Duration,
    /// How long it has to stay well after the switch.
    pub soak: Duration,
    /// After SIGTERM the old version has this time before SIGKILL (exclusive only; else it drains after the activation).
    pub drain: Duration,
    /// Whether the node is a client of the ports itself while they go over, and for how long it waits for an answer.
    pub watch: Option<Duration>,
    /// Whether a request that it loses takes the activation back.
    pub zero_loss: bool,
    /// How long whoever asked has to say that the node is still within reach; `None`: nobody has to.
    pub confirm: Option<Duration>,
}

/// How two versions change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// The new one starts beside the old one, and connections are steered from one to the other.
    Beside,
    /// Never two at once: the old one ends, then the new one starts.
    Exclusive,
    /// Nothing runs: only `current` moves.
    Files,
}

/// How it shows that a version is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// READY=1, or the first probe that passes.
    Probes,
    /// Nobody can ask it: it has neither probes nor ports that take connections. It is ready when it says READY=1, and where nobody knows whether it ever does, when it
    /// still lives after [`QUIET`](super::QUIET).
    Lives,
}

/// Where an activation is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing was done.
    Staged,
    /// The old version was told to end; `killed`: by SIGKILL.
    Stopping { deadline: Duration, killed: bool },
    /// The new version was started and is not verified yet.
    Starting(Starting),
    /// What to go back to is being written down.
    Arming,
    /// `current` is being moved to it.
    Moving,
    /// Connections are being steered to it.
    Steering,
    /// It serves; connections that were queued at the old one are being taken, and what clients lost is counted.
    Handing { deadline: Duration },
    /// It serves and has to stay well.
    Soaking { until: Duration },
    /// The soak is over and its probes are asked once more.
    Asking { deadline: Duration },
    /// It is well, and whoever asked has to confirm it.
    Waiting { deadline: Duration },
    /// Somebody confirmed it, and what was written down is being removed.
    Disarming,
    /// It failed after `current` had moved, and `current` goes back.
    Returning { failure: Failure, leave: Leave },
    /// Exclusive: it failed and is being killed, so that the old one can start.
    Clearing { failure: Failure, deadline: Duration },
    /// Exclusive: the old one starts again.
    Restoring { failure: Failure, deadline: Duration },
    /// It is over and was answered.
    Ended { good: bool },
}

/// What is known of a version that starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Starting {
    /// When patience ends.
    pub deadline: Duration,
    /// It will say READY=1: its generation or the one before did, or it asked for more time.
    pub awaited: bool,
    /// It said READY=1.
    pub said: bool,
    /// A probe passed.
    pub passed: bool,
    /// All probes passed, and READY=1 is awaited still.
    pub well: bool,
    /// A round of probes is under way, and whether it began after READY=1 or not.
    pub round: Option<Round>,
}

/// Whether a round of probes has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Round {
    /// It is repeated until the deadline.
    Lenient,
    /// The version said that it is ready: each probe has to pass.
    Strict,
}

/// How a version leaves that was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leave {
    /// As every version that another follows: what its clients began with it is finished, or handed back.
    InOrder,
    /// It is dead, deaf, or there is nobody to go on in its place: what is left of it is killed.
    AtOnce,
    /// It was killed with all the others: nothing shall run.
    Stopped,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody asked for it.
    Begin,
    /// The new process runs.
    Launched,
    /// It could not be started.
    LaunchFailed(String),
    /// READY=1 of the new process.
    Ready,
    /// EXTEND_TIMEOUT_USEC of the new process.
    Extend(Duration),
    /// EXTEND_TIMEOUT_USEC of the old process.
    OldExtend(Duration),
    /// A round of probes ended: how many passed, and the first failure in words.
    Probed { n_passed: usize, failed: Option<String> },
    /// The new process ended.
    NewExited(String),
    /// The old process ended.
    OldExited,
    /// What to go back to is on disk.
    Armed,
    /// It is not.
    ArmFailed(String),
    /// Whoever asked is still there, and reaches the node.
    Confirm,
    /// Somebody does not want it, and says who.
    Withdraw(String),
    /// Somebody has stopped the application at once, and says who: no version of it runs any more.
    Halt(String),
    /// What was written down is gone.
    Disarmed,
    /// It may still be there.
    DisarmFailed(String),
    /// `current` moved.
    Moved,
    /// It did not; it names what it named before.
    MoveFailed(String),
    /// Connections are steered.
    Steered,
    /// They are not.
    SteerFailed(String),
    /// The old version's queue is empty, and the node's own requests have ended: what was lost of them, in words.
    Handed { lost: Option<String> },
    /// The old version runs again and is ready.
    Restored,
    /// It does not.
    RestoreFailed(String),
    /// Time passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make the new version's listeners and start it.
    Launch,
    /// Ask the new version all its probes, after a pause.
    Probe { after: Duration },
    /// Write down, durably, what to go back to if nobody confirms.
    Arm,
    /// Remove that, durably.
    Disarm,
    /// Name this generation in `current`, durably; 0: name none.
    MoveCurrent(u64),
    /// Begin to be a client of the ports that both versions have.
    Watch,
    /// Send new connections to this generation.
    Steer(u64),
    /// Tell when the old version's queue is empty, and what the node saw as a client.
    AwaitHanded,
    /// SIGTERM.
    Terminate(u64),
    /// SIGKILL to it and all it started. Its end is told, also when it had ended before.
    Kill(u64),
    /// Close this generation's listeners.
    CloseListeners(u64),
    /// Let a version end that served and does not any more: it is introduced to the one that does and gets SIGTERM when its queue has been empty for a while, SIGKILL
    /// after its time, then its listeners are closed.
    Retire(u64),
    /// See to it that the old version runs, and tell when it is ready.
    StartOld,
    /// Write down what is known of the new generation.
    Record { good: bool, why: String },
    /// Tell who asked.
    Tell(Milestone),
    /// The end: answer who asked.
    Answer(Result<(), Failure>),
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Milestone {
    /// The new version is ready.
    Ready,
    /// It was verified.
    Verified,
    /// It serves.
    Activated,
    /// It stayed well, and has to be confirmed.
    Awaiting,
    /// It stayed well, and was confirmed where it had to be.
    Confirmed,
    /// The old one serves again.
    RolledBack { reason: String },
}

/// Why an activation failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What kind, for programs.
    pub kind: FailureKind,
    /// What happened, for people; holds foreign text.
    pub message: String,
}

/// Kinds of failures, as the wire knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// It did not start, or ended.
    Start,
    /// It was not ready in time.
    NotReady,
    /// A probe failed.
    Probe,
    /// It served and was taken back.
    Reverted,
    /// The system refused something.
    System,
}
