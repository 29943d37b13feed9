//! What nothing names any more goes: condemned by a swap of the head, deleted after the grace; then what no commit ever named.
//!
//! Packs are condemned and sessions fenced in one swap, so that no writer that takes a condemned pack for its own can commit. Orphans are listed after the fence: what a session at or
//! below it left and the head does not name, no commit can ever name. A collection that dies is run again: what it had condemned stays condemned, what it had not deleted is deleted.

mod mark;
mod orphans;
mod repack;

use std::collections::{HashMap, HashSet};

use df_core::{Digest, ImageId, Manifest, Timestamp};

use super::S3Store;
use super::format::condemned::Condemned;
use super::format::name::{Name, Space};
use super::format::roots::Roots;
use super::format::segment::Segment;
use super::index::Index;
use super::swap::{Change, Plan, View};
use crate::gc::{self, Collected};
use crate::store::{PutError, ReadError};

pub(super) use repack::by_pack;

impl S3Store {
    /// Removes what a plan says, and what nothing names.
    pub(super) fn sweep(&self, plan: &gc::Plan) -> Result<Collected, PutError> {
        let before = self.objects.requests();
        if self.view()?.is_none() {
            return Ok(Collected::default());
        }
        let mut collected = self.commit(|view, _| {
            let (change, collected) = self.condemn(view, plan)?;
            Ok::<_, PutError>(match change {
                Some(change) => Plan::Commit(Box::new(change), collected),
                None => Plan::Leave(collected),
            })
        })?;
        collected.bytes_repacked = self.repack()?;
        collected.n_objects = self.delete_condemned()? + self.sweep_orphans(self.options.now.minus(self.options.grace))?;
        let after = self.objects.requests();
        let all = |r: super::objects::Requests| r.get + r.put + r.list + r.delete;
        collected.n_requests = all(after).saturating_sub(all(before));
        Ok(collected)
    }

    /// Empties the cache, and deletes at once all that was in it.
    pub(super) fn empty(&self) -> Result<(), PutError> {
        if self.view()?.is_none() {
            return Ok(());
        }
        // Not what others put after it was done.
        self.commit_once(|view, _| {
            let change = Change {
                roots: Some(Roots::default()),
                index: Some(vec![]),
                condemned: Some(Condemned::default()),
                fence: Some(view.head.sequence),
                ..Change::default()
            };
            Ok::<_, PutError>(Plan::Commit(Box::new(change), ()))
        })?;
        self.sweep_orphans(Timestamp(i64::MAX))?;
        Ok(())
    }

    /// Returns every blob that images need, manifests and prefixes included.
    fn mark(&self, view: &View, roots: &Roots, index: &Index) -> Result<HashSet<Digest>, PutError> {
        let mut images: Vec<(ImageId, Option<Manifest>)> = vec![];
        for (&image, row) in &roots.images {
            match self.manifest_in(view, image) {
                Ok(manifest) => images.push((image, Some(manifest))),
                // A repair said so already; of others nothing is guessed.
                Err(ReadError::Damaged { .. }) if !row.whole => images.push((image, None)),
                Err(ReadError::Store(error)) => return Err(PutError::Store(error)),
                Err(error) => return Err(PutError::Store(error.into())),
            }
        }
        let prefixes: Vec<(Digest, Digest)> =
            index.places().filter_map(|place| place.slot.prefix().map(|(prefix, _)| (place.slot.digest, prefix))).collect();
        Ok(mark::live(&images, &prefixes))
    }

    /// Says what of a view goes by a plan; no change when nothing does.
    fn condemn(&self, view: &View, plan: &gc::Plan) -> Result<(Option<Change>, Collected), PutError> {
        let (releases, images) = plan.still_valid(&view.roots.contents());
        let mut roots = (*view.roots).clone();
        roots.releases.retain(|row| !releases.contains(&row.stored));
        let claimed = roots.contents();
        let named: HashSet<ImageId> = roots.releases.iter().map(|row| row.stored.release.image).collect();
        let is_named = |image: &ImageId| claimed.is_claimed(*image) || named.contains(image);
        roots.images.retain(|image, row| !images.contains(image) && (row.whole || is_named(image)));
        let index = self.index(view)?;
        let live = self.mark(view, &roots, &index)?;
        let dead: HashMap<Digest, u64> = index
            .places()
            .map(|place| place.slot)
            .filter(|slot| !live.contains(&slot.digest))
            .map(|slot| (slot.digest, slot.len))
            .collect();
        let counted = dead.iter().filter(|(digest, _)| !view.roots.images.contains_key(&ImageId(**digest)));
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
            let rows = by_pack(&index).into_iter().map(|(pack, mut slots)| {
                slots.retain(|slot| live.contains(&slot.digest));
                (pack, slots)
            });
            let (kept, gone): (Vec<_>, Vec<_>) = rows.partition(|(_, slots)| !slots.is_empty());
            // By name: an index that was made again may know a pack by name only.
            let stays: HashSet<Name> = kept.iter().map(|(pack, _)| pack.name).collect();
            let gone = gone.into_iter().map(|(pack, _)| pack).filter(|pack| !stays.contains(&pack.name));
            change.condemned = Some(self.condemned(&view.head)?.with(gone, self.options.now));
            change.index = Some(vec![Segment::new(kept)]);
        }
        change.roots = Some(roots);
        Ok((Some(change), collected))
    }

    /// Deletes the packs that are condemned for longer than the grace, then forgets them; returns how many.
    fn delete_condemned(&self) -> Result<u64, PutError> {
        let Some(condemned) = self.with_view(|view| self.condemned(&view.head))? else { return Ok(0) };
        let until = self.options.now.minus(self.options.grace);
        let old: Vec<_> = condemned.0.into_iter().filter(|(_, since)| *since <= until).map(|(pack, _)| pack).collect();
        if old.is_empty() {
            return Ok(0);
        }
        let n = self.delete(old.iter().map(|pack| pack.name.key(Space::Pack)).collect())?;
        self.commit(|view, _| {
            let mut condemned = self.condemned(&view.head)?;
            condemned.0.retain(|(pack, _)| !old.contains(pack));
            Ok::<_, PutError>(Plan::Commit(Box::new(Change { condemned: Some(condemned), ..Change::default() }), n))
        })
    }
}
