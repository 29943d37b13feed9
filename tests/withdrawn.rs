//! A person takes a version back while whoever deploys it still waits for its soak: one step, as the version before it runs.

use df_testkit::load::Load;
use df_testkit::process::wait_until;

use crate::support::{DEADLINE, World, versions};

on_both! {
    a_rollback_in_the_soak_is_not_told_to_wait_and_loses_no_request on &versions().repo;
    a_rollback_that_names_its_target_waits_for_who_has_the_lock on &versions().repo;
}

fn a_rollback_in_the_soak_is_not_told_to_wait_and_loses_no_request(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    let load = Load::start(world.at(1), "/", 4);
    let deploying = deploy_with_a_long_soak(world, &versions.v2);

    let rolled = world.df(["--json", "rollback"]).ok();
    let event = &rolled.events("rolled_back")[0];
    assert_eq!((event["generation"].as_u64(), event["from_generation"].as_u64()), (Some(1), Some(2)), "{event}");
    assert_eq!(world.get(1, "/").1, before, "the same process as before: it had only waited");
    load.finish().expect_no_loss();

    let deployed = deploying.finish(DEADLINE).expect_code(7);
    assert!(deployed.stderr.contains("took it back"), "{deployed}");
    assert!(world.df(["history"]).ok().stdout.contains("took it back"));
    // What a person did not want is not where the next rollback goes.
    world.df(["rollback"]).output().expect_code(1);
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

fn a_rollback_that_names_its_target_waits_for_who_has_the_lock(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let deploying = deploy_with_a_long_soak(world, &versions.v2);
    // With a target of its own a rollback is no word about the soak, and waits for who has the lock.
    let refused = world.df(["rollback", "--to", "1"]).output().expect_code(4);
    assert!(refused.stderr.contains("wait for"), "{refused}");
    world.expect_serving(&versions.v2);
    drop(deploying);
}

#[test]
fn a_version_that_nobody_watches_any_more_is_not_taken_for_one_on_its_soak() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    // As after operator and supervisor were killed in the soak; then somebody begins something else.
    let record = world.node(1).join("apps/greeter/generations/2/record.json");
    let text = std::fs::read_to_string(&record).expect("it is there");
    let unknown = text.replace("\"result\":\"good\"", "\"result\":\"unknown\"");
    assert_ne!(unknown, text);
    std::fs::write(&record, unknown).expect("written");
    let lock = std::fs::File::open(world.node(1).join("run/lock")).expect("it is there");
    lock.try_lock().expect("nobody has it");
    world.df(["rollback"]).output().expect_code(4);
    world.expect_serving(&versions.v2);
    drop(lock);
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}

/// Returns df when the version serves that it deploys.
pub fn deploy_with_a_long_soak(world: &World, commit: &str) -> df_testkit::process::Child {
    let config = world.path("soaking.yaml");
    let text = "app: greeter\nbuild:\n  cargo: { package: distributive-flow, examples: [greeter] }\nrollout: { soak: 10m }\n";
    std::fs::write(&config, text).expect("written");
    let df = world.df(["--config", &config.display().to_string(), "deploy", "--commit-hash", commit]).spawn();
    let serves = wait_until(DEADLINE, || world.get(1, "/").1.contains(commit).then_some(()));
    assert!(serves.is_some(), "it never serves");
    df
}
