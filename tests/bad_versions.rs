//! A bad new version never takes the traffic: the old one goes on, and the error says why.

use std::path::Path;

use df_testkit::repo::Repo;

use crate::support::{World, shared, versions};

on_both! {
    each_bad_version_leaves_the_old_one_serving_and_says_why on &versions().repo;
    a_first_version_that_is_bad_answers_nobody_and_leaves_nothing_running on &versions().repo;
    a_version_that_dies_in_its_soak_is_taken_back on &versions().repo;
    a_deploy_while_the_old_version_is_down_leaves_no_listener_behind on &versions().repo;
    a_crashed_version_starts_again_by_itself on &versions().repo;
}

fn each_bad_version_leaves_the_old_one_serving_and_says_why(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let pid_before = world.get(1, "/").1;
    for (bad, said) in [(&versions.exits, "status 3"), (&versions.never_ready, "ready"), (&versions.sick, "/health")] {
        let failed = world.df(["deploy", "--commit-hash", bad]).output().expect_code(1);
        assert!(failed.stderr.contains(said), "expected \"{said}\" in: {}", failed.stderr);
        assert!(failed.stderr.contains("n1"), "the node is named: {}", failed.stderr);
        assert!(failed.stderr.contains(&versions.v1[..8]), "what serves is named: {}", failed.stderr);
        assert_eq!(world.get(1, "/").1, pid_before, "the same process goes on");
    }
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

fn a_first_version_that_is_bad_answers_nobody_and_leaves_nothing_running(world: &World) {
    let versions = versions();
    let deploy = world.df(["deploy", "--commit-hash", &versions.never_ready]).spawn();
    let mut answered = 0;
    df_testkit::process::wait_until(std::time::Duration::from_secs(60), || {
        let asked = df_testkit::net::http_get(world.at(1), "/", std::time::Duration::from_millis(50));
        answered += u32::from(asked.is_ok());
        deploy_ended(world).then_some(())
    });
    deploy.finish(std::time::Duration::from_secs(60)).expect_code(1);
    assert_eq!(answered, 0, "a client reached a version on trial");
    world.df(["deploy", "--commit-hash", &versions.exits]).output().expect_code(1);
    assert!(std::net::TcpStream::connect(world.at(1)).is_err());
    world.deploy(&versions.v1);
    world.expect_serving(&versions.v1);
}

fn a_version_that_dies_in_its_soak_is_taken_back(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let config = world.path("soaking.yaml");
    // Everything but build, run and verify comes from the file on disk.
    let text = "app: greeter\nbuild: { cargo: { package: distributive-flow, examples: [greeter] } }\nrollout: { soak: 10s }\n";
    std::fs::write(&config, text).expect("written");
    let config = config.display().to_string();
    let failed = world.df(["--config", &config, "deploy", "--commit-hash", &versions.dies]).output().expect_code(7);
    assert!(failed.stderr.contains(&versions.v1[..8]), "what serves is named: {}", failed.stderr);
    world.expect_serving(&versions.v1);
}

#[test]
fn what_certainly_cannot_start_is_refused_before_the_old_version_is_stopped() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    let refused = world.df(["deploy", "--commit-hash", &versions.no_env]).output().expect_code(1);
    assert!(refused.stderr.contains("missing.env"), "{}", refused.stderr);
    assert_eq!(world.get(1, "/").1, before, "the same process goes on");
    let history = world.df(["history"]).ok();
    assert_eq!(history.stdout.matches("activate").count(), 1, "nothing was attempted: {}", history.stdout);
}

fn a_deploy_while_the_old_version_is_down_leaves_no_listener_behind(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    kill_service(world, &versions.v1);
    world.deploy(&versions.v2);
    for _ in 0..50 {
        assert!(world.get(1, "/").1.contains(&versions.v2), "a client waits where nobody takes it");
    }
    world.df(["stop"]).ok();
    assert!(std::net::TcpStream::connect(world.at(1)).is_err(), "a listener is left");
}

fn a_crashed_version_starts_again_by_itself(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    kill_service(world, &versions.v1);
    // Clients that come meanwhile wait in the listener, which the supervisor holds.
    let after = world.get(1, "/").1;
    assert!(after.contains(&versions.v1) && after != before, "{after}");
    assert!(world.df(["history"]).ok().stdout.contains("crash"));
}

/// Kills the program that serves a commit.
fn kill_service(world: &World, commit: &str) {
    let body = world.get(1, "/").1;
    assert!(body.contains(commit), "{body}");
    df_testkit::survivors::send(world.process(&body), libc::SIGKILL);
}

#[test]
fn what_a_node_cannot_run_is_refused_before_a_byte_moves() {
    let shell = std::fs::read("/bin/sh").expect("every system has one");
    let newer = with_newer_libc(&shell);
    let mut foreign = shell.clone();
    foreign[18..20].copy_from_slice(&183_u16.to_le_bytes()); // e_machine: aarch64
    let dir = shared().join("unfit");
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir.join("repo"));
    let commit = |app: &[u8], message: &str| {
        let files = dir.join(message);
        std::fs::create_dir_all(files.join("bin")).expect("made");
        std::fs::write(files.join("bin/app"), app).expect("written");
        // Never started, so it does not matter.
        std::fs::write(files.join("bin/elsewhere"), &foreign).expect("written");
        let yaml = "app: unfit\nbuild: { include: { bin: bin } }\nrun: { exec: bin/app, args: [-c, exec sleep 1000] }\n";
        std::fs::write(files.join("df.yaml"), yaml).expect("written");
        repo.commit_tree(&files, message)
    };
    let (good, newer, foreign) = (commit(&shell, "good"), commit(&newer, "newer"), commit(&foreign, "foreign"));
    let world = World::of(repo.dir(), 1);
    // Of its own: another test repairs a copy of the shared cache, and has no commits of this application.
    let cache = dir.join("cache");
    let df = |words: &[&str]| world.df([]).args(words).env("XDG_CACHE_HOME", &cache);
    df(&["build", "--commit-hash", &good]).ok();
    df(&["cp", "--version", &good[..12]]).ok();
    let before = held(&world.node(1));
    assert!(before.contains("store"), "{before}");
    for (commit, said) in [(&newer, "needs version 2.99 of the GNU C library"), (&foreign, "a program for aarch64")] {
        df(&["build", "--commit-hash", commit]).ok();
        let version = &commit[..12];
        for words in [
            &["cp", "--version", version][..],
            &["cp", "--full", "--version", version],
            &["deploy", "--version", version],
            &["cp", "--dry-run", "--version", version],
            &["deploy", "--dry-run", "--version", version],
        ] {
            let refused = df(words).output().expect_code(1);
            assert!(refused.stderr.contains(said) && refused.stderr.contains("bin/app"), "{words:?}: {}", refused.stderr);
            assert!(refused.stderr.contains("n1"), "the node is named: {}", refused.stderr);
            assert_eq!(held(&world.node(1)), before, "{words:?} moved something");
        }
    }
}

/// Returns a program that names version 2.99 of the C library where it named its newest.
fn with_newer_libc(program: &[u8]) -> Vec<u8> {
    let mut bytes = program.to_vec();
    let is_version = |at: usize| {
        let name = &program[at..];
        name.starts_with(b"GLIBC_2.") && name.len() > 10 && name[8..10].iter().all(u8::is_ascii_digit) && name[10] == 0
    };
    let versions: Vec<usize> = (0..program.len()).filter(|&at| is_version(at)).collect();
    assert!(!versions.is_empty(), "the shell is a program for glibc 2.10 or newer");
    versions.iter().for_each(|at| bytes[at + 8..at + 10].copy_from_slice(b"99"));
    bytes
}

/// Returns the images, receives and copied releases of a node, as text.
fn held(node: &Path) -> String {
    let names = |dir: &str| {
        let entries = std::fs::read_dir(node.join(dir)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        format!("{dir}: {}\n", names.join(" "))
    };
    ["store", "manifests", "incoming", "apps", "apps/unfit", "apps/unfit/staged", "apps/unfit/generations"].map(names).concat()
}

/// Returns whether the node has a first line in its history.
fn deploy_ended(world: &World) -> bool {
    std::fs::read_to_string(world.node(1).join("apps/greeter/history.jsonl")).is_ok_and(|history| history.contains('\n'))
}
