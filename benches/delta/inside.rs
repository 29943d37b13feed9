//! One step of one delta in a process of its own: what it takes of a core and of memory is then that of the process.
//!
//! `--inside encode|apply fast|small V1 V2 DELTA OUT` prints one JSON value. One thread, so that seconds are seconds of a core; they are counted by the
//! process's own clock, which stands still while a busy machine does something else.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use df_cache::import::{self, ImportOptions, Located};
use df_core::{Digest, Manifest};
use df_delta::{Level, Sink, Slice};
use rustix::time::{ClockId, clock_gettime};

/// Runs the step that the words name.
pub fn main(words: &[String]) {
    let [step, level, v1, v2, delta, out] = words else { panic!("--inside STEP LEVEL V1 V2 DELTA OUT, not {words:?}") };
    let level = if level == "small" { Level::Small } else { Level::Fast };
    let located = |dir: &String| import::located(Path::new(dir), ImportOptions::default()).expect("a tree that can be an image");
    let (old, new) = (located(v1), located(v2));
    let said = match step.as_str() {
        "encode" => encode(&old, &new, level, Path::new(delta)),
        "apply" => apply(&old, &new, Path::new(delta), Path::new(out)),
        other => panic!("no such step: {other}"),
    };
    println!("{said}");
}

fn encode(old: &Located, new: &Located, level: Level, delta: &Path) -> serde_json::Value {
    let mut out = BufWriter::new(File::create(delta).expect("the delta's file"));
    let (read_old, read_new) = (reader(old), reader(new));
    let began = cpu_seconds();
    let encoded =
        df_delta::encode(Some((&old.manifest, &read_old)), (&new.manifest, &read_new), level, &mut out).expect("encoded");
    out.flush().expect("written");
    let seconds = cpu_seconds() - began;
    let len = |located: &Located| -> u64 { located.manifest.blobs().iter().map(|(_, len)| len).sum() };
    let changed = |located: &Located, other: &Located| -> Vec<u64> {
        let is_new = |digest: &Digest| !other.files.contains_key(digest);
        located.manifest.blobs().iter().filter(|(digest, _)| is_new(digest)).map(|(_, len)| *len).collect()
    };
    let largest = changed(new, old).into_iter().chain(changed(old, new)).max().unwrap_or(0);
    serde_json::json!({
        "bytes": encoded.bytes, "cpu_s": seconds, "image_bytes": len(new), "changed_bytes": len(new) - encoded.reused_len, "largest_bytes": largest,
    })
}

fn apply(old: &Located, new: &Located, delta: &Path, out: &Path) -> serde_json::Value {
    std::fs::create_dir_all(out).expect("a directory");
    let sink = Files(out);
    let mut delta = BufReader::new(File::open(delta).expect("the delta"));
    let read_old = reader(old);
    let began = cpu_seconds();
    let applied = df_delta::apply(Some((&old.manifest, &read_old)), new.manifest.image(), &mut delta, &sink).expect("applied");
    let seconds = cpu_seconds() - began;
    assert_eq!(applied.manifest, new.manifest, "the manifest is the target's");
    for (digest, path) in &new.files {
        let made = if old.files.contains_key(digest) { old.files[digest].clone() } else { out.join(digest.to_string()) };
        assert!(same_bytes(&made, path), "{} differs", path.display());
    }
    serde_json::json!({ "cpu_s": seconds })
}

/// Blobs as files named by their digest.
struct Files<'a>(&'a Path);

impl Sink for Files<'_> {
    fn manifest(&self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }
    fn blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        std::fs::write(self.0.join(digest.to_string()), bytes)
    }
    fn stretch(&self, stretch: Slice, bytes: &[u8]) -> io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(self.0.join(stretch.digest.to_string()))?;
        file.write_all_at(bytes, stretch.offset)
    }
    fn finish(&self, _: Digest) -> io::Result<()> {
        Ok(())
    }
}

fn reader(located: &Located) -> impl Fn(Digest, u64, usize) -> io::Result<Vec<u8>> + Sync + '_ {
    |digest, offset, len| {
        let mut bytes = vec![0; len];
        File::open(&located.files[&digest])?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn same_bytes(one: &Path, other: &Path) -> bool {
    std::process::Command::new("cmp").arg("-s").args([one, other]).status().expect("cmp starts").success()
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
