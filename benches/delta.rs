//! What does a new version cost on its way, beside what other tools need?
//!
//! For real pairs of versions (`benches/delta/pairs.sh` makes them below DF_BENCH_DIR): the bytes of the delta and its share of the time of one core and of
//! memory, on both ends, at both levels; what `df cp` to a local node then sends and receives; and the figures of rsync, zstd, xdelta3, bsdiff, HDiffPatch, casync,
//! ostree, borg and nix on the same pairs, which `benches/delta/peers.py` measures once and keeps. Every result is compared with the target tree, byte for byte.
//!
//!     DF_BENCH_DIR=/abs/dir cargo bench -p df --bench delta -- [--only df] [--no-wire] [PAIR...]
//!
//! Prints a table and writes benches/results/delta.json; `benches/delta/plot.py` draws what docs/deltas.md shows. The aims: in geometric mean 30 times fewer
//! bytes than `rsync -z` at level small; no pair on which another tool needs fewer; 40 MB/s of changed programs encoded and 200 MB/s applied on a core.

#[path = "delta/inside.rs"]
mod inside;
#[allow(dead_code, reason = "written for the tests, which need more of it")]
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "delta/table.rs"]
mod table;
#[path = "delta/wire.rs"]
mod wire;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// As the programs have it.
#[global_allocator]
static MEMORY: df_delta::Paged = df_delta::Paged;

const LEVELS: [&str; 2] = ["fast", "small"];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some(("--inside", rest)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return inside::main(rest);
    }
    let asked = Asked::of(&words);
    let root = std::env::var_os("DF_BENCH_DIR")
        .map(PathBuf::from)
        .expect("DF_BENCH_DIR names where benches/delta/pairs.sh made its pairs");
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    if asked.peers {
        run_peers(&root, &asked.pairs);
    }
    let file = results.join("delta.json");
    let mut kept: Value =
        std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_else(|| json!({}));
    for pair in pairs(&root).into_iter().filter(|pair| asked.pairs.is_empty() || asked.pairs.contains(pair)) {
        let dir = root.join("pairs").join(&pair);
        kept[&pair] = measure(&pair, &dir, &root, asked.wire);
        std::fs::write(&file, format!("{kept:#}\n")).expect("the results can be written");
    }
    let peers = std::fs::read(results.join("delta-peers.json"))
        .map(|bytes| serde_json::from_slice(&bytes).expect("JSON"))
        .unwrap_or_default();
    table::print(&kept, &peers);
}

/// What the words of the command line ask for.
struct Asked {
    peers: bool,
    wire: bool,
    pairs: Vec<String>,
}

impl Asked {
    fn of(words: &[String]) -> Self {
        let mut asked = Self { peers: true, wire: true, pairs: vec![] };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--only" => asked.peers = words.next().expect("--only df") != "df",
                "--no-wire" => asked.wire = false,
                pair => asked.pairs.push(pair.to_owned()),
            }
        }
        asked
    }
}

fn pairs(root: &Path) -> Vec<String> {
    let dir = std::fs::read_dir(root.join("pairs")).expect("benches/delta/pairs.sh was run");
    let names = dir.map(|entry| entry.expect("readable").path()).filter(|path| path.join("v2").is_dir());
    let mut names: Vec<String> = names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

fn run_peers(root: &Path, pairs: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/delta/peers.py");
    let status = Command::new(script).args(pairs).env("DF_BENCH_DIR", root).status().expect("python3 is here");
    assert!(status.success(), "peers.py: {status}");
}

fn measure(pair: &str, dir: &Path, root: &Path, with_wire: bool) -> Value {
    let mut row = json!({});
    let work = tempfile::Builder::new().prefix("delta-").tempdir_in(root).expect("a directory");
    for level in LEVELS {
        row[level] = match both_ends(&mut row, dir, work.path(), level) {
            Ok(figures) => figures,
            Err(why) => json!({ "failed": why }),
        };
        if with_wire {
            row[level]["wire"] = wire::copy(pair, dir, level);
        }
        eprintln!("{pair} {level}: {}", row[level]);
    }
    row
}

/// Makes a delta, applies it and has the result compared.
fn both_ends(row: &mut Value, dir: &Path, work: &Path, level: &str) -> Result<Value, String> {
    let step = |step: &str| {
        let (delta, out) = (work.join(level), work.join(format!("{level}.out")));
        in_own_process(&[
            step.as_ref(),
            level.as_ref(),
            dir.join("v1").as_ref(),
            dir.join("v2").as_ref(),
            delta.as_ref(),
            out.as_ref(),
        ])
    };
    let (encoded, encode_peak_mib) = step("encode")?;
    for fact in ["image_bytes", "changed_bytes", "largest_bytes"] {
        row[fact] = encoded[fact].clone();
    }
    let (applied, apply_peak_mib) = step("apply")?;
    let bytes = row["changed_bytes"].as_f64();
    let rate = |value: &Value| bytes.zip(value["cpu_s"].as_f64()).map(|(bytes, s)| (bytes / 1e6 / s * 10.0).round() / 10.0);
    Ok(json!({
        "bytes": encoded["bytes"],
        "encode": { "cpu_s": encoded["cpu_s"], "mb_s": rate(&encoded), "peak_mib": encode_peak_mib },
        "apply": { "cpu_s": applied["cpu_s"], "mb_s": rate(&applied), "peak_mib": apply_peak_mib },
    }))
}

/// Runs a step by this program in a process of its own; returns what it said and the most memory it had at once, in MiB. What it died of is on the screen.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it, and tells its memory besides")]
fn in_own_process(words: &[&std::ffi::OsStr]) -> Result<(Value, u64), String> {
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(this);
    command.arg("--inside").args(words).env("RAYON_NUM_THREADS", "1").stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut said = vec![];
    child.stdout.take().expect("piped above").read_to_end(&mut said).expect("it speaks");
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the pid is that of a child nobody waited for, and both places are ours and large enough.
    let ended = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
    assert!(ended > 0, "a child of this process");
    if status != 0 {
        return Err(format!("{} ended with {status}", words[0].display()));
    }
    // SAFETY: wait4 filled it; it was all zeroes before, which is a value too.
    let usage = unsafe { usage.assume_init() };
    Ok((serde_json::from_slice(&said).expect("one JSON value"), usage.ru_maxrss as u64 / 1024))
}
