//! A server on hyper with the library: keep-alive connections live on over deploys and rollbacks, and what is under way is answered where it began.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use df_testkit::load::{Load, Plan};
use df_testkit::process::Run;
use df_testkit::repo::Repo;

use crate::support::{PORT, World, df, shared};

/// Deploys and rollbacks in a row.
const ROUNDS: usize = 10;
/// Nobody waits longer, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that keep their connections.
const KEPT: usize = 8;

#[test]
fn keep_alive_connections_of_a_hyper_server_live_through_deploys_and_rollbacks() {
    let (versions, world) = (versions("hand over"), World::of(versions("hand over").repo.as_path(), 1));
    world.deploy(&versions.commits[0]);
    let slow = (2, "/slow?ms=1500".to_owned());
    let plan = Plan { n_workers: 2, n_kept: KEPT, slow, per_second: Some(400), deadline: PATIENCE, ..Plan::to(world.at(1), "/") };
    let load = Load::run(plan);
    load.wait_for_requests(200, PATIENCE);
    for round in 1..=ROUNDS {
        let commit = &versions.commits[round % 2];
        let switched = match round % 2 {
            1 => world.df(["--json", "deploy", "--commit-hash", commit]).ok(),
            _ => world.df(["--json", "rollback"]).ok(),
        };
        let leave = switched.events("handoff").pop().expect("the old version has left");
        assert_eq!((&leave["step"], &leave["connections_handed_over"]), (&"leave".into(), &KEPT.into()), "{leave}");
        load.wait_for_body(commit, PATIENCE);
    }
    let report = load.finish().expect_no_loss();
    println!("{} requests, {} over {} kept connections", report.requests, report.n_kept, report.n_connected);
    assert_eq!(report.n_connected, KEPT as u64, "a switch has closed a connection that was kept");
    assert!(report.n_slow > 0 && report.n_kept > 200, "no load: {} slow, {} kept", report.n_slow, report.n_kept);
    assert!(versions.commits.iter().all(|commit| report.bodies.keys().any(|body| body.contains(commit))));
}

#[test]
fn the_same_server_without_the_handing_over_closes_them_in_the_same_harness() {
    let (versions, world) = (versions("drain"), World::of(versions("drain").repo.as_path(), 1));
    world.deploy(&versions.commits[0]);
    let load =
        Load::run(Plan { n_workers: 0, n_kept: KEPT, per_second: Some(400), deadline: PATIENCE, ..Plan::to(world.at(1), "/") });
    load.wait_for_requests(200, PATIENCE);
    world.deploy(&versions.commits[1]);
    load.wait_for_body(&versions.commits[1], PATIENCE);
    let n_connected = load.finish().n_connected;
    assert!(n_connected > KEPT as u64, "the control closed nothing: the harness would not see it");
}

/// Two versions of the server that differ in a setting only.
struct Versions {
    repo: PathBuf,
    commits: [String; 2],
}

fn versions(connections: &'static str) -> &'static Versions {
    static HAND_OVER: OnceLock<Versions> = OnceLock::new();
    static DRAIN: OnceLock<Versions> = OnceLock::new();
    let cell = if connections == "drain" { &DRAIN } else { &HAND_OVER };
    cell.get_or_init(|| {
        let dir = shared().join(format!("web-{}", connections.replace(' ', "-")));
        let _ = std::fs::remove_dir_all(&dir);
        let (repo, files) = (Repo::new(&dir.join("repo")), dir.join("files"));
        std::fs::create_dir_all(files.join("bin")).expect("made");
        std::fs::copy(program(), files.join("bin/web")).expect("copied");
        let commits = ["one", "two"].map(|n| {
            let yaml = format!(
                "app: web\nbuild: {{ include: {{ bin: bin }} }}\nrun:\n  exec: bin/web\n  ports: {{ http: {PORT} }}\n  \
                 connections: {connections}\n  ready: 10s\n  drain: 20s\n  env: {{ N: {n} }}\n\
                 verify:\n  - http: {{ port: http, path: /health, status: 200 }}\nrollout: {{ soak: 0s }}\n"
            );
            std::fs::write(files.join("df.yaml"), yaml).expect("written");
            let commit = repo.commit_tree(&files, n);
            df(repo.dir(), &dir.join("state")).args(["build", "--commit-hash", &commit]).ok();
            commit
        });
        Versions { repo: repo.dir().to_owned(), commits }
    })
}

/// The server, compiled once, with what this workspace has compiled already.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
        let what =
            ["build", "--locked", "--offline", "--package", "distributive-flow", "--features", "hyper", "--example", "web"];
        let build = Run::new("cargo").args(what).arg("--target-dir").arg(target).dir(env!("CARGO_MANIFEST_DIR"));
        build.deadline(Duration::from_secs(900)).ok();
        target.join("debug/examples/web")
    })
}
