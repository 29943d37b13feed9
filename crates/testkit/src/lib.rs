//! What tests stand on: seeded trees, git repositories, real ssh servers, processes, an HTTP load, faults.
//!
//! A development dependency only. It refuses to know `df`: it imports no other crate of this workspace, and the
//! programs under test are given to it as paths, so it can judge them from outside.
//!
//! Invariants:
//! - What is random comes from a [`Seed`] that is printed, so that any run can be repeated.
//! - What it starts it ends, by process id, when the guard goes out of scope; nothing is ended by name.
//! - Nothing waits for a time to pass; everything waits for an event, with a deadline.
//! - A failure in here is a failed test: functions panic with the path, command or address that was wrong.

pub mod seed;
pub mod tree;

pub mod repo;

pub mod net;
pub mod process;
pub mod survivors;

pub mod load;

pub mod sshd;

pub mod calls;
pub mod faults;
pub mod power;

pub mod tls;

#[cfg(feature = "s3")]
pub mod s3;

pub use load::Load;
pub use process::{Child, Run, wait_until};
pub use repo::Repo;
pub use seed::{Random, Seed};
pub use sshd::Sshd;
pub use tree::{Kind, Tree};
