//! Damaged, swapped and hostile deltas are refused, and no sink finishes what is not what its name says (the sink checks that).

use std::io;

use df_core::{Digest, Entry, ImageId, Kind, Manifest};
use df_delta::format::IdPrefix;
use df_delta::{ApplyError, Codec, CodecError, Level, Options};

use crate::trees::{Blobs, Kept, Random, Tree, apply, apply_to, encode, encode_with, manifest, tree};

/// A pair whose delta is small and uses everything: a change, a move, a new file, an empty one.
fn pair() -> (Tree, Tree) {
    let text = b"the old words of a file that will change a little, ".repeat(8);
    let old = tree([("a.txt", text.clone()), ("b", b"kept".to_vec()), ("c", b"gone".to_vec())]);
    let new =
        tree([("a.txt", [&text[..], b"and grow"].concat()), ("d/b", b"kept".to_vec()), ("e", vec![]), ("f", b"new".to_vec())]);
    (old, new)
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let (old, new) = pair();
    for base in [Some(&old), None] {
        let delta = encode(base, &new, Level::Fast).expect("encodes");
        for at in 0..delta.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = delta.clone();
                damaged[at] ^= flip;
                if let Ok(made) = apply(base, &new, &damaged) {
                    assert_eq!(made, new, "byte {at} ^ {flip}");
                }
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let (old, new) = pair();
    for base in [Some(&old), None] {
        let delta = encode(base, &new, Level::Fast).expect("encodes");
        for len in 0..delta.len() {
            let error = apply(base, &new, &delta[..len]).expect_err("truncated");
            assert!(matches!(error, ApplyError::Damaged(CodecError::Truncated)), "{len} bytes: {error:?}");
        }
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let (old, new) = pair();
    let mut delta = encode(Some(&old), &new, Level::Fast).expect("encodes");
    delta.push(0);
    assert!(matches!(apply(Some(&old), &new, &delta), Err(ApplyError::Trailing)));
}

#[test]
fn random_bytes_are_refused() {
    let (old, new) = pair();
    let delta = encode(Some(&old), &new, Level::Fast).expect("encodes");
    let mut random = Random(9);
    for _ in 0..2000 {
        let keep = random.below(delta.len());
        let len = random.below(300);
        let noise = [&delta[..keep], &random.bytes(len)].concat();
        if let Ok(made) = apply(Some(&old), &new, &noise) {
            assert_eq!(made, new);
        }
    }
}

#[test]
fn a_delta_for_another_pair_is_refused_by_name() {
    let (old, new) = pair();
    let other = tree([("a.txt", b"other".to_vec())]);
    let delta = encode(Some(&old), &new, Level::Fast).expect("encodes");
    assert!(matches!(apply(Some(&other), &new, &delta), Err(ApplyError::WrongBase { .. })));
    assert!(matches!(apply(None, &new, &delta), Err(ApplyError::WrongBase { found: None, .. })));
    assert!(matches!(apply(Some(&old), &other, &delta), Err(ApplyError::WrongTarget { .. })));
    // The header is enough to know.
    assert!(matches!(apply(Some(&old), &other, &delta[..21]), Err(ApplyError::WrongTarget { .. })));
    // The same with a header that lies: the manifest betrays it.
    let mut forged = delta.clone();
    forged[13..21].copy_from_slice(&manifest(&other).image().0.as_bytes()[..8]);
    assert!(
        matches!(apply(Some(&old), &other, &forged), Err(ApplyError::WrongTarget { found, .. }) if found == IdPrefix::of(manifest(&new).image()))
    );
}

#[test]
fn the_content_of_another_file_is_refused() {
    let (one, other) = (tree([("a", b"one".to_vec())]), tree([("a", b"two".to_vec())]));
    let delta = whole(&one, &stored(b"two"));
    assert!(matches!(apply(None, &one, &delta), Err(ApplyError::WrongBlob { expected, found })
        if expected == Digest::of(b"one") && found == Digest::of(b"two")));
    assert_eq!(apply(None, &other, &whole(&other, &stored(b"two"))).expect("the right place"), other);
}

/// Every byte of the base is another than its manifest says.
#[track_caller]
fn apply_to_damaged(old: &Tree, new: &Tree, codec: Codec) -> ApplyError {
    let (delta, encoded) = encode_with(Some(old), new, Options { level: Level::Fast, codec: Some(codec) }).expect("encodes");
    assert!(encoded.codecs.of(codec).raw > 0, "{codec:?} was not taken");
    let mut blobs = Blobs::of(old);
    blobs.damage();
    let error = apply_to(Some((manifest(old), blobs)), new, &delta).expect_err("damaged base");
    assert!(error.is_damaged(), "{error:?}");
    error
}

#[test]
fn a_damaged_base_is_found_and_a_whole_copy_would_mend_it() {
    let text = b"the old words of a file that will change a little, ".repeat(8);
    let tree_of = |bytes: &[u8]| tree([("a", bytes.to_vec())]);
    let old = tree_of(&text);
    // What is only copied comes out as damaged as it is, and its digest tells.
    let damaged: Vec<u8> = text[7..].iter().map(|byte| byte ^ 0x55).collect();
    let error = apply_to_damaged(&old, &tree_of(&text[7..]), Codec::Copy);
    assert!(
        matches!(error, ApplyError::WrongBlob { expected, found } if expected == Digest::of(&text[7..]) && found == Digest::of(&damaged)),
        "{error:?}"
    );
    let grown = [&text[..], b"and grow"].concat();
    let error = apply_to_damaged(&old, &tree_of(&grown), Codec::Zstd);
    assert!(matches!(error, ApplyError::WrongBlob { expected, .. } if expected == Digest::of(&grown)), "{error:?}");
    // What is new was guessed from the base: guessed from other bytes it is noise that does not end where it should.
    let error = apply_to_damaged(&old, &tree_of(&grown), Codec::Copy);
    assert!(matches!(error, ApplyError::Damaged(CodecError::Stream(_))), "{error:?}");
}

#[test]
fn a_lost_base_is_found() {
    let (old, new) = pair();
    let delta = encode(Some(&old), &new, Level::Fast).expect("encodes");
    let error = apply_to(Some((manifest(&old), Blobs::of(&Tree::new()))), &new, &delta).expect_err("lost base");
    assert!(matches!(error, ApplyError::ReadBase { .. }) && error.is_damaged());
}

#[test]
fn a_blob_of_two_lengths_is_refused() {
    let file = |path: &str, len| Entry {
        path: path.parse().expect("a path"),
        kind: Kind::File { executable: false, len, digest: Digest::of(b"x") },
    };
    let list = Manifest::new(vec![file("a", 1), file("b", 2)]).expect("a list");
    let delta = [&head(&list)[..], &stored(b"x")].concat();
    let error = df_delta::apply(None, list.image(), &mut &delta[..], &Kept::default()).expect_err("no image is like that");
    assert!(matches!(error, ApplyError::TwoLengths { digest } if digest == Digest::of(b"x")));
}

#[test]
fn bytes_that_are_no_manifest_are_refused_even_with_the_right_digest() {
    let junk = b"not a manifest";
    let image = ImageId(Digest::of(junk));
    let delta = [b"dfd\x03\x00", &[0; 8][..], &image.0.as_bytes()[..8], &[junk.len() as u8], &stored(junk)].concat();
    let sink = Kept::default();
    assert!(matches!(df_delta::apply(None, image, &mut &delta[..], &sink), Err(ApplyError::Manifest(_))));
    assert!(sink.got().manifest.is_none());
}

#[test]
fn only_one_plain_frame_is_taken() {
    let content = b"words and words and words and words and more words".repeat(4);
    let target = tree([("a", content.clone())]);
    let frame = |parameters: &[zstd_safe::CParameter]| {
        let mut context = zstd_safe::CCtx::create();
        context.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).expect("a parameter");
        for &parameter in parameters {
            context.set_parameter(parameter).expect("a parameter");
        }
        let mut out = Vec::with_capacity(1000);
        context.compress2(&mut out, &content).expect("compresses");
        out
    };
    let plain = frame(&[]);
    let try_frame = |bytes: &[u8]| apply(None, &target, &whole(&target, &part(1, bytes)));
    assert_eq!(try_frame(&plain).expect("one plain frame"), target);

    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
    let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00, 0x01, 0x00, 0x00];
    let mut window = plain.clone();
    window[5] = 21 << 3;
    let mut just_above = plain.clone();
    just_above[5] = 17 << 3 | 1;
    let mut with_dictionary = plain.clone();
    with_dictionary[4] = 1;
    with_dictionary.insert(6, 9);
    let cases: [(&str, Vec<u8>); 10] = [
        ("a second frame", [&plain[..], &empty].concat()),
        ("a frame before it", [&empty[..], &plain].concat()),
        ("a skippable frame after", [&plain[..], &skippable].concat()),
        ("a skippable frame before", [&skippable[..], &plain].concat()),
        ("trailing bytes", [&plain[..], &[0]].concat()),
        ("a checksum", frame(&[zstd_safe::CParameter::ChecksumFlag(true)])),
        ("a content size", frame(&[zstd_safe::CParameter::ContentSizeFlag(true)])),
        ("a window of 2^31", window),
        ("a window just above 2^27", just_above),
        ("a dictionary", with_dictionary),
    ];
    for (what, bytes) in cases {
        let error = try_frame(&bytes).expect_err(what);
        assert!(matches!(error, ApplyError::Damaged(CodecError::Frame)), "{what}: {error:?}");
    }
}

#[test]
fn codecs_stay_in_their_kinds() {
    let target = tree([("a", b"new".to_vec())]);
    for codec in [2, 5, 255] {
        let delta = whole(&target, &part(codec, b"new"));
        assert!(matches!(apply(None, &target, &delta), Err(ApplyError::Damaged(CodecError::Codec(found))) if found == codec));
    }
}

#[test]
fn errors_of_this_side_are_not_the_delta_s_fault() {
    struct Full;
    impl df_delta::Sink for Full {
        fn manifest(&self, _: &Manifest) -> io::Result<()> {
            Ok(())
        }
        fn blob(&self, _: Digest, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn stretch(&self, _: df_delta::Slice, _: &[u8]) -> io::Result<()> {
            unreachable!("no blob is that long")
        }
        fn finish(&self, _: Digest) -> io::Result<()> {
            unreachable!("no blob is that long")
        }
    }
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let target = tree([("a", b"new".to_vec())]);
    let (image, delta) = (manifest(&target).image(), whole(&target, &stored(b"new")));
    let full = df_delta::apply(None, image, &mut &delta[..], &Full).expect_err("full");
    assert!(matches!(full, ApplyError::Sink(_)) && !full.is_damaged());
    let broken = df_delta::apply(None, image, &mut io::Read::chain(&delta[..30], Broken), &Kept::default()).expect_err("broken");
    assert!(matches!(broken, ApplyError::Input(_)) && !broken.is_damaged());
}

/// A whole copy by hand, as the format says: header, stored manifest.
fn head(manifest: &Manifest) -> Vec<u8> {
    let bytes = manifest.encode();
    [b"dfd\x03\x00", &[0; 8][..], &manifest.image().0.as_bytes()[..8], &varint(bytes.len()), &stored(&bytes)].concat()
}

fn whole(target: &Tree, pieces: &[u8]) -> Vec<u8> {
    [&head(&manifest(target))[..], pieces].concat()
}

fn stored(bytes: &[u8]) -> Vec<u8> {
    [&[0], bytes].concat()
}

fn part(codec: u8, bytes: &[u8]) -> Vec<u8> {
    [&[codec][..], &varint(bytes.len()), bytes].concat()
}

/// A number of the format.
fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
