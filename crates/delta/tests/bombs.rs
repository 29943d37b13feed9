//! A delta that claims much takes little: this test counts what the process allocates, so it is alone in its file.

#![allow(missing_docs, reason = "a test")]

mod counted;

use std::time::{Duration, Instant};

use df_core::{Digest, Entry, ImageId, Kind, Manifest};
use df_delta::entropy::{self, EntropyError, Room, Shape};
use df_delta::{ApplyError, CodecError, Level};

use counted::{Nowhere, measured};

/// Applies, and returns the error and the most that was allocated at once.
fn bomb(image: ImageId, after_header: &[u8]) -> (ApplyError, usize) {
    let delta = [b"dfd\x03\x00", &[0; 8][..], &image.0.as_bytes()[..8], after_header].concat();
    measured(|| df_delta::apply(None, image, &mut &delta[..], &Nowhere).expect_err("a bomb"))
}

/// A number of the format.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn part(codec: u8, packed: u64, bytes: &[u8]) -> Vec<u8> {
    [&[codec][..], &varint(packed), bytes].concat()
}

fn stored(bytes: &[u8]) -> Vec<u8> {
    [&[0], bytes].concat()
}

/// A zstd frame of `blocks` times 128 KiB of zeroes: four bytes each.
fn zeroes(blocks: usize) -> Vec<u8> {
    frame(&[(0, blocks << 17)])
}

/// A zstd frame of runs of one byte each.
fn frame(runs: &[(u8, usize)]) -> Vec<u8> {
    let block = |byte: u8, len: usize| [&((len << 3 | 1 << 1) as u32).to_le_bytes()[..3], &[byte]].concat();
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3];
    for &(byte, len) in runs {
        (0..len).step_by(1 << 17).for_each(|at| bytes.extend(block(byte, (len - at).min(1 << 17))));
    }
    // The last block says so.
    let last = bytes.len() - 4;
    bytes[last] |= 1;
    bytes
}

/// A list of one file.
fn list_of(path: &str, len: u64, content: &[u8]) -> Manifest {
    let kind = Kind::File { executable: false, len, digest: Digest::of(content) };
    Manifest::new(vec![Entry { path: path.parse().expect("a path"), kind }]).expect("a list")
}

fn list(len: u64) -> Manifest {
    list_of("a", len, b"x")
}

/// The manifest as it follows a header, then what is given.
fn listed(manifest: &Manifest, then: &[u8]) -> Vec<u8> {
    let bytes = manifest.encode();
    [&varint(bytes.len() as u64)[..], &stored(&bytes), then].concat()
}

#[test]
fn claims_take_neither_memory_nor_time() {
    whole_copies_that_claim_much();
    an_rsync_delta_that_copies_the_base_over_and_over();
    programs_that_claim_many_units();
    copies_that_claim_many_numbers();
}

/// Applies a delta of one copied part, and returns the error and the most that was allocated at once.
fn bomb_of_copy(base: &Manifest, target: &Manifest, body: &[u8]) -> (ApplyError, usize) {
    let after_header = listed(target, &[&[0], &part(3, body.len() as u64, body)[..]].concat());
    let (from, to) = (base.image(), target.image());
    let delta = [b"dfd\x03\x01", &from.0.as_bytes()[..8], &to.0.as_bytes()[..8], &after_header].concat();
    assert!(delta.len() < 64 << 10, "{} bytes", delta.len());
    let read = |_: Digest, _: u64, len: usize| Ok(vec![b'y'; len]);
    measured(|| df_delta::apply(Some((base, &read)), target.image(), &mut &delta[..], &Nowhere).expect_err("a bomb"))
}

fn copies_that_claim_many_numbers() {
    const LEN: usize = 63 << 20;
    let (tiny, long, target) = (list_of("a", 16, b"y"), list_of("a", LEN as u64, b"z"), list(LEN as u64));
    // As `entropy` has it: its number for zstd, and a frame without what all of them begin with.
    let packed = |runs: &[(u8, usize)]| [&[1], &frame(runs)[5..]].concat();
    // Streams by the bits of a mask.
    let streams = |mask: u8, streams: &[&[(u8, usize)]]| {
        let of = |runs: &&[(u8, usize)]| (runs.iter().map(|(_, len)| len).sum::<usize>() as u64, packed(runs));
        let streams: Vec<(u64, Vec<u8>)> = streams.iter().map(of).collect();
        let lens = streams.iter().flat_map(|(raw, packed)| [varint(*raw), varint(packed.len() as u64)]);
        let bytes = streams.iter().flat_map(|(_, packed)| packed.clone());
        [vec![mask], lens.flatten().collect(), bytes.collect()].concat()
    };
    // Four literals, four copied bytes, and back to them, over and over.
    let n = LEN / 8;
    let short = streams(0b1110, &[&[(4, n)], &[(4, n)], &[(0, 1), (7, n - 1)]]);
    // All is a literal, or a copy, and all is wrong, each byte five bytes of gap behind the last.
    let all: Vec<(u8, usize)> = varint(LEN as u64).iter().map(|byte| (*byte, 1)).collect();
    let (literal, copy) = (streams(0b10, &[&all]), streams(0b1110, &[&[(0, 1)], &all, &[(0, 1)]]));
    let (gaps, values) = (packed(&[(0, 5 * LEN)]), packed(&[(0, LEN)]));
    let numbers = [5 * LEN, gaps.len(), values.len()].map(|len| varint(len as u64)).concat();
    let wrong = [&[0][..], &varint(LEN as u64), &numbers, &gaps, &values, &values].concat();
    let cases = [
        ("short segments", &tiny, short),
        ("wrong literals", &tiny, [literal, wrong.clone()].concat()),
        ("wrong copies", &long, [copy, wrong].concat()),
    ];
    for (what, base, body) in cases {
        let (error, peak) = bomb_of_copy(base, &target, &body);
        assert!(matches!(error, ApplyError::Damaged(CodecError::Stream(EntropyError::Corrections))), "{what}: {error:?}");
        assert!(peak < 4 * LEN, "{what}: {peak} bytes");
    }
}

/// A program with nothing but two units of debugging entries, of which the first is so long.
fn program_of_units(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 120 + len];
    let mut put = |at: usize, value: u64, width: usize| bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    put(120, len as u64 - 4, 4);
    let names = b"\0\0\0\0\0.debug_info\0";
    let (names_at, sections_at) = (120 + len + 4, 120 + len + 4 + names.len());
    let fields = [(18, 62), (32, 64), (40, sections_at), (54, 56), (56, 1), (60, 3), (62, 2), (64, 1)];
    fields.iter().for_each(|&(at, value)| put(at, value as u64, if at == 40 { 8 } else { 2 }));
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes.extend([&[0; 4][..], names, &[0; 64]].concat());
    for (name, at, len) in [(5, 120, len + 4), (0, names_at, names.len())] {
        bytes.extend([name, 1_u32].map(u32::to_le_bytes).concat());
        bytes.extend([0, 0, at as u64, len as u64, 0, 0, 0].map(u64::to_le_bytes).concat());
    }
    bytes
}

/// A delta of few bytes whose programs of 128 KiB, 32 MiB together, have so many units of this length each, as it says.
fn delta_of_units(base: &Manifest, base_len: usize, n_programs: usize, n_units: usize) -> (Manifest, Vec<u8>) {
    const LEN: usize = 128 << 10;
    let program = |n: usize| {
        let kind = Kind::File { executable: false, len: LEN as u64, digest: Digest::of(&n.to_le_bytes()) };
        Entry { path: format!("{n:03}.so").parse().expect("a path"), kind }
    };
    let target = Manifest::new((0..256).map(program).collect()).expect("a list");
    let plan = df_delta::choose::plan(Some(base), &target, &[]);
    assert_eq!((plan.pieces.len(), plan.pieces[0].base_len() as usize), (1, base_len));
    let signed = |value: usize| varint(2 * value as u64);
    // The first unit is as long as the base's first, and so is every other: one back from the next.
    let units = [signed(n_units), vec![0], vec![1; n_units - 1]].concat();
    // Neither member nor base differ from what is next, nor is there a load, nor has a part moved.
    let layout = [&[0; 3], &signed(LEN - base_len)[..], &[0], &[0; 16], &units].concat();
    let head = [varint(n_programs as u64), layout.repeat(n_programs)].concat();
    let mut packed = Vec::new();
    entropy::pack(&head, &[], Shape::Numbers, Level::Fast, &mut Room::to_unpack(), &mut packed);
    let body = [vec![1], varint(head.len() as u64), varint(packed.len() as u64), packed].concat();
    let after_header = listed(&target, &[&[0], &part(4, body.len() as u64, &body)[..]].concat());
    let (from, to) = (base.image(), target.image());
    let delta = [b"dfd\x03\x01", &from.0.as_bytes()[..8], &to.0.as_bytes()[..8], &after_header].concat();
    (target, delta)
}

fn programs_that_claim_many_units() {
    // Those that no file of that length has, and as many as it may have.
    for (unit_len, n_programs, n_units) in [(508, 255, 1 << 16), (4, 256, 32_700)] {
        let program = program_of_units(unit_len);
        let base = list_of("old.so", program.len() as u64, &program);
        let (target, delta) = delta_of_units(&base, program.len(), n_programs, n_units);
        assert!(delta.len() < 64 << 10, "{} bytes", delta.len());
        let read = |_: Digest, at: u64, len: usize| Ok(program[at as usize..at as usize + len].to_vec());
        let (error, peak) =
            measured(|| df_delta::apply(Some((&base, &read)), target.image(), &mut &delta[..], &Nowhere).expect_err("a bomb"));
        assert!(matches!(error, ApplyError::Damaged(CodecError::Body)), "{error:?}");
        // Numbers are half as long as what they make, and units as long at most.
        assert!(peak < 64 << 20, "{n_units} units of {unit_len} bytes in each of {n_programs} programs: {peak} bytes");
    }
}

fn an_rsync_delta_that_copies_the_base_over_and_over() {
    // One file of 60,000 bytes becomes one of 1000, by 200 copies of all of it.
    let (base, target) = (list_of("a", 60_000, b"y"), list(1000));
    let copy = [0x46, 0, 0xea, 0x60];
    let rsync = [&[0x72, 0x73, 0x02, 0x36][..], &copy.repeat(200), &[0]].concat();
    let mut packed = Vec::with_capacity(2000);
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).expect("a parameter");
    context.compress2(&mut packed, &rsync).expect("compresses");
    let body = listed(&target, &[&[2][..], &varint(rsync.len() as u64), &varint(packed.len() as u64), &packed].concat());
    let delta = [b"dfd\x03\x02", &base.image().0.as_bytes()[..8], &target.image().0.as_bytes()[..8], &body].concat();
    let read = |_: Digest, _: u64, len: usize| Ok(vec![b'y'; len]);
    let (error, peak) =
        measured(|| df_delta::apply(Some((&base, &read)), target.image(), &mut &delta[..], &Nowhere).expect_err("a bomb"));
    assert!(matches!(error, ApplyError::Damaged(CodecError::Rsync)), "{error:?}");
    assert!(peak < 1 << 18, "{peak} bytes");
}

fn whole_copies_that_claim_much() {
    let start = Instant::now();
    let (huge, small) = (list(1 << 40), list(1000));
    let any = ImageId(Digest::of(b"any"));
    let frame = zeroes(200);
    let gib = varint(1 << 30);
    let frame_len = frame.len() as u64;
    let (error, _) = bomb(any, &varint(u64::from(u32::MAX)));
    assert!(matches!(error, ApplyError::ManifestTooLarge { .. }), "{error:?}");
    let (error, _) = bomb(small.image(), &listed(&small, &part(1, 1100, &[0; 1100])));
    assert!(matches!(error, ApplyError::Damaged(CodecError::Oversized { packed: 1100, raw: 1000 })), "{error:?}");
    let rsync_len = [&[2][..], &varint(u64::from(u32::MAX)), &[9], b"x"].concat();
    let claims = [
        ("a manifest of 1 GiB that does not come", any, [&gib[..], &stored(b"x")].concat()),
        ("a manifest of 1 GiB that unpacks to less", any, [&gib[..], &part(1, frame_len, &frame)].concat()),
        ("a codec of another kind that claims much", small.image(), listed(&small, &rsync_len)),
        ("a part packed to much more than it holds", small.image(), listed(&small, &part(1, u64::MAX, b"x"))),
        ("25 MiB in a part of 1000 bytes", small.image(), listed(&small, &part(1, frame_len, &frame))),
        (
            "streams of much more than the part makes",
            small.image(),
            listed(&small, &part(3, 9, &[2, 0xff, 0xff, 0xff, 0x7f, 0, 1, 1, 1])),
        ),
        ("a terabyte that does not come", huge.image(), listed(&huge, &stored(b"x"))),
    ];
    for (what, image, after_header) in claims {
        let (error, peak) = bomb(image, &after_header);
        assert!(matches!(error, ApplyError::Damaged(_)), "{what}: {error:?}");
        // The plan of a terabyte has 32,768 pieces, and one part of a manifest may take what it says; nothing may take more.
        let limit = if what.contains("tera") || what.contains("unpacks") { 40 << 20 } else { 1 << 16 };
        assert!(peak < limit, "{what}: {peak} bytes");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}
