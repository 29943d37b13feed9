//! What goes: everything that nothing keeps. Deciding is pure; [`Store::collect`] acts, and looks again under its lock before it does.

use df_core::{ImageId, Timestamp};

use crate::roots::{self, Policy, Why};
use crate::store::{Contents, PutError, Store, StoredRelease};

/// What a collection will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Releases that go.
    pub releases: Vec<StoredRelease>,
    /// Images that go.
    pub images: Vec<ImageId>,
    /// Releases that stay, and why.
    pub kept: Vec<(StoredRelease, Why)>,
    /// Images that stay, and why.
    pub kept_images: Vec<(ImageId, Why)>,
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Releases that are gone.
    pub n_releases: u64,
    /// Images that are gone.
    pub n_images: u64,
    /// Blobs that are gone.
    pub n_blobs: u64,
    /// Bytes of the store that are free again.
    pub bytes: u64,
    /// Of a bucket: bytes that writing half-dead packs again freed or will.
    pub bytes_repacked: u64,
    /// Of a bucket: objects that were deleted.
    pub n_objects: u64,
    /// Of a bucket: requests that were sent.
    pub n_requests: u64,
}

/// Decides what goes.
pub fn plan(contents: &Contents, policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    for (stored, why) in roots::releases(contents, policy) {
        match why {
            Some(why) => plan.kept.push((stored.clone(), why)),
            None => plan.releases.push(stored.clone()),
        }
    }
    let roots = roots::images(contents, policy);
    plan.images = contents.images.iter().map(|stored| stored.image).filter(|image| !roots.contains_key(image)).collect();
    plan.kept_images = roots.into_iter().collect();
    plan
}

/// Does what a plan says.
///
/// # Errors
/// As [`Store::collect`].
pub fn perform(store: &dyn Store, plan: &Plan) -> Result<Collected, PutError> {
    store.collect(plan)
}

impl Plan {
    /// Returns what of this plan still holds for a store as it is now: what was put, pinned or leased again since stays.
    pub fn still_valid(&self, now: &Contents) -> (Vec<StoredRelease>, Vec<ImageId>) {
        let goes = |stored: &&StoredRelease| self.releases.contains(stored) && !now.is_claimed(stored.release.image);
        let releases: Vec<StoredRelease> = now.releases.iter().filter(goes).cloned().collect();
        let wanted = |image: &ImageId| {
            now.is_claimed(*image)
                || now.releases.iter().any(|stored| stored.release.image == *image && !releases.contains(stored))
        };
        let images = now.images.iter().map(|s| s.image).filter(|image| self.images.contains(image) && !wanted(image)).collect();
        (releases, images)
    }
}

/// A policy that keeps nothing but pins.
pub const NOTHING: Policy = Policy { count: 0, older: Timestamp(i64::MAX) };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::release;
    use crate::store::StoredImage;
    use df_core::Digest;

    fn image(n: u64) -> ImageId {
        ImageId(Digest::of(&n.to_le_bytes()))
    }

    fn contents(rows: &[(&str, u64, u64, i64)]) -> Contents {
        let releases: Vec<_> = rows
            .iter()
            .map(|&(app, sequence, n, at)| StoredRelease::new(release(app, n, image(n)), sequence, Timestamp(at)))
            .collect();
        let images = rows.iter().map(|&(_, _, n, at)| StoredImage { image: image(n), stored: Timestamp(at) }).collect();
        Contents { releases, images, ..Contents::default() }
    }

    fn gone(plan: &Plan) -> Vec<u64> {
        plan.releases.iter().map(|stored| stored.sequence).collect()
    }

    #[test]
    fn the_newest_of_each_application_the_young_and_the_pinned_stay() {
        let mut contents = contents(&[("a", 1, 1, 10), ("a", 2, 2, 10), ("b", 3, 3, 10), ("a", 4, 4, 99), ("a", 5, 5, 10)]);
        let policy = Policy { count: 1, older: Timestamp(50) };
        assert_eq!(gone(&plan(&contents, &policy)), [1, 2]);
        assert_eq!(plan(&contents, &policy).images, [image(1), image(2)]);
        contents.pins.insert(image(1));
        assert_eq!(gone(&plan(&contents, &policy)), [2]);
        let words: Vec<_> =
            plan(&contents, &policy).kept.iter().map(|(stored, why)| format!("{} {why}", stored.sequence)).collect();
        assert_eq!(
            words,
            ["1 pinned", "3 the newest of its application", "4 younger than the limit", "5 the newest of its application"]
        );
    }

    #[test]
    fn an_image_stays_as_long_as_one_release_of_it_does() {
        let contents = contents(&[("a", 1, 7, 10), ("b", 2, 7, 10), ("a", 3, 8, 10)]);
        let plan = plan(&contents, &Policy { count: 1, older: Timestamp(50) });
        assert_eq!((gone(&plan), plan.images), (vec![1], vec![]));
    }

    #[test]
    fn what_was_put_or_pinned_again_since_the_plan_stays() {
        let before = contents(&[("a", 1, 1, 10), ("a", 2, 2, 10), ("a", 3, 3, 10), ("a", 4, 4, 10)]);
        let plan = plan(&before, &Policy { count: 1, older: Timestamp(50) });
        let mut now = before.clone();
        now.releases[0].sequence = 5;
        now.pins.insert(image(2));
        let (releases, images) = plan.still_valid(&now);
        assert_eq!((releases.iter().map(|r| r.sequence).collect::<Vec<_>>(), images), (vec![3], vec![image(3)]));
    }

    #[test]
    fn a_plan_for_what_a_plan_left_is_empty() {
        let mut contents = contents(&[("a", 1, 1, 10), ("a", 2, 2, 10), ("b", 3, 3, 10)]);
        let policy = Policy { count: 1, older: Timestamp(50) };
        let first = plan(&contents, &policy);
        contents.releases.retain(|stored| !first.releases.contains(stored));
        contents.images.retain(|stored| !first.images.contains(&stored.image));
        let second = plan(&contents, &policy);
        assert_eq!((second.releases, second.images), (vec![], vec![]));
    }
}
