//! What must be true at the end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use df_cache::Store;
use df_cache::contract::assert_whole;
use df_cache::s3::S3Store;
use df_core::ImageId;
use df_testkit::s3::Server;

use super::role::{client, open, sweep};
use super::versions::version;
use super::{Campaign, KEPT};

impl Campaign {
    /// Checks that all is there that must be, byte by byte, and nothing else; returns how many blobs were read.
    #[track_caller]
    pub(super) fn judge(&self, written: &[u64]) -> u64 {
        let store = stranger(&self.server, self.directory.path());
        let read = assert_nothing_is_lost(&store, written);
        assert_nothing_is_left(&self.server, &store);
        read
    }
}

/// Opens the cache as somebody who was never here.
pub fn stranger(server: &Server, directory: &Path) -> S3Store {
    open(Arc::new(client(&server.endpoint(), server.credentials())), &directory.join("a stranger"))
}

/// Checks every image that is there, and that the newest of each writer are; returns how many blobs were read.
#[track_caller]
fn assert_nothing_is_lost(store: &S3Store, written: &[u64]) -> u64 {
    assert_eq!(store.verify().expect("read"), []);
    let contents = store.contents().expect("read");
    let mut versions: HashMap<ImageId, (u64, u64)> = HashMap::new();
    for (writer, &acknowledged) in (0..).zip(written) {
        for n in 0..acknowledged {
            let (manifest, _, release) = version(writer, n);
            versions.insert(manifest.image(), (writer, n));
            if n + KEPT as u64 >= acknowledged {
                let is_there = contents.releases.iter().any(|stored| stored.release == release);
                assert!(is_there, "release {n} of writer {writer} was acknowledged");
            }
        }
    }
    for stored in &contents.releases {
        assert!(store.has(stored.release.image).expect("read"), "no root dangles");
    }
    let mut read = 0;
    for image in &contents.images {
        let &(writer, n) = versions.get(&image.image).expect("somebody put it");
        let (manifest, blobs, _) = version(writer, n);
        assert_whole(store, &manifest, &blobs);
        read += blobs.len() as u64;
    }
    read
}

/// Checks that a last collection leaves nothing that nothing names.
#[track_caller]
pub fn assert_nothing_is_left(server: &Server, store: &S3Store) {
    sweep(store).expect("collected");
    assert_eq!(store.verify().expect("read"), []);
    let packs = server.keys().into_iter().filter(|key| key.contains("/p/")).count();
    assert_eq!(packs as u64, store.stats().expect("read").n_packs);
}
