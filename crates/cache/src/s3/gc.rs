//! What nothing names any more goes: condemned by a swap of the head, deleted after the grace; then what no commit ever named.
//!
//! Packs are condemned and sessions fenced in one swap, so that no writer that takes a condemned pack for its own can commit. Orphans are listed after the fence: what a session at or
//! below it left and the head does not name, no commit can ever name.

use std::collections::{HashMap, HashSet};

use df_core::{Digest, ImageId};

use super::S3Store;
use super::failure::BucketError;
use super::format::head::{Head, TXIDS};
use super::format::name::{Name, Owner, Space, owner};
use super::format::roots::Roots;
use super::format::segment::Segment;
use super::index::Index;
use super::objects::Key;
use super::swap::{Change, Plan, View};
use crate::gc::{self, Collected};
use crate::store::{PutError, ReadError};

/// Deleted at once, at most: what a server takes.
const KEYS: usize = 1_000;

impl S3Store {
    /// Removes what a plan says, and what nothing names.
    pub(super) fn sweep(&self, plan: &gc::Plan) -> Result<Collected, PutError> {
        if self.view()?.is_none() {
            return Ok(Collected::default());
        }
        let collected = self.commit(|view, _| {
            let (change, collected) = self.condemn(view, plan)?;
            Ok::<_, PutError>(match change {
                Some(change) => Plan::Commit(Box::new(change), collected),
                None => Plan::Leave(collected),
            })
        })?;
        self.delete_condemned()?;
        self.sweep_orphans()?;
        Ok(collected)
    }

    /// Empties the cache, and deletes at once all that was in it.
    pub(super) fn empty(&self) -> Result<(), PutError> {
        if self.view()?.is_none() {
            return Ok(());
        }
        self.commit(|view, _| {
            let condemned = Some(super::format::condemned::Condemned::default());
            let change = Change {
                roots: Some(Roots::default()),
                index: Some(vec![]),
                condemned,
                fence: Some(view.head.sequence),
                ..Change::default()
            };
            Ok::<_, PutError>(Plan::Commit(Box::new(change), ()))
        })?;
        self.sweep_orphans()?;
        for prefix in ["d/", "w/"] {
            self.delete(self.list(prefix)?)?;
        }
        Ok(())
    }

    /// Returns every blob that images need, manifests and prefixes included.
    pub(super) fn mark(&self, view: &View, roots: &Roots, index: &Index) -> Result<HashSet<Digest>, ReadError> {
        let mut live = HashSet::new();
        for (&image, row) in &roots.images {
            live.insert(image.0);
            match self.manifest_in(view, image) {
                Ok(manifest) => live.extend(manifest.blobs().into_iter().map(|(digest, _)| digest)),
                // A repair said so already; what cannot be named cannot be kept.
                Err(ReadError::Damaged { .. }) if !row.whole => {}
                Err(error) => return Err(error),
            }
        }
        let prefixes: HashMap<Digest, Vec<Digest>> = index.places().fold(HashMap::new(), |mut all, place| {
            if let Some((prefix, _)) = place.slot.prefix() {
                all.entry(place.slot.digest).or_insert_with(Vec::new).push(prefix);
            }
            all
        });
        let mut open: Vec<Digest> = live.iter().copied().collect();
        while let Some(digest) = open.pop() {
            for &prefix in prefixes.get(&digest).into_iter().flatten() {
                if live.insert(prefix) {
                    open.push(prefix);
                }
            }
        }
        Ok(live)
    }

    /// Says what of a view goes by a plan; no change when nothing does.
    fn condemn(&self, view: &View, plan: &gc::Plan) -> Result<(Option<Change>, Collected), PutError> {
        let (releases, images) = plan.still_valid(&view.roots.contents());
        let mut roots = (*view.roots).clone();
        roots.releases.retain(|row| !releases.contains(&row.stored));
        let named: HashSet<ImageId> =
            roots.contents().pins.into_iter().chain(roots.releases.iter().map(|row| row.stored.release.image)).collect();
        roots.images.retain(|image, row| !images.contains(image) && (row.whole || named.contains(image)));
        let index = self.index(view)?;
        let live = self.mark(view, &roots, &index).map_err(into_put)?;
        let manifests: HashSet<Digest> = view.roots.images.keys().map(|image| image.0).collect();
        let dead: HashMap<Digest, u64> = index
            .places()
            .map(|place| place.slot)
            .filter(|slot| !live.contains(&slot.digest))
            .map(|slot| (slot.digest, slot.len))
            .collect();
        let counted = dead.iter().filter(|(digest, _)| !manifests.contains(digest));
        let mut collected = counted.fold(Collected::default(), |sum, (_, len)| Collected {
            n_blobs: sum.n_blobs + 1,
            bytes: sum.bytes + len,
            ..sum
        });
        collected.n_releases = releases.len() as u64;
        collected.n_images = images.len() as u64;
        if roots == *view.roots && dead.is_empty() {
            return Ok((None, collected));
        }
        let mut change = Change { fence: Some(view.head.sequence), ..Change::default() };
        if !dead.is_empty() {
            let rows = index.segments().iter().flat_map(|segment| segment.by_pack());
            let kept: Vec<_> = rows
                .map(|(pack, slots)| (pack, slots.into_iter().filter(|slot| live.contains(&slot.digest)).collect::<Vec<_>>()))
                .filter(|(_, slots)| !slots.is_empty())
                .collect();
            let stays: HashSet<_> = kept.iter().map(|(pack, _)| *pack).collect();
            let gone = index.packs().into_iter().filter(|pack| !stays.contains(pack));
            change.condemned = Some(self.condemned(&view.head)?.with(gone, self.options.now));
            change.index = Some(vec![Segment::new(kept)]);
        }
        change.roots = Some(roots);
        Ok((Some(change), collected))
    }

    /// Deletes the packs that are condemned for longer than the grace, then forgets them.
    pub(super) fn delete_condemned(&self) -> Result<(), PutError> {
        let Some(view) = self.view()? else { return Ok(()) };
        let until = self.options.now.minus(self.options.grace);
        let old: Vec<_> =
            self.condemned(&view.head)?.0.into_iter().filter(|(_, since)| *since <= until).map(|(pack, _)| pack).collect();
        if old.is_empty() {
            return Ok(());
        }
        self.delete(old.iter().map(|pack| pack.name.key(Space::Pack)).collect())?;
        self.commit(|view, _| {
            let mut condemned = self.condemned(&view.head)?;
            condemned.0.retain(|(pack, _)| !old.contains(pack));
            Ok::<_, PutError>(Plan::Commit(Box::new(Change { condemned: Some(condemned), ..Change::default() }), ()))
        })
    }

    /// Deletes what sessions below a fence left and the head does not name.
    pub(super) fn sweep_orphans(&self) -> Result<(), PutError> {
        self.commit(|view, _| {
            if view.head.fence + 1 >= view.head.sequence {
                return Ok::<_, PutError>(Plan::Leave(()));
            }
            Ok(Plan::Commit(Box::new(Change { fence: Some(view.head.sequence), ..Change::default() }), ()))
        })?;
        let view = self.view()?.ok_or(BucketError::HeadLost)?;
        let named = self.named(&view)?;
        for prefix in ["p/", "i/", "t/", "a/", "log/"] {
            let orphans = self
                .list(prefix)?
                .into_iter()
                .filter(|key| owner(key).is_some_and(|owner| is_orphan(&owner, &view.head, &named)));
            self.delete(orphans.collect())?;
        }
        Ok(())
    }

    /// Returns the names of all objects that the head leads to.
    fn named(&self, view: &View) -> Result<HashSet<(Option<Space>, Name)>, BucketError> {
        let head = &view.head;
        let mut named: HashSet<(Option<Space>, Name)> =
            head.segments.iter().map(|reference| (Some(Space::Segment), reference.name)).collect();
        named.extend(head.roots.iter().chain(&head.condemned).map(|reference| (Some(Space::Table), reference.name)));
        named.extend(self.index(view)?.packs().into_iter().map(|pack| (Some(Space::Pack), pack.name)));
        named.extend(self.condemned(head)?.0.into_iter().map(|(pack, _)| (Some(Space::Pack), pack.name)));
        let documents = view.roots.releases.iter().flat_map(|row| row.documents.values());
        named.extend(documents.map(|row| (None, row.object.name)));
        Ok(named)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Key>, BucketError> {
        Ok(self.objects.list(prefix)?.into_iter().map(|listed| listed.key).collect())
    }

    fn delete(&self, keys: Vec<Key>) -> Result<(), BucketError> {
        keys.chunks(KEYS).try_for_each(|chunk| Ok(self.objects.delete(chunk)?))
    }
}

/// Returns whether no head can ever name an object.
fn is_orphan(owner: &Owner, head: &Head, named: &HashSet<(Option<Space>, Name)>) -> bool {
    match owner {
        Owner::Named(space, name) => name.session.began <= head.fence && !named.contains(&(Some(*space), *name)),
        Owner::Documents(_, name) => name.session.began <= head.fence && !named.contains(&(None, *name)),
        // Whoever lost a reply looks through the records; those that the head itself remembers are asked last.
        Owner::Log(sequence, _) => sequence.saturating_add(4 * TXIDS as u64) < head.sequence && *sequence <= head.fence,
    }
}

fn into_put(error: ReadError) -> PutError {
    match error {
        ReadError::Store(error) => PutError::Store(error),
        other => PutError::Store(other.into()),
    }
}
