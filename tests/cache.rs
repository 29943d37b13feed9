//! The cache as a person uses it: filled, compared, damaged, mended, emptied.

use std::path::{Path, PathBuf};

use df_testkit::faults;

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
