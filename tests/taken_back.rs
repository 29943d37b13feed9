//! What clients had begun with a version that is taken back goes on in the old one: it leaves as every version leaves that another follows.

use df_testkit::process::{Output, wait_until};

use crate::live_connections::{Clients, counters, generation_at};
use crate::support::{DEADLINE, World};

on_both! {
    connections_of_a_version_that_is_taken_back_live_on_in_the_old_one on &counters().repo;
    connections_that_are_not_handed_over_end_with_the_version_that_is_taken_back on &counters().repo;
}

/// Clients of the version that is taken back.
const N_CLIENTS: usize = 10;

fn connections_of_a_version_that_is_taken_back_live_on_in_the_old_one(world: &World) {
    let counters = counters();
    world.deploy(&counters.hand_over[0]);
    let faithful = Clients::start(world.at(1), N_CLIENTS);
    // The version that takes them back has taken some before.
    world.deploy(&counters.hand_over[1]);
    faithful.await_answers_of(2);
    let clients = take_back(world, &counters.sick[0]);
    clients.await_answers_of(2);
    for (whose, seen) in [("its own", clients.stop()), ("the old one's", faithful.stop())] {
        assert!(seen.dropped.is_empty(), "{whose}: {:?}", seen.dropped);
    }
    // Nothing of it is in the way of the next.
    world.deploy(&counters.hand_over[0]);
    assert_eq!(generation_at(world.at(1)), Some(4));
}

fn connections_that_are_not_handed_over_end_with_the_version_that_is_taken_back(world: &World) {
    let counters = counters();
    world.deploy(&counters.drain[0]);
    let clients = take_back(world, &counters.sick[1]);
    clients.await_the_end();
    assert_eq!(clients.stop().dropped.len(), N_CLIENTS, "the control dropped nothing: the harness would not see it");
}

/// Deploys a version that is sick later, gives it clients, and lets it be taken back.
fn take_back(world: &World, sick: &str) -> Clients {
    let config = world.path("soaking.yaml");
    let build = "build: { cargo: { package: distributive-flow, examples: [counter] } }";
    std::fs::write(&config, format!("app: counter\n{build}\nrollout: {{ soak: 1s }}\n")).expect("written");
    let before = generation_at(world.at(1)).expect("it serves");
    let config = config.display().to_string();
    let deploy = world.df(["--config", &config, "deploy", "--commit-hash", sick]).spawn();
    let serves = wait_until(DEADLINE, || (generation_at(world.at(1)) == Some(before + 1)).then_some(()));
    assert!(serves.is_some(), "it never serves");
    let clients = Clients::start(world.at(1), N_CLIENTS);
    clients.await_answers_of(before + 1);
    std::fs::write(world.data(1).join("counter/go"), "").expect("written");
    let failed: Output = deploy.finish(DEADLINE).expect_code(7);
    assert!(failed.stderr.contains("probe/later") || failed.stdout.contains("probe/later"), "{failed}");
    assert_eq!(generation_at(world.at(1)), Some(before), "the old one serves again");
    clients
}
