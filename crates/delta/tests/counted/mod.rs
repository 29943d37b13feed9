//! Every allocation of a test binary is counted: a test that asks how many has the process to itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use df_core::{Digest, Manifest};
use df_delta::{Sink, Slice};

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

/// Returns what is made, and the most that making it took at once.
pub fn measured<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let start = NOW.load(Relaxed);
    PEAK.store(start, Relaxed);
    let made = make();
    (made, PEAK.load(Relaxed) - start)
}

/// Compares and keeps nothing.
pub struct Nowhere;

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
