//! How much memory an encoder and a decoder take, by every allocation they make: a test binary of its own, as it counts all of them.

mod counted;

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use df_core::{Digest, Entry, Kind, Manifest};
use df_delta::{Codec, Level, ReadBlob};

use counted::{Nowhere, measured};

/// What one test allocates would count for another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is allocated besides, however long the files are: tables of zstd and of the coders.
const CONSTANT: usize = 8 * MIB;

const MIB: usize = 1 << 20;

const CODE: usize = 0x1000;

/// What is between two calls: as much as in what compilers make, or so little that there are as many references as are looked at, nearly as in entries for debuggers.
#[derive(Clone, Copy)]
enum Between {
    Move = 10,
    Push = 1,
}

/// A program of functions of eight calls each; `added` functions are longer than they were, so that nearly everything moved.
fn program(n_functions: usize, between: Between, added: usize) -> Vec<u8> {
    // The same ones are called, however many there are.
    const CALLED: usize = 70_000;
    let mut starts = Vec::new();
    let mut end = CODE;
    for n in 0..n_functions {
        starts.push(end);
        end += 8 * (between as usize + 5) + 1 + if n % 1400 == 7 { added } else { 0 };
    }
    let mut bytes = vec![0; CODE];
    for (n, &start) in starts.iter().enumerate() {
        bytes.resize(start, 0x90);
        for call in 0..8 {
            let value = (n * 8 + call).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match between {
                Between::Move => bytes.extend([&[0x48, 0xb8], &(value as u64).to_le_bytes()[..]].concat()),
                Between::Push => bytes.push(0x50 | (value >> 61) as u8),
            }
            let target = starts[(n * 31 + call * 7919) % CALLED.min(n_functions)] as i64;
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

/// Some programs, each a file.
struct Image {
    manifest: Manifest,
    files: HashMap<Digest, Vec<u8>>,
}

impl Image {
    fn of(files: Vec<Vec<u8>>) -> Self {
        let files: Vec<(Digest, Vec<u8>)> = files.into_iter().map(|bytes| (Digest::of(&bytes), bytes)).collect();
        let entry = |(nth, (digest, bytes)): (usize, &(Digest, Vec<u8>))| Entry {
            path: format!("program{nth}").parse().expect("a path"),
            kind: Kind::File { executable: true, len: bytes.len() as u64, digest: *digest },
        };
        let manifest = Manifest::new(files.iter().enumerate().map(entry).collect()).expect("a manifest");
        Self { manifest, files: files.into_iter().collect() }
    }

    fn read(&self, digest: Digest, at: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.files[&digest][at as usize..at as usize + len].to_vec())
    }
}

/// Returns a delta, and the most that making it took at once.
fn encode(old: &Image, new: &Image) -> (Vec<u8>, usize) {
    let (read_old, read_new) = (|d, at, len| old.read(d, at, len), |d, at, len| new.read(d, at, len));
    let (base, target) = ((&old.manifest, &read_old as ReadBlob<'_>), (&new.manifest, &read_new as ReadBlob<'_>));
    let mut delta = Vec::new();
    let (encoded, taken) = measured(|| df_delta::encode(Some(base), target, Level::Fast, &mut delta).expect("a delta"));
    assert_eq!(encoded.codecs.main(), Some(Codec::Elf));
    (delta, taken)
}

#[test]
fn an_encoder_takes_at_most_eight_times_the_largest_file() {
    let _alone = alone();
    let of = |added| vec![program(70_000, Between::Move, added)];
    let (old, new) = (of(0), of(9));
    let len = new[0].len();
    let (_, taken) = encode(&Image::of(old), &Image::of(new));
    assert!(taken <= 8 * len + CONSTANT, "{taken} bytes, which is {:.2} times the file", taken as f64 / len as f64);
}

#[test]
fn an_encoder_of_several_programs_takes_at_most_eight_times_the_largest() {
    let _alone = alone();
    // Longer than what is packed at once of shorter ones.
    let of = |added| (0..2).map(|nth| program(34 * MIB / 121 + nth, Between::Move, added)).collect();
    let (old, new): (Vec<_>, Vec<_>) = (of(0), of(9));
    let len = new[1].len();
    let (_, taken) = encode(&Image::of(old), &Image::of(new));
    assert!(taken <= 8 * len + CONSTANT, "{taken} bytes, which is {:.2} times the largest", taken as f64 / len as f64);
}

#[test]
fn programs_that_are_applied_at_once_stay_below_256_mib() {
    let _alone = alone();
    // As many as there are threads for, which lost most of what they had, as when debugging entries go. Their bytes, and what may be wrong with them, would fit.
    let n = thread::available_parallelism().map_or(1, usize::from).clamp(2, 4);
    let len = (44 * MIB).min(224 * MIB / n - 40 * MIB);
    let of = |len: usize, added| Image::of((0..n).map(|nth| program(len / 49 + nth, Between::Push, added)).collect());
    let (old, new) = (of(len, 0), of(17 * MIB, 9));
    let (delta, _) = encode(&old, &new);
    let read_old = |d, at, len| old.read(d, at, len);
    let base = (&old.manifest, &read_old as ReadBlob<'_>);
    let apply = || df_delta::apply(Some(base), new.manifest.image(), &mut &delta[..], &Nowhere).expect("the image");
    let (_, taken) = measured(apply);
    assert!(taken <= 256 * MIB, "{n} programs of {} MiB: {} MiB", len / MIB, taken / MIB);
}
