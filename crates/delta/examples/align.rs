//! How well and how fast do two files align?
//!
//! `cargo run --release -p df-delta --example align -- OLD NEW` takes two files, or two directories whose files are compared by path, and prints for each way of aligning: segments,
//! bytes covered, bytes of those that are wrong, bytes not covered, megabytes of `new` a second on a core.

// Of the room only what aligns is used here.
#[allow(unused_imports)]
#[path = "../src/align/mod.rs"]
mod align;

use std::path::{Path, PathBuf};

use align::{Effort, Segment, align, align_exact, align_plain};

type Way = fn(&[u8], &[u8], Effort) -> Vec<Segment>;

fn main() -> std::io::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [old, new] = &paths[..] else { return Err(std::io::Error::other("usage: align OLD NEW")) };
    let mut pairs = Vec::new();
    pair(old, new, &mut pairs)?;
    println!("{} pairs that differ", pairs.len());
    let ways: [(&str, Way); 3] = [("align", align), ("plain", align_plain), ("exact", align_exact)];
    for (name, way) in ways {
        for effort in [Effort::Fast, Effort::Small] {
            measure(name, way, effort, &pairs);
        }
    }
    Ok(())
}

fn pair(old: &Path, new: &Path, pairs: &mut Vec<(Vec<u8>, Vec<u8>)>) -> std::io::Result<()> {
    if new.is_dir() {
        for found in std::fs::read_dir(new)? {
            let name = found?.file_name();
            pair(&old.join(&name), &new.join(&name), pairs)?;
        }
    } else if let (Ok(old), Ok(new)) = (std::fs::read(old), std::fs::read(new))
        && old != new
    {
        pairs.push((old, new));
    }
    Ok(())
}

/// Returns the seconds that this process spent on a core: others may be using the machine.
fn on_core() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

fn measure(name: &str, way: Way, effort: Effort, pairs: &[(Vec<u8>, Vec<u8>)]) {
    let (mut n_segments, mut covered, mut wrong, mut total, mut seconds) = (0, 0, 0, 0, 0.0);
    for (old, new) in pairs {
        let start = on_core();
        let segments = way(old, new, effort);
        seconds += on_core() - start;
        n_segments += segments.len();
        total += new.len();
        for segment in &segments {
            let (old, new) =
                (&old[segment.old as usize..][..segment.len as usize], &new[segment.new as usize..][..segment.len as usize]);
            covered += new.len();
            wrong += old.iter().zip(new).filter(|(x, y)| x != y).count();
        }
    }
    let literal = total - covered;
    println!(
        "{name:5} {effort:?}: {n_segments} segments, {covered} covered, {wrong} wrong, {literal} not covered, about {} bytes, {:.1} MB/s",
        (literal * 6 + wrong * 11 + n_segments * 28) / 8,
        total as f64 / 1e6 / seconds
    );
}
