//! What has to outlive the supervisor is held in a second place: the sockets where clients come, and the processes.
//!
//! Programs hold their own copies of their listeners, so they serve on when the supervisor is killed. But a program that ends meanwhile would take its listener with it, one that
//! had ended already has none, and the kernel does not let everybody reach into a program that runs as somebody else. So every descriptor lies at a [`Place`] too: a process that
//! does nothing else ([`holder`], `df-node hold`), or systemd's descriptor store. The next supervisor gets them from there, and by the same way from its own former self when it
//! replaces itself by exec.
//!
//! [`Holding`] is the supervisor's list of them. The order at each change: first it is written down, then it is held, then somebody else gets it. So whoever comes next finds
//! at most a record without its descriptor, which is known from after every crash, or a descriptor that no record knows, which is closed.

mod name;

use std::io;
use std::os::fd::BorrowedFd;

pub use name::{NAME_LEN, Name, NotAName, What};

/// A place outside of this process that holds descriptors.
pub trait Place: Send {
    /// Holds a descriptor under a name that it does not hold yet.
    ///
    /// # Errors
    /// It is not held; the place may be gone.
    fn hold(&mut self, name: &Name, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Lets go of it. What is not held need not be known.
    ///
    /// # Errors
    /// The place may be gone.
    fn release(&mut self, name: &Name) -> io::Result<()>;
}
