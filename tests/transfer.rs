//! How an image travels: by what is quickest unless a person says otherwise, from whichever image resembles it, and made ahead while nobody waits.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::net;
use df_testkit::process::{Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::seed::Seed;
use df_testkit::sshd::Sshd;
use serde_json::Value;

use crate::support::{World, versions};

/// Bytes of the file that the small versions are made of.
const FILE_LEN: usize = 300_000;
const SOON: Duration = Duration::from_secs(60);

/// Returns what a dry run plans for the one node of an event's name.
fn planned(output: &df_testkit::process::Output, node: &str) -> Value {
    let of_node = |event: &Value| event["node"] == node;
    output
        .events("planned")
        .into_iter()
        .find(of_node)
        .unwrap_or_else(|| panic!("nothing is planned for {node}: {}", output.stdout))
}

#[test]
fn each_codec_brings_the_same_image_and_says_what_it_was() {
    let (versions, world) = (versions(), World::new(5));
    world.df(["cp", "--version", &versions.v1]).ok();
    for (n, codec, has_base) in [(1, "patch", true), (2, "copy", true), (3, "elf", true), (4, "rsync", true), (5, "whole", false)]
    {
        let node = format!("n{n}");
        let copied = world.df(["--json", "--address", &node, "cp", "--version", &versions.v2, "--codec", codec]).ok();
        let copied = &copied.events("copied")[0];
        assert_eq!((&copied["codec"], copied["base"].is_string()), (&Value::from(codec), has_base), "{copied}");
    }
    // The node checks every byte before it gives an image its name.
    let again = world.df(["--json", "cp", "--version", &versions.v2]).ok();
    assert!(again.events("copied").iter().all(|copied| copied["codec"] == "none"), "{}", again.stdout);
}

#[test]
fn a_wish_that_cannot_be_fulfilled_is_refused_before_anything_moves() {
    let (versions, world) = (versions(), World::new(1));
    for codec in ["rsync", "elf", "copy", "patch"] {
        let refused = world.df(["cp", "--version", &versions.v1, "--codec", codec]).output().expect_code(1);
        assert!(refused.stderr.contains(&format!("--codec {codec} needs an image")), "{}", refused.stderr);
    }
    world.df(["cp", "--version", &versions.v1, "--codec", "whole", "--full"]).output().expect_code(2);
    assert_eq!(fs::read_dir(world.node(1).join("store")).map_or(0, Iterator::count), 0, "something was stored");
    let texts = Texts::new();
    let world = World::of(texts.repo.dir(), 1);
    let refused = texts.df(&world, &["cp", "--version", &texts.commits[0], "--codec", "elf"]).output().expect_code(2);
    assert!(refused.stderr.contains("the image has none"), "{}", refused.stderr);
}

#[test]
fn a_dry_run_says_for_each_node_what_a_copy_then_takes() {
    let (versions, world) = (versions(), World::new(2));
    world.df(["--address", "n1", "cp", "--version", &versions.v1]).ok();
    let plan = world.df(["--json", "--dry-run", "cp", "--version", &versions.v2]).ok();
    let (near, far) = (planned(&plan, "n1"), planned(&plan, "n2"));
    assert!(near["codec"] == "elf" && near["base"].is_string() && near["estimated"] == false, "{near}");
    assert!(far["codec"] == "whole" && far["base"].is_null(), "{far}");
    let number = |event: &Value, field: &str| event[field].as_f64().unwrap_or_else(|| panic!("{field} of {event}"));
    assert!(number(&near, "seconds") < number(&far, "seconds") && number(&far, "seconds") < 10.0, "{near} {far}");
    let shown = world.df(["--dry-run", "cp", "--version", &versions.v2]).ok();
    assert!(shown.stdout.contains("copy elf of image") && shown.stdout.contains("copy the image whole"), "{}", shown.stdout);
    let copied = world.df(["--json", "cp", "--version", &versions.v2]).ok();
    for plan in [&near, &far] {
        let copied = copied.events("copied").into_iter().find(|copied| copied["node"] == plan["node"]).expect("it was copied");
        let (sent, said) = (number(&copied, "bytes_sent"), number(plan, "bytes"));
        assert!(copied["codec"] == plan["codec"] && said <= sent && sent < said + 4096.0, "{plan} {copied}");
    }
}

#[test]
fn a_fast_line_takes_the_whole_image_unless_the_delta_is_there() {
    let texts = Texts::sized("texts", 20 * FILE_LEN);
    let world = World::of(texts.repo.dir(), 0);
    let sshd = Sshd::start(&world.path("sshd"), net::own_loopback());
    let run = world.path("run");
    fs::DirBuilder::new().mode(0o700).create(&run).expect("made");
    let df = |words: &[&str]| texts.df(&world, words).env("DF_SSH_CONFIG", &sshd.ssh_config).env("XDG_RUNTIME_DIR", &run);
    df(&["add", &format!("ssh://{}{}", sshd.host(), world.path("far").display()), "--name", "far"]).ok();
    df(&["cp", "--version", &texts.commits[0]]).ok();
    let seen = world.path("state").join("seen.json");
    let plan_at = |bytes_per_second: f64| {
        let mut json: Value = serde_json::from_slice(&fs::read(&seen).expect("it was seen")).expect("JSON");
        json["nodes"][0]["link"] = serde_json::json!({ "bytes_per_second": bytes_per_second, "round_trip": 0.0002 });
        fs::write(&seen, json.to_string()).expect("written");
        let plan = planned(&df(&["--json", "--dry-run", "cp", "--version", &texts.commits[1]]).ok(), "far");
        plan["base"].is_string()
    };
    // Made for the answer, the whole image is there.
    df(&["--dry-run", "cp", "--full", "--version", &texts.commits[1]]).ok();
    assert!(!plan_at(1.25e9), "making the delta takes longer than sending everything");
    assert!(plan_at(125e3));
    // So is the delta now.
    assert!(plan_at(1.25e9));
}

#[test]
fn an_image_of_another_application_is_the_base_when_it_is_the_nearest() {
    let (texts, others) = (Texts::new(), Texts::of("another"));
    let world = World::of(others.repo.dir(), 1);
    others.df(&world, &["cp", "--version", &others.commits[0]]).ok();
    let own = Run::new(env!("CARGO_BIN_EXE_df"));
    let own = own.arg("-C").arg(texts.repo.dir()).arg("--state").arg(world.path("state"));
    let own = own.env("XDG_CACHE_HOME", others.cache()).env("DF_NO_BACKGROUND", "1");
    let copied = own.args(["--json", "cp"]).ok();
    let copied = &copied.events("copied")[0];
    assert!(copied["base"].is_string() && copied["bytes_sent"].as_u64().expect("a number") < 4096, "{copied}");
}

#[test]
fn the_delta_to_what_nodes_hold_is_made_after_a_build_by_a_child_that_holds_nobody_up() {
    let texts = Texts::new();
    let world = World::of(texts.repo.dir(), 1);
    texts.df(&world, &["cp", "--version", &texts.commits[0]]).ok();
    // The child waits for its turn, so that it can be looked at.
    let turn = File::create(texts.cache().join("df/preparing")).expect("made");
    turn.lock().expect("locked");
    let build = |words: &[&str]| texts.df(&world, words).env_remove("DF_NO_BACKGROUND");
    // It returns although the child goes on: no stream of ours is held.
    build(&["build", "--commit-hash", &texts.commits[1]]).ok();
    let child = wait_until(SOON, || children(&world.path("state")).first().copied()).expect("there is a child");
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).expect("read");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!((fields[3], fields[16]), (child.to_string().as_str(), "19"), "a session of its own, and the lowest priority");
    for fd in ["0", "1", "2"] {
        assert_eq!(fs::read_link(format!("/proc/{child}/fd/{fd}")).expect("open"), Path::new("/dev/null"));
    }
    // At most one waits besides.
    build(&["build", "--commit-hash", &texts.commits[1]]).ok();
    drop(turn);
    let made = || texts.deltas().iter().any(|name| name.ends_with("fast"));
    assert!(wait_until(SOON, || made().then_some(())).is_some(), "{:?}", texts.deltas());
    assert!(wait_until(SOON, || children(&world.path("state")).is_empty().then_some(())).is_some(), "the child does not end");
    let copied = texts.df(&world, &["--json", "cp", "--version", &texts.commits[1]]).ok();
    let copied = &copied.events("copied")[0];
    assert!(copied["base"].is_string() && copied["bytes_sent"].as_u64().expect("a number") < 4096, "{copied}");
    // What is there needs nobody.
    build(&["build", "--commit-hash", &texts.commits[1]]).ok();
    assert_eq!(children(&world.path("state")), [0_u32; 0]);
}

#[test]
fn nothing_is_made_ahead_when_it_is_turned_off_or_nobody_was_seen() {
    let texts = Texts::new();
    let world = World::of(texts.repo.dir(), 1);
    let turn = |cache: &Path| {
        fs::create_dir_all(cache.join("df")).expect("made");
        let turn = File::create(cache.join("df/preparing")).expect("made");
        turn.lock().expect("locked");
        turn
    };
    let _turn = turn(&texts.cache());
    texts.df(&world, &["build", "--commit-hash", &texts.commits[0]]).env_remove("DF_NO_BACKGROUND").ok();
    assert_eq!(children(&world.path("state")), [0_u32; 0], "no node was seen yet");
    texts.df(&world, &["cp", "--version", &texts.commits[0]]).ok();
    texts.df(&world, &["build", "--commit-hash", &texts.commits[1]]).ok();
    assert_eq!(children(&world.path("state")), [0_u32; 0], "it is turned off");
}

/// Two versions of an image of texts, and a cache of their own.
struct Texts {
    dir: tempfile::TempDir,
    repo: Repo,
    commits: [String; 2],
}

impl Texts {
    fn new() -> Self {
        Self::of("texts")
    }

    fn of(app: &str) -> Self {
        Self::sized(app, FILE_LEN)
    }

    fn sized(app: &str, file_len: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("df-texts").tempdir().expect("a directory");
        let repo = Repo::new(&dir.path().join("repo"));
        let config = format!("app: {app}\nbuild: {{ command: \"mkdir out && cp text out\", output: out, sandbox: off }}\n");
        let mut random = Seed(7).random();
        let mut text: Vec<char> = (0..file_len).map(|_| char::from(b' ' + random.index(94) as u8)).collect();
        let commits = [1, 2].map(|n| {
            text[file_len / n - 1] = '\n';
            repo.commit(&[("df.yaml", &config), ("text", &text.iter().collect::<String>())], &format!("version {n}"))
        });
        let texts = Self { dir, repo, commits };
        let world = World::of(texts.repo.dir(), 0);
        texts.commits.iter().for_each(|commit| drop(texts.df(&world, &["build", "--commit-hash", commit]).ok()));
        texts
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn df(&self, world: &World, words: &[&str]) -> Run {
        world.df([]).args(words).env("XDG_CACHE_HOME", self.cache())
    }

    /// Names of the deltas that are kept.
    fn deltas(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("df/v1/d")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Lists the children that prepare deltas for a state directory; those that only wait to be reaped are gone.
fn children(state: &Path) -> Vec<u32> {
    let state = state.to_str().expect("UTF-8");
    let pids =
        fs::read_dir("/proc").expect("there is /proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.contains(&&b"__prepare"[..]) && words.contains(&state.as_bytes())
    })
    .collect()
}
