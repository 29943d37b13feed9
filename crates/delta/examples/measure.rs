//! What does a delta between two trees cost, in bytes and seconds on one core?
//!
//! `cargo run --release -p df-delta --example measure -- OLD NEW` takes two files or directories and prints one line a way of sending: bytes up (signatures) and
//! down, seconds to encode and to apply. Every delta is applied and checked.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Instant;

use df_core::{Digest, Entry, Kind, Manifest, TreePath};
use df_delta::{Level, Sink, choose, signature};

struct Side {
    manifest: Manifest,
    blobs: HashMap<Digest, Vec<u8>>,
}

impl Side {
    fn load(path: &Path) -> io::Result<Self> {
        let (mut entries, mut blobs) = (Vec::new(), HashMap::new());
        if path.is_dir() {
            walk(path, path, &mut entries, &mut blobs)?;
        } else {
            entries.push(file(b"program", std::fs::read(path)?, &mut blobs)?);
        }
        Ok(Self { manifest: Manifest::new(entries).map_err(io::Error::other)?, blobs })
    }

    fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.blobs[&digest][offset as usize..offset as usize + len].to_vec())
    }
}

fn walk(root: &Path, at: &Path, entries: &mut Vec<Entry>, blobs: &mut HashMap<Digest, Vec<u8>>) -> io::Result<()> {
    for found in std::fs::read_dir(at)? {
        let (path, kind) = found.and_then(|found| Ok((found.path(), found.file_type()?)))?;
        let below = path.strip_prefix(root).map_err(io::Error::other)?.as_os_str().as_encoded_bytes().to_vec();
        if kind.is_dir() {
            entries.push(Entry { path: TreePath::new(&below).map_err(io::Error::other)?, kind: Kind::Directory });
            walk(root, &path, entries, blobs)?;
        } else if kind.is_file() {
            entries.push(file(&below, std::fs::read(&path)?, blobs)?);
        }
    }
    Ok(())
}

fn file(path: &[u8], bytes: Vec<u8>, blobs: &mut HashMap<Digest, Vec<u8>>) -> io::Result<Entry> {
    let (len, digest) = (bytes.len() as u64, Digest::of(&bytes));
    blobs.insert(digest, bytes);
    Ok(Entry { path: TreePath::new(path).map_err(io::Error::other)?, kind: Kind::File { executable: false, len, digest } })
}

struct Nowhere;

impl Sink for Nowhere {
    fn manifest(&mut self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }
    fn blob(&mut self, _: Digest, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [old, new] = &paths[..] else { return Err("measure OLD NEW".into()) };
    let (old, new) = (Side::load(Path::new(old))?, Side::load(Path::new(new))?);
    let (read_old, read_new) = (|d, o, l| old.read(d, o, l), |d, o, l| new.read(d, o, l));
    let (base, target) =
        ((&old.manifest, &read_old as df_delta::ReadBlob<'_>), (&new.manifest, &read_new as df_delta::ReadBlob<'_>));
    let started = Instant::now();
    let plan = choose::plan(Some(base.0), target.0);
    println!(
        "plan: {} pieces, {} bytes new, {} reused, {:.3} s",
        plan.pieces.len(),
        plan.new_len,
        plan.reused_len,
        started.elapsed().as_secs_f64()
    );
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    for (name, base_used, level) in [
        ("patch fast", Some(base), Level::Fast),
        ("patch small", Some(base), Level::Small),
        ("whole fast", None, Level::Fast),
        ("whole small", None, Level::Small),
    ] {
        let (started, mut delta) = (Instant::now(), Vec::new());
        df_delta::encode(base_used, target, level, &mut delta)?;
        report(name, 0, &delta, started, base, target.0)?;
    }
    let started = Instant::now();
    let block_len = signature::block_len(&plan.pieces);
    let with_base = plan.pieces.iter().filter(|piece| !piece.base.is_empty());
    let signatures = with_base
        .map(|piece| {
            let bytes: Vec<u8> = piece
                .base
                .iter()
                .flat_map(|s| old.blobs[&s.digest][s.offset as usize..(s.offset + s.len) as usize].to_vec())
                .collect();
            df_delta::signature(&bytes, block_len)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut delta = Vec::new();
    df_delta::encode_rsync(base.0, &signatures, target, Level::Fast, &mut delta)?;
    report("rsync fast", signatures.iter().map(Vec::len).sum(), &delta, started, base, target.0)
}

fn report(
    name: &str,
    up: usize,
    delta: &[u8],
    started: Instant,
    base: (&Manifest, df_delta::ReadBlob<'_>),
    target: &Manifest,
) -> Result<(), Box<dyn std::error::Error>> {
    let (encode, started) = (started.elapsed().as_secs_f64(), Instant::now());
    df_delta::apply(Some(base), target.image(), &mut &*delta, &mut Nowhere)?;
    println!("{name}: up {up}, down {}, encode {encode:.2} s, apply {:.2} s", delta.len(), started.elapsed().as_secs_f64());
    Ok(())
}
