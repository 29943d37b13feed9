//! How much memory an encoder takes, by every allocation it makes: a test binary of its own, as it counts all of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use df_core::{Digest, Entry, Kind, Manifest, TreePath};
use df_delta::{Codec, Level, Options};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(len: usize) {
    PEAK.fetch_max(NOW.fetch_add(len, Relaxed) + len, Relaxed);
}

// SAFETY: all is done by the system's allocator; what counts allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        add(len);
        NOW.fetch_sub(layout.size(), Relaxed);
        PEAK.fetch_max(NOW.load(Relaxed), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is allocated besides, however long the files are: tables of zstd and of the coders.
const CONSTANT: usize = 8 << 20;

const CODE: usize = 0x1000;

/// A program of functions of eight calls each, as dense as compilers make them; `added` functions are longer than they were, so that nearly everything moved.
fn program(n_functions: usize, added: usize) -> Vec<u8> {
    let mut starts = Vec::new();
    let mut end = CODE;
    for n in 0..n_functions {
        starts.push(end);
        end += 8 * 15 + 1 + if n % (n_functions / 50) == 7 { added } else { 0 };
    }
    let mut bytes = vec![0; CODE];
    for (n, &start) in starts.iter().enumerate() {
        bytes.resize(start, 0x90);
        for call in 0..8 {
            let value = (n * 8 + call).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bytes.extend([0x48, 0xb8]);
            bytes.extend((value as u64).to_le_bytes());
            let target = starts[(n * 31 + call * 7919) % n_functions] as i64;
            bytes.push(0xe8);
            bytes.extend(((target - bytes.len() as i64 - 4) as i32).to_le_bytes());
        }
        bytes.push(0xc3);
    }
    let len = bytes.len() as u64;
    bytes[..24].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0");
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[52..64].copy_from_slice(&[64_u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    bytes[64..72].copy_from_slice(&[1_u32, 5].map(u32::to_le_bytes).concat());
    bytes[72..120].copy_from_slice(&[0, 0, 0, len, len, 0x1000].map(u64::to_le_bytes).concat());
    bytes
}

fn manifest(bytes: &[u8]) -> Manifest {
    let kind = Kind::File { executable: true, len: bytes.len() as u64, digest: Digest::of(bytes) };
    Manifest::new(vec![Entry { path: TreePath::new(b"program").expect("a path"), kind }]).expect("a manifest")
}

#[test]
fn an_encoder_takes_at_most_eight_times_the_largest_file() {
    let (old, new) = (program(70_000, 0), program(70_000, 9));
    let (base, target) = (manifest(&old), manifest(&new));
    let read_old = |_, at: u64, len: usize| Ok(old[at as usize..at as usize + len].to_vec());
    let read_new = |_, at: u64, len: usize| Ok(new[at as usize..at as usize + len].to_vec());
    let start = NOW.load(Relaxed);
    PEAK.store(start, Relaxed);
    let options = Options { level: Level::Fast, codec: None };
    let encoded =
        df_delta::encode(Some((&base, &read_old)), (&target, &read_new), options, &mut std::io::sink()).expect("a delta");
    let (taken, most) = (PEAK.load(Relaxed) - start, 8 * new.len() + CONSTANT);
    assert_eq!(encoded.codecs.main(), Some(Codec::Elf));
    assert!(taken <= most, "{taken} bytes, which is {:.2} times the file", taken as f64 / new.len() as f64);
}
