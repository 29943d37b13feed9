//! What does a delta between two trees cost, in bytes and seconds on one core?
//!
//! `cargo run --release -p df-delta --example measure -- OLD NEW [fast|small|all] [patch|copy|elf|rsync|whole]` takes two files or directories and prints bytes by
//! codec and by stream, CPU seconds to encode and to apply, MB/s of what is new, and peak memory. Every delta is applied and checked. Without a level only `fast`
//! is measured; with `all` both.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use df_core::{Digest, Entry, Kind, Manifest, TreePath};
use df_delta::{Codec, Level, Options, Paged, Sink, Slice, Sort, StreamLen, choose, signature};

/// As the programs have it.
#[global_allocator]
static MEMORY: Paged = Paged;

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [old, new, rest @ ..] = &arguments[..] else { return Err("measure OLD NEW [fast|small|all] [codec]".into()) };
    let levels = match rest.first().map(String::as_str) {
        Some("small") => vec![Level::Small],
        Some("all") => vec![Level::Fast, Level::Small],
        _ => vec![Level::Fast],
    };
    let codec = rest.get(1).map(String::as_str);
    let (old, new) = (Side::load(Path::new(old))?, Side::load(Path::new(new))?);
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    for level in levels {
        measure(&old, &new, level, codec)?;
    }
    println!("peak memory {} MiB", peak_memory()? >> 20);
    Ok(())
}

fn measure(old: &Side, new: &Side, level: Level, codec: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let (read_old, read_new) = (|d, o, l| old.read(d, o, l), |d, o, l| new.read(d, o, l));
    let (base, target) =
        ((&old.manifest, &read_old as df_delta::ReadBlob<'_>), (&new.manifest, &read_new as df_delta::ReadBlob<'_>));
    let (started, mut delta, mut up) = (computed(), Vec::new(), 0);
    let encoded = match codec {
        Some("whole") => df_delta::encode(None, target, level, &mut delta)?,
        Some("rsync") => {
            let signatures = sign(old, base.0, target.0)?;
            up = signatures.iter().map(Vec::len).sum();
            df_delta::encode_rsync(base.0, &signatures, target, level, &mut delta)?
        }
        name => {
            let codec = Codec::ALL.into_iter().find(|codec| Some(codec.name()) == name);
            df_delta::encode(Some(base), target, Options { level, codec }, &mut delta)?
        }
    };
    let (encode, started) = (computed() - started, computed());
    df_delta::apply(Some(base), target.0.image(), &mut &*delta, &Nowhere)?;
    let apply = computed() - started;
    let new_len = Codec::ALL.iter().map(|&codec| encoded.codecs.of(codec).raw).sum::<u64>();
    let rate = |seconds: f64| new_len as f64 / 1e6 / seconds;
    println!(
        "{level:?}: {} bytes (up {up}); {new_len} new; encode {encode:.3} s {:.1} MB/s, apply {apply:.3} s {:.1} MB/s",
        delta.len(),
        rate(encode),
        rate(apply)
    );
    for codec in Codec::ALL {
        let StreamLen { raw, packed } = encoded.codecs.of(codec);
        if raw > 0 {
            println!("    {:<14}{raw:>10} -> {packed}", codec.name());
        }
    }
    for sort in Sort::ALL {
        let StreamLen { raw, packed } = encoded.streams[sort as usize];
        if raw > 0 {
            println!("        {:<14}{raw:>10} -> {packed}", format!("{sort:?}"));
        }
    }
    Ok(())
}

fn sign(old: &Side, base: &Manifest, target: &Manifest) -> Result<Vec<Vec<u8>>, df_delta::SignatureError> {
    let plan = choose::plan(Some(base), target, &[]);
    let block_len = signature::block_len(&plan.pieces);
    let bytes =
        |slice: &df_delta::Slice| old.blobs[&slice.digest][slice.offset as usize..(slice.offset + slice.len) as usize].to_vec();
    plan.stretches().map(|slices| df_delta::signature(&slices.iter().flat_map(bytes).collect::<Vec<u8>>(), block_len)).collect()
}

/// Returns the seconds that all threads of this process have computed: other processes do not count.
fn computed() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn peak_memory() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10)
}
