//! Being told to leave: finish what was begun, take nothing new.

use crate::descriptor::{deadline_in, wait_readable};
use crate::signal;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Whether the service has been told to drain. Clones see the same.
///
/// It goes one way: once set it stays set. Its descriptor ([`AsFd`]) becomes readable at that moment and stays so; poll it,
/// but never read from it.
#[derive(Debug, Clone)]
pub struct Draining {
    event: Arc<OwnedFd>,
}

/// Why [`Draining::wait_for`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The descriptor can be read, or a listener has a connection in its queue; said also while draining.
    Readable,
    /// Draining has begun, and the descriptor has nothing to read.
    Draining,
    /// The time is over.
    Deadline,
}

/// Connections until draining has begun and the accept queue is empty; from [`Draining::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    draining: &'a Draining,
    listener: &'a TcpListener,
}

impl Draining {
    /// Returns what SIGTERM sets, the same for every caller in the process.
    pub(crate) fn on_term() -> io::Result<Self> {
        static INSTALLED: OnceLock<Draining> = OnceLock::new();
        static INSTALLING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        // Kept for ever before the handler knows the descriptor; a failed install must not be remembered as done,
        // so the event is leaked rather than stored first.
        let event: &'static Arc<OwnedFd> = Box::leak(Box::new(Arc::new(signal::event()?)));
        signal::install(event.as_fd())?;
        Ok(INSTALLED.get_or_init(|| Self { event: Arc::clone(event) }).clone())
    }

    /// Returns one that no signal sets, only [`Draining::begin`]: for a service's own tests.
    pub fn detached() -> io::Result<Self> {
        Ok(Self { event: Arc::new(signal::event()?) })
    }

    /// Begins draining as if SIGTERM had come.
    pub fn begin(&self) {
        signal::raise(self.event.as_fd());
    }

    /// Whether draining has begun.
    pub fn is_set(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }

    /// Waits until draining begins.
    pub fn wait(&self) {
        // Polling one open descriptor can fail only for want of kernel memory, which passes.
        while !matches!(wait_readable([self.event.as_fd()], None), Ok([true])) {}
    }

    /// Waits until draining begins, at most this long; returns whether it has begun.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        matches!(wait_readable([self.event.as_fd()], deadline_in(timeout)), Ok([true]))
    }

    /// Waits until the descriptor can be read, draining begins, or the time is over (`None`: never).
    ///
    /// What can be read comes first: a loop that accepts on [`Wake::Readable`] and leaves on [`Wake::Draining`] leaves
    /// nobody in the queue. Works for listeners, connections and UDP sockets alike.
    pub fn wait_for(&self, fd: impl AsFd, timeout: Option<Duration>) -> io::Result<Wake> {
        Ok(match wait_readable([fd.as_fd(), self.event.as_fd()], timeout.and_then(deadline_in))? {
            [true, _] => Wake::Readable,
            [false, true] => Wake::Draining,
            [false, false] => Wake::Deadline,
        })
    }

    /// Returns the connections of a listener, ending when draining has begun and the accept queue is empty,
    /// or gone because the listener was shut down.
    ///
    /// The listener becomes nonblocking (for everyone who holds the same socket); the connections are blocking. An error
    /// such as too many open files is passed on, and the connection stays in the queue: the next call tries again, so
    /// give it a moment.
    pub fn incoming<'a>(&'a self, listener: &'a TcpListener) -> io::Result<Incoming<'a>> {
        listener.set_nonblocking(true)?;
        Ok(Incoming { draining: self, listener })
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.draining.wait_for(self.listener, None) {
                Ok(Wake::Readable) => {}
                Ok(Wake::Draining) => return None,
                Ok(Wake::Deadline) => continue,
                Err(e) => return Some(Err(e)),
            }
            match self.listener.accept() {
                Ok((connection, _peer)) => return Some(Ok(connection)),
                Err(e) if is_about_one_client(&e) => continue,
                // A supervisor that stops a service refuses new clients first and tells the service a moment later.
                Err(e) if is_closed(&e) && self.draining.wait_timeout(CLOSED_BEFORE_DRAINING) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

impl AsFd for Draining {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for Draining {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// How long a listener may be closed before draining begins.
const CLOSED_BEFORE_DRAINING: Duration = Duration::from_secs(1);

/// Whether the socket no longer listens: somebody else who holds it has shut it down, and its queue is gone.
pub(crate) fn is_closed(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EINVAL)
}

/// Whether accept failed because that client went away, or because another process took it first.
pub(crate) fn is_about_one_client(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn it_goes_one_way_and_every_clone_sees_it() -> io::Result<()> {
        let draining = Draining::detached()?;
        let clone = draining.clone();
        assert!(!clone.is_set());
        assert!(!clone.wait_timeout(Duration::from_millis(1)));
        let waiter = std::thread::spawn({
            let draining = draining.clone();
            move || draining.wait()
        });
        draining.begin();
        waiter.join().expect("the waiter does not panic");
        draining.begin();
        assert!(clone.is_set() && clone.is_set());
        assert!(clone.wait_timeout(Duration::MAX));
        Ok(())
    }

    #[test]
    fn what_can_be_read_comes_before_draining() -> io::Result<()> {
        let draining = Draining::detached()?;
        let (near, mut far) = std::os::unix::net::UnixStream::pair()?;
        assert_eq!(draining.wait_for(&near, Some(Duration::from_millis(1)))?, Wake::Deadline);
        draining.begin();
        assert_eq!(draining.wait_for(&near, None)?, Wake::Draining);
        far.write_all(b"x")?;
        assert_eq!(draining.wait_for(&near, None)?, Wake::Readable);
        Ok(())
    }

    #[test]
    fn a_listener_that_was_shut_down_ends_with_draining() -> io::Result<()> {
        let draining = Draining::detached()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // SAFETY: shutdown takes two numbers and touches no memory of ours.
        assert_eq!(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RD) }, 0);
        let mut incoming = draining.incoming(&listener)?;
        assert!(incoming.next().is_some_and(|one| one.is_err()), "an error while nobody drains");
        draining.begin();
        assert!(incoming.next().is_none());
        Ok(())
    }

    #[test]
    fn nobody_is_left_in_the_queue() -> io::Result<()> {
        let draining = Draining::detached()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut queued = (0..5).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
        draining.begin();
        for connection in draining.incoming(&listener)? {
            connection?.write_all(b"answered")?;
        }
        for client in &mut queued {
            client.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut answer = String::new();
            client.read_to_string(&mut answer)?;
            assert_eq!(answer, "answered");
        }
        Ok(())
    }
}
