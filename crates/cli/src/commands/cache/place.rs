//! Which cache a command is about: that of this machine, a directory, a bucket, or what a node holds.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use df_cache::disk::Workspace;
use df_cache::s3::S3Store;
use df_cache::store::{Store, StoredRelease};
use df_core::{AppName, Release};
use df_fleet::{Claim, Node, NodeError, NodeStore, Reached, survey};

use crate::across;
use crate::bucket::{self, failure};
use crate::config::Remote;
use crate::event::Placed;
use crate::exit::{Exit, of_nodes};
use crate::failure::{self as failing, Failure};
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
    /// What comes from a node lies in a workspace of the cache here until it is used, and goes with it.
    Node(Box<NodeStore>, #[allow(dead_code, reason = "it is there to be dropped")] Arc<Workspace>),
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

    /// As [`Place::of`], for who only looks: a directory that is not there is not made.
    ///
    /// # Errors
    /// As [`Place::of`], or there is no such directory.
    pub fn existing(session: &Session) -> Result<Self, Failure> {
        if let [address] = session.call.globals.address.as_slice()
            && let Ok(Remote::Directory(path)) = Remote::parse(address)
            && !session.call.here.join(&path).is_dir()
        {
            let message = format!("there is no cache at {address}");
            return Err(Failure::new(Exit::Usage, "cache", message).next(format!("df cache persist --address {address}")));
        }
        Self::of(session)
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

    /// Reaches a node, to use what it holds; with a claim its lock is taken.
    ///
    /// # Errors
    /// It cannot be reached, or is too old to hand out what it holds.
    pub fn node(session: &Session, node: &Node, claim: Option<&Claim>) -> Result<Self, Failure> {
        Self::node_in(session, node, claim, workspace(session)?)
    }

    /// As [`Place::node`], with a workspace that was made before: none can be made while the cache is being mended.
    ///
    /// # Errors
    /// As [`Place::node`].
    pub fn node_in(session: &Session, node: &Node, claim: Option<&Claim>, workspace: Arc<Workspace>) -> Result<Self, Failure> {
        let options = session.options()?;
        let label = node.label();
        let reached = session.call.block_on(async {
            tokio::select! {
                reached = survey::one(node, &options, claim) => Ok(reached),
                () = session.call.interrupt.pressed() => Err(across::interrupted("cache")),
            }
        })?;
        let reached = reached.map_err(|error| unreached(&label, &error))?;
        Self::reached(session, label, reached, workspace)
    }

    /// Uses what a node holds that was reached.
    ///
    /// # Errors
    /// It is too old to hand out what it holds, or the workspace cannot be written in.
    fn reached(session: &Session, name: String, reached: Reached, workspace: Arc<Workspace>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::here("cache", &error).next("df doctor");
        let (runtime, claim) = (session.call.runtime.handle().clone(), across::claim(session, "cache"));
        let store = NodeStore::new(runtime, reached, session.app().clone(), claim, workspace.path()).map_err(failed)?;
        if !store.hands_out() {
            let message = format!("{name}: its df-node is older and hands out nothing; nothing was changed");
            return Err(Failure::new(Exit::Failed, "cache", message).next(format!("df doctor --address {name}")));
        }
        Ok(Self { name, held: Held::Node(Box::new(store), workspace), told: AtomicU64::new(0) })
    }

    /// Returns the node, where it is one.
    pub fn as_node(&self) -> Option<&NodeStore> {
        if let Held::Node(store, _) = &self.held { Some(store) } else { None }
    }

    /// Returns the bucket, where it is one.
    pub fn bucket(&self) -> Option<&S3Store> {
        match &self.held {
            Held::Bucket(store) => Some(store),
            Held::Here(_) | Held::Directory(_) | Held::Node(..) => None,
        }
    }

    /// Returns what keeps its bytes.
    pub fn store(&self) -> &dyn Store {
        match &self.held {
            Held::Here(shelf) | Held::Directory(shelf) => shelf.store(),
            Held::Bucket(store) => store,
            Held::Node(store, _) => &**store,
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
        store::version_of(&self.releases(app)?, app, word, &self.name)
    }

    /// Returns where it is, for people.
    pub fn whereabouts(&self) -> String {
        match &self.held {
            Held::Here(shelf) | Held::Directory(shelf) => shelf.store().root().display().to_string(),
            Held::Bucket(_) | Held::Node(..) => self.name.clone(),
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
        let requests = self.bucket().map(|bucket| bucket.objects().requests()).unwrap_or_default();
        requests.get + requests.put + requests.list + requests.delete
    }
}

/// Makes a directory in the cache of this machine, on a file system that has room for images.
///
/// # Errors
/// The cache cannot be opened.
pub fn workspace(session: &Session) -> Result<Arc<Workspace>, Failure> {
    let workspace = Shelf::open(session)?.store().workspace();
    workspace.map(Arc::new).map_err(|error| Failure::here("cache", &error).next("df doctor"))
}

/// Returns the failure of a node that was not reached.
fn unreached(label: &str, error: &NodeError) -> Failure {
    let exit = of_nodes(&[failing::end_of(error)]);
    Failure::new(exit, "cache", format!("{label}: {}; nothing was changed", failing::chain(error)))
        .next(format!("df doctor --address {label}"))
}

fn refused(message: String) -> Failure {
    Failure::new(Exit::Usage, "cache", message).next("df cache status --address s3://BUCKET")
}
