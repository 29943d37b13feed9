//! What no head can ever name: listed after a fence, and deleted. Only here anything is listed.

use std::collections::HashSet;

use df_core::{Digest, ImageId, Timestamp};

use super::super::S3Store;
use super::super::failure::BucketError;
use super::super::format::head::{Head, TXIDS};
use super::super::format::name::{Name, Owner, Space, owner};
use super::super::format::roots::Roots;
use super::super::objects::{Key, Listed, ObjectError};
use super::super::swap::{Change, Plan, View};
use crate::store::PutError;

/// What a head leads to; documents have no space.
type Named = HashSet<(Option<Space>, Name)>;

impl S3Store {
    /// Deletes what sessions below a fence left and the head does not name, and what was made until some time of images that are not here; returns how many objects.
    pub(super) fn sweep_orphans(&self, derived_until: Timestamp) -> Result<u64, PutError> {
        self.commit(|view, _| {
            if view.head.fence + 1 >= view.head.sequence {
                return Ok::<_, PutError>(Plan::Leave(()));
            }
            Ok(Plan::Commit(Box::new(Change { fence: Some(view.head.sequence), ..Change::default() }), ()))
        })?;
        let (view, named) =
            self.with_view(|view| Ok::<_, BucketError>((view.clone(), self.named(view)?)))?.ok_or(BucketError::HeadLost)?;
        if view.head.sequence > 1 {
            self.complete_identity(view.head.cache)?;
        }
        let mut n = 0;
        for prefix in ["p/", "i/", "t/", "a/", "log/"] {
            let orphans = self.list(prefix)?.into_iter();
            let orphans = orphans.filter(|key| owner(key).is_some_and(|owner| is_orphan(&owner, &view.head, &named)));
            n += self.delete(orphans.collect())?;
        }
        for prefix in ["d/", "w/"] {
            // Nodes may be fetching what is younger: it is made of what an operator has, which the cache need not hold at all.
            let is_old = |listed: &Listed| listed.written.is_none_or(|written| written <= derived_until);
            let gone = self.objects.list(prefix).map_err(BucketError::from)?.into_iter();
            let gone = gone.filter(|listed| is_old(listed) && !is_of_known_images(&listed.key, &view.roots));
            n += self.delete(gone.map(|listed| listed.key).collect())?;
        }
        // Whoever asked whether conditions hold did so before there was a head.
        n += self.delete(self.list("probe/")?)?;
        Ok(n + self.abandon_uploads()?)
    }

    /// Ends uploads in parts that nobody went on with for the whole grace.
    fn abandon_uploads(&self) -> Result<u64, BucketError> {
        match self.objects.abandon(self.options.now.minus(self.options.grace)) {
            // The right to list them is another one than all others; without it they wait for a rule of the bucket.
            Err(ObjectError::Denied { .. }) => Ok(0),
            result => Ok(result?),
        }
    }

    /// Returns the names of all objects that the head leads to.
    fn named(&self, view: &View) -> Result<Named, BucketError> {
        let head = &view.head;
        let mut named: Named = head.segments.iter().map(|reference| (Some(Space::Segment), reference.name)).collect();
        named.extend(head.roots.iter().chain(&head.condemned).map(|reference| (Some(Space::Table), reference.name)));
        named.extend(self.index(view)?.packs().into_iter().map(|pack| (Some(Space::Pack), pack.name)));
        named.extend(self.condemned(head)?.0.into_iter().map(|(pack, _)| (Some(Space::Pack), pack.name)));
        let documents = view.roots.releases.iter().flat_map(|row| row.documents.values());
        named.extend(documents.map(|row| (None, row.object.name)));
        Ok(named)
    }

    pub(in super::super) fn list(&self, prefix: &str) -> Result<Vec<Key>, BucketError> {
        Ok(self.objects.list(prefix)?.into_iter().map(|listed| listed.key).collect())
    }

    /// Deletes objects; returns how many.
    pub(in super::super) fn delete(&self, keys: Vec<Key>) -> Result<u64, BucketError> {
        if !keys.is_empty() {
            self.objects.delete(&keys)?;
        }
        Ok(keys.len() as u64)
    }
}

/// Returns whether no head can ever name an object.
fn is_orphan(owner: &Owner, head: &Head, named: &Named) -> bool {
    match owner {
        Owner::Named(space, name) => name.session.began <= head.fence && !named.contains(&(Some(*space), *name)),
        Owner::Documents(_, name) => name.session.began <= head.fence && !named.contains(&(None, *name)),
        // Whoever lost a reply looks through the records; those that the head itself remembers are asked last.
        Owner::Log(sequence, _) => sequence.saturating_add(4 * TXIDS as u64) < head.sequence && *sequence <= head.fence,
    }
}

/// Returns whether a derived object is of images that the cache has; what is no derived object of ours stays.
fn is_of_known_images(key: &Key, roots: &Roots) -> bool {
    let mut digests = key.as_str().split('/').skip(1).map(str::parse::<Digest>);
    digests.all(|digest| digest.map_or(true, |digest| roots.images.contains_key(&ImageId(digest))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::format::head::tests::example;
    use crate::s3::format::name::Session;

    #[test]
    fn only_what_is_below_the_fence_and_not_named_is_an_orphan() {
        let head = Head { sequence: 10, fence: 5, ..example() };
        let name = |began| Name { session: Session { began, random: [1; 16] }, n: 0 };
        let named: Named = [(Some(Space::Pack), name(3))].into();
        let pack = |began| is_orphan(&Owner::Named(Space::Pack, name(began)), &head, &named);
        assert_eq!([2, 3, 4, 5, 6, 99].map(pack), [true, false, true, true, false, false]);
        assert!(is_orphan(&Owner::Named(Space::Table, name(3)), &head, &named), "another space is another name");
        let late = Head { sequence: 1_000, fence: 900, ..example() };
        let record = |sequence| is_orphan(&Owner::Log(sequence, [0; 16]), &late, &named);
        assert_eq!([1, 743, 744, 900, 1_001].map(record), [true, true, false, false, false]);
        let stuck = Head { sequence: 1_000, fence: 9, ..example() };
        assert!(!is_orphan(&Owner::Log(10, [0; 16]), &stuck, &named));
    }
}
