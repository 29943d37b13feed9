//! Repairs of what is damaged in more than one way, of what lies, and while others go on.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use df_core::{AppName, Digest, Release, ReleaseId};

use super::super::format::slot::PIECE_LEN;
use super::super::identity;
use super::counting::files;
use super::killed::{assert_there, example, put};
use super::mending::{all_there, flip, keys, source, spoil, three};
use super::{BOTH, NOW};
use crate::blobs::{Blobs, Bytes, Nothing};
use crate::contract::image;
use crate::document::{self, Document};
use crate::store::Store;

/// Another copy that has nothing, and does something whenever it is asked for a blob.
struct Asked<'a>(&'a (dyn Fn() + Sync));

impl Blobs for Asked<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        (self.0)();
        Nothing.blob(digest)
    }
}

/// Another copy whose documents are longer than one may be.
struct Endless;

impl Blobs for Endless {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        Nothing.blob(digest)
    }

    fn release(&self, _: ReleaseId) -> io::Result<Option<Release>> {
        Ok(None)
    }

    fn document(&self, _: &AppName, _: ReleaseId, _: Document) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(vec![b'x'; document::LEN + 1]))
    }
}

#[test]
fn what_only_a_damaged_manifest_names_is_healed_with_it() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        spoil(&bench, example(1).0.image().0);
        spoil(&bench, Digest::of(&[1; 1000]));
        bench.store().repair(&source()).expect("repaired");
        all_there(&bench);
    }
}

#[test]
fn what_somebody_else_finds_lost_and_puts_again_during_a_repair_is_not_lost() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        spoil(&bench, Digest::of(&[1; 1000]));
        let once = AtomicBool::new(true);
        let put_again = || {
            if once.swap(false, Ordering::Relaxed) {
                assert_eq!(bench.store().repair(&Nothing).expect("repaired").lost, [Digest::of(&[1; 1000])]);
                put(&bench.store(), 1).expect("put");
            }
        };
        let lost = bench.store().repair(&Asked(&put_again)).expect("repaired").lost;
        assert_eq!((lost, once.into_inner()), (vec![], false));
        all_there(&bench);
    }
}

#[test]
fn a_long_blob_of_which_one_piece_is_lost_does_not_end_a_repair() {
    let bench = three(0);
    let (manifest, blobs) = files(1, PIECE_LEN as usize + 1000, 7);
    bench.store().put_image(&manifest, &blobs, NOW).expect("put");
    let (digest, _) = manifest.blobs()[0];
    spoil(&bench, digest);
    assert_eq!(bench.store().repair(&Nothing).expect("as far as can be").lost, [digest]);
    (1..4).for_each(|n| assert_there(&bench, n));
    bench.store().put_image(&manifest, &blobs, NOW).expect("put again");
    assert_eq!(bench.store().verify().expect("read"), []);
}

#[test]
fn documents_longer_than_they_may_be_are_no_copies() {
    let bench = three(0);
    let (_, _, release) = example(2);
    bench.store().attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
    keys(&bench, "a/").iter().for_each(|key| bench.bucket.set(key, None));
    let gone = bench.store().repair(&Endless).expect("repaired").gone;
    assert!(gone.len() == 1 && gone[0].contains("no other copy has it"), "{gone:?}");
    // The table is lost, and all that it says is asked for.
    let newest = bench.store().view().expect("read").expect("there").head.roots.expect("a table");
    bench.bucket.set(newest.name.key(super::super::format::name::Space::Table).as_str(), None);
    bench.store().repair(&Endless).expect("repaired");
    assert_eq!(bench.store().attached(&release.app, release.id(), Document::Sbom).expect("read"), None);
    all_there(&bench);
}

#[test]
fn a_repair_that_can_do_nothing_writes_nothing() {
    let bench = three(0);
    let (_, _, release) = example(2);
    bench.store().attach(&release.app, release.id(), Document::Sbom, b"what of").expect("attached");
    keys(&bench, "a/").iter().for_each(|key| bench.bucket.set(key, None));
    let before = bench.bucket.keys();
    let gone = bench.store().repair(&Mute).expect("as far as can be").gone;
    assert!(gone.len() == 1 && gone[0].contains("damaged still"), "{gone:?}");
    assert_eq!(bench.bucket.keys(), before);
}

/// Another copy that cannot be asked.
struct Mute;

impl Blobs for Mute {
    fn blob(&self, _: Digest) -> io::Result<Bytes> {
        Err(io::Error::other("no network"))
    }

    fn document(&self, _: &AppName, _: ReleaseId, _: Document) -> io::Result<Option<Vec<u8>>> {
        Err(io::Error::other("no network"))
    }
}

#[test]
fn after_a_repair_of_the_newest_record_a_head_that_is_lost_takes_nothing_along() {
    for kept_len in BOTH {
        // The newest one is written anew, with a commit; an older one only goes.
        for (record, commits) in [("log/0000000000000004-", 1), ("log/0000000000000003-", 0)] {
            let bench = three(kept_len);
            flip(&bench, &keys(&bench, record)[0], 30);
            let sequence = || bench.store().view().expect("read").expect("there").head.sequence;
            let before = sequence();
            let gone = bench.store().repair(&Nothing).expect("repaired").gone;
            assert_eq!((gone, sequence() - before), (vec![], commits), "{record}");
            assert_eq!(keys(&bench, record), [""; 0], "what says nothing goes");
            all_there(&bench);
            bench.bucket.set("head", None);
            assert_eq!(bench.store().repair(&Nothing).expect("repaired").gone, [""; 0], "{record}");
            all_there(&bench);
        }
    }
}

#[test]
fn marks_of_another_cache_do_not_take_a_lost_head_back_to_an_older_commit() {
    for kept_len in BOTH {
        let bench = three(kept_len);
        let marks = [identity::cache_key(), identity::copy_key()];
        marks.iter().for_each(|mark| bench.bucket.set(mark.as_str(), Some(&identity::text([7; 16]))));
        bench.bucket.set("head", None);
        let rebuilt = bench.store().repair(&Nothing).expect("repaired").rebuilt;
        assert_eq!(rebuilt[0], "the head, as commit 4 made it");
        all_there(&bench);
    }
}

#[test]
fn records_under_names_that_are_not_theirs_are_not_believed() {
    let random = "0123456789abcdef0123456789abcdef";
    for (sequence, gone) in
        [("ffffffffffffffff", vec![]), ("0000000000000009", vec!["what commit 9 did is lost: its record is damaged"])]
    {
        let bench = three(0);
        let older = bench.bucket.peek(&keys(&bench, "log/0000000000000002-")[0]).expect("there");
        bench.bucket.set(&format!("log/{sequence}-{random}"), Some(&older));
        bench.bucket.set("head", None);
        let repaired = bench.store().repair(&Nothing).expect("repaired");
        assert_eq!(
            (repaired.rebuilt[0].as_str(), repaired.gone),
            ("the head, as commit 4 made it", gone.into_iter().map(str::to_owned).collect())
        );
        (1..4).for_each(|n| assert_there(&bench, n));
        let (manifest, blobs) = image(&[b"more"]);
        bench.store().put_image(&manifest, &blobs, NOW).expect("put");
    }
}
