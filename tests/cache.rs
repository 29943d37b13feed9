//! The cache as a person uses it: filled, compared, damaged, mended, emptied.

use std::path::{Path, PathBuf};

use df_testkit::faults;
use df_testkit::process::Run;
use df_testkit::repo::Repo;

use crate::support::{DEADLINE, World, copy_shared_cache, versions};

/// A copy of the shared cache, for a test that changes it.
fn own_cache(world: &World) -> PathBuf {
    let own = world.path("cache");
    copy_shared_cache(&own);
    own
}

/// Returns the packs of a cache, the largest first.
fn packs(cache: &Path) -> Vec<PathBuf> {
    let mut packs = vec![];
    for directory in std::fs::read_dir(cache.join("df/v1/packs")).expect("packs").flatten() {
        packs.extend(std::fs::read_dir(directory.path()).expect("a directory").flatten().map(|entry| entry.path()));
    }
    packs.sort_by_key(|pack| std::cmp::Reverse(std::fs::metadata(pack).map_or(0, |metadata| metadata.len())));
    packs
}

#[test]
fn a_damaged_cache_is_said_serves_nothing_wrong_and_is_mended_from_the_commits() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let cache = own_cache(&world);
    // Of the releases of this repository only: what other tests built, no commit here makes again.
    std::fs::remove_dir_all(cache.join("df/v1")).expect("removed");
    let store = format!("file:{}", cache.join("df/v1").display());
    for version in [&versions.v1, &versions.v2] {
        world.df(["cache", "put", version, "--address", &store]).ok();
    }
    let df = |words: &[&str]| world.df([]).args(words).env("XDG_CACHE_HOME", &cache);
    df(&["cache", "verify"]).ok();
    for pack in packs(&cache) {
        let middle = std::fs::metadata(&pack).expect("it is there").len() / 2;
        faults::flip_byte(&pack, middle);
    }
    df(&["cache", "verify"]).output().expect_code(8);
    let refused = df(&["cp", "--full", "--version", &versions.v2]).output().expect_code(1);
    assert!(refused.stderr.contains("df cache repair"), "it says what to type next: {}", refused.stderr);
    world.expect_serving(&versions.v1);
    df(&["cache", "repair"]).ok();
    df(&["cache", "verify"]).ok();
    df(&["deploy", "--version", &versions.v2]).ok();
    world.expect_serving(&versions.v2);
}

#[test]
fn a_release_goes_into_a_cache_and_comes_out_as_the_same_tree() {
    let (versions, world) = (versions(), World::new(0));
    let place = format!("file:{}", world.path("place").display());
    let out = world.path("out");
    world.df(["cache", "put", &versions.v1, "--address", &place]).ok();
    world.df(["cache", "status", "--address", &place]).ok();
    world.df(["cache", "get", &versions.v1, "--address", &place, "--output", &out.display().to_string()]).ok();
    world.df(["cache", "get", &versions.v1, "--output", &world.path("direct").display().to_string()]).ok();
    assert_eq!(df_testkit::tree::compare(&out, &world.path("direct")), []);
    assert!(out.join("bin/greeter").is_file());
    for tar in ["one.tar", "two.tar"] {
        world.df(["cache", "get", &versions.v1, "--tar", "--output", &world.path(tar).display().to_string()]).ok();
    }
    assert_eq!(
        std::fs::read(world.path("one.tar")).expect("read"),
        std::fs::read(world.path("two.tar")).expect("read"),
        "one archive has one form"
    );
    world.df(["cache", "flush", "--address", &place, "--yes"]).ok();
    world
        .df(["cache", "get", &versions.v1, "--address", &place, "--output", &world.path("gone").display().to_string()])
        .output()
        .expect_code(2);
}

#[test]
fn ctrl_c_at_the_question_of_a_flush_ends_it() {
    let (versions, world) = (versions(), World::new(0));
    let cache = own_cache(&world);
    let df = |words: &[&str]| world.df([]).args(words).env("XDG_CACHE_HOME", &cache);
    let ask = |keys: &str, code: i32| {
        let mut person = df(&["cache", "flush"]).on_terminal();
        person.wait_for("[y/N]");
        person.types(keys);
        person.finish(DEADLINE).expect_code(code);
    };
    for (keys, code) in [("\x03", 130), ("\n", 2), ("n\n", 2)] {
        ask(keys, code);
    }
    df(&["cache", "get", &versions.v1, "--output", &world.path("out").display().to_string()]).ok();
    ask("y\n", 0);
    let gone = world.path("gone").display().to_string();
    df(&["cache", "get", &versions.v1, "--output", &gone]).output().expect_code(2);
}

#[test]
fn what_a_cache_lacks_is_said_and_brought() {
    let (versions, world) = (versions(), World::new(0));
    let place = format!("file:{}", world.path("place").display());
    world.df(["cache", "put", &versions.v1, "--address", &place]).ok();
    let lacks = world.df(["--json", "cache", "diff", "--address", &place]).output().expect_code(8);
    assert!(!lacks.events("difference").is_empty() || !lacks.events("missing").is_empty(), "{}", lacks.stdout);
    let planned = world.df(["--dry-run", "cache", "update", "--address", &place]).ok();
    assert!(!planned.stdout.is_empty() || !planned.stderr.is_empty());
    world
        .df(["cache", "get", &versions.v2, "--address", &place, "--output", &world.path("early").display().to_string()])
        .output()
        .expect_code(2);
    world.df(["cache", "update", "--address", &place]).ok();
    world.df(["cache", "get", &versions.v2, "--address", &place, "--output", &world.path("late").display().to_string()]).ok();
    world.df(["cache", "gc", "--count", "0", "--older", "0s", "--address", &place, "--yes"]).ok();
    world.df(["cache", "verify", "--address", &place]).ok();
}

#[test]
fn a_base_that_is_only_on_the_node_is_used_by_its_signature() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    // An operator on another machine: nothing here, the version before is only there.
    let df = |words: &[&str]| world.df([]).args(words).env("XDG_CACHE_HOME", world.path("elsewhere"));
    let deployed = df(&["--json", "deploy", "--commit-hash", &versions.v2]).ok();
    let copied = &deployed.events("copied")[0];
    assert_eq!(copied["codec"], "rsync", "{copied}");
    assert!(copied["base"].is_string(), "{copied}");
    world.expect_serving(&versions.v2);
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn what_a_cache_elsewhere_holds_is_listed_and_one_that_is_not_there_is_not_made_by_looking() {
    let (versions, world) = (versions(), World::new(0));
    let place = format!("file:{}", world.path("place").display());
    for words in [["cache", "status"], ["cache", "diff"], ["cache", "verify"], ["ls", "versions"]] {
        let output = world.df(words).args(["--address", &place]).output().expect_code(2);
        assert!(output.stderr.contains("there is no cache at file:"), "{output}");
        assert!(output.stderr.contains(&format!("next: df cache persist --address {place}")), "{output}");
    }
    assert!(!world.path("place").exists());
    let output = world.df(["doctor", "--address", &place]).output().expect_code(1);
    assert!(output.stdout.contains("there is no such directory"), "{output}");

    world.df(["cache", "put", &versions.v1, "--address", &place]).ok();
    let listed = world.df(["ls", "versions", "--json", "--address", &place]).ok();
    let commits: Vec<_> = listed.events("release").iter().map(|release| release["commit"].clone()).collect();
    assert_eq!(commits, [versions.v1.as_str()], "{listed}");
    let output = world.df(["cache", "get", &versions.v2, "--address", &place]).output().expect_code(2);
    assert!(output.stderr.contains(&format!("is in {place}\n  next: df ls versions --address {place}")), "{output}");

    let output = world.df(["status", "--address", &place]).output().expect_code(2);
    assert!(output.stderr.contains("is a cache, and this command acts on nodes"), "{output}");
}

/// Three versions of two files in the cache: the first is 1000, 2000 and 3000 bytes long, the other the same.
struct Three {
    world: World,
    _source: tempfile::TempDir,
    commits: [String; 3],
}

impl Three {
    fn new() -> Self {
        let source = tempfile::Builder::new().prefix("df-three").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let config = "app: three\nbuild: { command: \"mkdir out && cp a b out\", output: out }\n";
        let commits = [1, 2, 3].map(|n: usize| {
            repo.commit(&[("df.yaml", config), ("a", &n.to_string().repeat(n * 1000)), ("b", &"b".repeat(500))], &n.to_string())
        });
        let three = Self { world: World::of(repo.dir(), 0), _source: source, commits };
        for commit in &three.commits {
            three.df(&["build", "--commit-hash", commit]).ok();
        }
        three
    }

    fn df(&self, words: &[&str]) -> Run {
        self.world.df([]).args(words).env("XDG_CACHE_HOME", self.world.path("cache"))
    }

    /// Expects the lines that say why a version stays or goes: which one, the word, and why.
    #[track_caller]
    fn expect_whys(&self, said: &str, whys: [(usize, &str, &str); 3]) {
        for (n, verb, why) in whys {
            let short = &self.commits[n - 1][..12];
            let line = said.lines().find(|line| line.contains(verb) && line.contains(short));
            assert!(line.is_some_and(|line| line.contains(why)), "of version {n}, \"{verb}\" and \"{why}\" in {said}");
        }
    }
}

const OLD: [&str; 4] = ["--count", "1", "--older", "2100-01-01"];

#[test]
fn why_each_version_stays_or_goes_is_said_of_a_cache() {
    let three = Three::new();
    let gc = |words: &[&str]| three.df(&[&["cache", "gc"], &OLD[..], words].concat());
    let goes = "beyond the newest 1 and older than 2100-01-01";
    let whys = [(1, "collects", goes), (2, "collects", goes), (3, "keeps", "the newest of its application")];
    let planned = gc(&["--dry-run", "--json"]).ok();
    let bytes: Vec<_> = planned.events("planned").iter().map(|it| it["bytes"].as_u64()).collect();
    assert_eq!(bytes, [Some(1000), Some(2000)], "what the version that stays has too is not freed: {planned}");
    three.expect_whys(&gc(&["--dry-run", "--why"]).ok().stdout, whys);
    let silent = gc(&["--dry-run"]).ok();
    assert!(!silent.stdout.contains("keeps"), "nobody asked why: {silent}");
    let notes = gc(&["--dry-run", "--why", "--json"]).ok();
    let notes: Vec<String> = notes.events("note").iter().map(|it| it["message"].to_string()).collect();
    three.expect_whys(&notes.join("\n"), whys);
    let young = three.df(&["cache", "gc", "--count", "1", "--older", "30d", "--why"]).ok();
    let limit = "younger than the limit";
    three.expect_whys(&young.stdout, [(1, "keeps", limit), (2, "keeps", limit), (3, "keeps", "the newest of its application")]);
    three.expect_whys(&gc(&["--why"]).ok().stdout, whys);
    let left = three.df(&["--json", "ls", "versions"]).ok().events("release").len();
    assert_eq!(left, 1, "and that is what was done");
}

#[test]
fn why_each_version_stays_or_goes_is_said_of_a_node() {
    let three = Three::new();
    let node = format!("local:{}", three.world.path("node").display());
    for commit in &three.commits {
        three.df(&["deploy", "--version", commit, "--address", &node]).ok();
    }
    let gc = |command: &[&str], words: &[&str]| three.df(&[command, &OLD[..], &["--address", &node], words].concat());
    let whys = [
        (2, "keeps generation 2 of", "a rollback goes to it"),
        (3, "keeps generation 3 of", "the current one"),
        (3, "keeps generation 3 of", "the current one"),
    ];
    for command in [&["cache", "gc"][..], &["gc"]] {
        let planned = gc(command, &["--dry-run", "--why"]).ok();
        three.expect_whys(&planned.stdout, whys);
        let goes = planned.stdout.lines().find(|line| line.contains("collect generation 1"));
        assert!(goes.is_some_and(|line| line.contains("beyond the 1 that stay and older than")), "{planned}");
        let silent = gc(command, &["--dry-run"]).ok();
        assert!(!silent.stdout.contains("keeps"), "nobody asked why: {silent}");
    }
    three.expect_whys(&gc(&["cache", "gc"], &["--why"]).ok().stdout, whys);
}
