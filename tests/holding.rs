//! Sockets and processes are held twice: after kill -9 of the supervisor, of its holder or of both nothing is lost. And the supervisor becomes a newer program while clients come.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use df_testkit::load::{Load, Plan};
use df_testkit::process::{Output, wait_until};
use df_testkit::{net, survivors};

use crate::support::odd_versions::odd;
use crate::support::{World, versions};

const SOON: Duration = Duration::from_secs(60);

on_both! {
    killed_supervisors_and_holders_lose_no_request_and_the_program_goes_on on &versions().repo;
    killed_while_a_deploy_goes_on_they_lose_no_request_and_the_next_deploy_works on &versions().repo;
    killed_at_once_both_come_back_with_the_next_command_and_adopt on &versions().repo;
    when_nothing_is_wanted_both_end on &versions().repo;
    the_supervisor_becomes_a_newer_program_under_load_and_nothing_else_changes on &versions().repo;
    a_version_that_was_ready_in_time_is_not_taken_for_a_bad_one_when_the_supervisor_stood_still_meanwhile on odd().repo();
}

/// Clients that come steadily, and few enough for two busy cores.
fn clients(world: &World) -> Load {
    Load::run(Plan { per_second: Some(200), n_workers: 4, deadline: SOON, ..Plan::to(world.at(1), "/") })
}

/// What holds the sockets of a node: where systemd does, there is no holder.
fn keepers(world: &World) -> &'static [&'static str] {
    if world.has_systemd() { &["supervise"] } else { &["supervise", "hold"] }
}

/// The only process of a node that does this, other than those.
#[track_caller]
fn only(world: &World, doing: &str, but: &[u32]) -> u32 {
    let found = wait_until(SOON, || {
        let pids = world.pids(1, doing);
        (pids.len() == 1 && !but.contains(&pids[0])).then(|| pids[0])
    });
    found.unwrap_or_else(|| panic!("{doing}: {:?}, and not {but:?}", world.pids(1, doing)))
}

/// The program that serves: commit, generation, process.
#[track_caller]
fn serves(world: &World) -> String {
    let (status, body) = world.get(1, "/");
    assert_eq!(status, 200);
    body.lines().next().expect("a line").to_owned()
}

/// Deploys; as long as the node is busy with what was killed, this says so, and is typed again.
#[track_caller]
fn deploy_once_it_is_over(world: &World, commit: &str) {
    let over = wait_until(SOON, || {
        let deployed = world.df(["deploy", "--commit-hash", commit]).output();
        let busy = deployed.code == Some(4) && deployed.stderr.contains("is in progress");
        (!busy).then(|| deployed.expect_code(0))
    });
    assert!(over.is_some(), "an activation never ends");
    world.expect_serving(commit);
}

fn killed_supervisors_and_holders_lose_no_request_and_the_program_goes_on(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let load = clients(world);
    let rounds = [["supervise"].as_slice(), &["hold"], &["hold", "supervise"], &["supervise", "hold"]];
    for (round, victims) in rounds.into_iter().enumerate() {
        let before = serves(world);
        for doing in victims.iter().filter(|doing| keepers(world).contains(doing)) {
            let victim = only(world, doing, &[]);
            assert_eq!(world.kill(1, doing), 1);
            only(world, doing, &[victim]);
        }
        assert_eq!(serves(world), before, "{victims:?} killed: the same process goes on");
        let next = if round % 2 == 0 { &versions.v2 } else { &versions.v1 };
        deploy_once_it_is_over(world, next);
    }
    let report = load.finish().expect_no_loss();
    println!("{} requests, 0 lost, worst {} ms", report.requests, report.worst_ms);
}

fn killed_while_a_deploy_goes_on_they_lose_no_request_and_the_next_deploy_works(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let load = clients(world);
    for doing in keepers(world) {
        let record = world.node(1).join("run/greeter.json");
        let df = world.df(["deploy", "--commit-hash", &versions.v2]).spawn();
        // The new version is there, on trial or just serving.
        let begun = wait_until(SOON, || {
            let records = std::fs::read_to_string(&record).unwrap_or_default();
            (records.matches("\"generation\"").count() > 1).then_some(())
        });
        assert!(begun.is_some(), "it does not begin");
        assert_eq!(world.kill(1, doing), 1);
        df.finish(SOON);
        deploy_once_it_is_over(world, &versions.v2);
        deploy_once_it_is_over(world, &versions.v1);
    }
    load.finish().expect_no_loss();
}

/// Connects a client that waits for its answer.
fn ask(world: &World) -> std::thread::JoinHandle<Option<String>> {
    let at = world.at(1);
    std::thread::spawn(move || net::http_get(at, "/", SOON).ok().map(|(_, body)| body))
}

#[test]
fn a_program_that_dies_beside_its_dead_supervisor_comes_back_and_its_clients_waited() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = serves(&world);
    let holder = only(&world, "hold", &[]);
    survivors::send(holder, libc::SIGSTOP);
    world.kill(1, "supervise");
    world.kill_program(&before);
    // Nobody looks after it, and its listener is still there.
    let client = ask(&world);
    let queued = TcpStream::connect(world.at(1)).expect("clients wait");
    survivors::send(holder, libc::SIGCONT);
    let answer = client.join().expect("no panic").expect("the client that waited is answered");
    assert!(answer.contains(&versions.v1) && answer.lines().next() != Some(&before), "{answer}");
    drop(queued);
    assert_eq!(world.df(["history"]).ok().stdout.matches("unknown exit status").count(), 1, "nobody saw how it ended");
    deploy_once_it_is_over(&world, &versions.v2);
}

#[test]
fn beside_a_supervisor_that_holds_alone_the_same_clients_are_refused() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.kill_both(1);
    let _alone = world.df_node(&world.program(), "supervise").arg("--alone").spawn();
    only(&world, "supervise", &[]);
    // It answers, so it has adopted what runs.
    world.df(["verify"]).ok();
    let before = serves(&world);
    world.kill(1, "supervise");
    world.kill_program(&before);
    let refused = wait_until(SOON, || TcpStream::connect(world.at(1)).is_err().then_some(()));
    assert!(refused.is_some(), "somebody held its listener");
    assert!(world.pids(1, "supervise").is_empty() && world.pids(1, "hold").is_empty(), "somebody came");
}

fn killed_at_once_both_come_back_with_the_next_command_and_adopt(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let (before, load) = (serves(world), clients(world));
    world.kill_both(1);
    assert!(world.pids(1, "supervise").is_empty() && world.pids(1, "hold").is_empty());
    world.df(["verify"]).ok();
    for doing in keepers(world) {
        only(world, doing, &[]);
    }
    assert_eq!(serves(world), before, "it was adopted");
    deploy_once_it_is_over(world, &versions.v2);
    load.finish().expect_no_loss();
}

#[test]
fn a_holder_that_hangs_is_replaced() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let (before, holder) = (serves(&world), only(&world, "hold", &[]));
    survivors::send(holder, libc::SIGSTOP);
    world.kill(1, "supervise");
    // Nobody is there to start another supervisor, so the next command does.
    world.df(["verify"]).ok();
    only(&world, "hold", &[holder]);
    assert_eq!(serves(&world), before);
    deploy_once_it_is_over(&world, &versions.v2);
}

#[test]
fn sigterm_ends_both_and_programs_run_on() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = serves(&world);
    only(&world, "hold", &[]);
    survivors::send(only(&world, "supervise", &[]), libc::SIGTERM);
    expect_none(&world);
    assert_eq!(serves(&world), before);
    deploy_once_it_is_over(&world, &versions.v2);
}

fn when_nothing_is_wanted_both_end(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    for doing in keepers(world) {
        only(world, doing, &[]);
    }
    world.df(["stop"]).ok();
    expect_none(world);
    assert!(TcpStream::connect(world.at(1)).is_err(), "a listener is held by nobody");
    world.df(["start"]).ok();
    world.expect_serving(&versions.v1);
}

#[track_caller]
fn expect_none(world: &World) {
    let none = wait_until(SOON, || (world.pids(1, "supervise").is_empty() && world.pids(1, "hold").is_empty()).then_some(()));
    assert!(none.is_some(), "they do not end: {:?} {:?}", world.pids(1, "supervise"), world.pids(1, "hold"));
}

/// The program that a process runs.
fn program(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs")
}

/// Types this with a df that brings another df-node; it differs from ours by some bytes that nobody reads.
fn by_another(world: &World, name: &str, words: [&str; 1]) -> Output {
    let dir = world.path(name);
    if !dir.exists() {
        let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_df-node")).expect("read");
        bytes.extend(name.as_bytes());
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join("df-node-x86_64"), bytes).expect("written");
        std::fs::set_permissions(dir.join("df-node-x86_64"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    }
    world.df(words).env("DF_NODE_PROGRAMS", dir).ok()
}

fn the_supervisor_becomes_a_newer_program_under_load_and_nothing_else_changes(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let (supervisor, holders, before) = (only(world, "supervise", &[]), world.pids(1, "hold"), serves(world));
    let mut seen = BTreeSet::from([program(supervisor)]);
    let load = clients(world);
    for name in ["newer", "newest"] {
        by_another(world, name, ["start"]);
        assert_eq!(only(world, "supervise", &[]), supervisor, "the process is the same");
        assert!(seen.insert(program(supervisor)), "its program is not");
        assert_eq!(serves(world), before, "and what serves was not touched");
        let renewed = |holder: &u32| holders.iter().all(|former| former != holder) && program(*holder) == program(supervisor);
        let is_renewed =
            || (world.pids(1, "hold").iter().filter(|holder| renewed(holder)).count() == holders.len()).then_some(());
        assert!(wait_until(SOON, is_renewed).is_some(), "its holder is of the former program");
    }
    // An older one is no reason to go back.
    let newest = program(supervisor);
    world.df(["start"]).ok();
    by_another(world, "newer", ["start"]);
    assert_eq!(program(supervisor), newest);
    // Unless somebody says so.
    let older = seen.iter().find(|program| **program != newest).expect("older ones");
    world.df_node(older, "replace").ok();
    assert_eq!((only(world, "supervise", &[]), &program(supervisor)), (supervisor, older));
    assert_eq!(serves(world), before);
    load.finish().expect_no_loss();
    // The programs are still its children.
    world.kill_program(&before);
    let again = wait_until(SOON, || net::http_get(world.at(1), "/", SOON).ok().filter(|(_, body)| !body.starts_with(&before)));
    assert!(again.is_some(), "it is started again");
    let history = world.df(["history"]).ok().stdout;
    assert!(history.contains("signal 9"), "it is known how it ended: {history}");
    deploy_once_it_is_over(world, &versions.v2);
}

fn a_version_that_was_ready_in_time_is_not_taken_for_a_bad_one_when_the_supervisor_stood_still_meanwhile(world: &World) {
    let waits = odd().commit("waits", "", "");
    let word = |name: &str| world.data(1).join("odd").join(name);
    let deploy = world.df(["deploy", "--commit-hash", &waits]).spawn();
    assert!(wait_until(SOON, || word("waits").exists().then_some(())).is_some(), "it does not start");
    // As one that waits for a disk that stands still.
    let (supervisor, stopped) = (only(world, "supervise", &[]), Instant::now());
    survivors::send(supervisor, libc::SIGSTOP);
    std::fs::write(word("go"), "").expect("written");
    assert!(wait_until(SOON, || word("said").exists().then_some(())).is_some(), "it does not say that it is ready");
    // The time that it has for that, `run.ready`, is over by far then, and both are there to be seen.
    wait_until(SOON, || (stopped.elapsed() > Duration::from_secs(11)).then_some(()));
    survivors::send(supervisor, libc::SIGCONT);
    deploy.finish(SOON).expect_code(0);
    world.expect_serving(&waits);
}
