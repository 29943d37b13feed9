//! What the programs say to each other for a pair: `df cp` of one version over the other, to a node in a directory of this machine.
//!
//! The codec is forced, as over a line this fast df would send the image whole.

use std::path::Path;
use std::process::{Command, Stdio};

use df_testkit::repo::Repo;
use serde_json::{Value, json};

use crate::support::World;

/// Bytes behind a delta that is kept in the cache.
const TRAILER_LEN: u64 = 48;

/// Copies the first version to a new node, then the second at this level; returns the bytes of the second copy, counted by df on both ways, and how many of
/// them are the delta.
pub fn copy(pair: &str, dir: &Path, level: &str) -> Value {
    let place =
        tempfile::Builder::new().prefix("delta-wire-").tempdir_in(dir.parent().expect("below pairs")).expect("a directory");
    let repo = Repo::new(&place.path().join("repo"));
    let yaml = format!(
        "app: pair\nbuild: {{ command: \"mkdir out && cp -a {}/$(cat which)/. out/\", output: out, sandbox: off }}\n",
        dir.display()
    );
    // Nodes belong to a df.yaml.
    std::fs::write(repo.dir().join("df.yaml"), &yaml).expect("written");
    let world = World::of(repo.dir(), 1);
    let df = |words: &[&str]| -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_df"));
        command.arg("-C").arg(repo.dir()).arg("--state").arg(world.path("state")).arg("--json").args(words);
        command
            .env("XDG_CACHE_HOME", place.path().join("cache"))
            .env("NO_COLOR", "1")
            .env("DF_NO_BACKGROUND", "1")
            .stdin(Stdio::null());
        let output = command.output().expect("df starts");
        assert!(output.status.success(), "{pair} {words:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("one JSON value a line"))
            .collect()
    };
    let mut copied = Value::Null;
    let codec = if has_program(&dir.join("v2")) { "elf" } else { "copy" };
    let delta = ["cp", "--codec", codec, "--level", level];
    // The first has nothing to be a delta to.
    for (version, words) in [("v1", &delta[..1]), ("v2", &delta)] {
        repo.commit(&[("df.yaml", &yaml), ("which", version)], version);
        let events = df(words);
        copied = events.into_iter().find(|event| event["type"] == "copied").expect("a copy is told");
    }
    let image = copied["image"].as_str().expect("the event names it").to_owned();
    let there = world.node(1).join("store").join(&image);
    let differs =
        Command::new("diff").args(["-rq", "--no-dereference"]).args([&dir.join("v2"), &there]).status().expect("diff is here");
    assert!(differs.success(), "{pair}: what {} holds is not the second version", there.display());
    let base = copied["base"].as_str().expect("it was a delta").to_owned();
    let delta = kept(&place.path().join("cache"), &format!("{base}-{image}-")).expect("a delta that was made is kept");
    json!({ "delta": delta - TRAILER_LEN, "sent": copied["bytes_sent"], "received": copied["bytes_received"], "codec": copied["codec"], "seconds": copied["seconds"] })
}

/// Returns whether there is a program or a library for Linux in a tree: only then df takes the codec for them.
fn has_program(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"));
    entries.into_iter().any(|entry| match entry.file_type().expect("known") {
        kind if kind.is_dir() => has_program(&entry.path()),
        kind if kind.is_file() => std::fs::read(entry.path()).expect("readable").starts_with(b"\x7fELF"),
        _ => false,
    })
}

/// Returns the length of the largest file below a directory whose name begins so.
fn kept(dir: &Path, begins: &str) -> Option<u64> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let lens = entries.filter_map(|entry| match entry.file_type().ok()?.is_dir() {
        true => kept(&entry.path(), begins),
        false => entry.file_name().to_str()?.starts_with(begins).then(|| entry.metadata().ok().map(|metadata| metadata.len()))?,
    });
    lens.max()
}
