//! What `current` says runs again after a boot, and goes on when only the supervisor was killed.

use std::time::Duration;

use df_testkit::process::{Child, Run, wait_until};
use df_testkit::{net, survivors};

use crate::support::{World, versions};

/// Starts the supervisor as a unit file or a crontab does.
fn boot(world: &World) -> Child {
    let node = world.node(1);
    let program =
        std::fs::read_dir(node.join("bin")).expect("df-node is there").next().expect("one program").expect("readable").path();
    let directory = |name: &str| node.join(name).display().to_string();
    let root = node.display().to_string();
    Run::new(program).args(["supervise", "--root", &root, "--data", &directory("data"), "--tmp", &directory("tmp")]).spawn()
}

fn body(world: &World) -> Option<String> {
    net::http_get(world.at(1), "/", Duration::from_secs(2)).ok().map(|(_, body)| body)
}

#[test]
fn after_a_boot_current_is_started_again_from_its_image() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    std::fs::write(world.node(1).join("data/greeter/state"), "kept").expect("written");
    survivors::kill_under(&world.node(1));
    assert_eq!(body(&world), None, "everything is gone");
    let _supervisor = boot(&world);
    let served = wait_until(Duration::from_secs(20), || body(&world)).expect("it serves again");
    assert!(served.contains(&versions.v2) && served.contains("generation=2"), "{served}");
    assert_eq!(
        std::fs::read_to_string(world.node(1).join("data/greeter/state")).expect("read"),
        "kept",
        "restarting is never destructive"
    );
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn what_was_stopped_stays_stopped_after_a_boot() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    world.df(["stop"]).ok();
    survivors::kill_under(&world.node(1));
    let supervisor = boot(&world);
    // With nothing wanted it ends by itself.
    supervisor.finish(Duration::from_secs(20)).expect_code(0);
    assert_eq!(body(&world), None);
    world.df(["start"]).ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn a_killed_supervisor_takes_nothing_with_it_and_the_next_one_adopts() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = body(&world).expect("it serves");
    for pid in survivors::running_under(&world.node(1)) {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.contains("\0supervise\0") {
            survivors::send(pid, libc::SIGKILL);
        }
    }
    assert_eq!(body(&world).as_ref(), Some(&before), "the same process goes on");
    world.df(["verify"]).ok();
    assert_eq!(body(&world).as_ref(), Some(&before), "the same process was adopted");
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
    world.df(["stop"]).ok();
    assert_eq!(body(&world), None, "an adopted listener is closed too");
}
