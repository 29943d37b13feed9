//! The machine's side: what df-node does on a node.
//!
//! `df-node serve` answers one operator over two streams: it receives images, checks them, and keeps generations. `df-node supervise` owns listeners and
//! processes and makes one generation the serving one: `current` moves by one rename, new connections by one setsockopt.
//!
//! Invariants: a name in the store means complete, checked and synced; `current` names a complete generation at every moment; a new version never gets a
//! client before it was verified, and until it is confirmed the old one goes on; what lies in DATA is never written or removed.
//!
//! It refuses to know paths from the operator, to reach out to other machines but for the bytes of an image that it is told to fetch, and to trust what is on
//! disk without reading it back.

pub mod layout;

mod conversation;
mod fetch;
mod program;
mod serve;

mod collect;
mod confirmation;
mod generation;
mod handing;
mod held;
mod history;
mod identity;
mod lock;
mod logs;
mod machine;
mod receive;
mod staged;
mod store;
mod trust;

mod activation;
mod claim;
mod control;
mod dial;
mod front;
mod hold;
mod launch;
mod listeners;
mod members;
mod probe;
mod process;
mod supervise;
mod unit;
mod users;

#[cfg(test)]
mod fixture;

pub use df_delta::Paged;
pub use program::main;
