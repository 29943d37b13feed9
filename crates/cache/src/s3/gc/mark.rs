//! What lives: pure.

use std::collections::{HashMap, HashSet};

use df_core::{Digest, ImageId, Manifest};

/// Returns every blob that images need, their manifests included, and what must be read before any of them.
///
/// An image whose manifest is lost keeps nothing but its name: what cannot be named cannot be kept.
pub(crate) fn live(images: &[(ImageId, Option<Manifest>)], prefixes: &[(Digest, Digest)]) -> HashSet<Digest> {
    let mut live: HashSet<Digest> = images.iter().map(|(image, _)| image.0).collect();
    for manifest in images.iter().filter_map(|(_, manifest)| manifest.as_ref()) {
        live.extend(manifest.blobs().into_iter().map(|(digest, _)| digest));
    }
    let mut before: HashMap<Digest, Vec<Digest>> = HashMap::new();
    prefixes.iter().for_each(|&(of, prefix)| before.entry(of).or_default().push(prefix));
    let mut open: Vec<Digest> = live.iter().copied().collect();
    while let Some(digest) = open.pop() {
        open.extend(before.remove(&digest).into_iter().flatten().filter(|prefix| live.insert(*prefix)));
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::image;

    #[test]
    fn what_images_need_lives_and_so_does_what_must_be_read_before_it() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let (manifest, _) = image(&[b"a", b"b"]);
        let lost = ImageId(digest("lost"));
        let prefixes = [("b", "older"), ("older", "oldest"), ("oldest", "b"), ("dead", "dead too")];
        let prefixes = prefixes.map(|(of, prefix)| (digest(of), digest(prefix)));
        let found = live(&[(manifest.image(), Some(manifest.clone())), (lost, None)], &prefixes);
        let expected = [manifest.image().0, lost.0, digest("a"), digest("b"), digest("older"), digest("oldest")];
        assert_eq!(found, expected.into());
        assert_eq!(live(&[], &prefixes), HashSet::new());
    }
}
