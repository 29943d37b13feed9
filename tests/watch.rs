//! While a person works, each commit is deployed when it is made; one that is no good is said to be, and the next one is waited for.

use std::time::Duration;

use df_testkit::process::{Child, wait_until};
use df_testkit::repo::Repo;

use crate::support::{DEADLINE, World, shared};

fn yaml(build: &str) -> String {
    format!("app: watched\nbuild: {{ {build}, sandbox: off }}\nrollout: {{ soak: 0s }}\n")
}

fn commit(repo: &Repo, page: &str) -> String {
    repo.commit(&[("df.yaml", &yaml("include: { www: www }")), ("www/index.html", page)], page)
}

/// Returns whether a commit is current on the node, by the node's own record: df.yaml here may be the one that is wrong.
fn serves(world: &World, commit: &str) -> bool {
    let app = world.node(1).join("apps/watched");
    let current = std::fs::read_link(app.join("current")).expect("something serves");
    let record = app.join(current).parent().expect("a generation").join("record.json");
    std::fs::read_to_string(record).expect("a record").contains(commit)
}

fn wait_for(child: &Child, text: &str) {
    let shown = wait_until(DEADLINE, || child.stderr().contains(text).then_some(()));
    assert!(shown.is_some(), "{text:?} never came: {} {}", child.stdout(), child.stderr());
}

#[test]
fn each_commit_is_deployed_when_it_is_made_and_a_bad_one_is_waited_out() {
    let dir = shared().join("watched");
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir);
    let one = commit(&repo, "one");
    let world = World::of(repo.dir(), 1);
    let mut watch = world.df(["deploy", "--watch"]).spawn();
    wait_for(&watch, &format!("{} serves; waiting for the next commit", &one[..12]));
    assert!(serves(&world, &one));

    let two = commit(&repo, "two");
    wait_for(&watch, &format!("{} serves; waiting", &two[..12]));
    assert!(serves(&world, &two));

    for (build, said) in
        [("command: 'echo no luck >&2; exit 3', output: out", "no luck"), ("comand: x", "unknown key \"comand\"")]
    {
        let bad = repo.commit(&[("df.yaml", &yaml(build))], "bad");
        wait_for(&watch, &format!("{} did not come to serve; waiting", &bad[..12]));
        assert!(watch.stderr().contains(said), "{}", watch.stderr());
        assert!(serves(&world, &two), "what served goes on");
    }

    let three = commit(&repo, "three");
    wait_for(&watch, &format!("{} serves; waiting", &three[..12]));
    assert!(serves(&world, &three));
    watch.signal(libc::SIGINT);
    watch.finish(Duration::from_secs(20)).expect_code(0);
    // Nobody watches any more.
    commit(&repo, "four");
    assert!(serves(&world, &three));
}

#[test]
fn a_watch_that_can_never_do_anything_ends_at_once() {
    let dir = shared().join("watched-in-vain");
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir);
    commit(&repo, "one");
    let nowhere = World::of(repo.dir(), 0);
    let refused = nowhere.df(["deploy", "--watch"]).output().expect_code(2);
    assert!(refused.stderr.contains("df add"), "{refused}");
    let world = World::of(repo.dir(), 1);
    world.df(["deploy", "--watch", "--commit-hash", "no-such-branch"]).output().expect_code(2);
}

#[test]
fn who_does_not_agree_at_first_is_not_taken_to_agree_to_the_next_commit() {
    let dir = shared().join("watched-unasked");
    let _ = std::fs::remove_dir_all(&dir);
    let repo = Repo::new(&dir);
    let yaml = "app: watched\nbuild: { include: { www: www }, sandbox: off }\nrollout: { soak: 0s, confirm_above: 0 }\n";
    repo.commit(&[("df.yaml", yaml), ("www/index.html", "one")], "one");
    let world = World::of(repo.dir(), 1);
    let mut person = world.df(["deploy", "--watch"]).on_terminal();
    person.wait_for("Deploy to 1 nodes? [y/N]");
    person.types("n\n");
    let ended = person.finish(DEADLINE).expect_code(2);
    assert!(ended.stdout.contains("nothing was changed"), "{ended}");
    let unasked = world.df(["deploy", "--watch"]).output().expect_code(2);
    assert!(unasked.stderr.contains("nobody is here to confirm it"), "{unasked}");
    assert!(!world.node(1).join("apps/watched").exists());
}
