//! What is asked of a node and what it answers.
//!
//! Messages are JSON values; unknown fields are ignored, so a newer side may say more. Releases travel as their canonical bytes (a JSON text inside the
//! JSON), so that their digest survives. Nothing a node says is a path on the operator's machine, and nothing the operator says is a path on the node.
//!
//! In the order of a conversation: a node says what it holds ([`Survey`]), it is asked ([`Request`]), tells how it goes ([`Event`]), and answers ([`Reply`]),
//! if need be with what went wrong ([`Fault`]).

mod event;
mod fault;
mod reply;
mod request;
mod survey;

pub use event::{Event, OwnQueue, Seen, Unread};
pub use fault::{Fault, FaultKind};
pub use reply::{Collected, Difference, HistoryEntry, ProbeOutcome, Reply, Serving};
pub use request::{BLOBS, Program, Request, RollbackTarget, Secret, Slice, Source};
pub use survey::{AppState, Boot, Generation, GenerationResult, Incoming, LockHolder, RunState, Running, Staged, Survey, Trust};
