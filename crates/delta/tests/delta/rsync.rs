//! The base is only there.

use df_delta::choose::plan;
use df_delta::{EncodeError, Level, SignatureError, Slice};

use crate::trees::{Blobs, Random, Tree, apply, manifest, tree};

/// What a receiver answers when it is asked for the signatures of a plan.
fn signatures(base: &Tree, target: &Tree, block_len: u32) -> Vec<Vec<u8>> {
    let blobs = Blobs::of(base);
    let read = |slice: &Slice| blobs.read(slice.digest, slice.offset, slice.len as usize).expect("the base holds it");
    let sign = |stretch: &[Slice]| {
        df_delta::signature(&stretch.iter().flat_map(read).collect::<Vec<u8>>(), block_len).expect("a good length")
    };
    plan(Some(&manifest(base)), &manifest(target), &[]).stretches().map(sign).collect()
}

fn encode(base: &Tree, signatures: &[Vec<u8>], target: &Tree) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    let blobs = Blobs::of(target);
    let read = |digest, offset, len| blobs.read(digest, offset, len);
    df_delta::encode_rsync(&manifest(base), signatures, (&manifest(target), &read), Level::Fast, &mut out)?;
    Ok(out)
}

/// Signs and encodes.
pub fn delta(base: &Tree, target: &Tree) -> Vec<u8> {
    encode(base, &signatures(base, target, 256), target).expect("encodes")
}

/// Signs, encodes, applies, compares; returns the bytes of the delta.
#[track_caller]
pub fn check(base: &Tree, target: &Tree) -> usize {
    let delta = delta(base, target);
    let made = apply(Some(base), target, &delta).expect("applies");
    assert!(&made == target, "another tree came out");
    delta.len()
}

#[test]
fn moved_blocks_do_not_travel() {
    let mut random = Random(7);
    let old = random.bytes(500_000);
    let new = [&old[250_000..], b"some new bytes", &old[..250_000]].concat();
    let cost = check(&tree([("a", old)]), &tree([("a", new), ("b", b"nothing like it".to_vec())]));
    assert!(cost < 2000, "{cost} bytes");
}

#[test]
fn hostile_signatures_are_refused_before_they_are_used() {
    let (base, target) = (tree([("a", vec![1; 5000])]), tree([("a", vec![2; 5000])]));
    let good = signatures(&base, &target, 256).remove(0);
    let with = |at: usize, word: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        encode(&base, &[bytes], &target).expect_err("hostile")
    };
    for block_len in [0, 1, 255, u32::MAX] {
        assert!(matches!(with(4, block_len), EncodeError::Signature(SignatureError::BlockLen(found)) if found == block_len));
    }
    for hash_len in [0, 8, 17] {
        assert!(matches!(with(8, hash_len), EncodeError::Signature(SignatureError::HashLen(found)) if found == hash_len));
    }
    for magic in [0x7273_0137, 0x7273_0236, 0] {
        assert!(matches!(with(0, magic), EncodeError::Signature(SignatureError::Magic)));
    }
    assert!(matches!(with(4, 320), EncodeError::Signature(SignatureError::Length { .. })), "more blocks than it says");
    for count in [0, 2] {
        let error = encode(&base, &vec![good.clone(); count], &target).expect_err("hostile");
        assert!(matches!(error, EncodeError::Signature(SignatureError::Count { expected: 1, found }) if found == count));
    }
}

#[test]
fn a_lying_signature_costs_time_and_nothing_else() {
    let mut random = Random(8);
    let (base, other) = (tree([("a", random.bytes(50_000))]), tree([("a", random.bytes(50_000))]));
    let target = tree([("a", [b"new", &other["a"][..]].concat())]);
    let lie = signatures(&other, &target, 256);
    let delta = encode(&base, &lie, &target).expect("the rules hold");
    let error = apply(Some(&base), &target, &delta).expect_err("made of other bytes");
    assert!(error.is_damaged(), "{error}");
}
