//! What `current` says runs again after a boot, and goes on when only the supervisor was killed.

use std::time::Duration;

use df_testkit::process::wait_until;
use df_testkit::{net, survivors};

use crate::support::{World, versions};

on_both! {
    what_was_stopped_stays_stopped_after_a_boot on &versions().repo;
    after_a_boot_current_is_started_again_from_its_image on &versions().repo;
    a_killed_supervisor_takes_nothing_with_it_and_the_next_one_adopts on &versions().repo;
}

fn body(world: &World) -> Option<String> {
    net::http_get(world.at(1), "/", Duration::from_secs(2)).ok().map(|(_, body)| body)
}

fn after_a_boot_current_is_started_again_from_its_image(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    world.deploy(&versions.v2);
    std::fs::write(world.data(1).join("greeter/state"), "kept").expect("written");
    world.cut();
    assert_eq!(body(world), None, "everything is gone");
    world.boot();
    let served = wait_until(Duration::from_secs(20), || body(world)).expect("it serves again");
    assert!(served.contains(&versions.v2) && served.contains("generation=2"), "{served}");
    assert_eq!(
        std::fs::read_to_string(world.data(1).join("greeter/state")).expect("read"),
        "kept",
        "restarting is never destructive"
    );
    world.df(["rollback"]).ok();
    world.expect_serving(&versions.v1);
}

fn what_was_stopped_stays_stopped_after_a_boot(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    world.df(["stop"]).ok();
    world.cut();
    world.boot();
    // With nothing wanted it ends by itself.
    world.wait_for_a_good_end();
    assert_eq!(body(world), None);
    world.df(["start"]).ok();
    world.expect_serving(&versions.v1);
}

fn a_killed_supervisor_takes_nothing_with_it_and_the_next_one_adopts(world: &World) {
    let versions = versions();
    world.deploy(&versions.v1);
    let before = body(world).expect("it serves");
    world.pids(1, "supervise").into_iter().for_each(|pid| survivors::send(pid, libc::SIGKILL));
    assert_eq!(body(world).as_ref(), Some(&before), "the same process goes on");
    world.df(["verify"]).ok();
    assert_eq!(body(world).as_ref(), Some(&before), "the same process was adopted");
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
    world.df(["stop"]).ok();
    assert_eq!(body(world), None, "an adopted listener is closed too");
}
