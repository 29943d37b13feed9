//! Where df-node is root and the machine is the node, each application runs as a user of its own, and keeps it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use df_testkit::net;
use df_testkit::process::Run;

use crate::support::odd_versions::odd;
use crate::support::{PORT, World, df, versions};

/// A node that gives users, as a session with a machine whose root df-node is begins it; and none where we are not root.
fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run programs as others");
        return None;
    }
    let world = World::of(odd().repo(), 1);
    // Those users have to get at their images.
    std::fs::set_permissions(world.path(""), std::fs::Permissions::from_mode(0o755)).expect("set");
    std::fs::create_dir_all(world.node(1)).expect("made");
    std::fs::write(world.node(1).join("users.json"), "{}").expect("written");
    Some(world)
}

/// A version that cannot start without writing into its data.
fn writing(n: &str, more: &str) -> String {
    odd().commit("good", &format!("env: {{ ALONE: \"1\", N: \"own {n}\" }}\n  exclusive: true{more}"), "")
}

/// Whom the version that serves runs as.
#[track_caller]
fn uid(world: &World) -> u32 {
    let (_, body) = world.get(1, "/");
    let (_, pid) = body.trim().rsplit_once("pid=").expect("it says its number");
    std::fs::metadata(Path::new("/proc").join(pid)).expect("it runs").uid()
}

fn data(world: &World, app: &str) -> PathBuf {
    world.node(1).join("data").join(app)
}

#[test]
fn an_application_has_a_user_of_its_own_whose_data_stays_its_own() {
    let Some(world) = world() else { return };
    let versions = ["1", "2"].map(|n| writing(n, ""));
    world.deploy(&versions[0]);
    let own = uid(&world);
    assert_ne!(own, 0);
    world.deploy(&versions[1]);
    assert_eq!(uid(&world), own, "the next version is the same user");
    world.df(["rollback"]).ok();
    assert_eq!(uid(&world), own);
    world.df(["restart"]).ok();
    assert_eq!(uid(&world), own);
    let found = std::fs::metadata(data(&world, "odd")).expect("it is there");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (own, own, 0o700));

    let other = greeter_beside(&world);
    assert!(other != 0 && other != own, "{other} and {own}");
    let file = data(&world, "odd").join("alone").display().to_string();
    let read_as = |uid: u32| {
        let id = uid.to_string();
        Run::new("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "cat", &file]).output()
    };
    assert_eq!(read_as(own).code, Some(0));
    assert_ne!(read_as(other).code, Some(0), "one application reads the data of another");
}

/// Deploys another application to the same node, and returns whom it runs as.
#[track_caller]
fn greeter_beside(world: &World) -> u32 {
    let (state, address) = (world.path("other-state"), net::own_loopback());
    let df = |words: &[&str]| df(&versions().repo, &state).args(words);
    let node = format!("local:{}", world.node(1).display());
    df(&["add", &node, "--name", "same", "--listen", &address.to_string()]).ok();
    df(&["deploy", "--commit-hash", &versions().v1]).ok();
    let (_, body) = net::http_get((address, PORT).into(), "/", crate::support::DEADLINE).expect("it answers");
    let (_, pid) = body.lines().next().and_then(|line| line.rsplit_once("pid=")).expect("it says its number");
    std::fs::metadata(Path::new("/proc").join(pid)).expect("it runs").uid()
}

#[test]
fn who_wants_to_be_root_says_so_and_nobody_becomes_it_by_leaving_the_word_out() {
    let Some(world) = world() else { return };
    world.deploy(&writing("3", "\n  user: root"));
    assert_eq!(uid(&world), 0);
    let silent = writing("4", "");
    let refused = world.df(["deploy", "--commit-hash", &silent]).output();
    let dir = data(&world, "odd").display().to_string();
    let said =
        ["belongs to 0:0", "run.user", &format!("chown -hR 60578:60578 {dir}")].map(|words| refused.stderr.contains(words));
    assert!(refused.code != Some(0) && said == [true; 3], "{refused}");
    assert_eq!(uid(&world), 0, "what served goes on");
    Run::new("chown").args(["-hR", "60578:60578", &dir]).ok();
    world.deploy(&silent);
    assert_eq!(uid(&world), 60_578);
}

#[test]
fn who_was_there_before_users_were_given_goes_on_as_root() {
    let Some(world) = world() else { return };
    let users = world.node(1).join("users.json");
    std::fs::remove_file(&users).expect("as it was before");
    world.deploy(&writing("5", ""));
    assert_eq!(uid(&world), 0);
    std::fs::write(&users, "{}").expect("written");
    world.deploy(&writing("6", ""));
    assert_eq!(uid(&world), 0);
}

#[test]
fn a_node_that_was_taken_away_and_added_again_makes_no_program_root_and_gives_nobody_the_data_of_another() {
    let Some(world) = world() else { return };
    let commit = writing("7", "");
    world.deploy(&commit);
    let own = uid(&world);
    world.df(["stop", "--all"]).ok();
    world.kill_both(1);
    // As by hand: what df keeps is removed, and DATA is the application's.
    for entry in std::fs::read_dir(world.node(1)).expect("it is there").flatten().filter(|entry| entry.file_name() != "data") {
        Run::new("rm").arg("-rf").arg(entry.path()).ok();
    }
    std::fs::write(world.node(1).join("users.json"), "{}").expect("written");
    let other = greeter_beside(&world);
    assert!(other != 0 && other != own, "it would own the data of the other");
    world.deploy(&commit);
    assert_eq!(uid(&world), own);
}

#[test]
fn variables_that_were_put_there_before_the_first_deploy_make_no_program_root() {
    let Some(world) = world() else { return };
    let dir = data(&world, "odd");
    std::fs::create_dir_all(&dir).expect("made");
    std::fs::write(dir.join("secrets.env"), "SECRET=1\n").expect("written");
    world.deploy(&writing("8", "\n  env_file: secrets.env"));
    let found = std::fs::metadata(&dir).expect("it is there");
    assert_eq!((found.uid(), found.mode() & 0o777), (uid(&world), 0o700));
    assert_ne!(found.uid(), 0);
    assert_eq!(std::fs::metadata(dir.join("secrets.env")).expect("it is there").uid(), 0, "it stays who made it");
}

#[test]
fn a_file_of_variables_that_a_program_with_another_user_points_elsewhere_is_not_read_for_it() {
    let Some(world) = world() else { return };
    let (dir, secret) = (data(&world, "odd"), world.path("secret"));
    std::fs::write(&secret, "SECRET=1\n").expect("written");
    std::fs::create_dir_all(&dir).expect("made");
    std::os::unix::fs::symlink(&secret, dir.join("odd.env")).expect("linked");
    Run::new("chown").args(["-hR", "1234:1234", &dir.display().to_string()]).ok();
    let commit = writing("9", "\n  user: \"1234\"\n  env_file: odd.env");
    let refused = world.df(["deploy", "--commit-hash", &commit]).output();
    assert!(refused.code != Some(0) && refused.stderr.contains("run.env_file"), "{refused}");
}
