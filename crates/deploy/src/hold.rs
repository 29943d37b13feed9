//! What has to outlive the supervisor is held in a second place: the sockets where clients come, and the processes.
//!
//! Programs hold their own copies of their listeners, so they serve on when the supervisor is killed. But a program that ends meanwhile would take its listener with it, one that
//! had ended already has none, and the kernel does not let everybody reach into a program that runs as somebody else. So every descriptor lies at a [`Place`] too: a process that
//! does nothing else ([`holder`], `df-node hold`), or systemd's descriptor store. The next supervisor gets them from there, and by the same way from its own former self when it
//! replaces itself by exec.
//!
//! [`Holding`] is the supervisor's list of them. The order at each change: first it is written down, then it is held, then somebody else gets it. So whoever comes next finds
//! at most a record without its descriptor, which is known from after every crash, or a descriptor that no record knows, which is closed.

pub mod holder;
mod keeper;
mod message;
mod name;
mod revival;
mod socket;
mod systemd;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use df_core::AppName;

pub use keeper::{Held, Keeper};
pub use name::{Name, What};
pub use systemd::{passed, store};

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

/// What a supervisor holds of all its applications, here and at another place.
pub struct Holding(Mutex<Inner>);

struct Inner {
    held: Held,
    place: Option<Box<dyn Place>>,
}

impl Holding {
    /// Begins with what was held before.
    pub fn new(held: Held) -> Self {
        Self(Mutex::new(Inner { held, place: None }))
    }

    /// Returns what is held of an application, as descriptors of the caller's own.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn of(&self, app: &AppName) -> io::Result<BTreeMap<What, OwnedFd>> {
        let inner = self.lock();
        let of_app = inner.held.iter().filter(|(name, _)| name.app == *app);
        of_app.map(|(name, descriptor)| Ok((name.what, descriptor.try_clone()?))).collect()
    }

    /// Returns of which applications something is held.
    pub fn apps(&self) -> Vec<AppName> {
        let mut apps: Vec<AppName> = self.lock().held.keys().map(|name| name.app.clone()).collect();
        apps.dedup();
        apps
    }

    /// Holds this of an application, and nothing else of it any more.
    pub fn keep(&self, app: &AppName, wanted: BTreeMap<What, OwnedFd>) {
        let mut inner = self.lock();
        let over: Vec<Name> =
            inner.held.keys().filter(|name| name.app == *app && !wanted.contains_key(&name.what)).cloned().collect();
        for name in over {
            inner.held.remove(&name);
            inner.tell(|place| place.release(&name));
        }
        for (what, descriptor) in wanted {
            let name = Name { app: app.clone(), what };
            if !inner.held.contains_key(&name) {
                inner.tell(|place| place.hold(&name, descriptor.as_fd()));
                inner.held.insert(name, descriptor);
            }
        }
    }

    /// Gives everything to a place that holds these already, and from now on each change.
    ///
    /// # Errors
    /// The place is gone; nothing is lost.
    pub fn enter_place(&self, mut place: Box<dyn Place>, theirs: Vec<Name>) -> io::Result<()> {
        let mut inner = self.lock();
        for (name, descriptor) in inner.held.iter().filter(|(name, _)| !theirs.contains(name)) {
            place.hold(name, descriptor.as_fd())?;
        }
        for name in theirs.iter().filter(|name| !inner.held.contains_key(name)) {
            place.release(name)?;
        }
        inner.place = Some(place);
        Ok(())
    }

    /// Returns whether another place holds everything too, as far as is known.
    pub fn has_place(&self) -> bool {
        self.lock().place.is_some()
    }

    /// Tells no other place any more.
    pub fn leave_place(&self) {
        self.lock().place = None;
    }

    /// Returns everything that is held, as descriptors of the caller's own.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn all(&self) -> io::Result<Held> {
        self.lock().held.iter().map(|(name, descriptor)| Ok((name.clone(), descriptor.try_clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

impl Inner {
    /// Tells the place of a change. One that fails is left: it is given everything when there is one again.
    fn tell(&mut self, change: impl FnOnce(&mut dyn Place) -> io::Result<()>) {
        let told = self.place.as_mut().map_or(Ok(()), |place| change(&mut **place));
        if let Err(error) = told {
            eprintln!("hold: {error}");
            self.place = None;
        }
    }
}

#[cfg(test)]
mod tests;
