//! An index that lies: what it says is right piece by piece, and another blob as a whole.

use std::io::Read as _;

use df_core::Digest;

use super::super::format::name::{Reference, Space};
use super::super::format::pack::{Piece, pack};
use super::super::format::segment::Segment;
use super::super::format::slot::{PIECE_LEN, n_parts, part_len};
use super::super::swap::{Change, Plan};
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
