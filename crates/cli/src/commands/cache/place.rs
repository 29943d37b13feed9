//! Which cache a command is about: that of this machine, a directory, or a bucket.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use df_cache::s3::S3Store;
use df_cache::store::{Store, StoredRelease};
use df_core::{AppName, Release};

use crate::bucket::{self, failure};
use crate::config::Remote;
use crate::event::Placed;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::store::{self, Shelf};

/// The cache that a command is about.
pub struct Place {
    /// What it is called: `cache`, or its address.
    pub name: String,
    held: Held,
    /// Requests that were told already.
    told: AtomicU64,
}

enum Held {
    Here(Shelf),
    Directory(Shelf),
    Bucket(S3Store),
}

impl Place {
    /// Finds the cache: that of `--address`, else the one of this machine.
    ///
    /// # Errors
    /// The address is none of a cache, or the cache cannot be opened.
    pub fn of(session: &Session) -> Result<Self, Failure> {
        match session.call.globals.address.as_slice() {
            [] => Self::here(session),
            [address] => Self::at(session, address),
            _ => Err(refused("one cache at a time".into())),
        }
    }

    /// Opens the cache of this machine.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn here(session: &Session) -> Result<Self, Failure> {
        Ok(Self { name: "cache".into(), held: Held::Here(Shelf::open(session)?), told: AtomicU64::new(0) })
    }

    /// Finds the cache at an address.
    ///
    /// # Errors
    /// As [`Place::of`].
    pub fn at(session: &Session, address: &str) -> Result<Self, Failure> {
        Self::remote(session, &Remote::parse(address).map_err(refused)?, false)
    }

    /// Opens a cache elsewhere; `is_alone`: nobody else writes there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn remote(session: &Session, remote: &Remote, is_alone: bool) -> Result<Self, Failure> {
        let held = match remote {
            Remote::Directory(path) => Held::Directory(Shelf::rooted(&session.call.here.join(path))?),
            Remote::Bucket(address) => Held::Bucket(bucket::open(session, address, is_alone)?),
        };
        Ok(Self { name: remote.to_string(), held, told: AtomicU64::new(0) })
    }

    /// Returns the bucket, where it is one.
    pub fn bucket(&self) -> Option<&S3Store> {
        match &self.held {
            Held::Bucket(store) => Some(store),
            Held::Here(_) | Held::Directory(_) => None,
        }
    }

    /// Returns what keeps its bytes.
    pub fn store(&self) -> &dyn Store {
        match &self.held {
            Held::Here(shelf) | Held::Directory(shelf) => shelf.store(),
            Held::Bucket(store) => store,
        }
    }

    /// Returns whether it is not the cache of this machine.
    pub fn is_elsewhere(&self) -> bool {
        !matches!(self.held, Held::Here(_))
    }

    /// Returns the releases of an application, the newest last.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn releases(&self, app: &AppName) -> Result<Vec<StoredRelease>, Failure> {
        let mut releases = self.store().releases().map_err(|error| self.unread(&error))?;
        releases.retain(|stored| stored.release.app == *app);
        Ok(releases)
    }

    /// Finds the version that a word names.
    ///
    /// # Errors
    /// There is none, or several, or the cache cannot be read.
    pub fn version(&self, app: &AppName, word: &str) -> Result<Release, Failure> {
        store::version_of(&self.releases(app)?, app, word)
    }

    /// Returns where it is, for people.
    pub fn whereabouts(&self) -> String {
        match &self.held {
            Held::Here(shelf) | Held::Directory(shelf) => shelf.store().root().display().to_string(),
            Held::Bucket(_) => self.name.clone(),
        }
    }

    /// Returns what was put or found here, to be told, with the requests since the last time.
    pub fn placed(&self, bytes: u64, objects: u64, why: impl Into<String>) -> Placed {
        let requests = self.requests();
        let requests = requests - self.told.swap(requests, Ordering::Relaxed);
        Placed { place: self.name.clone(), bytes, objects, requests, why: why.into(), ..Placed::default() }
    }

    /// Returns a command on this cache.
    pub fn command(&self, word: &str) -> String {
        failure::command(word, &self.name)
    }

    /// Returns the failure of reading it.
    pub fn unread(&self, error: &(dyn Error + 'static)) -> Failure {
        failure::unread(&self.name, error)
    }

    /// Returns the failure of taking something out: where it is nothing else, what it holds is damaged.
    pub fn unread_damaged(&self, error: &(dyn Error + 'static)) -> Failure {
        let failure = self.unread(error);
        let verify = Some(self.command("verify"));
        if failure.next == verify { failure.next(self.command("repair")) } else { failure }
    }

    /// Returns the failure of changing it.
    pub fn unwritten(&self, error: &(dyn Error + 'static)) -> Failure {
        failure::unwritten(&self.name, error)
    }

    fn requests(&self) -> u64 {
        self.bucket().map_or(0, |bucket| {
            let requests = bucket.objects().requests();
            requests.get + requests.put + requests.list + requests.delete
        })
    }
}

fn refused(message: String) -> Failure {
    Failure::new(Exit::Usage, "cache", message).next("df cache status --address s3://BUCKET")
}
