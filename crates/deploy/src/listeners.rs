//! The listening sockets of the applications: one per generation and port, and the filter that steers new connections among them.
//!
//! All sockets of one address form one SO_REUSEPORT group of the kernel. A classic BPF program on the group answers, for each new
//! connection, with the index of the socket that gets it: the serving generation's for everybody, the trial's for the prober.
//! Switching versions is one `setsockopt`, and no connection that was already queued moves.
//!
//! What this module does not do: accept connections, start programs, decide who serves.

mod group;
mod slots;
mod socket;
mod steer;
mod sys;

pub use group::{Group, GroupError, GroupRecord};
#[cfg(test)]
pub use socket::queue_len;
