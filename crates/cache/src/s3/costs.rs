//! What a put takes at most, before it is done.

use std::collections::HashMap;

use df_core::Digest;

use super::S3Store;
use super::objects::Requests;
use super::put::Item;
use super::swap::View;
use super::upload::most_packs;
use crate::document::Document;
use crate::store::{ReadError, Store as _};

/// Segment, root table, record, head.
const COMMIT: u64 = 4;
/// What is asked for where there is no head: that, and what says that there was a cache.
const NO_HEAD: u64 = 3;
/// Whether conditions hold, three times; the first head.
const FIRST: u64 = 4;
/// What says which cache it is, twice, with the first commit.
const IDENTITY: u64 = 2;

impl S3Store {
    /// Returns how many requests it takes at most to put images, their releases and documents in one commit, and how many bytes of blobs are new, before compression: by somebody who has read
    /// nothing yet and looks first what is there and what each image lacks. Without what others cause who commit meanwhile, and requests that must be tried again.
    ///
    /// # Errors
    /// Those of reading the head, the root table and the index.
    pub fn requests_of_put(&self, items: &[Item<'_>]) -> Result<Requests, ReadError> {
        let mut blobs: HashMap<Digest, u64> = HashMap::new();
        for item in items {
            blobs.extend(self.lacking(item.manifest)?);
        }
        let bytes_up = blobs.values().sum();
        // As if no manifest were there yet.
        let manifests = items.iter().map(|item| item.manifest.encode().len() as u64);
        let packs = most_packs(blobs.into_values().chain(manifests).collect::<Vec<_>>().iter().copied());
        let objects = items.iter().filter(|item| !item.documents.is_empty()).count() as u64;
        let (get, put) = match self.last_view()? {
            // Once to look, once for each image, and to put; then the head is read that this makes.
            None => (NO_HEAD * (2 + items.len() as u64) + 1, FIRST + IDENTITY),
            Some(view) => {
                // Whoever began it may have died before his first commit.
                let identity = if view.head.sequence == 1 { IDENTITY } else { 0 };
                (1 + tables_apart(&view) + items.iter().map(|item| growing(&view, item)).sum::<u64>(), identity)
            }
        };
        Ok(Requests { get: get + self.looks(), put: put + packs + objects + COMMIT, bytes_up, ..Requests::default() })
    }

    /// Returns how many requests it takes at most to put a release again, right after something was put: the head is read, and there is no segment.
    pub fn requests_of_release(&self) -> Requests {
        Requests { get: 1 + self.looks(), put: COMMIT - 1, ..Requests::default() }
    }

    /// Returns how often the head is read just before a swap: that is the only guard where there are no conditions.
    fn looks(&self) -> u64 {
        u64::from(self.options.single_writer)
    }
}

/// Returns how many tables a head names that do not lie in it, but for the list of the condemned.
fn tables_apart(view: &View) -> u64 {
    let named = view.head.roots.iter().chain(&view.head.segments);
    named.filter(|reference| view.head.kept(reference).is_none()).count() as u64
}

/// Returns how many documents are read before they are written again with what is new.
fn growing(view: &View, item: &Item<'_>) -> u64 {
    let row = item.release.and_then(|release| view.roots.release(release.id()));
    let grows = |document: &Document| matches!(document, Document::Attestations | Document::Channel);
    row.map_or(0, |row| row.documents.keys().filter(|document| grows(document)).count() as u64)
}
