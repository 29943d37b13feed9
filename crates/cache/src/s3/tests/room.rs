//! How much a get has in memory, in whatever order its blobs are taken.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use df_core::Digest;

use super::super::S3Store;
use super::super::fetch::{Fetch, Room};
use super::super::format::name::{Reference, Space};
use super::super::format::pack::{self, Piece};
use super::super::format::segment::Segment;
use super::super::format::slot::{PIECE_LEN, n_parts, part_len};
use super::super::memory::{Action, Fate};
use super::super::prefix::{self, Older};
use super::super::swap::{Change, Plan};
use super::counting::files;
use super::{Bench, NOW};
use crate::blobs::{Blobs as _, Bytes, read_checked};
use crate::contract::{Source, image};
use crate::store::{PutError, Store as _};

const PACKS: usize = 12;
const FILES: usize = 8;
const LEN: usize = 10_000;
/// Of each pack that is all files.
const RANGE: u64 = (FILES * LEN) as u64;
/// Two packs ahead, and one more for whoever takes from another one.
const ROOM: Room = Room { ahead: 2 * RANGE, most: 3 * RANGE, aside: PACKS as u64 * RANGE };

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
    let (put, held) = fetch.aside().expect("a file");
    assert!(put >= RANGE * (PACKS as u64 - 3), "else it was in memory, whatever was counted");
    assert_eq!((held, fetch.on_disk() < RANGE), (0, true), "{} bytes are on the disk when all was taken", fetch.on_disk());
}

#[test]
fn no_more_is_put_aside_than_there_is_room_for_whatever_is_needed_until_the_end() {
    let (bench, blobs, all) = many_packs();
    let room = Room { aside: 2 * RANGE, ..ROOM };
    let fetch = bench.store().fetch_within(&blobs, room).expect("known");
    for blob in in_turn(&blobs) {
        take(&fetch, blob, &all);
        let (_, held) = fetch.aside().expect("a file");
        assert!(held <= room.aside, "{held} bytes in the file");
    }
    let (put, held) = fetch.aside().expect("a file");
    assert_eq!((fetch.n_left(), held, put > 0), (0, 0, true));
}

#[test]
fn what_is_taken_as_it_lies_is_never_put_aside() {
    let (bench, blobs, all) = many_packs();
    let fetch = bench.store().fetch_within(&blobs, ROOM).expect("known");
    blobs.iter().for_each(|blob| take(&fetch, *blob, &all));
    assert_eq!((fetch.n_left(), fetch.aside()), (0, Some((0, 0))));
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

#[test]
fn a_range_whose_loading_panics_is_not_waited_for_for_ever() {
    let (bench, blobs, all) = many_packs();
    let (begun, panicked) = (AtomicBool::new(false), channel());
    let tell = panicked.0;
    bench.bucket.decide(move |call| {
        if call.action == Action::Range && !begun.swap(true, Ordering::Relaxed) {
            tell.send(()).expect("somebody waits");
            panic!("as a client might");
        }
        Fate::Done
    });
    let fetch = bench.store().fetch_within(&blobs, ROOM).expect("known");
    panicked.1.recv().expect("it was asked for");
    let (done, all_taken) = channel();
    std::thread::spawn(move || {
        blobs.iter().for_each(|blob| take(&fetch, *blob, &all));
        done.send(fetch.n_left())
    });
    assert_eq!(all_taken.recv_timeout(Duration::from_secs(60)), Ok(0));
}

/// The pieces of a blob; those that an older one is given for are changes of it.
fn pieces(bytes: &[u8], older: &[(u32, &[u8])]) -> Vec<Piece> {
    let (digest, len) = (Digest::of(bytes), bytes.len() as u64);
    let piece = |part: u32| {
        let start = part as usize * PIECE_LEN as usize;
        let bytes = &bytes[start..start + part_len(len, part)];
        let alone = Piece::new(digest, len, part, Digest::of(bytes), bytes.to_vec());
        let Some((_, older)) = older.iter().find(|(of, _)| *of == part) else { return alone };
        let changed = prefix::piece(alone, bytes, &Older { digest: Digest::of(older), len: older.len() as u64, depth: 1 }, older);
        assert!(changed.slot.prefix().is_some(), "it is no change");
        changed
    };
    (0..n_parts(len)).map(piece).collect()
}

/// A cache with packs of these pieces; returns the packs' keys.
fn packs_of(packs: Vec<Vec<Piece>>) -> (Bench, Vec<String>) {
    let bench = Bench::new();
    let (manifest, blobs) = image(&[b"first"]);
    bench.store().put_image(&manifest, &blobs, NOW).expect("put");
    let (store, mut keys) = (bench.store(), vec![]);
    let committed = store.commit(|_, run| {
        let mut rows = vec![];
        for pieces in &packs {
            let (bytes, slots) = pack::pack(pieces.clone());
            let name = run.name();
            let pack = Reference { name, len: bytes.len() as u32, digest: Digest::of(&bytes) };
            store.write_once(&name.key(Space::Pack), &bytes.into())?;
            keys.push(name.key(Space::Pack).as_str().to_owned());
            rows.push((pack, slots));
        }
        let change = Change { added: Segment::new(rows), ..Change::default() };
        Ok::<_, PutError>(Plan::Commit(Box::new(change), ()))
    });
    committed.expect("committed");
    (bench, keys)
}

fn noise(len: usize, salt: u64) -> Vec<u8> {
    files(1, len, salt).1.into_values().next().expect("a file")
}

/// What begins as some bytes and is a piece and a little more.
fn long(start: &[u8]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(PIECE_LEN as usize + 4_096, 0);
    bytes
}

fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn named(bytes: &[u8]) -> (Digest, u64) {
    (Digest::of(bytes), bytes.len() as u64)
}

/// The first request of each of some packs is lost.
fn lose_first(bench: &Bench, keys: &[String]) {
    let lost = std::sync::Mutex::new(keys.iter().cloned().collect::<HashSet<_>>());
    bench.bucket.decide(move |call| {
        let is_first = call.action == Action::Range && lost.lock().expect("whole").remove(&call.key);
        if is_first { Fate::Lost } else { Fate::Done }
    });
}

#[test]
fn what_is_a_change_of_something_that_is_not_to_be_had_is_not_in_memory_until_the_end() {
    let old = noise(40_000, 3);
    let new: Vec<_> = (0..4).map(|n| changed(&old, n * 1_000)).collect();
    let mut packs = vec![pieces(&old, &[])];
    packs.extend(new.iter().map(|new| pieces(new, &[(0, &old)])));
    let (bench, keys) = packs_of(packs);
    lose_first(&bench, &keys[..1]);
    let (blobs, all): (Vec<_>, Source) =
        (new.iter().map(|new| named(new)).collect(), new.iter().map(|new| (Digest::of(new), new.clone())).collect());
    let fetch = bench.store().fetch_within(&blobs, ROOM).expect("known");
    blobs.iter().for_each(|blob| take(&fetch, *blob, &all));
    assert_eq!(fetch.n_left(), 0, "pieces that nobody takes any more are kept");
}

#[test]
fn what_could_not_be_made_once_takes_nothing_from_others() {
    let start = noise(40_000, 3);
    let old = long(&start);
    let others: Vec<_> = (0..8).map(|n| noise(5_000, 100 + n)).collect();
    let new: Vec<_> = (0..6).map(|n| changed(&start, n * 1_000)).collect();
    let mut parts = pieces(&old, &[]);
    let last = parts.split_off(1);
    parts.extend(others.iter().flat_map(|other| pieces(other, &[])));
    let changes = new.iter().flat_map(|new| pieces(new, &[(0, &old)])).collect();
    let (bench, keys) = packs_of(vec![parts, last, changes]);
    lose_first(&bench, &keys[1..2]);
    let blobs: Vec<_> = new.iter().chain(&others).map(|bytes| named(bytes)).collect();
    let all: Source = new.iter().chain(&others).map(|bytes| (Digest::of(bytes), bytes.clone())).collect();
    let fetch = bench.store().fetch(&blobs).expect("known");
    for (digest, len) in blobs {
        let reader = fetch.blob(digest).and_then(Bytes::reader).expect("a blob");
        assert!(read_checked(reader, digest, len).expect("whole") == all[&digest]);
    }
    let asked = bench.bucket.calls().iter().filter(|call| call.action == Action::Range && call.key == keys[0]).count();
    assert_eq!((asked, fetch.n_left()), (2, 0), "ahead, and for the older one when it was read by itself");
}

#[test]
fn nothing_half_made_waits_for_what_it_is_a_change_of() {
    let oldest = noise(40_000, 3);
    let start = noise(40_000, 5);
    // Its second piece is a change of the oldest.
    let mut old = long(&start);
    let at = old.len() - 4_096;
    old[at..].copy_from_slice(&oldest[..4_096]);
    let new = changed(&start, 7);
    let mut parts = pieces(&old, &[(1, &oldest)]);
    let last = parts.split_off(1);
    let (bench, keys) = packs_of(vec![pieces(&oldest, &[]), parts, last, pieces(&new, &[(0, &old)])]);
    assert!(bench.store().read(Digest::of(&new), new.len() as u64).expect("read") == new);
    let calls = bench.bucket.calls();
    let order = calls.iter().filter(|call| call.action == Action::Range).map(|call| keys.iter().position(|key| *key == call.key));
    let order: Vec<usize> = order.map(|at| at.expect("one of them")).collect();
    assert_eq!(order, [3, 0, 1, 2], "the new one, the oldest, and then the two pieces of the older one");
}
