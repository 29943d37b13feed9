//! What `df` and `df-node` say to each other.
//!
//! Bytes in, actions out: this crate refuses to do IO, it reads no socket and writes none. The operator's side (`fleet`) and the machine's side (`deploy`) meet only
//! here. A node says nothing that it was not asked, sends no paths, and everything it says is bounded before it is believed.
//!
//! Invariants: a session that has seen a wrong byte is over; a reply belongs to the oldest request without one; payload bytes come only when
//! their exact number was announced.

pub mod frame;
pub mod message;
pub mod session;
pub mod version;

pub use frame::{Frame, FrameError, FrameKind};
pub use message::{Event, Fault, FaultKind, Reply, Request};
pub use session::{Heard, NodeSession, OperatorSession, SessionError};
