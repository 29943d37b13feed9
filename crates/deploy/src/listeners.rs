//! The sockets of the applications: one per generation and port, and what steers new clients among them.
//!
//! All sockets of one address, of TCP or UDP, form one SO_REUSEPORT group of the kernel. A classic BPF program on the group answers, for each new
//! connection or datagram, with the index of the socket that gets it: the serving generation's for everybody, the trial's for the prober.
//! Switching versions is one `setsockopt`, and nothing that was already queued moves. Where clients connect to a path, the switch is one `rename`.
//!
//! What this module does not do: accept connections, start programs, decide who serves.

mod group;
mod internet;
mod named;
mod slots;
mod socket;
mod steer;
mod sys;

pub use group::{Access, Group, GroupError, GroupRecord};
pub use named::{check as check_path, is_beside};
#[cfg(test)]
pub use socket::queue_len;
