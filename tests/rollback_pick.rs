//! A person chooses among the generations that nodes have; and an earlier one serves again from the node's own record, with nothing else at hand.

use std::time::Duration;

use crate::support::{DEADLINE, World, df, versions};

#[test]
fn a_person_at_a_terminal_picks_the_generation_that_serves() {
    let (versions, world) = (versions(), World::new(1));
    for commit in [&versions.v1, &versions.v2, &versions.v1] {
        world.deploy(commit);
    }
    let mut person = world.df(["rollback", "--pick"]).on_terminal();
    person.wait_for("Which generation shall serve?");
    let shown = person.screen();
    for part in ["GENERATION", &versions.v2[..12], "serves", "good"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    person.types("9\n");
    person.wait_for("\"9\" is none of these");
    person.types("2\n");
    let ended = person.finish(DEADLINE).expect_code(0);
    assert!(ended.stdout.contains("generation 2 serves again"), "{ended}");
    world.expect_serving(&versions.v2);
}

#[test]
fn whoever_picks_nothing_changes_nothing() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    for (keys, code) in [("\n", 2), ("x\ny\nz\n", 2), ("\x03", 130)] {
        let mut person = world.df(["rollback", "--pick"]).on_terminal();
        person.wait_for("Which generation shall serve?");
        person.types(keys);
        let ended = person.finish(DEADLINE).expect_code(code);
        assert!(!ended.stdout.contains("serves again"), "{ended}");
    }
    world.expect_serving(&versions.v2);
}

#[test]
fn in_a_pipe_the_generations_are_listed_and_none_is_taken() {
    let (versions, world) = (versions(), World::new(2));
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    // What is piped in is no answer of a person.
    let listed = world.df(["rollback", "--pick"]).stdin("1\n").output().expect_code(2);
    for part in ["PICK", &versions.v1[..12], &versions.v2[..12], "n1 1, n2 1", "serves"] {
        assert!(listed.stdout.contains(part), "{part} in {listed}");
    }
    assert!(listed.stderr.contains("next: df rollback --to"), "{listed}");
    let events = world.df(["--json", "rollback", "--pick"]).output().expect_code(2).events("generation");
    assert_eq!(events.len(), 4);
    assert!(events.iter().any(|g| {
        g["node"] == "n2"
            && g["generation"] == 1
            && g["commit"] == versions.v1.as_str()
            && g["current"] == false
            && g["result"] == "good"
    }));
    world.expect_serving(&versions.v2);
}

#[test]
fn several_nodes_go_each_to_their_own_generation_of_the_version_that_is_picked() {
    let (versions, world) = (versions(), World::new(2));
    world.df(["deploy", "--commit-hash", &versions.v2, "--address", "n2"]).ok();
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    let mut person = world.df(["rollback", "--pick"]).on_terminal();
    person.wait_for("Which version shall serve");
    assert!(person.screen().contains("n1 1, n2 2"), "{}", person.screen());
    person.types(&format!("{}\n", &versions.v1[..8]));
    person.finish(DEADLINE).expect_code(0);
    world.expect_serving(&versions.v1);
}

#[test]
fn a_rollback_needs_the_node_alone_and_brings_back_exactly_what_was_recorded() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    let record = world.node(1).join("apps/greeter/generations/1/record.json");
    let before = std::fs::read(&record).expect("a record");
    // No repository, no cache, nothing but a df.yaml that says where the application's nodes are.
    let bare = world.path("bare");
    std::fs::create_dir(&bare).expect("made");
    std::fs::write(bare.join("df.yaml"), "app: greeter\nbuild: { include: { a: a } }\nrollout: { soak: 0s }\n").expect("written");
    let alone = |words: &[&str]| {
        df(&bare, &world.path("state")).args(words).env("XDG_CACHE_HOME", world.path("empty")).env("PATH", "/nowhere")
    };
    alone(&["deploy"]).output().expect_code(2);
    let ended = alone(&["--json", "rollback"]).ok();
    assert_eq!(ended.events("rolled_back")[0]["generation"], 1, "{ended}");
    world.expect_serving(&versions.v1);
    assert_eq!(std::fs::read(&record).expect("a record"), before, "the record is what it was");
    // The settings are the recorded ones, too: the version's own probe is asked, which the df.yaml at hand does not have.
    let verified = alone(&["--json", "verify"]).deadline(Duration::from_secs(60)).ok();
    assert_eq!(verified.events("verified")[0]["probes"][0]["name"], "http /health", "{verified}");
}
