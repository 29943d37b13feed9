//! The machine's side: what df-node does on a node.
//!
//! `df-node serve` answers one operator over two streams: it receives images, checks them, and keeps generations. `df-node supervise` owns listeners and
//! processes and makes one generation the serving one: `current` moves by one rename, new connections by one setsockopt.
//!
//! Invariants: a name in the store means complete, checked and synced; `current` names a complete generation at every moment; a new version never gets a
//! client before it was verified, and until it is confirmed the old one goes on; what lies in DATA is never written or removed.
//!
//! It refuses to know paths from the operator, to reach out to other machines, and to trust what is on disk without reading it back.

pub mod layout;

#[allow(dead_code)]
pub(crate) mod generation;
#[allow(dead_code)]
pub(crate) mod history;
#[allow(dead_code)]
pub(crate) mod lock;
#[allow(dead_code)]
pub(crate) mod staged;
#[allow(dead_code)]
pub(crate) mod store;

#[allow(dead_code)]
mod collect;
#[allow(dead_code)]
mod conversation;
#[allow(dead_code)]
mod logs;
#[allow(dead_code)]
mod machine;
#[allow(dead_code)]
mod receive;

#[cfg(test)]
mod fixture;

#[allow(dead_code)] // until the supervisor uses all of it
pub(crate) mod claim;
#[allow(dead_code, unused_imports)]
pub(crate) mod launch;
#[allow(dead_code, unused_imports)]
pub(crate) mod listeners;
#[allow(dead_code, unused_imports)]
pub(crate) mod probe;
#[allow(dead_code)]
pub(crate) mod process;

#[allow(dead_code)]
pub(crate) mod activation;
