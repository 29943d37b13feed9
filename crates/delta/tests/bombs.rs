//! A delta that claims much takes little: this test counts what the process allocates, so it is alone in its file.

#![allow(missing_docs, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use df_core::{Digest, Entry, ImageId, Kind, Manifest};
use df_delta::{ApplyError, CodecError, Sink, Slice};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nowhere;

impl Sink for Nowhere {
    fn manifest(&self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }
    fn blob(&self, _: Digest, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn stretch(&self, _: Slice, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn finish(&self, _: Digest) -> io::Result<()> {
        Ok(())
    }
}

/// Applies, and returns the error and the most that was allocated at once.
fn bomb(image: ImageId, after_header: &[u8]) -> (ApplyError, usize) {
    let delta = [b"dfd\x03\x00", &[0; 8][..], &image.0.as_bytes()[..8], after_header].concat();
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let error = df_delta::apply(None, image, &mut &delta[..], &Nowhere).expect_err("a bomb");
    (error, PEAK.load(Ordering::Relaxed) - before)
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
    let block = |last: u32| (1 << 20 | 1 << 1 | last).to_le_bytes()[..3].to_vec();
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3];
    (1..=blocks).for_each(|n| bytes.extend([block(u32::from(n == blocks)), vec![0]].concat()));
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
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let error = df_delta::apply(Some((&base, &read)), target.image(), &mut &delta[..], &Nowhere).expect_err("a bomb");
    let peak = PEAK.load(Ordering::Relaxed) - before;
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
