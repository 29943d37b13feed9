//! Where systemd is the init, a unit starts the supervisor: now, after a boot, and again when it was killed; and no client notices.
//!
//! On real systemd, reached by real ssh; only the long campaign has such machines (`support/machine.rs`). What is promised wherever a node is, is asked of such a machine by the tests named
//! `with_systemd` in the other files; here is what only a unit has.

use std::path::PathBuf;
use std::time::Duration;

use df_testkit::load::{Load, Plan};
use df_testkit::process::{Output, wait_until};

use crate::support::{World, versions};

/// A load that leaves room for everything else on the machine; patient, since clients may wait, and must not be refused.
fn load(world: &World) -> Load {
    Load::run(Plan { n_workers: 4, per_second: Some(200), deadline: Duration::from_secs(30), ..Plan::to(world.at(1), "/") })
}

/// Boots a machine to which this user deploys, with the first version on it; none where no machine can be had.
fn first_version(user: &str) -> Option<World> {
    let world = World::with_systemd(&versions().repo, user)?;
    world.deploy(&versions().v1);
    Some(world)
}

/// Asks the application until it answers so.
#[track_caller]
fn wait_for_body(world: &World, part: &str) -> String {
    let answered = wait_until(Duration::from_secs(60), || body(world).filter(|body| body.contains(part)));
    answered.unwrap_or_else(|| panic!("it does not serve {part}: {:?}\n{}", body(world), log(world)))
}

fn body(world: &World) -> Option<String> {
    df_testkit::net::http_get(world.at(1), "/", Duration::from_secs(2)).ok().map(|(_, body)| body)
}

/// Returns what the supervisor wrote.
fn log(world: &World) -> String {
    std::fs::read_to_string(world.node(1).join("log/supervisor.log")).unwrap_or_default()
}

/// Returns the program that the supervisor is.
fn program(world: &World) -> String {
    world.machine().run("readlink /proc/$(systemctl show --value --property MainPID df-node.service)/exe")
}

#[track_caller]
fn expect_said(output: &Output, part: &str) {
    assert!(output.stdout.contains(part), "nothing of {part:?}:\n{output}");
}

/// Returns a directory with a df-node that is another build of the same: one byte longer.
fn another_program(world: &World) -> PathBuf {
    let dir = world.path("programs");
    std::fs::create_dir(&dir).expect("made");
    let program = dir.join("df-node-x86_64");
    let bytes = [&std::fs::read(env!("CARGO_BIN_EXE_df-node")).expect("built for this test")[..], b"\n"].concat();
    std::fs::write(&program, bytes).expect("written");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    dir
}

/// Returns the process that answered.
fn pid(body: &str) -> String {
    let (_, pid) = body.split_once("pid=").expect("the greeter says it");
    pid.lines().next().expect("a line").to_owned()
}

#[test]
fn on_a_machine_with_systemd_nothing_that_happens_to_the_supervisor_loses_a_request() {
    let Some(world) = first_version("root") else { return };
    let machine = world.machine();
    assert_eq!(machine.property("ActiveState"), "active", "{}", log(&world));
    assert_eq!(machine.property("UnitFileState"), "enabled");
    expect_said(&world.df(["doctor"]).ok(), "systemd starts it by df-node.service");

    let load = load(&world);
    let before = pid(&wait_for_body(&world, &versions().v1));
    assert_ne!(machine.run(&format!("stat -c %u /proc/{before}")).trim(), "0", "the program has a user of its own");
    let mut supervisor = machine.property("MainPID");
    machine.run(&format!("kill -9 {supervisor}"));
    supervisor = machine.wait_for_another(&supervisor);
    assert_eq!(pid(&wait_for_body(&world, &versions().v1)), before, "the program went on through the kill");
    machine.run("systemctl restart df-node.service");
    supervisor = machine.wait_for_another(&supervisor);
    assert_eq!(pid(&wait_for_body(&world, &versions().v1)), before, "the program went on through the restart");
    // A stray signal is no order; `systemctl stop` is.
    machine.run(&format!("kill {supervisor}"));
    machine.wait_for_another(&supervisor);
    world.deploy(&versions().v2);
    wait_for_body(&world, &versions().v2);
    world.df(["rollback"]).ok();
    assert_ne!(machine.property("NFileDescriptorStore"), "0", "listeners and processes are held");
    let report = load.finish().expect_no_loss();
    println!("{} requests through a kill, a restart, a signal, a deploy and a rollback: 0 lost", report.requests);

    world.deploy(&versions().v2);
    machine.shut_down();
    machine.start_again();
    wait_for_body(&world, &versions().v2);
    world.df(["rollback"]).ok();
    wait_for_body(&world, &versions().v1);

    world.df(["stop"]).ok();
    let ended = wait_until(Duration::from_secs(30), || (machine.property("ActiveState") == "inactive").then_some(()));
    assert!(ended.is_some(), "with nothing wanted it ends, and stays ended: {}", machine.property("ActiveState"));
    assert_eq!(machine.property("NFileDescriptorStore"), "0", "nothing is held any more");
    world.df(["start"]).ok();
    wait_for_body(&world, &versions().v1);
    assert_eq!(machine.property("ActiveState"), "active");
}

#[test]
fn a_newer_df_node_takes_over_under_load_and_is_what_systemd_starts_from_then_on() {
    let Some(world) = first_version("root") else { return };
    let machine = world.machine();
    let (supervisor, former) = (machine.property("MainPID"), program(&world));
    let load = load(&world);
    let newer = another_program(&world);
    world.df(["deploy", "--commit-hash", &versions().v2]).env("DF_NODE_PROGRAMS", newer).ok();
    wait_for_body(&world, &versions().v2);
    assert_eq!(machine.property("MainPID"), supervisor, "it became the newer one, and did not end");
    let named = wait_until(Duration::from_secs(30), || {
        let now = program(&world);
        (now != former && machine.property("ExecStart").contains(&now)).then_some(now)
    });
    let newer = named.expect("the unit names the newer one");
    machine.run(&format!("kill -9 {supervisor}"));
    machine.wait_for_another(&supervisor);
    assert_eq!(program(&world), newer, "systemd starts the newer one");
    world.deploy(&versions().v1);
    assert_eq!(program(&world), newer, "an older df does not bring the older one back");
    load.finish().expect_no_loss();
}

#[test]
fn supervisor_and_program_killed_at_once_clients_wait_and_none_is_refused() {
    let Some(world) = first_version("root") else { return };
    let lost = lost_when_both_die(&world);
    assert_eq!(lost, 0, "what was in flight aside");

    // The control: without the store the listener ends with those who have it.
    change_unit(&world, "FileDescriptorStoreMax=0");
    let lost = lost_when_both_die(&world);
    println!("without systemd's store {lost} clients were refused");
    assert!(lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn a_unit_that_ends_its_whole_group_and_holds_nothing_loses_requests_in_the_same_harness() {
    let Some(world) = first_version("root") else { return };
    let machine = world.machine();
    change_unit(&world, "KillMode=control-group\\nFileDescriptorStoreMax=0");
    let before = pid(&wait_for_body(&world, &versions().v1));
    let load = load(&world);
    load.wait_for_requests(50, Duration::from_secs(30));
    machine.run("systemctl restart df-node.service");
    load.wait_for_requests(50, Duration::from_secs(60));
    let report = load.finish();
    println!("{} of {} requests lost where programs and listeners end with the supervisor", report.n_lost, report.requests);
    assert_ne!(pid(&wait_for_body(&world, &versions().v1)), before);
    assert!(report.n_lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn an_ordinary_user_gets_a_unit_when_services_go_on_without_a_session() {
    let Some(world) = first_version("op") else { return };
    let machine = world.machine();
    expect_said(&world.df(["doctor"]).output().expect_code(1), "loginctl enable-linger op");
    machine.run("test ! -e /home/op/.config/systemd/user/df-node.service");

    machine.run("loginctl enable-linger op");
    expect_said(&world.df(["doctor"]).ok(), "from the first activation on");
    machine.shut_down();
    machine.start_again();
    assert_eq!(body(&world), None, "nothing starts what ran without a unit");
    world.df(["start"]).ok();
    wait_for_body(&world, &versions().v1);
    expect_said(&world.df(["doctor"]).ok(), "starts it by df-node.service");
    machine.shut_down();
    machine.start_again();
    wait_for_body(&world, &versions().v1);
    let load = load(&world);
    machine.run("systemctl --user --machine op@ restart df-node.service");
    world.deploy(&versions().v2);
    load.finish().expect_no_loss();
}

/// Kills the supervisor and the program at the same moment, under load; returns how many requests were lost but those that the program was at work on.
fn lost_when_both_die(world: &World) -> u64 {
    let machine = world.machine();
    let program = pid(&wait_for_body(world, "pid="));
    let supervisor = machine.property("MainPID");
    machine.run(&format!("kill -9 {supervisor} {program}"));
    // Whoever comes now.
    let load = load(world);
    machine.wait_for_another(&supervisor);
    load.wait_for_requests(100, Duration::from_secs(60));
    let report = load.finish();
    assert_ne!(pid(&wait_for_body(world, "pid=")), program);
    report.n_lost
}

/// Changes the unit as its owner would.
fn change_unit(world: &World, line: &str) {
    let machine = world.machine();
    let supervisor = machine.property("MainPID");
    machine.run(&format!(
        "mkdir -p /etc/systemd/system/df-node.service.d; printf '[Service]\\n{line}\\n' > /etc/systemd/system/df-node.service.d/own.conf; \
         systemctl daemon-reload; kill -9 {supervisor}"
    ));
    machine.wait_for_another(&supervisor);
}
