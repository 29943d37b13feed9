//! The operator's side: which nodes there are, what they hold, what must travel, and in which order versions change.
//!
//! A survey is one round trip a node, and travels with the greeting; a plan is a value; a transfer makes each delta once and sends it to every node that
//! holds its base, in one go with the lock and the release; a rollout is a pure machine that says which node is next. This crate meets the machine's side only in `df-wire`.
//!
//! Invariants: a dead node never stops the others; what a node says is bounded, and it chooses no path here; a delta that a node refuses is followed by
//! one whole copy and no more; success is what nodes answered, never what was hoped.
//!
//! It refuses to print, to read df.yaml, to build, and to know how a node activates.

pub mod address;
mod bounds;
pub mod choice;
pub mod choosing;
pub mod connection;
pub mod context;
pub mod deltas;
pub mod going_back;
pub mod inventory;
pub mod multiplex;
pub mod node_store;
pub mod partial;
pub mod plan;
pub mod program;
pub mod rollout;
pub mod seen;
pub mod sign;
pub mod survey;
pub mod through;
pub mod transfer;
pub mod transport;
pub mod trust;

pub use address::Address;
pub use choosing::{Chosen, Codec, Wish};
pub use connection::{Connection, NodeError, Options, TakeError};
pub use context::Context;
pub use deltas::{Deltas, Images};
/// How hard a delta is squeezed.
pub use df_delta::{Level, Paged};
pub use inventory::{Inventory, Node};
pub use node_store::NodeStore;
pub use program::NodeProgram;
pub use seen::Seen;
pub use survey::{Claim, Reached};
pub use through::{Depot, Object, Through};
pub use transfer::Copied;
pub use trust::{Credentials, Untrusted};
// What is asked of nodes and what they answer, for those who call them through this crate.
pub use df_wire::message;
