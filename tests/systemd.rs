//! Where systemd is the init, a unit starts the supervisor: now, after a boot, and again when it was killed; and no client notices.
//!
//! On real systemd, reached by real ssh. Only the long campaign has such machines; see `machine`.

mod machine;

use std::time::{Duration, Instant};

use df_testkit::load::{Load, Plan};
use df_testkit::process::{Output, wait_until};

use crate::support::versions;
use crate::zero_downtime::{PATIENCE, mixed_load, tell};
use machine::Machine;

/// A load that leaves room for everything else on the machine; patient, since clients may wait, and must not be refused.
fn load(machine: &Machine) -> Load {
    Load::run(Plan { n_workers: 4, per_second: Some(200), deadline: Duration::from_secs(30), ..Plan::to(machine.at(), "/") })
}

/// Boots a machine to which this user deploys, with the first version on it; none where no machine can be had.
fn first_version(user: &str) -> Option<Machine> {
    let machine = Machine::boot(machine::root()?);
    machine.add(user);
    machine.deploy(&versions().v1);
    Some(machine)
}

/// Returns the program that the supervisor is.
fn program(machine: &Machine) -> String {
    machine.run("readlink /proc/$(systemctl show --value --property MainPID df-node.service)/exe")
}

#[track_caller]
fn expect_said(output: &Output, part: &str) {
    assert!(output.stdout.contains(part), "nothing of {part:?}:\n{output}");
}

/// Returns the process that answered.
fn pid(body: &str) -> String {
    let (_, pid) = body.split_once("pid=").expect("the greeter says it");
    pid.lines().next().expect("a line").to_owned()
}

#[test]
fn on_a_machine_with_systemd_nothing_that_happens_to_the_supervisor_loses_a_request() {
    let Some(mut machine) = first_version("root") else { return };
    assert_eq!(machine.property("ActiveState"), "active", "{}", machine.log());
    assert_eq!(machine.property("UnitFileState"), "enabled");
    expect_said(&machine.df(["doctor"]).ok(), "systemd starts it by df-node.service");

    let load = load(&machine);
    let before = pid(&machine.wait_for_body(&versions().v1));
    assert_ne!(machine.run(&format!("stat -c %u /proc/{before}")).trim(), "0", "the program has a user of its own");
    let mut supervisor = machine.property("MainPID");
    machine.run(&format!("kill -9 {supervisor}"));
    supervisor = machine.wait_for_another(&supervisor);
    assert_eq!(pid(&machine.wait_for_body(&versions().v1)), before, "the program went on through the kill");
    machine.run("systemctl restart df-node.service");
    supervisor = machine.wait_for_another(&supervisor);
    assert_eq!(pid(&machine.wait_for_body(&versions().v1)), before, "the program went on through the restart");
    // A stray signal is no order; `systemctl stop` is.
    machine.run(&format!("kill {supervisor}"));
    machine.wait_for_another(&supervisor);
    machine.deploy(&versions().v2);
    machine.wait_for_body(&versions().v2);
    machine.df(["rollback"]).ok();
    assert_ne!(machine.property("NFileDescriptorStore"), "0", "listeners and processes are held");
    let report = load.finish().expect_no_loss();
    println!("{} requests through a kill, a restart, a signal, a deploy and a rollback: 0 lost", report.requests);

    machine.deploy(&versions().v2);
    machine.reboot();
    machine.wait_for_body(&versions().v2);
    machine.df(["rollback"]).ok();
    machine.wait_for_body(&versions().v1);

    machine.df(["stop"]).ok();
    let ended = wait_until(Duration::from_secs(30), || (machine.property("ActiveState") == "inactive").then_some(()));
    assert!(ended.is_some(), "with nothing wanted it ends, and stays ended: {}", machine.property("ActiveState"));
    assert_eq!(machine.property("NFileDescriptorStore"), "0", "nothing is held any more");
    machine.df(["start"]).ok();
    machine.wait_for_body(&versions().v1);
    assert_eq!(machine.property("ActiveState"), "active");
}

/// How many deploys and rollbacks make a campaign; `DF_SWITCH_ROUNDS` says otherwise.
const ROUNDS: u64 = 1000;

#[test]
fn deploys_and_rollbacks_lose_no_request_though_systemd_has_to_start_the_supervisor_again_and_again() {
    let Some(machine) = first_version("root") else { return };
    let n_rounds = std::env::var("DF_SWITCH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let (started, load) = (Instant::now(), mixed_load(machine.at(), 6000));
    let mut n_killed = 0;
    for round in 0..n_rounds {
        if round % 10 == 9 {
            // What holds the sockets here is systemd itself, for whichever supervisor comes next; nobody waits for that one.
            let how = if round % 20 == 9 { "kill --signal=KILL --kill-whom=main" } else { "restart --no-block" };
            machine.run(&format!("systemctl {how} df-node.service"));
            n_killed += 1;
        }
        if round % 2 == 0 {
            machine.deploy(&versions().v2);
        } else {
            machine.df(["rollback"]).ok();
        }
        load.wait_until_requests((round + 1) * 1000, PATIENCE);
    }
    let took = started.elapsed();
    let report = load.finish().expect_no_loss();
    tell("switches on a machine with systemd", n_rounds, n_killed, took, &report);
    assert!(report.n_kept > 0 && report.n_slow > 0, "the load was not mixed: {} kept, {} slow", report.n_kept, report.n_slow);
}

#[test]
fn a_newer_df_node_takes_over_under_load_and_is_what_systemd_starts_from_then_on() {
    let Some(machine) = first_version("root") else { return };
    let (supervisor, former) = (machine.property("MainPID"), program(&machine));
    let load = load(&machine);
    let newer = machine.another_program();
    machine.df(["deploy", "--commit-hash", &versions().v2]).env("DF_NODE_PROGRAMS", newer).ok();
    machine.wait_for_body(&versions().v2);
    assert_eq!(machine.property("MainPID"), supervisor, "it became the newer one, and did not end");
    let named = wait_until(Duration::from_secs(30), || {
        let now = program(&machine);
        (now != former && machine.property("ExecStart").contains(&now)).then_some(now)
    });
    let newer = named.expect("the unit names the newer one");
    machine.run(&format!("kill -9 {supervisor}"));
    machine.wait_for_another(&supervisor);
    assert_eq!(program(&machine), newer, "systemd starts the newer one");
    machine.deploy(&versions().v1);
    assert_eq!(program(&machine), newer, "an older df does not bring the older one back");
    load.finish().expect_no_loss();
}

#[test]
fn supervisor_and_program_killed_at_once_clients_wait_and_none_is_refused() {
    let Some(machine) = first_version("root") else { return };
    let lost = lost_when_both_die(&machine);
    assert_eq!(lost, 0, "what was in flight aside");

    // The control: without the store the listener ends with those who have it.
    change_unit(&machine, "FileDescriptorStoreMax=0");
    let lost = lost_when_both_die(&machine);
    println!("without systemd's store {lost} clients were refused");
    assert!(lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn a_unit_that_ends_its_whole_group_and_holds_nothing_loses_requests_in_the_same_harness() {
    let Some(machine) = first_version("root") else { return };
    change_unit(&machine, "KillMode=control-group\\nFileDescriptorStoreMax=0");
    let before = pid(&machine.wait_for_body(&versions().v1));
    let load = load(&machine);
    load.wait_for_requests(50, Duration::from_secs(30));
    machine.run("systemctl restart df-node.service");
    load.wait_for_requests(50, Duration::from_secs(60));
    let report = load.finish();
    println!("{} of {} requests lost where programs and listeners end with the supervisor", report.n_lost, report.requests);
    assert_ne!(pid(&machine.wait_for_body(&versions().v1)), before);
    assert!(report.n_lost > 0, "the control lost nothing: the harness would not see a loss");
}

#[test]
fn an_ordinary_user_gets_a_unit_when_services_go_on_without_a_session() {
    let Some(mut machine) = first_version("op") else { return };
    expect_said(&machine.df(["doctor"]).output().expect_code(1), "loginctl enable-linger op");
    machine.run("test ! -e /home/op/.config/systemd/user/df-node.service");

    machine.run("loginctl enable-linger op");
    expect_said(&machine.df(["doctor"]).ok(), "from the first activation on");
    machine.reboot();
    assert_eq!(machine.body(), None, "nothing starts what ran without a unit");
    machine.df(["start"]).ok();
    machine.wait_for_body(&versions().v1);
    expect_said(&machine.df(["doctor"]).ok(), "starts it by df-node.service");
    machine.reboot();
    machine.wait_for_body(&versions().v1);
    let load = load(&machine);
    machine.run("systemctl --user --machine op@ restart df-node.service");
    machine.deploy(&versions().v2);
    load.finish().expect_no_loss();
}

/// Kills the supervisor and the program at the same moment, under load; returns how many requests were lost but those that the program was at work on.
fn lost_when_both_die(machine: &Machine) -> u64 {
    let program = pid(&machine.wait_for_body("pid="));
    let supervisor = machine.property("MainPID");
    machine.run(&format!("kill -9 {supervisor} {program}"));
    // Whoever comes now.
    let load = load(machine);
    machine.wait_for_another(&supervisor);
    load.wait_for_requests(100, Duration::from_secs(60));
    let report = load.finish();
    assert_ne!(pid(&machine.wait_for_body("pid=")), program);
    report.n_lost
}

/// Changes the unit as its owner would.
fn change_unit(machine: &Machine, line: &str) {
    let supervisor = machine.property("MainPID");
    machine.run(&format!(
        "mkdir -p /etc/systemd/system/df-node.service.d; printf '[Service]\\n{line}\\n' > /etc/systemd/system/df-node.service.d/own.conf; \
         systemctl daemon-reload; kill -9 {supervisor}"
    ));
    machine.wait_for_another(&supervisor);
}
