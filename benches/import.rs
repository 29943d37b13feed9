//! What does it cost to make a manifest of a tree?
//!
//! A tree is walked, read and hashed (BLAKE3) on one core and on all, and the same tree goes through `tar | zstd -3`: the cheapest thing that one would do instead. All from the
//! page cache. The aims: 0.8 GB/s on a core, and six times as fast as tar with zstd.
//!
//!     cargo bench -p df --bench import [-- DIR]
//!
//! The tree is the Rust toolchain that builds this (some 50,000 files, 1.3 GB), or DIR. Prints a table and writes benches/results/import.json.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use df_cache::import::{self, ImportOptions};
use df_core::Kind;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const N_RUNS: usize = 5;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [first, dir] = &words[..]
        && first == "--inside"
    {
        return println!("{}", inside(Path::new(dir)));
    }
    let dir = words.first().map_or_else(toolchain, PathBuf::from);
    let rows = json!({
        "one core": imported(&dir, Some(1)),
        "all cores": imported(&dir, None),
        "tar | zstd -3": packed(&dir),
    });
    for (name, row) in rows.as_object().expect("made above") {
        println!("{name:<16} {row}");
    }
    let ratio = |what: &str| {
        rows["tar | zstd -3"][what].as_f64().zip(rows["one core"][what].as_f64()).map_or(f64::NAN, |(tar, df)| tar / df)
    };
    let by_clock =
        rows["tar | zstd -3"]["s"].as_f64().zip(rows["all cores"]["s"].as_f64()).map_or(f64::NAN, |(tar, df)| tar / df);
    println!(
        "tar with zstd takes {:.1} times the seconds of a core, and {by_clock:.1} times the seconds of the clock",
        ratio("cpu_s")
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/import.json");
    std::fs::write(&file, format!("{rows:#}\n")).expect("the results can be written");
}

/// Makes manifests in this process and returns the middle one's cost.
fn inside(dir: &Path) -> Value {
    let once = || {
        let (began, cpu_before) = (Instant::now(), cpu_seconds());
        let manifest = import::tree(dir, ImportOptions::default()).expect("a tree that can be an image");
        (manifest, began.elapsed().as_secs_f64(), cpu_seconds() - cpu_before)
    };
    let (manifest, ..) = once();
    let mut took: Vec<(f64, f64)> = (0..N_RUNS).map(|_| once()).map(|(_, wall, cpu)| (cpu, wall)).collect();
    took.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (cpu, wall) = took[N_RUNS / 2];
    let bytes: u64 = manifest.entries().iter().map(|entry| if let Kind::File { len, .. } = entry.kind { len } else { 0 }).sum();
    json!({ "entries": manifest.entries().len(), "bytes": bytes, "s": wall, "cpu_s": cpu, "gb_per_cpu_s": bytes as f64 / 1e9 / cpu })
}

fn imported(dir: &Path, threads: Option<u32>) -> Value {
    let mut this = Command::new(std::env::current_exe().expect("this program has a path"));
    this.arg("--inside").arg(dir);
    if let Some(threads) = threads {
        this.env("RAYON_NUM_THREADS", threads.to_string());
    }
    let output = this.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}

fn packed(dir: &Path) -> Value {
    let mut took: Vec<(f64, f64)> = (0..N_RUNS)
        .map(|_| {
            let (began, cpu_before) = (Instant::now(), cpu_seconds_of_children());
            let script = "tar -C \"$0\" -c . | zstd -q -3 >/dev/null";
            let status = Command::new("bash").args(["-o", "pipefail", "-c", script]).arg(dir).status().expect("bash is here");
            assert!(status.success(), "tar | zstd: {status}");
            (cpu_seconds_of_children() - cpu_before, began.elapsed().as_secs_f64())
        })
        .collect();
    took.sort_by(|a, b| a.0.total_cmp(&b.0));
    json!({ "s": took[N_RUNS / 2].1, "cpu_s": took[N_RUNS / 2].0 })
}

fn toolchain() -> PathBuf {
    let said = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc built this");
    PathBuf::from(String::from_utf8(said.stdout).expect("UTF-8").trim())
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Fields 16 and 17 of proc(5)'s stat, in hundredths of a second.
fn cpu_seconds_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a last part");
    after_name.split_whitespace().skip(13).take(2).map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}
