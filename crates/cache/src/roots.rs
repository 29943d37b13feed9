//! What must live, and why: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use df_core::{AppName, ImageId, Timestamp};

use crate::store::{Contents, StoredRelease};

/// Holders of a lease that are named.
const NAMED: usize = 3;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest releases of each application stay, however old.
    pub count: usize,
    /// What was stored at this moment or later stays.
    pub older: Timestamp,
}

/// Why something stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Somebody pinned the image.
    Pinned,
    /// Nodes of these names have it in a generation.
    Leased(BTreeSet<String>),
    /// It is the n-th newest of its application, counted from 1.
    Newest(usize),
    /// It was stored recently.
    Young,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::Leased(names) => {
                let names: Vec<String> = names.iter().map(|name| df_core::text::escape(name.as_bytes())).collect();
                let (some, more) = names.split_at(names.len().min(NAMED));
                write!(f, "leased by {}", some.join(", "))?;
                if more.is_empty() { Ok(()) } else { write!(f, " and {} more", more.len()) }
            }
            Self::Newest(1) => f.write_str("the newest of its application"),
            Self::Newest(n) => write!(f, "number {n} of the newest of its application"),
            Self::Young => f.write_str("younger than the limit"),
        }
    }
}

/// Returns each release with why it stays; `None` when nothing keeps it.
///
/// Order counts, not time: sequences say which release is newer. The clock can only keep more.
pub fn releases<'a>(contents: &'a Contents, policy: &Policy) -> Vec<(&'a StoredRelease, Option<Why>)> {
    let mut newer: BTreeMap<&AppName, usize> = BTreeMap::new();
    let judge = |stored: &'a StoredRelease| {
        let place = newer.entry(&stored.release.app).or_default();
        *place += 1;
        let why = if contents.pins.contains(&stored.release.image) {
            Some(Why::Pinned)
        } else if let Some(names) = contents.leases.get(&stored.release.image) {
            Some(Why::Leased(names.clone()))
        } else if *place <= policy.count {
            Some(Why::Newest(*place))
        } else {
            (stored.stored >= policy.older).then_some(Why::Young)
        };
        (stored, why)
    };
    let mut judged: Vec<_> = contents.releases.iter().rev().map(judge).collect();
    judged.reverse();
    judged
}

/// Returns each image that stays, with the strongest reason: a release that stays, a pin, a lease, or that it is young.
pub fn images(contents: &Contents, policy: &Policy) -> BTreeMap<ImageId, Why> {
    let by_release = releases(contents, policy).into_iter().filter_map(|(stored, why)| Some((stored.release.image, why?)));
    let pinned = contents.pins.iter().map(|&image| (image, Why::Pinned));
    let leased = contents.leases.iter().map(|(&image, names)| (image, Why::Leased(names.clone())));
    let young = contents.images.iter().filter(|stored| stored.stored >= policy.older).map(|stored| (stored.image, Why::Young));
    let mut roots = BTreeMap::new();
    for (image, why) in by_release.chain(pinned).chain(leased).chain(young) {
        match roots.get(&image) {
            Some(stronger) if *stronger <= why => {}
            _ => drop(roots.insert(image, why)),
        }
    }
    roots
}
