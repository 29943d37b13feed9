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
fn who_wants_to_be_root_says_so_and_who_was_there_before_stays_who_it_was() {
    let Some(world) = world() else { return };
    world.deploy(&writing("3", "\n  user: root"));
    assert_eq!(uid(&world), 0);
    // Its data is root's by now: it gets no other user by leaving the word out.
    world.deploy(&writing("4", ""));
    assert_eq!(uid(&world), 0);
}
