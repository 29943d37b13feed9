//! Older blobs that were read lately. Each piece of a change needs all of the older blob, which may be a change as well: read anew for each piece, a blob of n pieces at the end
//! of d changes would be read n to the power of d times.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use df_core::Digest;

use super::format::slot::PREFIX_LEN;

/// Bytes that are kept at most: the longest there may be, and the one that it is a change of.
const ROOM: u64 = 2 * PREFIX_LEN;

/// The blobs, the last one that was read at the end.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<Kept>>);

struct Kept {
    digest: Digest,
    /// How many blobs might have been read before it. Found is only what could be read now as well, so that no chain is longer after another one.
    depth: u8,
    bytes: Arc<Vec<u8>>,
}

impl Recent {
    /// Returns a blob before which at most `depth` others may be read, if it is kept.
    pub(crate) fn find(&self, digest: Digest, depth: u8) -> Option<Arc<Vec<u8>>> {
        self.kept().iter().find(|kept| kept.digest == digest && kept.depth <= depth).map(|kept| kept.bytes.clone())
    }

    /// Keeps a blob before which at most `depth` others were read.
    pub(crate) fn keep(&self, digest: Digest, depth: u8, bytes: Arc<Vec<u8>>) {
        let mut kept = self.kept();
        kept.retain(|kept| kept.digest != digest);
        kept.push_back(Kept { digest, depth, bytes });
        while kept.iter().map(|kept| kept.bytes.len() as u64).sum::<u64>() > ROOM {
            kept.pop_front();
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_lately_is_found_by_who_could_read_it_as_long_as_there_is_room() {
        let recent = Recent::default();
        let names: Vec<_> = (0_u8..4).map(|n| Digest::of(&[n])).collect();
        let found = |recent: &Recent| names.iter().map(|name| recent.find(*name, 9).is_some()).collect::<Vec<_>>();
        let long = Arc::new(vec![0; PREFIX_LEN as usize]);
        recent.keep(names[0], 3, Arc::new(vec![1]));
        assert_eq!(recent.find(names[0], 3).as_deref(), Some(&vec![1]));
        assert_eq!(recent.find(names[0], 2), None, "it would need more");
        recent.keep(names[1], 1, long.clone());
        recent.keep(names[2], 1, long);
        assert_eq!(found(&recent), [false, true, true, false]);
        recent.keep(names[3], 1, Arc::new(vec![2]));
        assert_eq!(found(&recent), [false, false, true, true]);
    }
}
