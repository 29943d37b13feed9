//! What the longest new files of an image are: programs take longer to compare than other files.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use df_core::{Digest, Manifest};

use crate::choice::{LARGE, Work};
use crate::deltas::Images;

/// How many new files are looked at, the longest first: what is read of a file may cost as much as the whole of it.
const N_LOOKED_AT: usize = 8;
/// How long a file has to be for it.
const LONG: u64 = 512 << 10;
/// How long one that is no program has to be to make a difference.
const LONG_DATA: u64 = 1 << 20;

/// What files were found to be.
#[derive(Debug, Default)]
pub(super) struct Kinds(Mutex<HashMap<Digest, Option<bool>>>);

impl Kinds {
    /// Returns the work of a delta with what its longest files are. What cannot be read counts as neither program nor data, and so does the rest.
    pub(super) fn told(&self, work: Work, images: &dyn Images, base: &Manifest, target: &Manifest) -> Work {
        let held: HashSet<Digest> = base.blobs().into_iter().map(|(digest, _)| digest).collect();
        let mut long = target.blobs();
        long.retain(|(digest, len)| *len >= LONG && !held.contains(digest));
        long.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
        let mut work = work;
        for (digest, len) in long.into_iter().take(if work.changed > 0 { N_LOOKED_AT } else { 0 }) {
            match self.is_program(images, digest) {
                Some(true) if len >= LARGE => work.large_programs += len,
                Some(true) => work.programs += len,
                // What is shorter is slow, byte for byte, whatever it is.
                Some(false) if len >= LONG_DATA => work.data += len,
                Some(false) | None => {}
            }
        }
        work
    }

    fn is_program(&self, images: &dyn Images, digest: Digest) -> Option<bool> {
        if let Some(known) = self.0.lock().expect("nobody panics while holding it").get(&digest) {
            return *known;
        }
        let found = images.read(digest, 0, 4).ok().map(|head| head == b"\x7fELF");
        self.0.lock().expect("nobody panics while holding it").insert(digest, found);
        found
    }
}
