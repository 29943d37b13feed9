//! What nobody confirms goes back: the node does it by itself, whoever was killed meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use df_testkit::process::{Child, wait_until};
use df_testkit::{net, survivors};

use crate::support::odd_versions::odd;
use crate::support::{self, World, shorten, versions};

const SOON: Duration = Duration::from_secs(60);

on_both! {
    when_the_operator_is_killed_the_node_goes_back_by_itself on odd().repo();
    when_operator_and_supervisor_are_killed_the_next_supervisor_waits_and_goes_back on odd().repo();
    a_version_that_fails_after_its_supervisor_was_killed_in_the_soak_goes_back_and_is_not_good on odd().repo();
    a_version_that_stays_well_though_its_supervisor_was_killed_in_the_soak_is_confirmed_at_its_end on odd().repo();
    after_a_boot_what_nobody_confirmed_is_not_started_again on odd().repo();
    a_first_version_that_nobody_confirms_is_gone_and_its_port_refuses on odd().repo();
}

/// A df.yaml whose nodes soak so long, and then wait so long to be confirmed.
fn waiting(world: &World, soak: &str, confirm: &str) -> String {
    let path = world.path("waiting.yaml");
    let text = format!("app: odd\nbuild: {{ include: {{ bin: bin }} }}\nrollout: {{ soak: {soak}, confirm: {confirm} }}\n");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

fn armed(world: &World) -> PathBuf {
    world.node(1).join("apps/odd/armed.json")
}

fn body(world: &World) -> Option<String> {
    net::http_get(world.at(1), "/", Duration::from_secs(2)).ok().map(|(_, body)| body)
}

#[track_caller]
fn wait_for_commit(world: &World, commit: &str) {
    let serves = wait_until(SOON, || body(world).filter(|body| body.contains(commit)));
    assert!(serves.is_some(), "{commit} does not serve: {:?}", body(world));
}

/// Begins a deploy, and returns df when the new version serves and nobody has confirmed it yet.
fn deploy_until_it_serves(world: &World, config: &str, commit: &str) -> Child {
    let df = world.df(["--config", config, "deploy", "--commit-hash", commit]).spawn();
    wait_for_commit(world, commit);
    assert!(armed(world).exists(), "what to go back to is on disk before the new version serves");
    df
}

#[track_caller]
fn expect_went_back(world: &World, old: &str) {
    wait_for_commit(world, old);
    assert!(wait_until(SOON, || (!armed(world).exists()).then_some(())).is_some(), "it could still be taken back");
    let history = world.df(["history"]).ok().stdout;
    assert!(history.contains("before somebody had confirmed it") || history.contains("nobody confirmed it in time"), "{history}");
    world.expect_serving(old);
}

#[test]
fn a_deploy_is_confirmed_over_a_connection_of_its_own_and_nothing_is_left_to_take_back() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let deployed = world.df(["--json", "deploy", "--commit-hash", &versions.v2]).ok();
    assert_eq!(deployed.events("confirmed").len(), 1, "{}", deployed.stdout);
    assert!(!world.node(1).join("apps/greeter/armed.json").exists());
    world.expect_serving(&versions.v2);
}

#[test]
fn a_connection_that_dies_does_not_take_a_version_back_that_the_next_one_confirms() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(odd.good());
    // The second session after this begins, which is the one that confirms, ends at once; as one more does that tries again.
    let counted = world.path("sessions");
    let count = format!(
        "if [ \"$1\" = serve ] && [ -f '{0}' ]; then echo x >> '{0}'; case $(wc -l < '{0}') in 2|3) exit 255;; esac; fi\n",
        counted.display()
    );
    support::write_node_program(&world.path("programs"), &count);
    std::fs::write(&counted, "").expect("written");
    let next = odd.commit("good", "env: { N: \"5\" }", "");
    let config = waiting(&world, "1s", "30s");
    let deploy = world.df(["--json", "--config", &config, "deploy", "--commit-hash", &next]);
    let deployed = deploy.env("DF_NODE_PROGRAMS", world.path("programs")).ok();
    assert_eq!(deployed.events("confirmed").len(), 1, "{}", deployed.stdout);
    assert!(std::fs::read_to_string(&counted).expect("counted").lines().count() > 3, "no session died");
    world.expect_serving(&next);
}

#[test]
fn a_stop_now_ends_a_deploy_that_waits_to_be_confirmed() {
    let (odd, world) = (odd(), World::of(odd().repo(), 1));
    world.deploy(odd.good());
    // Of the sessions of this deploy only the first is let in: none confirms.
    let counted = world.path("sessions");
    std::fs::write(&counted, "").expect("written");
    let count =
        format!("if [ \"$1\" = serve ]; then echo x >> '{0}'; [ $(wc -l < '{0}') = 1 ] || exit 255; fi\n", counted.display());
    support::write_node_program(&world.path("programs"), &count);
    let next = odd.commit("good", "env: { N: \"6\" }", "");
    let config = waiting(&world, "0s", "10m");
    let deploy = world.df(["--config", &config, "deploy", "--commit-hash", &next]);
    let deploying = deploy.env("DF_NODE_PROGRAMS", world.path("programs")).spawn();
    // One is opened at the switch; the next ones after the node has asked to be confirmed.
    let n_sessions = || std::fs::read_to_string(&counted).map_or(0, |text| text.lines().count());
    assert!(wait_until(SOON, || (n_sessions() >= 4).then_some(())).is_some(), "nobody tried to confirm");

    world.df(["stop", "--now"]).ok();
    let deployed = deploying.finish(SOON).expect_code(7);
    assert!(deployed.stderr.contains("stopped the application"), "{deployed}");
    assert!(!armed(&world).exists() && body(&world).is_none(), "nothing runs, and nothing is left to take back");
    world.df(["start"]).ok();
    world.expect_serving(odd.good());
}

fn when_the_operator_is_killed_the_node_goes_back_by_itself(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let next = odd.commit("good", "env: { N: \"1\" }", "");
    let mut df = deploy_until_it_serves(world, &waiting(world, "10s", "1s"), &next);
    df.kill();
    expect_went_back(world, odd.good());
    world.deploy(&next);
    world.expect_serving(&next);
}

fn when_operator_and_supervisor_are_killed_the_next_supervisor_waits_and_goes_back(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let before = body(world).expect("it serves");
    let next = odd.commit("good", "env: { N: \"2\" }", "");
    let mut df = deploy_until_it_serves(world, &waiting(world, "10s", "1s"), &next);
    df.kill();
    world.kill_both(1);
    // The time it was given is not over: it is no fault of the new version that its supervisor was killed.
    assert!(body(world).is_some_and(|body| body.contains(&next)), "it serves meanwhile");
    shorten(&armed(world), 1500);
    world.boot();
    expect_went_back(world, odd.good());
    assert_eq!(body(world).as_ref(), Some(&before), "the same process, which had only waited");
}

/// Lets df do nothing until it is told to go on.
fn hold(df: &Child) {
    survivors::send(df.pid(), libc::SIGSTOP);
}

fn a_version_that_fails_after_its_supervisor_was_killed_in_the_soak_goes_back_and_is_not_good(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let next = odd.commit("told", "env: { N: \"6\" }", "");
    let df = deploy_until_it_serves(world, &waiting(world, "8s", "60s"), &next);
    hold(&df);
    world.kill(1, "supervise");
    std::fs::write(world.data(1).join("odd/sick"), "").expect("written");
    survivors::send(df.pid(), libc::SIGCONT);
    // It would confirm as soon as somebody lets it.
    df.finish(SOON).expect_code(7);
    wait_for_commit(world, odd.good());
    assert!(wait_until(SOON, || (!armed(world).exists()).then_some(())).is_some(), "it could still be taken back");
    let record = std::fs::read_to_string(world.node(1).join("apps/odd/generations/2/record.json")).expect("its record");
    assert!(record.contains("\"bad\"") && record.contains("after the soak"), "{record}");
}

fn a_version_that_stays_well_though_its_supervisor_was_killed_in_the_soak_is_confirmed_at_its_end(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let next = odd.commit("good", "env: { N: \"7\" }", "");
    let df = deploy_until_it_serves(world, &waiting(world, "8s", "60s"), &next);
    // It serves, and has done so for a moment: what came before is not its soak.
    let serves = std::time::Instant::now();
    world.kill(1, "supervise");
    df.finish(SOON).expect_code(0);
    assert!(serves.elapsed() > Duration::from_secs(6), "its soak was cut short: {:?}", serves.elapsed());
    assert!(!armed(world).exists());
    world.expect_serving(&next);
}

fn after_a_boot_what_nobody_confirmed_is_not_started_again(world: &World) {
    let odd = odd();
    world.deploy(odd.good());
    let next = odd.commit("good", "env: { N: \"3\" }", "");
    let mut df = deploy_until_it_serves(world, &waiting(world, "20s", "20s"), &next);
    df.kill();
    world.shut_down();
    assert_eq!(body(world), None, "everything is gone");
    world.boot();
    expect_went_back(world, odd.good());
}

fn a_first_version_that_nobody_confirms_is_gone_and_its_port_refuses(world: &World) {
    let odd = odd();
    let mut df = deploy_until_it_serves(world, &waiting(world, "10s", "1s"), odd.good());
    df.kill();
    let refused = wait_until(SOON, || std::net::TcpStream::connect(world.at(1)).is_err().then_some(()));
    assert!(refused.is_some(), "it serves on");
    world.deploy(odd.good());
    world.expect_serving(odd.good());
}
