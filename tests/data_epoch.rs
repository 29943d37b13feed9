//! A version that may not understand the data as it is now does not come back unless somebody insists.

use std::os::unix::fs::PermissionsExt as _;

use df_testkit::process::Output;
use df_testkit::repo::Repo;

use crate::support::{World, shared};

/// A repository of a program that only waits: the first version for data of epoch 1, the two after it for data of epoch 2.
struct Epochs {
    repo: Repo,
    commits: [String; 3],
}

fn epochs(name: &str) -> Epochs {
    let dir = shared().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir.join("repo"));
    let commits = [("", "one"), ("data_epoch: 2,", "two"), ("data_epoch: 2,", "three")].map(|(epoch, message)| {
        let files = dir.join(message);
        std::fs::create_dir_all(files.join("bin")).expect("made");
        let app = files.join("bin/app");
        std::fs::write(&app, format!("#!/bin/sh\n# {message}\nexec sleep 1000\n")).expect("written");
        std::fs::set_permissions(&app, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let yaml = format!("app: {name}\nbuild: {{ include: {{ bin: bin }}, sandbox: off }}\nrun: {{ exec: bin/app, {epoch} drain: 0s }}\nrollout: {{ soak: 0s }}\n");
        std::fs::write(files.join("df.yaml"), yaml).expect("written");
        repo.commit_tree(&files, message)
    });
    Epochs { repo, commits }
}

/// Returns the commit that serves on a node.
fn serving(world: &World, node: &str) -> String {
    let status = world.df(["--json", "status", "--address", node]).ok();
    status.events("node")[0]["commit"].as_str().expect("a commit").to_owned()
}

fn error(output: &Output) -> (String, String) {
    let event = &output.events("error")[0];
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    (text("message"), text("next"))
}

#[test]
fn a_rollback_across_a_change_of_the_data_is_refused_unless_forced_and_names_the_last_safe_one() {
    let Epochs { repo, commits: [one, two, three] } = epochs("epochs");
    let world = World::of(repo.dir(), 1);
    world.deploy(&one);
    world.deploy(&two);
    let refused = world.df(["--json", "rollback"]).output().expect_code(1);
    let (message, next) = error(&refused);
    assert!(message.contains("generation 1 is for data of epoch 1, and the data is of epoch 2 now"), "{refused}");
    assert!(message.contains("what serves is the last safe one") && message.contains("--force"), "{refused}");
    assert_eq!(next, "df deploy --address n1");
    assert_eq!(serving(&world, "n1"), two);

    world.deploy(&three);
    let refused = world.df(["--json", "rollback", "--to", &one[..8]]).output().expect_code(1);
    assert_eq!(error(&refused).1, "df rollback --to 2 --address n1");
    let planned = world.df(["--json", "--dry-run", "rollback", "--to", "1"]).ok();
    assert!(planned.events("planned")[0]["reason"].as_str().is_some_and(|why| why.contains("refused")), "{planned}");
    let listed = world.df(["rollback", "--pick"]).output().expect_code(2);
    assert!(listed.stdout.contains("data of epoch 1, needs --force"), "{listed}");

    // Not across a change of it, a rollback goes as ever; and whoever insists gets what was asked for.
    world.df(["rollback"]).ok();
    assert_eq!(serving(&world, "n1"), two);
    world.df(["rollback", "--to", "1", "--force"]).ok();
    assert_eq!(serving(&world, "n1"), one);
}

#[test]
fn one_node_that_cannot_go_back_keeps_the_others_where_they_are() {
    let Epochs { repo, commits: [one, two, three] } = epochs("epochs-of-two");
    let world = World::of(repo.dir(), 2);
    world.df(["deploy", "--commit-hash", &one, "--address", "n1"]).ok();
    world.df(["deploy", "--commit-hash", &three, "--address", "n2"]).ok();
    world.deploy(&two);
    let refused = world.df(["rollback"]).output().expect_code(1);
    assert!(refused.stderr.contains("n1: rollback: generation 1 is for data of epoch 1"), "{refused}");
    assert_eq!([serving(&world, "n1"), serving(&world, "n2")], [two.clone(), two.clone()]);
    world.df(["rollback", "--address", "n2"]).ok();
    assert_eq!([serving(&world, "n1"), serving(&world, "n2")], [two, three]);
}

#[test]
fn a_deploy_that_fails_elsewhere_is_taken_back_also_across_a_change_of_the_data() {
    let Epochs { repo, commits: [one, two, _] } = epochs("epochs-taken-back");
    let world = World::of(repo.dir(), 2);
    world.deploy(&one);
    // The second node cannot make the next generation.
    let sequence = world.node(2).join("apps/epochs-taken-back/sequence");
    std::fs::remove_file(&sequence).expect("a sequence");
    std::fs::create_dir(&sequence).expect("in its way");
    world.df(["deploy", "--commit-hash", &two]).output().expect_code(7);
    assert_eq!([serving(&world, "n1"), serving(&world, "n2")], [one.clone(), one]);
}
