//! Releases on their way into a cache elsewhere: what they lack there, what that costs, and the sending.

use std::collections::BTreeMap;

use df_cache::Document;
use df_cache::s3::{Item, S3Store};
use df_cache::store::{Added, Store};
use df_core::{Digest, Manifest, Release};

use super::counting::Counting;
use super::{Place, costs};
use crate::bucket::failure;
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leases;
use crate::render::units::count;
use crate::session::{Session, now};
use crate::store::Shelf;
use crate::trust;

/// Where releases come from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    name: &'a str,
    store: &'a dyn Store,
}

impl<'a> From<&'a Shelf> for Origin<'a> {
    fn from(here: &'a Shelf) -> Self {
        Self { name: "cache", store: here.store() }
    }
}

impl<'a> From<&'a Place> for Origin<'a> {
    fn from(place: &'a Place) -> Self {
        Self { name: &place.name, store: place.store() }
    }
}

/// Releases that go together.
pub struct Freight<'a> {
    from: Origin<'a>,
    place: &'a Place,
    releases: Vec<&'a Release>,
    manifests: Vec<Manifest>,
    /// What is put once more after them, so that it stays the newest.
    newest: Option<&'a Release>,
}

impl<'a> Freight<'a> {
    /// Reads what the releases consist of.
    ///
    /// # Errors
    /// Where they come from is damaged, or cannot be asked.
    pub fn of(from: impl Into<Origin<'a>>, place: &'a Place, releases: Vec<&'a Release>) -> Result<Self, Failure> {
        let from = from.into();
        let manifest =
            |release: &&Release| from.store.manifest(release.image).map_err(|error| failure::unread(from.name, &error));
        let manifests = releases.iter().map(manifest).collect::<Result<_, _>>()?;
        Ok(Self { from, place, releases, manifests, newest: None })
    }

    /// Has what was the newest there stay it.
    #[must_use]
    pub fn keeping(self, newest: Option<&'a Release>) -> Self {
        Self { newest, ..self }
    }

    /// Says for each release what would be put, and for a bucket what all of it costs.
    ///
    /// # Errors
    /// The place cannot be asked.
    pub fn plan(&self, session: &Session) -> Result<Exit, Failure> {
        let mut told: BTreeMap<Digest, u64> = BTreeMap::new();
        for (n, (release, manifest)) in self.releases.iter().zip(&self.manifests).enumerate() {
            let lacking = self.lacking(manifest)?;
            let fresh: Vec<_> = lacking.into_iter().filter(|(digest, len)| told.insert(*digest, *len).is_none()).collect();
            let new_bytes: u64 = fresh.iter().map(|(_, len)| len).sum();
            let mut requests = self.place.bucket().is_none().then_some(0);
            let mut reason = format!("{} not there, before compression", count(fresh.len(), "file"));
            // All go in one commit: the last one says what that costs.
            if let Some(bucket) = self.place.bucket().filter(|_| n + 1 == self.releases.len()) {
                let work = self.with_items(|items| bucket.requests_of_put(items));
                let work = costs::of_put(work.map_err(|error| self.place.unread(&error))?);
                let again = self.newest.map(|_| bucket.requests_of_release()).unwrap_or_default();
                let work = costs::and(work, again);
                requests = Some(costs::estimate(&work).requests);
                reason = format!("{reason}; in all {}", costs::words(&work));
            }
            let action = format!("put {} into {}", release.commit.short(), self.place.name);
            let event = Event::Planned { node: None, action, bytes: Some(new_bytes), requests, reason, changes: true };
            session.output().result(&event);
        }
        Ok(session.planned(!self.releases.is_empty()))
    }

    /// Sends them: to a bucket in one commit, into a directory one after the other.
    ///
    /// # Errors
    /// What arrived is not sent again.
    pub fn send(&self, session: &Session) -> Result<(), Failure> {
        let mut lacking: BTreeMap<Digest, u64> = BTreeMap::new();
        for manifest in &self.manifests {
            lacking.extend(self.lacking(manifest)?);
        }
        let (total, flag) = (lacking.values().sum(), session.call.interrupt.flag());
        let blobs: Vec<(Digest, u64)> = lacking.into_iter().collect();
        let reading = self.from.store.reading(&blobs).map_err(|error| failure::unread(self.from.name, &error))?;
        let source = Counting::new(&*reading, session.output().progress(), &self.place.name, total, flag);
        let sent = match self.place.bucket() {
            Some(bucket) => self.commit(session, bucket, &source.counting_arrivals()),
            None => self.put_each(session, &source),
        };
        sent.map_err(|failure| if session.call.interrupt.is_pressed() { interrupted(&failure) } else { failure })?;
        let put = self.newest.map_or(Ok(()), |newest| self.place.store().put_release(newest, now()));
        put.map_err(|error| self.place.unwritten(&error))
    }

    fn lacking(&self, manifest: &Manifest) -> Result<Vec<(Digest, u64)>, Failure> {
        self.place.store().lacking(manifest).map_err(|error| self.place.unread(&error))
    }

    fn put_each(&self, session: &Session, source: &Counting<'_>) -> Result<(), Failure> {
        for (release, manifest) in self.releases.iter().zip(&self.manifests) {
            let added = self.place.store().put(release, manifest, source, now());
            let added = added.map_err(|error| self.place.unwritten(&error))?;
            trust::carry(self.from.store, self.place.store(), release)?;
            self.stored(session, added, release, format!("release of {}", release.commit.short()));
        }
        Ok(())
    }

    fn commit(&self, session: &Session, bucket: &S3Store, source: &Counting<'_>) -> Result<(), Failure> {
        let leases = leases::remembered(session, &self.place.name);
        let added = self.with_items(|items| bucket.put_leased(items, &leases, source, now()));
        let added = added.map_err(|error| self.place.unwritten(&error))?;
        let Some(newest) = self.releases.last() else { return Ok(()) };
        let why = match self.releases.len() {
            1 => format!("release of {}", newest.commit.short()),
            n => format!("{n} releases in one commit, the newest {}", newest.commit.short()),
        };
        self.stored(session, added, newest, why);
        Ok(())
    }

    /// Returns what is kept beside each release. What is damaged is left out: it can be made again, or is asked for later.
    fn documents(&self) -> Vec<Vec<(Document, Vec<u8>)>> {
        let kept = |release: &&Release, document: Document| {
            let attached = self.from.store.attached(&release.app, release.id(), document);
            Some((document, attached.ok().flatten()?))
        };
        let all = |release| Document::ALL.iter().filter_map(|&document| kept(release, document)).collect();
        self.releases.iter().map(all).collect()
    }

    /// Does something with what goes in one commit.
    fn with_items<T>(&self, act: impl FnOnce(&[Item<'_>]) -> T) -> T {
        let documents = self.documents();
        let documents: Vec<Vec<(Document, &[u8])>> =
            documents.iter().map(|kept| kept.iter().map(|(document, bytes)| (*document, bytes.as_slice())).collect()).collect();
        let items: Vec<Item<'_>> = (self.releases.iter().zip(&self.manifests).zip(&documents))
            .map(|((release, manifest), documents)| Item { manifest, release: Some(release), documents })
            .collect();
        act(&items)
    }

    fn stored(&self, session: &Session, added: Added, release: &Release, why: String) {
        let placed = Placed { image: Some(release.image), ..self.place.placed(added.bytes, added.n_blobs, why) };
        session.output().result(&Event::Stored(placed));
    }
}

fn interrupted(failure: &Failure) -> Failure {
    Failure::new(Exit::Interrupted, "cache", failure.message.clone()).next("type it again: it goes on where it was")
}
