//! A half-finished receive as a base: what a node has of an image that was cut off need not travel again, also when another image follows.
//!
//! The node tells the manifest of the complete files that it has. They are files of an image that is here as well, or it is not used: then a delta to them is made
//! like any other.

use std::collections::HashMap;
use std::sync::Arc;

use df_core::{AppName, ImageId, Manifest};
use df_wire::message::Incoming;

use crate::choice::{Link, Way};
use crate::choosing::{Chosen, Wish};
use crate::deltas::{Deltas, manifest_of};
use crate::survey::Reached;
use crate::transfer::CopyError;

/// What has to be there of a receive, at least, before it is asked for.
const WORTH: u64 = 1 << 20;
/// Bytes of a manifest for each of its entries, about.
const ENTRY_LEN: u64 = 100;

/// Chooses how an image gets to a node, with what it has of receives that were cut.
///
/// # Errors
/// The wish cannot be fulfilled, an image cannot be read, or the connection breaks.
pub async fn choose(
    reached: &mut Reached,
    deltas: &Arc<Deltas>,
    app: &AppName,
    link: Link,
    wish: Wish,
) -> Result<Chosen, CopyError> {
    let node = reached.connection.node.address.clone();
    let chosen = deltas.choose(&node, &reached.survey, app, link, wish).await?;
    let is_free = !wish.full && wish.codec.is_none();
    let wanted = if is_free { wanted(&reached.survey.incoming, deltas, &chosen) } else { None };
    let Some((partial, of)) = wanted else { return Ok(chosen) };
    let manifest = manifest_of(&mut reached.connection, partial).await?;
    if !is_part(&manifest, &of) {
        return Ok(chosen);
    }
    deltas.lend(partial, manifest);
    deltas.choose(&node, &reached.survey, app, link, wish).await
}

/// Returns the half that is worth asking for, and the manifest of the image that it is a half of: where otherwise all would travel.
fn wanted(incoming: &[Incoming], deltas: &Deltas, chosen: &Chosen) -> Option<(ImageId, Manifest)> {
    let goes_on = |it: &Incoming| it.image == deltas.image() && it.base == chosen.way.base();
    if !matches!(chosen.way, Way::Whole | Way::Rsync(_)) || incoming.iter().any(goes_on) {
        return None;
    }
    let largest = incoming.iter().filter(|it| it.partial.is_some()).max_by_key(|it| it.offset)?;
    let of = deltas.base(largest.image)?;
    // A node that cannot go on with a delta does not say how much it has of it.
    let has = if largest.offset > 0 { largest.offset } else { of.total_len() / 8 };
    let costs = ENTRY_LEN * of.entries().len() as u64;
    (has >= WORTH && costs < has / 4).then_some((largest.partial?, of))
}

/// Returns whether all files of a tree are files of another: whoever says so may lie.
fn is_part(part: &Manifest, of: &Manifest) -> bool {
    let blobs: HashMap<_, _> = of.blobs().into_iter().collect();
    part.blobs().iter().all(|(digest, len)| blobs.get(digest) == Some(len))
}

#[cfg(test)]
mod tests {
    use df_core::{Digest, Entry, Kind};

    use super::*;

    fn manifest(files: &[(&str, u64)]) -> Manifest {
        let entry = |(content, len): &(&str, u64)| {
            let kind = Kind::File { executable: false, len: *len, digest: Digest::of(content.as_bytes()) };
            Entry { path: content.parse().expect("a path"), kind }
        };
        Manifest::new(files.iter().map(entry).collect()).expect("a tree")
    }

    #[test]
    fn only_what_is_here_too_is_a_part() {
        let of = manifest(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(is_part(&manifest(&[("a", 1), ("c", 3)]), &of) && is_part(&manifest(&[]), &of));
        assert!(!is_part(&manifest(&[("a", 1), ("d", 3)]), &of), "a file that is not here");
        assert!(!is_part(&manifest(&[("a", 2)]), &of), "a length that is a lie");
    }
}
