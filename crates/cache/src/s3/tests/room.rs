//! How much a get has in memory, in whatever order its blobs are taken.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use df_core::Digest;

use super::super::S3Store;
use super::super::fetch::{Fetch, Room};
use super::super::memory::Action;
use super::counting::files;
use super::{Bench, NOW};
use crate::blobs::{Blobs as _, Bytes, read_checked};
use crate::contract::Source;
use crate::store::Store as _;

const PACKS: usize = 12;
const FILES: usize = 8;
const LEN: usize = 10_000;
/// Of each pack that is all files.
const RANGE: u64 = (FILES * LEN) as u64;
/// Two packs ahead, and one more for whoever takes from another one.
const ROOM: Room = Room { ahead: 2 * RANGE, most: 3 * RANGE };

/// A cache of as many commits as packs, and the files of all of them, pack by pack.
fn many_packs() -> (Bench, Vec<(Digest, u64)>, Source) {
    let (bench, mut all, mut blobs) = (Bench::new(), vec![], Source::new());
    for pack in 0..PACKS {
        let (manifest, source) = files(FILES, LEN, 2 * pack as u64 + 1);
        bench.store().put_image(&manifest, &source, NOW).expect("put");
        all.extend(manifest.blobs());
        blobs.extend(source);
    }
    (bench, all, blobs)
}

/// One file of each pack, then the next of each: all packs are needed until the end.
fn in_turn(blobs: &[(Digest, u64)]) -> Vec<(Digest, u64)> {
    (0..blobs.len()).map(|n| blobs[n % PACKS * FILES + n / PACKS]).collect()
}

#[track_caller]
fn take(fetch: &Fetch, (digest, len): (Digest, u64), all: &Source) {
    let reader = fetch.blob(digest).and_then(Bytes::reader).expect("a blob");
    assert!(read_checked(reader, digest, len).expect("whole") == all[&digest]);
    assert!(fetch.peak() <= ROOM.most, "{} bytes in memory", fetch.peak());
}

fn ranges(bench: &Bench) -> usize {
    bench.bucket.calls().iter().filter(|call| call.action == Action::Range).count()
}

#[test]
fn packs_that_are_all_needed_until_the_end_are_asked_for_once_and_not_all_in_memory() {
    let (bench, blobs, all) = many_packs();
    let (start, fetch) = (ranges(&bench), bench.store().fetch_within(&blobs, ROOM).expect("known"));
    in_turn(&blobs).into_iter().for_each(|blob| take(&fetch, blob, &all));
    assert_eq!((fetch.n_left(), ranges(&bench) - start), (0, PACKS));
    assert!(fetch.aside().expect("a file") >= RANGE * (PACKS as u64 - 3), "else it was in memory, whatever was counted");
}

#[test]
fn what_is_taken_as_it_lies_is_never_put_aside() {
    let (bench, blobs, all) = many_packs();
    let fetch = bench.store().fetch_within(&blobs, ROOM).expect("known");
    blobs.iter().for_each(|blob| take(&fetch, *blob, &all));
    assert_eq!((fetch.n_left(), fetch.aside()), (0, Some(0)));
}

#[test]
fn many_who_take_at_once_have_no_more_in_memory_than_one() {
    let (bench, blobs, all) = many_packs();
    let (start, fetch) = (ranges(&bench), bench.store().fetch_within(&blobs, ROOM).expect("known"));
    let (order, next) = (in_turn(&blobs), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(blob) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    take(&fetch, *blob, &all);
                }
            });
        }
    });
    assert_eq!((fetch.n_left(), ranges(&bench) - start), (0, PACKS));
}

#[test]
fn where_nothing_can_be_put_aside_each_of_its_files_is_a_request() {
    let (bench, blobs, all) = many_packs();
    let local = bench.directory.path().join("a file");
    std::fs::write(&local, b"in the way").expect("written");
    let store = S3Store::open(bench.bucket.clone(), &local, bench.options(99));
    let (start, fetch) = (ranges(&bench), store.fetch_within(&blobs, ROOM).expect("known"));
    in_turn(&blobs).into_iter().for_each(|blob| take(&fetch, blob, &all));
    let taken: HashSet<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert_eq!((fetch.n_left(), fetch.aside()), (0, None));
    assert!(ranges(&bench) - start <= PACKS + taken.len(), "{}", ranges(&bench) - start);
}
