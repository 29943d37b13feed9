//! An index that lies: what it says is right piece by piece, and another blob as a whole. A log that leads in a circle.

use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};

use df_core::Digest;

use super::super::format::head::Head;
use super::super::format::log::Record;
use super::super::format::name::{Reference, Space};
use super::super::format::pack::{Piece, pack};
use super::super::format::segment::Segment;
use super::super::format::slot::{PIECE_LEN, n_parts, part_len};
use super::super::memory::{Action, Fate};
use super::super::swap::{Change, Plan};
use super::killed::put;
use super::{Bench, NOW};
use crate::blobs::Bytes;
use crate::contract::image;
use crate::store::{PutError, ReadError, Store};

#[test]
fn pieces_of_another_blob_are_found_by_every_way_of_reading() {
    let bench = Bench::new();
    let store = bench.store();
    let (manifest, blobs) = image(&[b"first"]);
    store.put_image(&manifest, &blobs, NOW).expect("put");
    let (real, other) = (vec![1; PIECE_LEN as usize + 9], vec![2; PIECE_LEN as usize + 9]);
    let (digest, len) = (Digest::of(&real), real.len() as u64);
    let pieces = (0..n_parts(len)).map(|part| {
        let start = part as usize * PIECE_LEN as usize;
        let bytes = &other[start..start + part_len(len, part)];
        Piece::new(digest, len, part, Digest::of(bytes), bytes.to_vec())
    });
    let (bytes, slots) = pack(pieces.collect());
    let lie = |store: &super::super::S3Store| {
        store.commit(|_, run| {
            let name = run.name();
            let pack = Reference { name, len: bytes.len() as u32, digest: Digest::of(&bytes) };
            store.write_once(&name.key(Space::Pack), &bytes.clone().into())?;
            let change = Change { added: Segment::new([(pack, slots.clone())]), ..Change::default() };
            Ok::<_, PutError>(Plan::Commit(Box::new(change), ()))
        })
    };
    lie(&store).expect("committed");
    let reader = bench.store();
    assert!(matches!(reader.read(digest, len), Err(ReadError::Damaged { .. })));
    assert!(matches!(reader.read_blob(digest, 5, 5), Err(ReadError::Damaged { .. })));
    for source in [Box::new(reader.clone()) as Box<dyn crate::Blobs>, Box::new(reader.fetch(&[(digest, len)]).expect("read"))] {
        let mut read = vec![];
        let error = source.blob(digest).and_then(Bytes::reader).expect("begun").read_to_end(&mut read).expect_err("other bytes");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}

#[test]
fn a_head_that_remembers_one_commit_only_is_not_asked_for_ever_what_became_of_another() {
    let bench = Bench::new();
    put(&bench.store(), 1).expect("put");
    let first = bench.store().view().expect("read").expect("a head").head.clone();
    let head = Head { sequence: 500, txids: vec![[7; 16]], ..first };
    let record = Record {
        when: NOW,
        who: "a stranger".into(),
        images_added: vec![],
        images_removed: vec![],
        releases_put: vec![],
        releases_removed: vec![],
        head: head.clone(),
    };
    let (bucket, swaps, reads) = (bench.bucket.clone(), AtomicU64::new(0), AtomicU64::new(0));
    bench.bucket.decide(move |call| {
        if call.action == Action::Put && call.key == "head" && swaps.fetch_add(1, Ordering::Relaxed) == 0 {
            bucket.set("head", Some(&head.encode()));
            bucket.set(record.key().as_str(), Some(&record.encode()));
            return Fate::Unanswered;
        }
        let is_of_log = call.action == Action::Get && call.key.starts_with("log/");
        assert!(reads.fetch_add(u64::from(is_of_log), Ordering::Relaxed) < 100, "the same record again and again");
        Fate::Done
    });
    put(&bench.store(), 2).expect("put after what the bucket says now");
}
