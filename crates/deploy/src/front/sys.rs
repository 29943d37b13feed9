//! The listening descriptors that a front was given. The unsafe part of the front.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::FdFlags;

use super::FIRST_LISTENER;

/// The listening descriptors of this process, for as long as it lives.
pub struct Listeners {
    n_listeners: usize,
}

impl Listeners {
    /// Takes those that the supervisor passed to this very process; nothing if it passed none. Whoever is started gets none of them.
    pub fn take() -> io::Result<Option<Self>> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let is_meant = number("LISTEN_PID") == Some(std::process::id());
        let n_listeners = number("LISTEN_FDS").filter(|n| is_meant && (1..=64).contains(n));
        let Some(n_listeners) = n_listeners.and_then(|n| usize::try_from(n).ok()) else { return Ok(None) };
        let listeners = Self { n_listeners };
        listeners.mark(FdFlags::CLOEXEC)?;
        Ok(Some(listeners))
    }

    /// Lets what is started by `start` have them. Nobody else may start anything meanwhile: a front has one thread.
    pub fn with<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.mark(FdFlags::empty())?;
        let started = start();
        self.mark(FdFlags::CLOEXEC)?;
        started
    }

    fn mark(&self, flags: FdFlags) -> io::Result<()> {
        (FIRST_LISTENER..FIRST_LISTENER + self.n_listeners).try_for_each(|number| {
            let number = RawFd::try_from(number).expect("at most 67");
            // SAFETY: only flags of the descriptor are looked at, so it may be any; that it is open, and nobody's but ours, is what the supervisor's variables say, and
            // nothing here closes it.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            Ok(rustix::io::fcntl_setfd(descriptor, flags)?)
        })
    }
}
