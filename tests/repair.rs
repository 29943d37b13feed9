//! Nodes whose service fell ill are well again after a repair, and the others notice nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::{Child, Output, Run, wait_until};
use df_testkit::repo::Repo;

use crate::support::{DEADLINE, World, shared};

/// A program that is well again once it was started anew, unless it is incurable.
const APP: &str = "#!/bin/sh\nrm -f \"$DF_DATA/sick\"\nexec sleep 1000\n";
const CHECK: &str = "#!/bin/sh\ncat \"$DF_DATA/sick\" \"$DF_DATA/incurable\" 2>/dev/null && exit 1\ntest ! -e \"$DF_DATA/sick\" && test ! -e \"$DF_DATA/incurable\"\n";

/// Makes nodes where the program of a test's own serves.
fn ward(name: &str, n_nodes: usize) -> World {
    let dir = shared().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let files = dir.join("files");
    std::fs::create_dir_all(files.join("bin")).expect("made");
    for (path, text) in [("bin/app", APP), ("bin/check", CHECK)] {
        std::fs::write(files.join(path), text).expect("written");
        std::fs::set_permissions(files.join(path), std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let yaml = format!(
        "app: {name}\nbuild: {{ include: {{ bin: bin }}, sandbox: off }}\nrun: {{ exec: bin/app, ready: 10s, drain: 0s }}\n\
         verify: [ {{ command: bin/check }} ]\nrollout: {{ soak: 0s }}\n"
    );
    std::fs::write(files.join("df.yaml"), yaml).expect("written");
    let repo = Repo::new(&dir.join("repo"));
    let commit = repo.commit_tree(&files, "one");
    let world = World::of(repo.dir(), n_nodes);
    world.deploy(&commit);
    world
}

fn data(world: &World, n: usize, name: &str) -> PathBuf {
    world.node(n).join("data").join(name)
}

/// Returns where the one image of the first node lies.
fn image(world: &World) -> PathBuf {
    std::fs::read_dir(world.node(1).join("store")).expect("a store").flatten().next().expect("an image").path()
}

fn damage(file: &Path) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("ours");
    std::fs::write(file, "damaged").expect("written");
}

/// Returns what happened to which nodes, in order.
fn events(output: &Output, kinds: &[&str]) -> Vec<String> {
    let lines = output.json_lines();
    let told = lines.iter().filter(|event| kinds.iter().any(|kind| event["type"] == *kind));
    let node = |event: &serde_json::Value| event["node"].as_str().or(event["place"].as_str()).unwrap_or("-").to_owned();
    told.map(|event| format!("{} {}", event["type"].as_str().unwrap_or_default(), node(event))).collect()
}

#[test]
fn what_fails_its_verification_is_killed_started_and_verified_and_the_others_are_left_alone() {
    let world = ward("ward", 2);
    std::fs::write(data(&world, 1, "ward").join("sick"), "feverish").expect("written");
    // Without a repair it stays so.
    world.df(["verify"]).output().expect_code(8);
    let planned = world.df(["--json", "--dry-run", "--detailed-exitcode", "repair"]).output().expect_code(3);
    let plans: Vec<String> = planned.events("planned").iter().map(|p| format!("{} {}", p["action"], p["reason"])).collect();
    assert!(plans[0].contains("kill generation 1, then start and verify it") && plans[0].contains("feverish"), "{plans:?}");
    assert!(plans[1].contains("nothing") && plans[1].contains("is well"), "{plans:?}");
    world.df(["verify"]).output().expect_code(8);

    let repaired = world.df(["--json", "repair"]).ok();
    assert_eq!(
        events(&repaired, &["stopped", "copied", "started", "repaired", "error"]),
        ["stopped n1", "started n1", "repaired n1"]
    );
    assert!(repaired.events("repaired")[0]["why"].as_str().is_some_and(|why| why.contains("feverish")), "{repaired}");
    world.df(["verify"]).ok();
    let again = world.df(["--json", "repair"]).ok();
    assert_eq!(events(&again, &["stopped", "copied", "started", "repaired"]), [""; 0]);
}

#[test]
fn a_damaged_file_is_sent_again_under_a_program_that_is_well() {
    let world = ward("ward-damaged", 1);
    let file = image(&world).join("bin/app");
    damage(&file);
    world.df(["compare-checksums"]).output().expect_code(8);
    let repaired = world.df(["--json", "repair"]).ok();
    assert_eq!(events(&repaired, &["stopped", "copied", "started", "repaired"]), ["copied n1", "repaired n1"]);
    assert_eq!(repaired.events("copied")[0]["codec"], "whole");
    assert_eq!(std::fs::read_to_string(&file).expect("read"), APP);
    world.df(["compare-checksums"]).ok();
    let full = world.df(["--json", "repair", "--full-copy"]).ok();
    assert_eq!(events(&full, &["stopped", "copied", "started", "repaired"]), ["copied n1", "repaired n1"]);
}

#[test]
fn a_repair_that_cannot_copy_leaves_running_what_ran_and_the_next_one_mends_it() {
    let world = ward("ward-uncopied", 1);
    let image = image(&world);
    damage(&image.join("bin/app"));
    std::fs::write(data(&world, 1, "ward-uncopied").join("sick"), "feverish").expect("written");
    let pid = world.df(["--json", "status"]).output().events("node")[0]["pid"].clone();
    // Where the image would grow there is something else.
    let obstacle = world.node(1).join("incoming").join(image.file_name().expect("a name"));
    std::fs::write(&obstacle, "").expect("written");
    let failed = world.df(["--json", "repair"]).output();
    assert!(failed.code != Some(0), "{failed}");
    assert_eq!(events(&failed, &["stopped", "copied", "started", "repaired"]), [""; 0], "{failed}");
    assert_eq!(world.df(["--json", "status"]).output().events("node")[0]["pid"], pid, "it was stopped for nothing");

    std::fs::remove_file(&obstacle).expect("it was there");
    let repaired = world.df(["--json", "repair"]).ok();
    assert_eq!(
        events(&repaired, &["stopped", "copied", "started", "repaired"]),
        ["copied n1", "stopped n1", "started n1", "repaired n1"]
    );
    world.df(["verify"]).ok();
}

#[test]
fn what_was_stopped_to_be_started_again_counts_as_ill_when_nobody_started_it() {
    let world = ward("ward-between", 1);
    let (node, directory) = (world.node(1), |name: &str| world.node(1).join(name).display().to_string());
    let frame = |kind: u8, text: &str| [&[kind], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let stop = |again: bool| {
        let told = [
            frame(1, r#"{"program":"0","oldest":1,"newest":1}"#),
            frame(2, r#"{"lock":{"who":"a test","command":"repair"}}"#),
            frame(2, &format!(r#"{{"stop":{{"app":"ward-between","all":false,"now":true,"again":{again}}}}}"#)),
        ];
        let words = ["serve", "--root", &node.display().to_string(), "--data", &directory("data"), "--tmp", &directory("tmp")];
        // An operator who is gone right after it.
        let output = Run::new(env!("CARGO_BIN_EXE_df-node")).args(words).stdin(told.concat()).deadline(DEADLINE).output();
        assert!(output.stdout.contains("stopped"), "{output}");
    };
    stop(true);
    let repaired = world.df(["--json", "repair"]).ok();
    assert_eq!(events(&repaired, &["copied", "started", "repaired"]), ["started n1", "repaired n1"]);
    // Stopped for good it stays so.
    stop(false);
    assert_eq!(events(&world.df(["--json", "repair"]).ok(), &["copied", "started", "repaired"]), [""; 0]);
}

#[test]
fn what_cannot_be_mended_is_said_and_what_was_stopped_stays_so() {
    let world = ward("ward-incurable", 2);
    std::fs::write(data(&world, 1, "ward-incurable").join("incurable"), "beyond help").expect("written");
    world.df(["stop", "--address", "n2"]).ok();
    let failed = world.df(["repair"]).output();
    assert!(matches!(failed.code, Some(1 | 5 | 8)), "{failed}");
    assert!(
        failed.stderr.contains("n1: repair:") && failed.stderr.contains("beyond help") && failed.stderr.contains("next: df "),
        "{failed}"
    );
    assert!(failed.stdout.contains("is whole, and is not meant to run"), "{failed}");
    let status = world.df(["--json", "status", "--address", "n2"]).ok();
    assert_eq!(status.events("node")[0]["state"], "stopped");
}

#[test]
fn a_watch_repairs_what_falls_ill_and_writes_a_line_for_each_event() {
    let world = ward("ward-watched", 1);
    let mut watch = world.df(["repair", "--watch"]).spawn();
    wait_for(&watch, "generation 1 is well");
    for n in 1..=2 {
        std::fs::write(data(&world, 1, "ward-watched").join("sick"), "feverish").expect("written");
        wait_until(DEADLINE, || (watch.stdout().matches("repaired generation 1").count() == n).then_some(()))
            .unwrap_or_else(|| panic!("no repair {n}: {} {}", watch.stdout(), watch.stderr()));
    }
    wait_until(DEADLINE, || (watch.stderr().matches("generation 1 is well").count() > 1).then_some(())).expect("well again");
    watch.signal(libc::SIGINT);
    let ended = watch.finish(Duration::from_secs(20)).expect_code(0);
    for line in ended.stdout.lines().chain(ended.stderr.lines()) {
        let (time, rest) = line.split_once(' ').expect("words");
        assert!(time.len() == 20 && time.starts_with("20") && time.ends_with('Z'), "a line begins with the time: {line}");
        assert!(!rest.contains('\x1b') && !rest.contains('\r') && !rest.contains("  "), "{line:?}");
    }
    assert!(ended.stderr.contains("is ill: command bin/check: "), "{ended}");
}

#[test]
fn a_watch_that_finds_a_program_sick_looks_at_its_files_too() {
    let world = ward("ward-watched-files", 1);
    let mut watch = world.df(["repair", "--watch"]).spawn();
    wait_for(&watch, "generation 1 is well");
    // Long after the files were read back once. Started anew from this it would stay dead.
    let file = image(&world).join("bin/app");
    damage(&file);
    std::fs::write(data(&world, 1, "ward-watched-files").join("sick"), "feverish").expect("written");
    let repaired = wait_until(DEADLINE, || watch.stdout().contains("repaired generation 1").then_some(()));
    assert!(repaired.is_some(), "{} {}", watch.stdout(), watch.stderr());
    assert_eq!(std::fs::read_to_string(&file).expect("read"), APP);
    watch.signal(libc::SIGINT);
    watch.finish(Duration::from_secs(20)).expect_code(0);
    world.df(["verify"]).ok();
}

fn wait_for(child: &Child, text: &str) {
    let shown = wait_until(DEADLINE, || child.stderr().contains(text).then_some(()));
    assert!(shown.is_some(), "{text:?} never came: {} {}", child.stdout(), child.stderr());
}
